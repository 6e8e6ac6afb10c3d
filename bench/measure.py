"""Paired measurements: ours and the alternative in turn, in one process, with the same weights."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

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


def compare(
    name: str, ours: Callable[[], object], other_name: str, other: Callable[[], object], runs: int = 5
) -> Figure:
    """Time two calls A B A B ... after one warm-up each; the ratio is taken pair by pair, so drift cancels."""
    ours(), other()
    pairs = [(_seconds(ours), _seconds(other)) for _ in range(runs)]
    return figure(name, other_name, pairs)


def figure(name: str, other_name: str, pairs: list[tuple[float, float]], unit: str = "s") -> Figure:
    """A figure from measured (ours, other) pairs."""
    ratios = [a / b for a, b in pairs]
    return Figure(
        name,
        other_name,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        len(pairs),
        unit,
    )


def interleaved(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call, in turn A B C A B C ..., after one warm-up each."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            seconds[name].append(_seconds(call))
    return seconds


def peak_megabytes(call: Callable[[], object]) -> float:
    """Highest memory during a call, above what was held before it.

    On a GPU the allocator's peak; on Linux the peak of the resident set, whose mark is reset before.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
