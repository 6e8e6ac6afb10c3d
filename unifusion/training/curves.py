"""Loss curves and sample grids as PNG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def read_log(path: Path) -> list[dict]:
    """Lines of a JSON log; a resumed run repeats steps, the last line of a step counts."""
    lines = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        lines.setdefault(line["step"], {}).update(line)
    return [lines[step] for step in sorted(lines)]


def plot_log(log: Path, png: Path) -> None:
    """Losses (smoothed, logarithmic) above, scores below when there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_log(log)
    scores = sorted({key for line in lines for key in line if key.startswith("score/")})
    figure, axes = pyplot.subplots(2 if scores else 1, 1, figsize=(8, 8 if scores else 4), squeeze=False)
    for key in ("flow", "tokens", "held-out"):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            steps, values = np.array(points).T
            window = max(1, len(values) // 50) if key != "held-out" else 1
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes[0, 0].plot(steps[window - 1 :], smooth, label=key)
    axes[0, 0].set(yscale="log", xlabel="step", ylabel="loss")
    if axes[0, 0].lines:
        axes[0, 0].legend()
    for key in scores:
        steps, values = np.array([(line["step"], line[key]) for line in lines if key in line]).T
        axes[1, 0].plot(steps, values, marker="o", markersize=3, label=key.removeprefix("score/"))
    if scores:
        axes[1, 0].set(xlabel="step", ylabel="share right", ylim=(0, 1.02))
        axes[1, 0].legend(fontsize=7, ncols=3)
    for axis in axes[:, 0]:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(png, dpi=110)
    pyplot.close(figure)


def save_grid(rows: list[np.ndarray], png: Path) -> None:
    """Rows of pictures, each uint8 (columns, H, W, 3), as one PNG."""
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(png)
