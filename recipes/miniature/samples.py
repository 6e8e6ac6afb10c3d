"""The pictures of the Sample Picture node, drawn by the renderer: ``python -m recipes.miniature.samples``."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .render import render
from .scene import Scene, Thing

FOLDER = Path(__file__).resolve().parents[2] / "web" / "samples"
SAMPLES = {
    "red circle on white": Scene("white", (Thing("circle", "red", "large", "solid", 4),)),
    "red heart on white": Scene("white", (Thing("heart", "red", "large", "solid", 4),)),
    "yellow star on navy": Scene("navy", (Thing("star", "yellow", "large", "solid", 8),)),
    "green striped circle on navy": Scene("navy", (Thing("circle", "green", "large", "striped", 0),)),
    "blue square and pink ring on beige": Scene(
        "beige", (Thing("square", "blue", "large", "solid", 0), Thing("ring", "pink", "large", "solid", 8))
    ),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, scene in SAMPLES.items():
        pixels = render(scene)
        Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)
        print(name)


if __name__ == "__main__":
    main()
