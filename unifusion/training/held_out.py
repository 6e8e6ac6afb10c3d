"""Loss on examples that are never trained on, at fixed noise levels with fixed noise: what falls only if the model learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn

from .cache import LATENTS, STATES, Cache
from .cached_source import collate
from .examples import EDIT, TEXT, Example
from .trainer import HELD_OUT, generator_for

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


class HeldOutLoss:
    """Mean loss over examples and levels. A :data:`~.trainer.HeldOut`.

    Args:
        examples: held out; with their words or their edit, whichever they have.
        cache: holds them.
        seed: of the noise.
    """

    def __init__(self, examples: Sequence[Example], cache: Cache, seed: int = 0) -> None:
        self.cache, self.seed = cache, seed
        self.items = [(e, e.conditions[EDIT if EDIT in e.conditions else TEXT]) for e in examples]

    def __call__(self, objective: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """``held-out`` and one value a level."""
        rank, count, device = accelerator.process_index, accelerator.num_processes, accelerator.device
        rounds = -(-len(self.items) // count)  # the same for all: spread weights are gathered together
        sums = torch.zeros(len(LEVELS) + 1, device=device)
        for turn in range(rounds):
            place = turn * count + rank
            index = min(place, len(self.items) - 1)
            example, condition = self.items[index]
            latent, states = self.cache.read(LATENTS, example.latent), self.cache.read(STATES, condition.key)
            batch = collate([latent], [states]).to(device)
            noise = torch.randn(len(LEVELS), *batch.latents.shape, generator=generator_for(self.seed, 9, index))
            for number, level in enumerate(LEVELS):
                t = torch.full((1, 1), level, device=device)
                loss = objective(batch, noise[number][:, None].to(device), t)["flow"]
                sums[number] += loss.detach().float() * (place < len(self.items))
            sums[-1] += place < len(self.items)
        if count > 1:
            sums = accelerator.reduce(sums, "sum")
        means = (sums[:-1] / sums[-1]).tolist()
        return {HELD_OUT: sum(means) / len(means)} | {
            f"{HELD_OUT} at {level:g}": value for level, value in zip(LEVELS, means)
        }
