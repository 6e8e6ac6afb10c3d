"""Batches from the cache: one size of picture in a part, tasks mixed in every part, the same for any number of processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .cache import LATENTS, STATES, Cache
from .config import Config
from .examples import EDIT, EMPTY, EMPTY_PICTURES, RECONSTRUCT, TEXT, Example
from .objective import Batch


def collate(latents: Sequence[Tensor], states: Sequence[Tensor]) -> Batch:
    """Latents (C, H, W) of one size and states (T, N, W) of any lengths as a batch, padded on the right."""
    lengths = torch.tensor([len(one) for one in states])
    longest = int(lengths.max())
    padded = states[0].new_zeros(len(states), longest, *states[0].shape[1:], dtype=torch.float32)
    for row, one in zip(padded, states):
        row[: len(one)] = one
    bias = torch.zeros(padded.shape[:2])
    bias[torch.arange(longest) >= lengths[:, None]] = float("-inf")
    return Batch(torch.stack([one.float() for one in latents]), padded, bias if int(lengths.min()) < longest else None)


class CachedSource:
    """A :data:`~.trainer.Source` over encoded examples.

    An epoch goes through every example ``repeats`` times, in batches of one size, shuffled; a size's last batch is
    filled up from its beginning. Parts of a step are numbered over all processes, so that two processes take what one
    would take in two parts.

    Args:
        examples: to train on.
        cache: holds them all.
        config: batch, parts, tasks, shares and seed.
        processes: that train together.
    """

    def __init__(self, examples: Sequence[Example], cache: Cache, config: Config, processes: int = 1) -> None:
        self.examples, self.cache, self.config, self.processes = list(examples), cache, config, processes
        self.batch = config.schedule.batch
        self.expected = self._expected_counts()
        self.plan = lru_cache(maxsize=2)(self._plan)
        self._ends = [0]  # batches before each epoch
        self._ahead = ThreadPoolExecutor(1)
        self._next: tuple[int, Future] | None = None

    def _expected_counts(self) -> np.ndarray:
        """How often each example comes in an epoch on average."""
        counts = np.array([example.repeats for example in self.examples])
        source = np.array([example.source for example in self.examples])
        shares = {i: one.share for i, one in enumerate(self.config.data.sources) if one.share and (source == i).any()}
        if shares:
            total, rest = counts.sum(), ~np.isin(source, list(shares))
            left = max(0.0, 1.0 - sum(shares.values()))
            for number, share in shares.items():
                part = source == number
                counts[part] *= share * total / counts[part].sum()
            if rest.any():
                counts[rest] *= left * total / counts[rest].sum()
        return counts

    def _plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as numbers of examples."""
        rng = np.random.default_rng([self.config.seed, 1, epoch])
        whole = np.floor(self.expected + rng.random(len(self.expected))).astype(int)
        if not whole.any():
            whole[int(np.argmax(self.expected))] = 1
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, count in enumerate(whole):
            by_size.setdefault(self.examples[index].size, []).extend([index] * count)
        batches = []
        for size in sorted(by_size):
            order = rng.permutation(by_size[size]) if by_size[size] else np.empty(0, dtype=int)
            for start in range(0, len(order), self.batch):
                chosen = order[start : start + self.batch]
                batches.append(np.resize(np.concatenate([chosen, order]), self.batch).tolist())
        return [batches[i] for i in rng.permutation(len(batches))]

    def batches_in_an_epoch(self) -> float:
        """On average, from the first epoch."""
        return float(len(self.plan(0)))

    def chosen(self, number: int) -> list[int]:
        """Examples of the batch with this number, counted from the first of the run."""
        while number >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self.plan(len(self._ends) - 1)))
        epoch = bisect_right(self._ends, number) - 1
        return self.plan(epoch)[number - self._ends[epoch]]

    def task(self, example: Example, draw: float, choice: float) -> str:
        """The task of one example; ``draw`` and ``choice`` are uniform in 0..1."""
        data, conditions = self.config.data, example.conditions
        if draw < data.unconditional:
            return EMPTY_PICTURES if EMPTY_PICTURES in conditions and choice < 0.5 else EMPTY
        if draw < data.unconditional + data.reconstruct and RECONSTRUCT in conditions:
            return RECONSTRUCT
        main = [task for task in (TEXT, EDIT) if task in conditions]
        return main[int(choice * len(main))]

    def tasks(self, number: int) -> list[tuple[int, str]]:
        """(example, task) of the batch with this number."""
        rng = np.random.default_rng([self.config.seed, 2, number])
        return [(i, self.task(self.examples[i], *rng.random(2))) for i in self.chosen(number)]

    def _read(self, number: int) -> Batch:
        chosen = [(self.examples[i], task) for i, task in self.tasks(number)]
        return collate(
            [self.cache.read(LATENTS, example.latent) for example, _ in chosen],
            [self.cache.read(STATES, example.conditions[task].key) for example, task in chosen],
        )

    def number(self, step: int, part: int, process: int) -> int:
        """The number of a batch, counted over all steps, parts and processes."""
        return (step * self.config.schedule.parts + part) * self.processes + process

    def __call__(self, step: int, part: int, process: int) -> Batch:
        """The batch of a part; the next one is read while this one is trained on."""
        number = self.number(step, part, process)
        ready = self._next
        batch = ready[1].result() if ready and ready[0] == number else self._read(number)
        following = number + self.processes
        self._next = (following, self._ahead.submit(self._read, following))
        return batch
