"""Paired measurements: ours and the alternative in turn, in one process, with the same weights."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what is done, with its size.
        other: the alternative.
        ratio: median over runs of ours / other; below 1 is better.
        low, high: smallest and largest ratio of a run.
        ours, theirs: medians in ``unit``.
        runs: number of pairs.
    """

    name: str
    other: str
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float
    runs: int
    unit: str = "s"

    def as_dict(self) -> dict:
        return asdict(self)


def _seconds(call: Callable[[], object]) -> float:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], other_name: str, other: Callable[[], object], runs: int = 5) -> Figure:
    """Time two calls A B A B ... after one warm-up each; the ratio is taken pair by pair, so drift cancels."""
    ours(), other()
    pairs = [(_seconds(ours), _seconds(other)) for _ in range(runs)]
    return figure(name, other_name, pairs)


def figure(name: str, other_name: str, pairs: list[tuple[float, float]], unit: str = "s") -> Figure:
    """A figure from measured (ours, other) pairs."""
    ratios = [a / b for a, b in pairs]
    return Figure(name, other_name, statistics.median(ratios), min(ratios), max(ratios),
                  statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), len(pairs), unit)
