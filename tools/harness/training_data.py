"""Small data sets and configurations for tests of the trainer: plain coloured pictures with words of the miniature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (240, 210, 50)}


def picture(colour: str, size=(64, 64), seed: int = 0) -> Image.Image:
    """A disc on white."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre = (width / 2 + rng.uniform(-6, 6), height / 2 + rng.uniform(-6, 6))
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (min(size) / 3) ** 2
    pixels = np.where(inside[..., None], COLOURS[colour], 255).astype(np.uint8)
    return Image.fromarray(pixels)


def captions(folder: Path, count: int = 8, sizes=((64, 64),)) -> Path:
    """``N.png`` with ``N.txt``."""
    folder.mkdir(parents=True)
    names = list(COLOURS)
    for index in range(count):
        colour = names[index % len(names)]
        picture(colour, sizes[index % len(sizes)], index).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a {colour} circle")
    return folder


def pairs(folder: Path, count: int = 6, controls: int = 1) -> Path:
    """``target/N.png`` with ``control/N.png``."""
    names = list(COLOURS)
    for side in ("target", *(f"control{n or ''}" for n in [0, *range(2, controls + 1)])):
        (folder / side).mkdir(parents=True)
    for index in range(count):
        before, after = names[index % 4], names[(index + 1) % 4]
        picture(after, seed=index).save(folder / "target" / f"{index}.png")
        for side in folder.glob("control*"):
            picture(before, seed=index).save(side / f"{index}.png")
        (folder / "target" / f"{index}.txt").write_text(f"make it {after}")
    return folder


def lines(folder: Path, count: int = 6) -> Path:
    """A JSONL file over the pictures of :func:`pairs`."""
    made = pairs(folder, count)
    rows = [
        {
            "target": f"target/{i}.png",
            "references": [f"control/{i}.png"],
            "instruction": f"make it {list(COLOURS)[(i + 1) % 4]}",
        }
        for i in range(count)
    ]
    path = made / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def configuration(folder: Path, text: str, name: str = "config.toml") -> Path:
    """A file with small sizes where ``text`` does not say otherwise."""
    path = folder / name
    path.write_text(text)
    return path


SMALL = """
out = "run"
device = "cpu"
threads = 1
[model]
features = 128
layers = 1
[data]
pixels = 4096
{data}
[[data.sources]]
{source}
[train]
{train}
[schedule]
steps = {steps}
batch = 2
lr = 2e-3
warmup = 2
{schedule}
[watch]
log_every = 1
{watch}
"""


def small(folder: Path, source: str, steps: int = 3, **more: str) -> Path:
    """A configuration that trains in seconds; ``more`` is put into the sections data, train, schedule and watch."""
    parts = dict.fromkeys(("data", "train", "schedule", "watch"), "") | more
    return configuration(folder, SMALL.format(source=source, steps=steps, **parts))
