"""A plain Euler sampler with classifier-free guidance, to look at a model while it trains.

The pack's nodes sample through ComfyUI; the schedule here is the same shifted one.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from ..dit import SingleStreamDiT


def schedule(steps: int, mu: float) -> list[float]:
    """``steps + 1`` noise levels from 1 to 0, shifted: t -> e^mu / (e^mu + 1/t - 1) (Krea 2, ``sampling.py``)."""
    shift = math.exp(mu)
    levels = [1.0 - i / steps for i in range(steps)]
    return [shift / (shift + 1.0 / t - 1.0) for t in levels] + [0.0]


@torch.no_grad()
def sample(
    dit: SingleStreamDiT,
    noise: Tensor,
    states: Tensor,
    key_bias: Tensor | None,
    empty_states: Tensor,
    steps: int = 16,
    guidance: float = 2.0,
    mu: float = 0.5,
) -> Tensor:
    """Draw latents.

    Args:
        dit: the model.
        noise: (B, C, H, W), unit variance; same noise, same picture.
        states: (B, T, N, W) with ``key_bias`` (B, T) or None.
        empty_states: (1, S, N, W), hidden states of the unconditional prompt.
        steps: Euler steps. guidance: CFG, 1 is off. mu: log shift.

    Returns:
        (B, C, H, W).
    """
    text = dit.condition(states, key_bias)
    empty = dit.condition(empty_states)
    empty = empty.expand(len(noise), *empty.shape[1:])
    x = noise
    levels = schedule(steps, mu)
    for now, after in zip(levels[:-1], levels[1:]):
        t = torch.full((len(x),), now, device=x.device)
        velocity = cast(Tensor, dit.denoise(x, t, text, key_bias)).float()
        if guidance != 1.0:
            free = cast(Tensor, dit.denoise(x, t, empty)).float()
            velocity = free + guidance * (velocity - free)
        x = x + (after - now) * velocity
    return x
