"""Sizes of finished pictures: multiples of 16 pixels, one area, the shape of the file; never stretched."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import isqrt, log

from torch import Tensor

from ...references import resize

LONGEST = 4  # times the shorter side


@lru_cache(maxsize=4096)
def bucket(height: int, width: int, pixels: int, step: int) -> tuple[int, int]:
    """(height, width) of at most ``pixels`` for a picture of another size.

    The cost is the error of the log aspect plus 0.3 times the log share of the area left unused, as for views
    (:func:`unifusion.references.token_grid`).
    """
    wanted, most = log(width / height), max(1, pixels // step**2)
    best, least = (1, 1), float("inf")
    for rows in range(max(1, isqrt(most // LONGEST)), isqrt(most * LONGEST) + 1):
        exact = rows * width / height
        for columns in {max(1, min(int(exact), most // rows)), max(1, min(int(exact) + 1, most // rows))}:
            if max(rows, columns) <= LONGEST * min(rows, columns) and rows * columns <= most:
                cost = abs(log(columns / rows) - wanted) + 0.3 * log(most / (rows * columns))
                if cost < least - 1e-9:
                    best, least = (rows, columns), cost
    return best[0] * step, best[1] * step


def cover(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (1, H, W, 3) evenly until it covers ``size``, and cut the middle out: both sides keep their proportion."""
    height, width = picture.shape[1:3]
    scale = max(size[0] / height, size[1] / width)
    tall, wide = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    if (tall, wide) != (height, width):
        picture = resize(picture, (tall, wide))
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    return picture[:, top : top + size[0], left : left + size[1]]


def lost(height: int, width: int, size: tuple[int, int]) -> float:
    """Share of the picture that :func:`cover` cuts away."""
    scale = max(size[0] / height, size[1] / width)
    return 1.0 - size[0] * size[1] / (height * width * scale * scale)


def describe(sizes: list[tuple[int, int]]) -> str:
    """``12 of 128 x 128, 4 of 96 x 160`` (width x height), the most frequent first."""
    counts = Counter(sizes).most_common()
    shown = ", ".join(f"{count:,} of {width} x {height}" for (height, width), count in counts[:8])
    return shown + (f" and {len(counts) - 8} more sizes" if len(counts) > 8 else "")
