"""Reads a scene back from pixels by template matching, and scores a picture against the scene asked for.

The templates are the renderer's own sprites, so nothing here is fitted to a model.  A cell is read in two
steps: its silhouette (distance from the background) picks the likely shapes, sizes and offsets, then colours
and textures are matched in RGB.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .render import BACKGROUND_RGB, JITTER, sprite
from .scene import BACKGROUNDS, PAINTS, SHAPES, SIZES, TEXTURES, Scene, Thing

WINDOW = 46  # pixels: a cell with room for a large thing at the largest jitter
NOISE = 20.0  # distance from the background, in 0..255, that still counts as background
SOFT = 25.0  # distance beyond NOISE that counts as fully foreground
OCCUPIED_AREA = 60  # pixels of foreground from which on a cell holds a thing; the smallest sprite has 170
CANDIDATES = 12  # silhouettes that are compared in RGB
CHECKS = ("position", "background", "count", "color", "shape", "size", "texture")


def _paste(patch: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """A sprite (S, S, C) centred in a zero (WINDOW, WINDOW, C) and moved by (dy, dx)."""
    out = np.zeros((WINDOW, WINDOW, patch.shape[2]), dtype=np.float32)
    side = patch.shape[0]
    top, left = WINDOW // 2 - side // 2 + offset[0], WINDOW // 2 - side // 2 + offset[1]
    out[top : top + side, left : left + side] = patch
    return out


@cache
def _silhouettes() -> tuple[list[tuple[str, str, tuple[int, int]]], np.ndarray]:
    """([(shape, size, offset)], (N, WINDOW**2) coverage)."""
    offsets = [(dy, dx) for dy in range(-JITTER, JITTER + 1) for dx in range(-JITTER, JITTER + 1)]
    keys = [(shape, size, offset) for shape in SHAPES for size in SIZES for offset in offsets]
    return keys, np.stack(
        [_paste(sprite(shape, "red", size, "solid")[1], offset).ravel() for shape, size, offset in keys]
    )


@cache
def _paints(shape: str, size: str) -> np.ndarray:
    """(colours * textures, S, S, 3) premultiplied RGB of one shape and size."""
    return np.stack([sprite(shape, color, size, texture)[0] for color in PAINTS for texture in TEXTURES])


def _foreground(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Soft foreground in 0..1, (128, 128).  A 3x3 mean first: single-pixel noise is no thing."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return np.clip((np.abs(mean - background).max(-1) - NOISE) / SOFT, 0, 1)


def _read_background(picture: np.ndarray) -> str:
    """The background whose colour is nearest to most pixels of the outer frame and the gutters between cells."""
    lines = np.concatenate([picture[i] for i in (0, 42, 85, 127)] + [picture[:, i] for i in (0, 42, 85, 127)])
    palette = np.array([BACKGROUND_RGB[name] for name in BACKGROUNDS], dtype=np.float32)
    nearest = ((lines[:, None] - palette) ** 2).sum(-1).argmin(1)
    return BACKGROUNDS[np.bincount(nearest, minlength=len(BACKGROUNDS)).argmax()]


def _read_thing(window: np.ndarray, soft: np.ndarray, background: np.ndarray, cell: int) -> Thing:
    """The thing in a WINDOW x WINDOW crop; ``soft`` is its foreground in 0..1."""
    keys, coverage = _silhouettes()
    distance = (coverage**2).sum(1) - 2 * coverage @ soft.ravel()
    ground = (window - background) ** 2
    best, best_error = None, np.inf
    for index in np.argpartition(distance, CANDIDATES)[:CANDIDATES]:
        shape, size, (dy, dx) = keys[index]
        paints, alpha = _paints(shape, size), sprite(shape, "red", size, "solid")[1]
        side = alpha.shape[0]
        top, left = WINDOW // 2 - side // 2 + dy, WINDOW // 2 - side // 2 + dx
        box = np.s_[top : top + side, left : left + side]
        inside = ((paints - (window[box] - (1 - alpha) * background)) ** 2).sum((1, 2, 3))
        errors = inside + ground.sum() - ground[box].sum()
        choice = int(errors.argmin())
        if errors[choice] < best_error:
            color, texture = divmod(choice, len(TEXTURES))
            best, best_error = Thing(shape, PAINTS[color], size, TEXTURES[texture], cell), errors[choice]
    return best


def read_scene(picture: np.ndarray) -> Scene:
    """The scene a picture shows.

    ``picture``: uint8 or float (128, 128, 3) in 0..255.  A blob that is no known shape is read as the nearest
    one; the number of things is not limited to what training scenes hold.
    """
    picture = np.asarray(picture, dtype=np.float32)
    if picture.shape != (128, 128, 3):
        raise ValueError(f"the scorer reads pictures of shape (128, 128, 3), got {picture.shape}")
    name = _read_background(picture)
    background = np.array(BACKGROUND_RGB[name], dtype=np.float32)
    soft = _foreground(picture, background)
    border = WINDOW // 2
    padded = np.empty((128 + 2 * border, 128 + 2 * border, 3), dtype=np.float32)
    padded[:] = background
    padded[border:-border, border:-border] = picture
    padded_soft = np.pad(soft, border)
    things = []
    for cell in range(9):
        row, column = (21 + 43 * axis for axis in divmod(cell, 3))
        crop = np.s_[
            row : row + WINDOW, column : column + WINDOW
        ]  # the border shifts the centre to the window's middle
        if padded_soft[crop].sum() >= OCCUPIED_AREA:
            things.append(_read_thing(padded[crop], padded_soft[crop], background, cell))
    return Scene(name, tuple(things))


def score(picture: np.ndarray, scene: Scene) -> dict[str, bool]:
    """What a picture has right: one bool for each of ``CHECKS`` and ``"whole"`` (all of them).

    ``position``: exactly the asked cells hold something.  ``count``: as many things as asked.  ``color``,
    ``shape``, ``size``, ``texture``: right for **every** thing asked for, at its cell.
    """
    return compare(read_scene(picture), scene)


def compare(found: Scene, asked: Scene) -> dict[str, bool]:
    """:func:`score` for a scene already read (or parsed from a caption)."""
    at_cell = {thing.cell: thing for thing in found.things}
    result = {
        "position": set(at_cell) == {thing.cell for thing in asked.things},
        "background": found.background == asked.background,
        "count": len(found.things) == len(asked.things),
    }
    for field in ("color", "shape", "size", "texture"):
        result[field] = all(
            thing.cell in at_cell and getattr(at_cell[thing.cell], field) == getattr(thing, field)
            for thing in asked.things
        )
    result["whole"] = all(result.values())
    return result


def score_things(found: Scene, asked: Scene) -> dict[str, list[bool]]:
    """One bool per thing asked for: position (its cell holds something), color, shape, size, texture, whole."""
    at_cell = {thing.cell: thing for thing in found.things}
    result = {"position": [thing.cell in at_cell for thing in asked.things]}
    for field in ("color", "shape", "size", "texture"):
        result[field] = [
            thing.cell in at_cell and getattr(at_cell[thing.cell], field) == getattr(thing, field)
            for thing in asked.things
        ]
    result["whole"] = [all(checks) for checks in zip(*result.values())]
    return result
