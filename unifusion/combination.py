"""Several tapped layers as one vector a token, in the order a drawing model was trained with."""

from __future__ import annotations

import torch

from .profiles import TAPS_MAJOR, WIDTH_MAJOR


def combine(states: torch.Tensor, how: str) -> torch.Tensor:
    """Join the taps.

    Args:
        states: ``(batch, tokens, taps, width)``.
        how: :data:`~unifusion.profiles.TAPS_MAJOR` puts whole layers side by side (tap 1, tap 2, ...);
            :data:`~unifusion.profiles.WIDTH_MAJOR` puts the taps of each number side by side.

    Returns:
        ``(batch, tokens, taps * width)``.

    Raises:
        ValueError: for another way.
    """
    if how == TAPS_MAJOR:
        return states.flatten(2)
    if how == WIDTH_MAJOR:
        return states.transpose(2, 3).flatten(2)
    raise ValueError(f"There is no combination '{how}'; use '{TAPS_MAJOR}' or '{WIDTH_MAJOR}'.")
