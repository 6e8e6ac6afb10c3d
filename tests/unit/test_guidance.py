"""Two scales of guidance, and the shift that grows with the picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unifusion.guidance import resolution_shift, steps_and_resolution_shift, text_and_image_guidance


def predictions():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_equal_scales_are_plain_guidance():
    negative, images, positive = predictions()
    guided = text_and_image_guidance(negative, images, positive, 3.5, 3.5)
    torch.testing.assert_close(guided, negative + 3.5 * (positive - negative))


@pytest.mark.parametrize(("image", "text", "left"), [(1.0, 2.0, 0), (2.0, 2.0, 1), (3.0, 0.0, 2)])
def test_the_branch_whose_factor_is_zero_has_no_influence(image, text, left):
    branches = predictions()
    other = [branch + 100.0 * (index == left) for index, branch in enumerate(branches)]
    torch.testing.assert_close(
        text_and_image_guidance(*branches, image, text), text_and_image_guidance(*other, image, text)
    )


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (6400, 1.15), (3328, 0.825)])
def test_shift_runs_through_krea_2s_points(tokens, mu):
    assert resolution_shift(tokens) == pytest.approx(mu)


@given(st.integers(16, 20000), st.integers(1, 200))
def test_the_shift_by_steps_and_resolution_is_flux_2s(tokens, steps):
    """The formula of FLUX.2's reference code, written as it stands there."""
    few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    a = (many - few) / 190.0
    expected = many if tokens > 4300 else a * steps + (many - 200.0 * a)
    assert steps_and_resolution_shift(tokens, steps) == pytest.approx(expected, abs=1e-9)
