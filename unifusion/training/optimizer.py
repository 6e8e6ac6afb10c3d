"""Muon for weight matrices and AdamW for the rest, as one optimizer with one state to save."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from .sharding import own_part, part_of_whole, whole_of_part

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the nearest orthogonal matrix of each: singular values go to about 0.7 to 1.2.

    Newton-Schulz iteration in bfloat16 after Keller Jordan, kellerjordan.github.io/posts/muon.

    Args:
        matrices: (n, rows, columns), float32.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Two update rules in one optimizer; the key ``rule`` of a parameter group chooses.

    ``muon`` (for two or more dimensions; kernels of convolutions are flattened to a matrix): momentum,
    orthogonalised, times ``0.2 sqrt(max(rows, columns))`` so that its size matches AdamW's and one
    learning rate serves both (Liu et al. 2025, arXiv 2502.16982). ``adamw``: as published.
    Weight decay is decoupled and multiplied by the learning rate in both.

    Args:
        groups: parameter groups with ``params``, ``rule``, and optionally ``lr``, ``weight_decay``.
        lr: learning rate; ``betas``: of AdamW; ``momentum``: of Muon.
    """

    def __init__(
        self, groups, lr: float = 1e-3, weight_decay: float = 0.01, betas=(0.9, 0.99), momentum: float = 0.95
    ) -> None:
        super().__init__(groups, dict(lr=lr, weight_decay=weight_decay, betas=betas, momentum=momentum, rule="adamw"))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                torch._foreach_mul_([own_part(p) for p in parameters], 1.0 - group["lr"] * group["weight_decay"])
                (self._muon if group["rule"] == "muon" else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict, parameters: list[Tensor]) -> None:
        by_shape = defaultdict(list)
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p, dtype=torch.float32)
            momentum, grad = own_part(state["momentum"]), own_part(p.grad).float()
            momentum.lerp_(grad, 1.0 - group["momentum"])
            update = whole_of_part(grad.lerp(momentum, group["momentum"]), p)
            by_shape[update.flatten(1).shape].append((p, update.flatten(1)))
        for (rows, columns), members in by_shape.items():
            updates = orthogonalise(torch.stack([update for _, update in members]))
            size = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for (p, _), update in zip(members, updates):
                own_part(p).sub_(part_of_whole(update.view(p.shape), p).to(p.dtype), alpha=size)

    def _adamw(self, group: dict, parameters: list[Tensor]) -> None:
        first, second = group["betas"]
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(p, dtype=torch.float32),
                    "square": torch.zeros_like(p, dtype=torch.float32),
                }
        states = [self.state[p] for p in parameters]
        grads = [own_part(p.grad).float() for p in parameters]
        means, squares = [own_part(s["mean"]) for s in states], [own_part(s["square"]) for s in states]
        torch._foreach_lerp_(means, grads, 1.0 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - second)
        for p, state, mean, square in zip(parameters, states, means, squares):
            state["step"] += 1
            step = state["step"].item()
            scale = (square / (1.0 - second**step)).sqrt_().add_(1e-8)
            own_part(p).sub_((mean / scale).to(p.dtype), alpha=group["lr"] / (1.0 - first**step))
