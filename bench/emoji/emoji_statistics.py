"""Figures of variants with intervals over items and over seeds; a difference is claimed only if both leave out zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

LEAST_SEEDS = 3
DRAWS = 2000


@dataclass(frozen=True)
class Figure:
    """A mean with its intervals.

    Attributes:
        value: mean over seeds and items.
        items: 95% bootstrap over items of their mean over seeds.
        seeds: 95% by Student's t over the seeds' means; infinite with one.
        count: seeds.
    """

    value: float
    items: tuple[float, float]
    seeds: tuple[float, float]
    count: int

    @property
    def clear(self) -> bool:
        """Whether zero lies outside of both intervals, with three seeds at least."""
        outside = [low > 0 or high < 0 for low, high in (self.items, self.seeds)]
        return self.count >= LEAST_SEEDS and all(outside)


def figure(values: np.ndarray) -> Figure:
    """
    Args:
        values: (seeds, items); items that are NaN count nowhere.
    """
    values = values[:, ~np.isnan(values).any(0)]
    of_items, of_seeds = values.mean(0), values.mean(1)
    rng = np.random.default_rng(0)
    drawn = of_items[rng.integers(len(of_items), size=(DRAWS, len(of_items)))].mean(1)
    middle, count = float(of_seeds.mean()), len(of_seeds)
    half = np.inf
    if count > 1:
        half = float(student.ppf(0.975, count - 1)) * float(of_seeds.std(ddof=1)) / count**0.5
    low, high = (float(end) for end in np.quantile(drawn, (0.025, 0.975)))
    return Figure(middle, (low, high), (middle - half, middle + half), count)


def difference(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> Figure | None:
    """Of two variants' values by seed, item by item, over the seeds that both have; None without any."""
    both = sorted(one.keys() & other.keys())
    return figure(np.stack([one[seed] - other[seed] for seed in both])) if both else None
