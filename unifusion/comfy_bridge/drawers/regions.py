"""Words that count in a part of the picture only: a bias between their keys and the picture's queries, in one forward.

A patch p of the picture meets a token of region r with the bias log(m_r(p)), so that the mask 1 is identity, 0 leaves the
token out there, and 2 counts it twice. Tokens of other regions do not see each other, and what counts everywhere does not
see regions: else a region's words would reach the whole picture through their neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


class RegionBias:
    """Bias of queries on text keys.

    Args:
        regions: ``(B, T)`` int64, 0 = everywhere.
        masks: for each batch row ``(regions, side, side)`` float32.
        grid: rows and columns of the picture's patches, which follow the text in the sequence.
    """

    def __init__(self, regions: torch.Tensor, masks: Sequence[torch.Tensor], grid: tuple[int, int]):
        self.regions, self.masks, self.grid = regions, masks, grid
        self._made: dict[tuple, torch.Tensor] = {}

    def matrix(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """``(B, 1, length, T)`` in dtype and on the device of ``like``, the same for every block of one forward."""
        key = (length, like.dtype, like.device)
        if key not in self._made:
            self._made[key] = self._build(length).to(like)
        return self._made[key]

    def _build(self, length: int) -> torch.Tensor:
        regions = self.regions.cpu()
        batch, text = regions.shape
        patches = self.grid[0] * self.grid[1]
        bias = torch.zeros(batch, length, text)
        # A text query sees its own region and what counts everywhere.
        hidden = (regions[:, None, :] != 0) & (regions[:, None, :] != regions[:, :, None])
        bias[:, :text] = bias[:, :text].masked_fill(hidden, float("-inf"))
        for row, masks in enumerate(self.masks):
            if not len(masks):
                continue
            small = F.interpolate(masks.cpu()[None], self.grid, mode="area")[0].flatten(1)  # (regions, patches)
            shown = torch.cat([torch.ones(1, patches), small]).log()
            bias[row, text : text + patches] = shown[regions[row]].transpose(0, 1)
        return bias[:, None]
