"""A mask on hidden states: what the Region node does."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...hidden_states import HiddenStates, in_region
from ..drawers.token_features import MASK_SIDE


def run(
    hidden: HiddenStates, mask: torch.Tensor, *, strength: float = 1.0, feather: int = 0
) -> tuple[HiddenStates, str]:
    """Returns (hidden states that count inside the mask, report).

    Args:
        hidden: of one prompt.
        mask: ``(batch, height, width)`` or ``(height, width)`` in 0..1; of a batch the union counts.
        strength: factor of the mask: 2 counts the words twice inside.
        feather: pixels over which the edge of the mask becomes soft.

    Raises:
        ValueError: if the mask is empty or no picture-like tensor.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3) or 0 in mask.shape:
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(
            f"A region needs a MASK of (height, width), found {found}. Connect a mask, such as Load Image's."
        )
    mask = mask.float().reshape(-1, *mask.shape[-2:]).amax(dim=0)
    if not torch.isfinite(mask).all():
        raise ValueError("The mask of the region holds NaN or infinite values. Connect another mask.")
    mask = _soft(mask.clamp(0, 1), feather)
    small = F.interpolate(mask[None, None], (MASK_SIDE, MASK_SIDE), mode="area")[0, 0] * strength
    placed = in_region(hidden, small)
    share = float((small > 0).float().mean())
    where = "everywhere: the mask leaves nothing out" if placed is hidden else f"in {share:.0%} of the picture"
    return placed, f"{hidden.tokens} tokens count {where}, strength {strength:g}"


def _soft(mask: torch.Tensor, feather: int) -> torch.Tensor:
    """The mask with an edge that falls over ``feather`` pixels (a box blur, repeated)."""
    if feather <= 0:
        return mask
    radius = min(max(1, feather // 2), (min(mask.shape) - 1) // 2)
    if radius < 1:
        return mask
    soft = mask[None, None]
    for _ in range(2):
        soft = F.avg_pool2d(F.pad(soft, (radius, radius, radius, radius), mode="replicate"), 2 * radius + 1, stride=1)
    return soft[0, 0]
