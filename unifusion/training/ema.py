"""Exponential moving average of weights."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .sharding import own_part


class EMA:
    """float32 averages of a module's parameters.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``: a short run would otherwise keep its
    random start in the average.

    Args:
        module: the module whose trained parameters are followed.
        decay: 0 copies the weights, 1 never moves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.averages = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the parameters by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages = [own_part(average) for average in self.averages]
        torch._foreach_lerp_(averages, [own_part(p.detach()).float() for p in self.parameters], 1.0 - decay)

    @contextmanager
    def applied(self):
        """The averages stand in for the parameters inside the ``with`` block."""
        kept = [p.detach().clone() for p in self.parameters]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values):
            own_part(parameter).copy_(own_part(value))
