"""Counts of what is right, with intervals: shares (Wilson), means, and paired differences (bootstrap over scenes)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from recipes.miniature.vlm_score import interval

RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        variant: what was measured, e.g. ``VERIFI``.
        measure: which check, e.g. ``colour``.
        value, low, high: with its 95% interval; shares and their differences in percent.
        count: scenes, things or words that were checked; ``right`` of them, or None for a mean or a difference.
        unit: ``%``, ``points``, ``dB`` or ``loss``.
    """

    variant: str
    measure: str
    value: float
    low: float
    high: float
    count: int
    right: int | None = None
    unit: str = "%"

    def as_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        digits = 4 if self.unit == "loss" else 1
        numbers = f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"
        counted = f"{self.count}" if self.right is None else f"{self.right}/{self.count}"
        return f"{numbers} {self.unit}, {counted}"


class Tally:
    """Outcomes of one variant, kept scene by scene so that variants on the same scenes can be paired."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[tuple[float, int]]] = {}  # measure -> (sum, count) of each scene
        self.units: dict[str, str] = {}

    def add(self, checks: dict[str, Iterable[bool]]) -> None:
        """The checks of one scene: none, one or several outcomes of each measure."""
        for measure, outcomes in checks.items():
            outcomes = list(outcomes)
            self.outcomes.setdefault(measure, []).append((sum(map(bool, outcomes)), len(outcomes)))
            self.units[measure] = "%"

    def add_value(self, measure: str, value: float, unit: str) -> None:
        """One scene's number, of which the mean is wanted."""
        self.outcomes.setdefault(measure, []).append((float(value), 1))
        self.units[measure] = unit

    def figures(self, variant: str) -> list[Measured]:
        """One figure for each measure that was checked at all."""
        made = []
        for measure, scenes in self.outcomes.items():
            sums, counts = np.array(scenes).T
            total, count = sums.sum(), int(counts.sum())
            if not count:
                continue
            if self.units[measure] == "%":
                low, high = interval(int(total), count)
                made.append(Measured(variant, measure, 100 * total / count, 100 * low, 100 * high, count, int(total)))
            else:
                half = 1.96 * sums.std(ddof=1) / len(sums) ** 0.5 if len(sums) > 1 else float("nan")
                mean = total / count
                made.append(
                    Measured(variant, measure, mean, mean - half, mean + half, count, None, self.units[measure])
                )
        return made


def differences(one: tuple[str, Tally], other: tuple[str, Tally]) -> list[Measured]:
    """``one`` minus ``other``, measure by measure, for two variants on the same scenes.

    The interval is the bootstrap's over scenes, so that things of one picture are not taken for independent.

    Raises:
        ValueError: if the two were not counted on the same scenes.
    """
    rng, made = np.random.default_rng(0), []
    for measure in one[1].outcomes:
        if measure not in other[1].outcomes:
            continue
        first, second = (np.array(tally.outcomes[measure], dtype=float) for _, tally in (one, other))
        if first.shape != second.shape or (first[:, 1] != second[:, 1]).any():
            raise ValueError(f"'{one[0]}' and '{other[0]}' were not counted on the same scenes for '{measure}'.")
        gap, counts = first[:, 0] - second[:, 0], first[:, 1]
        if not counts.sum():
            continue
        picks = rng.integers(len(gap), size=(RESAMPLES, len(gap)))
        drawn = gap[picks].sum(1) / np.maximum(counts[picks].sum(1), 1)
        share = one[1].units[measure] == "%"
        scale, unit = (100.0, "points") if share else (1.0, one[1].units[measure])
        low, high = np.quantile(drawn, (0.025, 0.975)) * scale
        made.append(
            Measured(
                f"{one[0]} - {other[0]}",
                measure,
                scale * gap.sum() / counts.sum(),
                low,
                high,
                int(counts.sum()),
                None,
                unit,
            )
        )
    return made
