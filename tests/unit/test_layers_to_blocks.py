"""Eight ways to use layers: each reads the layers it says, learns with all its weights, and is as large as is said."""

import math

import pytest
import torch

from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.layers_to_blocks import (
    INJECTION,
    KEY_VALUE_FUSION,
    InjectionDiT,
    KeyValueFusionDiT,
    build_dit,
    layers_of_blocks,
)
from unifusion.training.euler import sample
from unifusion.training.objective import Batch, FlowMatching

TAPS, WIDTH, BLOCKS = 6, 24, 4
KINDS = ("lap", "last", "average", "tap:2", "concatenation", KEY_VALUE_FUSION, INJECTION)
READ = {
    "lap": set(range(TAPS)),
    "last": {TAPS - 1},
    "average": set(range(TAPS)),
    "tap:2": {2},
    "concatenation": set(range(TAPS)),
    KEY_VALUE_FUSION: {0, 2, 3, 5},
    INJECTION: {0, 2, 3, 5},
}


def config(kind, **more):
    sizes = dict(features=32, heads=2, kvheads=2, layers=BLOCKS, channels=3, patch=2, txtdim=WIDTH, txtlayers=TAPS)
    return DiTConfig(**{**sizes, "txtheads": 4, "multiplier": 2, "pooling": kind, **more})


def model(kind, **more):
    dit = build_dit(config(kind, **more)).initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(dit.last.linear.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    return dit


def batch(count=2, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, tokens, TAPS, WIDTH, generator=generator)
    bias = torch.zeros(count, tokens)
    bias[0, 3:] = -math.inf
    return Batch(torch.randn(count, 3, 8, 8, generator=generator), states, bias)


def velocity(dit, b, states=None):
    t = torch.full((len(b.latents),), 0.5)
    return dit(b.latents, t, b.states if states is None else states, b.key_bias)


def test_blocks_read_layers_in_their_order_from_the_first_to_the_last():
    assert layers_of_blocks(10, 4) == (0, 3, 6, 9)
    assert layers_of_blocks(6, 6) == tuple(range(6))
    assert layers_of_blocks(3, 6) == (0, 0, 1, 1, 2, 2)
    assert layers_of_blocks(5, 1) == (4,)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind):
    dit = model(kind)
    b = batch()
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(2, 3, *b.latents.shape[1:], generator=generator)
    FlowMatching(dit)(b, noise, torch.rand(2, 3, generator=generator))["loss"].backward()
    without = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_that_are_said_are_read_and_no_others(kind):
    dit, b = model(kind).eval(), batch()
    whole = velocity(dit, b)
    for tap in range(TAPS):
        other = b.states.clone()
        other[:, :, tap] += 1.0
        changed = (velocity(dit, b, other) - whole).abs().max() > 1e-6
        assert changed == (tap in READ[kind]), tap


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    dit, b = model(kind).eval(), batch()
    other = b.states.clone()
    other[0, 3:] = 7.0
    torch.testing.assert_close(velocity(dit, b, other), velocity(dit, b), atol=1e-5, rtol=1e-5)
    alone = dit(b.latents[:1], torch.full((1,), 0.5), b.states[:1, :3])
    torch.testing.assert_close(alone, velocity(dit, b)[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, block", [(KEY_VALUE_FUSION, 2), (INJECTION, 2)])
def test_a_layer_enters_at_its_own_block(kind, block):
    """Patches' features are those of before up to the block that reads the layer, and others behind it."""
    dit, b = model(kind).eval(), batch()
    other = b.states.clone()
    other[:, :, layers_of_blocks(TAPS, BLOCKS)[block]] += 1.0
    t = torch.full((2,), 0.5)

    def features(states, at):
        return dit.denoise(b.latents, t, dit.condition(states, b.key_bias), b.key_bias, features_at=at)[1]

    assert torch.equal(features(other, block), features(b.states, block))
    assert not torch.equal(features(other, block + 1), features(b.states, block + 1))


def test_more_refiner_in_place_of_laps_blocks_gives_as_many_parameters():
    def count(dit):
        return sum(p.numel() for p in dit.parameters())

    assert count(model("lap", refiner=2)) - count(model("last", refiner=4)) == TAPS  # the projector's weights


def test_concatenation_can_be_each_single_layer():
    dit, one = model("concatenation", refiner=0), model("tap:2", refiner=0)
    one.load_state_dict({name: value for name, value in dit.state_dict().items() if "joined" not in name})
    with torch.no_grad():
        dit.txtfusion.joined.weight.copy_(torch.eye(TAPS * WIDTH)[2 * WIDTH : 3 * WIDTH])
    b = batch()
    torch.testing.assert_close(velocity(dit, b), velocity(one, b), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["concatenation", KEY_VALUE_FUSION, INJECTION])
def test_states_of_another_width_are_projected(kind):
    dit = model(kind, txtdim=16, txtinput=WIDTH)
    assert velocity(dit, batch()).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_with_guidance(kind):
    b = batch()
    empty = b.states[:1, :2]
    drawn = sample(model(kind).eval(), b.latents, b.states, b.key_bias, empty, steps=2, guidance=2.0)
    assert drawn.shape == b.latents.shape and torch.isfinite(drawn).all()


def test_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        dit = model(KEY_VALUE_FUSION)
        dit.gradient_checkpointing = checkpointing
        velocity(dit, batch()).square().mean().backward()
        grads.append(dit.blocks[0].attn.wq.weight.grad)
    torch.testing.assert_close(*grads)


def test_the_kind_says_the_class():
    assert isinstance(model(KEY_VALUE_FUSION), KeyValueFusionDiT)
    assert isinstance(model(INJECTION), InjectionDiT)
    assert type(model("lap")) is SingleStreamDiT
    with pytest.raises(ValueError, match="no pooling"):
        build_dit(config("sum"))
