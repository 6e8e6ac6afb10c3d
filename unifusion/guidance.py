"""Guidance and time shift of the flow-matching sampler."""

from __future__ import annotations

import torch


def resolution_shift(
    image_tokens: int, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (6400, 1.15)
) -> float:
    """Log shift mu that grows linearly with the number of image tokens (Krea 2 reference code, ``sampling.py``).

    Args:
        image_tokens: tokens of the picture to draw: (height / 16) * (width / 16) for an f8 latent and patch 2.
        low: (tokens, mu) of the line's first point.
        high: (tokens, mu) of its second.

    Returns:
        mu; a time t becomes e^mu / (e^mu + 1/t - 1).
    """
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return low[1] + slope * (image_tokens - low[0])


def text_and_image_guidance(
    negative: torch.Tensor, images: torch.Tensor, positive: torch.Tensor, image_scale: float, text_scale: float
) -> torch.Tensor:
    """n + s_img (i - n) + s_txt (p - i): InstructPix2Pix's two scales (arXiv 2211.09800, eq. 3).

    Args:
        negative: prediction without text and pictures, any shape.
        images: prediction with the pictures alone, same shape.
        positive: prediction with pictures and text, same shape.
        image_scale: s_img.
        text_scale: s_txt.
    """
    return negative + (images - negative) * image_scale + (positive - images) * text_scale


def steps_and_resolution_shift(tokens: int, steps: int) -> float:
    """Log shift of FLUX.2, fitted by its makers: between a line for 10 steps and one for 200.

    Args:
        tokens: image tokens.
        steps: of the sampler.
    """
    few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    return many if tokens > 4300 else many + (many - few) / 190 * (steps - 200)
