"""Paired measurements: ours and the alternative in turn, in one process, with the same weights."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import torch


class Spent(NamedTuple):
    """Seconds of a call: by the clock, and of all cores together in this process."""

    wall: float
    cpu: float


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
        cpu: the ratio in CPU time, which other processes disturb less; None where it is not time, or not of this process.
        threads: of torch.
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
    cpu: float | None = None
    threads: int = 0

    def as_dict(self) -> dict:
        return asdict(self)


def spent(call: Callable[[], object]) -> Spent:
    """How long a call takes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def figure(name: str, other_name: str, pairs: list[tuple], unit: str = "s") -> Figure:
    """A figure from measured (ours, other) pairs of numbers or of :class:`Spent`."""
    cpu = None
    if isinstance(pairs[0][0], Spent):
        cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
        pairs = [(a.wall, b.wall) for a, b in pairs]
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
        cpu,
        torch.get_num_threads(),
    )


def interleaved(calls: dict[str, Callable[[], object]], runs: int, warm_up: bool = True) -> dict[str, list[Spent]]:
    """What each call takes, in turn A B C A B C ..., after one warm-up each, so that drift of the machine cancels."""
    for call in calls.values() if warm_up else ():
        call()
    found: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            found[name].append(spent(call))
    return found


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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Neighbours:
    """How much of the machine other processes take."""

    def __init__(self):
        self.cores = os.cpu_count() or 1
        self.start = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        own = os.times()
        return time.time(), busy, own.user + own.system + own.children_user + own.children_system

    def share(self) -> float:
        """Share of all cores that others took since this was made, 0 to 1.

        A child that still runs, such as a server, counts as other: it is measured from outside.
        """
        at, busy, own = (now - then for now, then in zip(self._now(), self.start))
        return min(1.0, max(0.0, (busy - own) / max(at * self.cores, 1e-9)))


def share_before(seconds: float = 5.0) -> float:
    """Share of all cores that is taken while nothing is measured."""
    neighbours = Neighbours()
    time.sleep(seconds)
    return neighbours.share()
