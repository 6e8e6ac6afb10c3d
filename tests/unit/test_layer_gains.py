"""Layer gains: off is identity, the overall size of a token stays, and any text is read or refused in one sentence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unifusion.layer_gains import OFF, PRESETS, apply_gains, parse_gains, with_gains

TAPS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)


def states(seed=0, tokens=7, scale=50.0):
    return torch.randn(1, tokens, len(TAPS), 16, generator=torch.Generator().manual_seed(seed)) * scale


def test_off_returns_the_very_same_tensor():
    x = states()
    assert apply_gains(x, with_gains([1.0] * len(TAPS), PRESETS[OFF])) is x


gain_lists = st.lists(st.floats(-10, 10, width=32), min_size=len(TAPS), max_size=len(TAPS))


@given(gain_lists.filter(lambda gains: any(abs(gain) > 1e-3 for gain in gains)))
def test_keep_rms_keeps_every_tokens_size(gains):
    x = states()
    before, after = (y.square().mean(dim=(2, 3)) for y in (x, apply_gains(x, gains, keep_rms=True)))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-6)


@given(st.integers(1, len(TAPS)), st.floats(-8, 8, width=32))
def test_without_keep_rms_only_the_named_tap_changes(number, gain):
    x = states()
    out = apply_gains(x, with_gains([1.0] * len(TAPS), {number: gain}), keep_rms=False)
    others = [i for i in range(len(TAPS)) if i != number - 1]
    assert torch.equal(out[:, :, others], x[:, :, others])
    torch.testing.assert_close(out[:, :, number - 1], x[:, :, number - 1] * gain)


def test_all_gains_zero_gives_zeros_not_nan():
    assert not apply_gains(states(), [0.0] * len(TAPS), keep_rms=True).any()


def test_the_preset_creators_settled_on_raises_layer_32_alone():
    gains = with_gains([1.0] * len(TAPS), PRESETS["1.45 on tap 11"])
    assert gains == [1.45 if tap == 32 else 1.0 for tap in TAPS]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("11=1.45", {11: 1.45}),
        (" 11 = 1.45 ; 5=0.9", {11: 1.45, 5: 0.9}),
        ("", {}),
        (", ,", {}),
        (", ".join(["2"] * 12), {n: 2.0 for n in range(1, 13)}),
    ],
)
def test_text_a_creator_would_write_is_read(text, expected):
    assert parse_gains(text, TAPS) == with_gains([1.0] * 12, expected)


@pytest.mark.parametrize(
    "text, found",
    [
        ("13=1.2", "tap 13"),
        ("0=1", "tap 0"),
        ("-1=1", "tap -1"),
        ("1, 2, 3", "3 layer gains"),
        ("loud", "'loud'"),
        ("tap 11=1.45", "'tap 11=1.45'"),
        ("11=1.45=2", "'11=1.45=2'"),
        ("11=nan", "nan"),
        ("11=inf", "inf"),
        ("11=1e39", "1e39"),
        ("5=0.9, 1.2", "1.2"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text, found):
    with pytest.raises(ValueError, match="[Ll]ayer gains") as error:
        parse_gains(text, TAPS)
    assert found in str(error.value) and "\n" not in str(error.value)


@given(st.text(alphabet="0123456789=,;.-+einftaps ", max_size=40))
def test_any_text_is_read_or_refused_and_never_turns_the_states_to_nan(text):
    try:
        gains = parse_gains(text, TAPS)
    except ValueError as error:
        assert "ayer gains" in str(error)
    else:
        assert len(gains) == len(TAPS)
        assert torch.isfinite(apply_gains(states(), gains, keep_rms=True)).all()
        assert torch.isfinite(apply_gains(states(), gains, keep_rms=False)).all()
