"""The result as one table and as plots."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from .part import TITLES
from .shares import Measured

matplotlib.use("Agg")
MAIN = (
    "loss",
    "PSNR",
    "position",
    "background",
    "colour",
    "shape",
    "size",
    "texture",
    "whole",
    "number of things",
    "everything stated",
    "change made",
    "rest kept",
    "both",
    "caption of the result right",
)


def _figures(part: dict, key: str) -> list[Measured]:
    return [Measured(**values) for values in part[key]]


def table(results: dict[str, dict]) -> str:
    """Markdown: every part with its figures and differences; parts that were not run are named as such."""
    lines = [
        "| part | variant | measure | result | 95% interval | right of checked | scenes |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, title in TITLES.items():
        if key not in results:
            lines.append(f"| ({key}) {title} | | | **not run** | | | |")
            continue
        scenes = results[key]["scenes"]
        for kind in ("figures", "differences"):
            for f in _figures(results[key], kind):
                digits = 4 if f.unit == "loss" else 1
                sign = "+" if kind == "differences" else ""
                clear = " (clear)" if kind == "differences" and (f.low > 0 or f.high < 0) else ""
                counted = f"{f.right}/{f.count}" if f.right is not None else str(f.count)
                lines.append(
                    f"| ({key}) | {f.variant} | {f.measure} | {f.value:{sign}.{digits}f} {f.unit}{clear} | "
                    f"{f.low:{sign}.{digits}f} to {f.high:{sign}.{digits}f} | {counted} | {scenes} |"
                )
    return "\n".join(lines)


def headings(results: dict[str, dict]) -> str:
    """What was done in each part, with its weights and time."""
    lines = []
    for key, title in TITLES.items():
        if key in results:
            part = results[key]
            weights = ", ".join(f"{name} {digits}" for name, digits in part["weights"].items())
            lines.append(
                f"**({key}) {title}.** {part['about']} {part['scenes']} scenes for each variant, "
                f"{part['seconds']} s. Weights (SHA-256): {weights}.\n"
            )
        else:
            lines.append(f"**({key}) {title}.** Not run.\n")
    return "\n".join(lines)


def plot(key: str, part: dict, path: Path) -> None:
    """Shares of every variant with their intervals; loss and PSNR are left to the table."""
    import matplotlib.pyplot as plt

    figures = [f for f in _figures(part, "figures") if f.unit == "%" and f.measure in MAIN]
    variants = list(dict.fromkeys(f.variant for f in figures))
    measures = list(dict.fromkeys(f.measure for f in figures))
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.16 * len(measures) * (len(variants) + 1.5)))
    colors = plt.get_cmap("viridis")
    for number, variant in enumerate(variants):
        own = [f for f in figures if f.variant == variant]
        rows = [measures.index(f.measure) + 0.8 * ((number + 0.5) / len(variants) - 0.5) for f in own]
        values = [f.value for f in own]
        # At 0 and 100% an interval's end may be 1e-15 off, which errorbar refuses.
        errors = [[max(0.0, f.value - f.low) for f in own], [max(0.0, f.high - f.value) for f in own]]
        axes.errorbar(
            values,
            rows,
            xerr=errors,
            fmt="o",
            markersize=4,
            capsize=2,
            label=variant,
            color=colors(0.9 * number / max(1, len(variants) - 1)),
        )
    axes.set_yticks(range(len(measures)), measures)
    axes.invert_yaxis()
    axes.set(xlim=(-2, 102), xlabel="% right, 95% interval", title=f"({key}) {TITLES[key]}\n{part['scenes']} scenes")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
