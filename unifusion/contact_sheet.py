"""A sheet of the references: what the VLM will see, how much of it, and how strongly it counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .jobs import about
from .references import PreparedReference, Reference, prepare, sizes_by_profile, tile_grid

_CELL, _GAP, _LINE, _ACROSS = 320, 20, 26, 4
_THUMBNAIL = 96  # height of the whole picture below its patches
PAPER, INK, _FAINT, _ACCENT = (250, 250, 248), (25, 25, 28), (200, 200, 200), (0, 110, 190)


_FONT = Path("matplotlib", "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")


@lru_cache(maxsize=8)
def font(size: int = 17) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans (Latin, Greek, Cyrillic), which matplotlib brings along; without it Pillow's own, Latin alone.

    The file is looked for, not matplotlib imported: that takes a second.
    """
    there = next((path for folder in sys.path if (path := Path(folder, _FONT)).is_file()), None)
    return ImageFont.load_default(size) if there is None else ImageFont.truetype(str(there), size)


def _image(view: torch.Tensor) -> Image.Image:
    return Image.fromarray((view[0].cpu().numpy() * 255).round().astype(np.uint8))


def _picture(view: torch.Tensor, width: int, height: int) -> Image.Image:
    """A view enlarged without smoothing, so that its real resolution shows."""
    image = _image(view)
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.NEAREST if scale > 1 else Image.LANCZOS)


def _paste_views(sheet: Image.Image, seen: PreparedReference, tiles: int, left: int, top: int) -> None:
    """The picture, or its patches as they were cut with the whole one below."""
    *parts, whole = seen.views
    if not parts:
        image = _picture(whole, _CELL, _CELL)
        sheet.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))
        return
    down, across = tile_grid(*seen.size, tiles)
    room = _CELL - _THUMBNAIL - 8
    height, width = seen.size
    scale = min(_CELL / width, room / height)
    cell = (max(1, int(width * scale / across) - 4), max(1, int(height * scale / down) - 4))
    for number, part in enumerate(parts):
        image = _image(part).resize(cell, Image.LANCZOS)
        sheet.paste(image, (left + (number % across) * (cell[0] + 4), top + (number // across) * (cell[1] + 4)))
    sheet.paste(_picture(whole, _CELL, _THUMBNAIL), (left, top + room + 8))


def shrunk_text(draw: ImageDraw.ImageDraw, text: str, width: int, letters=None) -> str:
    """One line, shortened at its end to ``width`` pixels of a font."""
    while text.strip("…") and draw.textlength(text, letters or font()) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, fill=INK) -> None:
    """One line of the width of a cell."""
    draw.text(at, shrunk_text(draw, text, _CELL), fill, font())


def draw(references: Sequence[Reference]) -> torch.Tensor:
    """Draw the sheet.

    Args:
        references: at least one; those without a size of their own are shown as the largest profile wants them.

    Returns:
        ``(1, height, width, 3)`` float32 in 0..1.
    """
    across = min(_ACROSS, len(references))
    rows = -(-len(references) // across)
    tall = _CELL + (6 if any(about(reference.job) for reference in references) else 5) * _LINE
    sheet = Image.new("RGB", (_GAP + across * (_CELL + _GAP), _GAP + rows * (tall + _GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, reference in enumerate(references):
        left = _GAP + (number % across) * (_CELL + _GAP)
        top = _GAP + (number // across) * (tall + _GAP)
        seen = prepare(reference, max(sizes_by_profile().values()))
        _paste_views(sheet, seen, reference.tiles, left, top)
        if reference.strength == 0:
            veil = Image.new("RGB", (_CELL, _CELL), PAPER)
            sheet.paste(veil, (left, top), Image.new("L", (_CELL, _CELL), 200))
        top += _CELL + 8
        _write(pen, (left, top), f"{number + 1}  {reference.label or reference.name or '(no name)'}")
        removed = " removed" if reference.strength == 0 else " away" if reference.strength < 0 else ""
        _write(
            pen,
            (left, top + _LINE),
            f"strength {reference.strength:g}{removed}",
            INK if reference.strength == 1 else _ACCENT,
        )
        bar, middle = (left + 200, left + _CELL), top + _LINE + 10
        pen.rectangle((bar[0], middle - 4, bar[1], middle + 4), fill=_FAINT)
        filled = bar[0] + (bar[1] - bar[0]) * min(abs(reference.strength), 2.0) / 2
        pen.rectangle((bar[0], middle - 4, filled, middle + 4), fill=_ACCENT)
        pen.line(((bar[0] + bar[1]) // 2, middle - 8, (bar[0] + bar[1]) // 2, middle + 8), fill=INK)
        _write(pen, (left, top + 2 * _LINE), _tokens(reference, seen))
        if (reference.start, reference.end) != (0.0, 1.0):
            when = f"from {reference.start:.0%} to {reference.end:.0%} of the schedule"
            _write(pen, (left, top + 3 * _LINE), when, _ACCENT)
        if job := about(reference.job):
            _write(pen, (left, top + 4 * _LINE), job, _ACCENT)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]


def _tokens(reference: Reference, seen: PreparedReference) -> str:
    views = "" if len(seen.views) == 1 else f" in {len(seen.views)} views"
    if reference.tokens:
        grid = f"{seen.grids[0][0]} x {seen.grids[0][1]} = " if len(seen.views) == 1 else ""
        return f"{grid}{seen.tokens} tokens{views}"
    sizes = " or ".join(map(str, sorted(set(sizes_by_profile().values()))))
    return f"{sizes} tokens by profile" + (f", {len(seen.views)} times" if views else "")
