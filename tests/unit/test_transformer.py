"""The DiT computes what Krea 2 computes, and weights on text tokens hold through all of it."""

import math
import re

import pytest
import torch

from unifusion.dit import KREA2, DiTConfig, SingleStreamDiT, patchify, rotary_table, unpatchify

TINY = DiTConfig(features=256, heads=2, kvheads=1, layers=2, txtdim=40, txtlayers=3)


def random_dit(config=TINY, seed=0):
    torch.manual_seed(seed)
    model = SingleStreamDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def inputs(tokens=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(2, 16, 8, 12, generator=generator)
    states = torch.randn(2, tokens, TINY.txtlayers, TINY.txtdim, generator=generator)
    return latent, torch.tensor([0.3, 0.9]), states


def to_diffusers(name: str) -> str:
    """A parameter's name in diffusers' Krea2Transformer2DModel."""
    for pattern, replacement in (
        (r"^first\.", "img_in."),
        (r"^blocks\.", "transformer_blocks."),
        (r"^tmlp\.0\.", "time_embed.linear_1."),
        (r"^tmlp\.2\.", "time_embed.linear_2."),
        (r"^tproj\.1\.", "time_mod_proj."),
        (r"^txtfusion\.", "text_fusion."),
        (r"^txtmlp\.0\.scale", "txt_in.norm.weight"),
        (r"^txtmlp\.1\.", "txt_in.linear_1."),
        (r"^txtmlp\.3\.", "txt_in.linear_2."),
        (r"^last\.modulation\.lin", "final_layer.scale_shift_table"),
        (r"^last\.", "final_layer."),
        (r"mod\.lin$", "scale_shift_table"),
        (r"qknorm\.(q|k)norm\.scale", r"norm_\1.weight"),
        (r"attn\.w([qkv])\.", r"attn.to_\1."),
        (r"attn\.gate\.", "attn.to_gate."),
        (r"attn\.wo\.", "attn.to_out.0."),
        (r"\.mlp\.", ".ff."),
        (r"prenorm\.scale", "norm1.weight"),
        (r"postnorm\.scale", "norm2.weight"),
        (r"norm\.scale$", "norm.weight"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def test_equal_to_diffusers_krea_2():
    krea2 = pytest.importorskip("diffusers.models.transformers.transformer_krea2")
    model = random_dit()
    other = krea2.Krea2Transformer2DModel(
        num_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=768,
        text_hidden_dim=40,
        num_text_layers=3,
        text_intermediate_size=128,
    ).eval()
    mapped = {to_diffusers(name): value for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict({name: value.reshape(shapes[name]) for name, value in mapped.items()})

    latent, t, states = inputs()
    positions = torch.zeros(5 + 24, 3)
    positions[5:, 1] = torch.arange(4).repeat_interleave(6)
    positions[5:, 2] = torch.arange(6).repeat(4)
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    bias = torch.zeros(2, 5).masked_fill(~keep, -math.inf)
    with torch.no_grad():
        theirs = other(patchify(latent, 2), states, t, positions, encoder_attention_mask=keep).sample
        ours = patchify(model(latent, t, states, bias), 2)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_krea_2_builds_at_its_real_size():
    with torch.device("meta"):
        model = SingleStreamDiT(KREA2)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(12.8e9, rel=0.03)
    assert model.blocks[27].mlp.down.weight.shape == (6144, 16384)
    assert model.txtfusion.refiner_blocks[1].mlp.up.weight.shape == (6912, 2560)


def test_patchify_round_trip():
    latent = torch.randn(2, 16, 8, 12)
    assert torch.equal(unpatchify(patchify(latent, 2), 2, 4, 6), latent)


def test_rotary_axes_of_a_head_of_128_are_32_48_48():
    cos, _ = rotary_table(2, 2, 0, 128, 1000.0)
    moved = (cos[1] != cos[0]).nonzero().flatten()  # one column to the right
    assert moved.min() >= (32 + 48) // 2


def test_text_order_carries_nothing():
    model = random_dit()
    latent, t, states = inputs()
    with torch.no_grad():
        torch.testing.assert_close(model(latent, t, states), model(latent, t, states.flip(1)), atol=1e-5, rtol=1e-4)


def test_weight_two_equals_giving_the_token_twice():
    model = random_dit()
    latent, t, states = inputs()
    bias = torch.zeros(2, 5)
    bias[:, 2] = math.log(2.0)
    twice = torch.cat([states, states[:, 2:3]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(latent, t, states, bias), model(latent, t, twice), atol=1e-5, rtol=1e-4)


def test_padding_is_never_seen_and_gets_no_gradient():
    model = random_dit()
    latent, t, states = inputs()
    padded = torch.cat([states, torch.randn(2, 3, 3, 40)], dim=1).requires_grad_()
    bias = torch.zeros(2, 8)
    bias[:, 5:] = -math.inf
    out = model(latent, t, padded, bias)
    torch.testing.assert_close(out, model(latent, t, states), atol=1e-5, rtol=1e-4)
    out.square().mean().backward()
    assert padded.grad[:, 5:].abs().max() == 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    model = random_dit()
    latent, t, states = inputs()
    model(latent, t, states).sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing = True
    model(latent, t, states).sum().backward()
    for before, parameter in zip(plain, model.parameters()):
        torch.testing.assert_close(parameter.grad, before)


def test_starts_at_velocity_zero_with_open_gates():
    model = SingleStreamDiT(TINY).initialise(torch.Generator().manual_seed(0))
    latent, t, states = inputs()
    with torch.no_grad():
        velocity, features = model.denoise(latent, t, model.condition(states), features_at=1)
    assert velocity.abs().max() == 0
    assert features.std() > 0.1
