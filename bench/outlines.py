"""How far drawn edges lie from the true outline of a shape: ``python -m bench.outlines --count 48``.

One thing a picture, solid, every shape in both sizes. Three ways: *render* (the pixels of training), *VAE* (the same,
coded and decoded) and *drawn* (the nodes' default graph, asked with the caption). An edge is where the share of the
thing's colour crosses one half, to a fraction of a pixel; the true outline is the renderer's own shape, 16 times as fine.
What is drawn may stand elsewhere in its cell and be a little larger or smaller, so place and size are fitted first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.miniature.captions import caption
from recipes.miniature.render import BACKGROUND_RGB, COLOR_RGB, DIAMETER, inside, placement, render
from recipes.miniature.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene, Thing, is_held_out

from .host import pack

FINE = 16  # points a pixel of the true outline
WAYS = ("render", "VAE", "drawn")


def edge(share: np.ndarray) -> np.ndarray:
    """``(points, 2)`` (x, y) in pixels where a map ``(height, width)`` crosses one half."""
    from contourpy import contour_generator

    lines = [_dense(line) for line in contour_generator(z=share).lines(0.5) if len(line) > 3]
    return np.concatenate(lines) if lines else np.zeros((0, 2))


def _dense(line: np.ndarray, parts: int = 8) -> np.ndarray:
    """A polyline with ``parts`` points on each of its pieces, so that the distance of points is that of lines."""
    steps = np.linspace(0, 1, parts, endpoint=False)[:, None]
    return np.concatenate([a + (b - a) * steps for a, b in zip(line, line[1:])])


def true_outline(shape: str, size: str) -> np.ndarray:
    """``(points, 2)`` (x, y) in pixels around the centre of a thing."""
    radius = DIAMETER[size] / 2
    half = int(np.ceil(radius)) + 2
    axis = np.arange(-half, half, 1 / FINE)
    x, y = np.meshgrid(axis, axis)
    return edge(inside(shape, x / radius, y / radius).astype(np.float32)) / FINE - half


def share_of_color(picture: np.ndarray, scene: Scene) -> np.ndarray:
    """How much of a pixel is the thing's colour, 0 to 1, ``(height, width)``; 0 outside the thing's cell.

    Background and thing are taken at their medians in the picture itself, so that a tone that is a little off moves no
    edge.
    """
    thing = scene.things[0]
    row, column = placement(thing, np.zeros((9, 2), dtype=int))
    pixels = picture.astype(np.float32)
    ground, paint = (np.array(table[name], dtype=np.float32) for table, name in (
        (BACKGROUND_RGB, scene.background), (COLOR_RGB, thing.color)))  # fmt: skip
    for _ in range(2):
        axis = paint - ground
        share = ((pixels - ground) @ axis) / (axis @ axis)
        if (share > 0.8).any() and (share < 0.2).any():
            ground, paint = np.median(pixels[share < 0.2], axis=0), np.median(pixels[share > 0.8], axis=0)
    window = np.zeros_like(share)
    half = 24
    part = slice(max(0, row - half), row + half), slice(max(0, column - half), column + half)
    window[part] = share.clip(0, 1)[part]
    return window


def distance(found: np.ndarray, outline: np.ndarray) -> float:
    """Mean distance between two outlines in pixels, both ways."""
    from scipy.spatial import cKDTree

    return float((cKDTree(outline).query(found)[0].mean() + cKDTree(found).query(outline)[0].mean()) / 2)


def fitted(found: np.ndarray, outline: np.ndarray) -> float:
    """The least :func:`distance` over place and size of the true outline."""
    from scipy.optimize import minimize

    sparse = outline[:: max(1, len(outline) // 1200)]
    start = np.append(found.mean(0), 1.0)
    best = minimize(
        lambda p: distance(found, sparse * np.clip(p[2], 0.8, 1.25) + p[:2]),
        start,
        method="Nelder-Mead",
        options={"initial_simplex": start + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0.05]]), "maxiter": 120},
    )
    return float(best.fun)


def scenes(count: int) -> list[Scene]:
    """Single solid things, every shape and size in turn, in held-out and other colours."""
    rng = np.random.default_rng(44)
    made = []
    for shape, size in itertools.islice(itertools.cycle(itertools.product(SHAPES, SIZES)), count):
        contrast = [(c, b) for c in COLORS for b in BACKGROUNDS if _apart(c, b)]
        color, background = contrast[rng.integers(len(contrast))]
        made.append(Scene(background, (Thing(shape, color, size, "solid", int(rng.integers(9))),)))
    return made


def _apart(color: str, background: str) -> bool:
    return float(np.abs(np.subtract(COLOR_RGB[color], BACKGROUND_RGB[background])).sum()) > 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/outlines.json"))
    given = parser.parse_args()
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    from .reproduction.through_nodes import SHIPPED, Graph

    torch.set_num_threads(1)
    ways = given.ways.split(",")
    graph = Graph(given.weights or SHIPPED)
    rows: list[dict] = []
    sheet = []
    for seed, scene in enumerate(scenes(given.count)):
        thing, clean = scene.things[0], render(scene)
        pictures = {"render": clean}
        with torch.inference_mode():
            if "VAE" in ways:
                pictures["VAE"] = graph.coded(clean)
            if "drawn" in ways:
                pictures["drawn"] = graph.picture(graph.verifi(caption(scene)), seed)
        sheet.append(np.concatenate(list(pictures.values()), axis=0))
        for way, picture in pictures.items():
            found = edge(share_of_color(picture, scene))
            rows.append(
                {
                    "way": way,
                    "shape": thing.shape,
                    "size": thing.size,
                    "held out": is_held_out(scene),
                    "distance": fitted(found, true_outline(thing.shape, thing.size)) if len(found) > 20 else None,
                }
            )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    Image.fromarray(np.concatenate(sheet[:16], axis=1)).save(given.out.with_suffix(".png"))
    for way in dict.fromkeys(("render", *ways)):
        for name in ("all", *SHAPES):
            some = [r for r in rows if r["way"] == way and name in ("all", r["shape"])]
            known = [r["distance"] for r in some if r["distance"] is not None]
            if some:
                print(
                    f"{way} {name}: {statistics.mean(known):.3f} px, {len(some) - len(known)} of {len(some)} not found"
                )


if __name__ == "__main__":
    main()
