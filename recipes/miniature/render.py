"""Scenes to pixels: a numpy renderer of several thousand pictures a second.

A thing is an anti-aliased sprite made once per (shape, colour, size, texture) and pasted at its cell's centre
plus a whole-pixel jitter.  The texture belongs to the sprite, so it moves with the thing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .scene import NEUTRALS, Scene, Thing

COLOR_RGB = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (30, 160, 50),
    "cyan": (0, 205, 220),
    "blue": (40, 90, 255),
    "purple": (150, 50, 190),
    "pink": (255, 130, 195),
    "white": (250, 250, 250),
    "black": (8, 8, 8),
}
BACKGROUND_RGB = {
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "black": (12, 12, 12),
    "beige": (222, 203, 160),
    "navy": (15, 18, 60),
}
DIAMETER = {"large": 38, "small": 24}  # pixels at 128x128
JITTER = 2  # pixels at 128x128: 42-pixel cells keep a large thing inside its cell
SUPERSAMPLING = 8
NEUTRAL_MARKS = 75  # 0..255: apart from white, from black, and from the gray background


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are inside ``shape``; x right and y down, both in -1..1."""
    radius = np.hypot(x, y)
    if shape == "circle":
        return radius <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.88
    if shape == "triangle":
        return (y <= 0.9) & (abs(x) <= (y + 0.95) * 0.54)
    if shape == "star":  # ten straight edges between radius 1 and 0.42
        angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        px, py = radius * np.cos(angle), radius * np.sin(angle)
        inner_x, inner_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
        return py * (1 - inner_x) <= inner_y * (1 - px)
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.34) & (np.maximum(abs(x), abs(y)) <= 0.98)
    if shape == "ring":
        return (radius <= 1) & (radius >= 0.55)
    if shape == "heart":
        u, v = x * 1.2, 0.15 - y * 1.15
        return (u * u + v * v - 1) ** 3 - u * u * v**3 <= 0
    if shape == "crescent":
        return (radius <= 1) & (np.hypot(x - 0.5, y + 0.1) > 0.78)
    raise ValueError(f"unknown shape {shape!r}")


def _texture_rgb(texture: str, color: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint at pixel offsets x, y from the centre, (..., 3) in 0..255.

    Periods of 8 pixels at 128x128.  Stripes are dark and dots nearly white, so the two differ in tone as well
    as in form; white has dark gray stripes and dots, black dark gray stripes.
    """
    base = np.array(COLOR_RGB[color], dtype=np.float32)
    paint = np.broadcast_to(base, x.shape + (3,)).copy()
    if texture == "striped":
        paint[(np.floor((y + 2) / 4) % 2) == 1] = base * 0.45 if color not in NEUTRALS else NEUTRAL_MARKS
    elif texture == "dotted":
        paint[np.hypot((x + 4) % 8 - 4, (y + 4) % 8 - 4) <= 2.3] = (
            base * 0.15 + 255 * 0.85 if color != "white" else NEUTRAL_MARKS
        )
    return paint


@lru_cache(maxsize=2048)
def sprite(shape: str, color: str, size: str, texture: str, picture_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """(premultiplied RGB (S, S, 3) in 0..255, alpha (S, S, 1) in 0..1), float32, S odd."""
    scale = picture_size / 128
    radius = DIAMETER[size] * scale / 2
    half = int(np.ceil(radius))
    side = (2 * half + 1) * SUPERSAMPLING
    axis = (np.arange(side) + 0.5) / SUPERSAMPLING - half - 0.5
    x, y = np.meshgrid(axis, axis)
    alpha = inside(shape, x / radius, y / radius).astype(np.float32)[..., None]
    paint = _texture_rgb(texture, color, x / scale, y / scale) * alpha
    shrink = lambda a: a.reshape(2 * half + 1, SUPERSAMPLING, 2 * half + 1, SUPERSAMPLING, -1).mean((1, 3))
    return shrink(paint), shrink(alpha)


def sample_jitter(rng) -> np.ndarray:
    """Whole-pixel offsets (dy, dx) for each of the nine cells, int (9, 2), within +-JITTER at 128x128.

    Drawn for all cells, so that a picture and its edit share the array and what stays does not move.
    """
    return rng.integers(-JITTER, JITTER + 1, size=(9, 2))


def placement(thing: Thing, jitter: np.ndarray, size: int = 128) -> tuple[int, int]:
    """Centre pixel (row, column) of a thing."""
    scale = size / 128
    dy, dx = jitter[thing.cell]
    row, column = divmod(thing.cell, 3)
    return int(round((21 + 43 * row + dy) * scale)), int(round((21 + 43 * column + dx) * scale))


def _window(center: int, half: int, size: int) -> tuple[slice, slice]:
    """Where a sprite of half-width ``half`` lands on one axis: (slice of the picture, slice of the sprite)."""
    start, stop = center - half, center + half + 1
    low, high = max(start, 0), min(stop, size)
    return slice(low, high), slice(low - start, high - start)


def render(scene: Scene, rng=None, size: int = 128, jitter: np.ndarray | None = None) -> np.ndarray:
    """Picture of a scene, uint8 (size, size, 3).  Takes a jitter, or draws one from ``rng``; neither means none."""
    if jitter is None:
        jitter = sample_jitter(rng) if rng is not None else np.zeros((9, 2), dtype=int)
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = BACKGROUND_RGB[scene.background]
    for thing in scene.things:
        rgb, alpha = sprite(thing.shape, thing.color, thing.size, thing.texture, size)
        row, column = placement(thing, jitter, size)
        half = rgb.shape[0] // 2
        rows, sprite_rows = _window(row, half, size)
        columns, sprite_columns = _window(column, half, size)
        blend = picture[rows, columns] * (1 - alpha[sprite_rows, sprite_columns]) + rgb[sprite_rows, sprite_columns]
        picture[rows, columns] = blend + 0.5
    return picture


def foreground(scene: Scene, jitter: np.ndarray | None = None, size: int = 128) -> np.ndarray:
    """Coverage of the things, float32 (size, size) in 0..1, for loss weights.  Zero jitter when None."""
    jitter = np.zeros((9, 2), dtype=int) if jitter is None else jitter
    mask = np.zeros((size, size), dtype=np.float32)
    for thing in scene.things:
        alpha = sprite(thing.shape, thing.color, thing.size, thing.texture, size)[1][..., 0]
        row, column = placement(thing, jitter, size)
        half = alpha.shape[0] // 2
        rows, sprite_rows = _window(row, half, size)
        columns, sprite_columns = _window(column, half, size)
        np.maximum(mask[rows, columns], alpha[sprite_rows, sprite_columns], out=mask[rows, columns])
    return mask


def render_batch(scenes, rng=None, size: int = 128, jitters=None) -> np.ndarray:
    """Pictures of several scenes, uint8 (N, size, size, 3); ``jitters`` is one (9, 2) array per scene or None."""
    jitters = [None] * len(scenes) if jitters is None else jitters
    return np.stack([render(scene, rng, size, jitter) for scene, jitter in zip(scenes, jitters)])
