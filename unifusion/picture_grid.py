"""Several pictures as one sheet, each with a line of text below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from .contact_sheet import INK, PAPER, font, shrunk_text

GAP = 16
SMALLEST, LARGEST = 192, 768  # pixels along the longer side of a picture on the sheet
WIDEST = 4096  # pixels of the sheet
MOST_PICTURES = 64
MOST_SOCKETS = 24


def letters_for(side: int) -> int:
    """Height of the letters in pixels, so that they can be read where the sheet is shown small."""
    return min(max(side // 16, 16), 44)


def line_for(side: int) -> int:
    """Pixels from one line to the next."""
    return round(1.6 * letters_for(side))


def columns_for(count: int, columns: int = 0) -> int:
    """Pictures in a row: as asked, else one row of up to four, and then nearly a square."""
    if columns:
        return min(columns, count)
    return count if count <= 4 else -(-count // round(count**0.5))


def draw(pictures: Sequence[torch.Tensor], labels: Sequence[str], title: str = "", columns: int = 0) -> torch.Tensor:
    """Draw the sheet.

    Small pictures are enlarged without smoothing, so that their real resolution shows.

    Args:
        pictures: each ``(1, height, width, 3)`` float32 in 0..1; at most :data:`MOST_PICTURES`.
        labels: one for each picture; shortened to its width.
        title: above all; empty for none.
        columns: pictures in a row; 0 = by their number.

    Returns:
        ``(1, height, width, 3)`` float32 in 0..1.

    Raises:
        ValueError: for no picture, or more than :data:`MOST_PICTURES`.
    """
    if not 0 < len(pictures) <= MOST_PICTURES:
        raise ValueError(
            f"A sheet takes 1 to {MOST_PICTURES} pictures, found {len(pictures)}. Connect pictures, or make several sheets."
        )
    across = columns_for(len(pictures), columns)
    down = -(-len(pictures) // across)
    longest = max(max(picture.shape[1:3]) for picture in pictures)
    side = min(max(longest, SMALLEST), LARGEST, max(SMALLEST // 2, (WIDEST - GAP) // across - GAP))
    images = [_fitted(_as_saved(picture), side) for picture in pictures]
    wide, tall = max(image.width for image in images), max(image.height for image in images)
    line, letters = line_for(side), font(letters_for(side))
    top = GAP + (line + GAP // 2 if title else 0)
    sheet = Image.new("RGB", (GAP + across * (wide + GAP), top + down * (tall + line + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((GAP, GAP), shrunk_text(pen, title, sheet.width - 2 * GAP, letters), INK, letters)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, y = GAP + number % across * (wide + GAP), top + number // across * (tall + line + GAP)
        sheet.paste(image, (left + (wide - image.width) // 2, y + tall - image.height))
        pen.text((left, y + tall + 4), shrunk_text(pen, label, wide, letters), INK, letters)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]


def _as_saved(picture: torch.Tensor) -> Image.Image:
    """The pixels that ComfyUI's Save Image would write: cut off, not rounded."""
    return Image.fromarray((picture[0].cpu().numpy() * 255).clip(0, 255).astype(np.uint8))


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.NEAREST if scale > 1 else Image.LANCZOS)
