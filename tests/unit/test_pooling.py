"""Layerwise Attention Pooling: weights on tokens and layers mean what they say."""

import math

import pytest
import torch

from unifusion.pooling import LayerwiseAttentionPooling, build_pooling, pooled_width

TAPS, WIDTH = 3, 40


def states(batch=2, tokens=5, seed=0):
    return torch.randn(batch, tokens, TAPS, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def lap():
    torch.manual_seed(0)
    pool = LayerwiseAttentionPooling(TAPS, WIDTH)
    torch.nn.init.normal_(pool.projector.weight)
    return pool.eval()


def test_parameter_names_are_those_of_krea_2(lap):
    names = set(lap.state_dict())
    block = {
        f"attn.{name}"
        for name in (
            "wq.weight",
            "wk.weight",
            "wv.weight",
            "gate.weight",
            "wo.weight",
            "qknorm.qnorm.scale",
            "qknorm.knorm.scale",
        )
    } | {"prenorm.scale", "postnorm.scale", "mlp.gate.weight", "mlp.up.weight", "mlp.down.weight"}
    expected = {"projector.weight"}
    for part in ("layerwise_blocks", "refiner_blocks"):
        expected |= {f"{part}.{i}.{name}" for i in range(2) for name in block}
    assert names == expected


def test_weight_two_equals_giving_the_token_twice(lap):
    x = states(tokens=4)
    bias = torch.zeros(2, 4)
    bias[:, 1] = math.log(2.0)
    twice = torch.cat([x, x[:, 1:2]], dim=1)
    torch.testing.assert_close(lap(x, bias), lap(twice)[:, :4], atol=1e-5, rtol=1e-5)


def test_weight_zero_equals_dropping_the_token(lap):
    x = states(tokens=4)
    bias = torch.zeros(2, 4)
    bias[:, 3] = -math.inf
    torch.testing.assert_close(lap(x, bias)[:, :3], lap(x[:, :3]), atol=1e-5, rtol=1e-5)


def test_weight_one_is_identity(lap):
    torch.testing.assert_close(lap(states(), torch.zeros(2, 5)), lap(states()), atol=1e-6, rtol=0)


def test_without_refiner_every_token_is_pooled_by_itself():
    torch.manual_seed(0)
    pool = build_pooling("lap", TAPS, WIDTH, refiner=0)
    x = states()
    torch.testing.assert_close(pool(x)[:, 2:3], pool(x[:, 2:3]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind, taken", [("last", 2), ("tap:0", 0), ("tap:1", 1)])
def test_a_single_layer_is_passed_on_as_it_is(kind, taken):
    x = states()
    assert torch.equal(build_pooling(kind, TAPS, WIDTH, refiner=0)(x), x[:, :, taken])


def test_average_is_the_mean_over_layers():
    x = states()
    torch.testing.assert_close(build_pooling("average", TAPS, WIDTH, refiner=0)(x), x.mean(2))


@pytest.mark.parametrize("kind", ["tap:3", "tap:x", "mean"])
def test_unknown_pooling_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=kind):
        build_pooling(kind, TAPS, WIDTH)


@pytest.mark.parametrize(
    "width, pooled", [(240, 240), (2560, 2560), (576, 640), (48, 160), (896, 960), (2048, 2080), (1, 160)]
)
def test_widths_that_the_heads_do_not_divide_get_the_next_that_they_do(width, pooled):
    assert pooled_width(width) == pooled and pooled % 20 == 0


@pytest.mark.parametrize("kind", ["lap", "last", "average", "tap:1"])
def test_an_input_projection_starts_as_the_identity_and_is_one_weight_of_the_file(kind):
    torch.manual_seed(0)
    plain = build_pooling(kind, TAPS, WIDTH)
    torch.manual_seed(0)
    wider = build_pooling(kind, TAPS, WIDTH, inputs=30)
    assert set(wider.state_dict()) - set(plain.state_dict()) == {"input.weight"}
    assert wider.input.weight.shape == (WIDTH, 30)
    wider.load_state_dict(plain.state_dict(), strict=False)
    x = states()[..., :30]
    torch.testing.assert_close(wider(x), plain(torch.nn.functional.pad(x, (0, 10))))
    assert build_pooling(kind, TAPS, WIDTH, inputs=WIDTH).input is None
