"""The reference board of Multi-Reference Combine: name, strength, share of the schedule, on or off and order of
each picture, before a run.

The board is a text in the graph: a JSON list of rows such as ``{"slot": "image0", "name": "hero", "strength": 1.5,
"on": true}``, in the order in which the pictures are read. Pictures without a row come last, at strength 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .quoting import quoted
from .references import Reference, from_batch, from_images

EXAMPLE = '[{"slot": "image0", "name": "hero", "strength": 1.0, "on": true}]'
NAMED = re.compile(r"(?<![\w@])@([^\W\d_][\w-]*)")


class Row(NamedTuple):
    """One picture of the board.

    Attributes:
        slot: socket of the picture, such as ``"image0"``.
        name: what the prompt may call it as ``@name``; empty for none.
        strength: 1 = neutral; 0 = the picture is not read.
        on: whether it is read.
        start, end: part of the schedule in which it counts, 0..1.
    """

    slot: str
    name: str = ""
    strength: float = 1.0
    on: bool = True
    start: float = 0.0
    end: float = 1.0


def read_board(text: str) -> list[Row]:
    """Rows of a board; empty text has none.

    Raises:
        ValueError: if it is no such list, a socket stands twice, or a value is of the wrong kind.
    """
    if not text.strip():
        return []
    try:
        given = json.loads(text)
        rows = [Row(**row) for row in given]
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"The board of Multi-Reference Combine must be a list of rows such as {EXAMPLE}.") from None
    for row in rows:
        right = isinstance(row.slot, str) and isinstance(row.name, str) and isinstance(row.on, bool)
        if not right or not all(map(_is_number, (row.strength, row.start, row.end))):
            raise ValueError(
                f"A row of the board must look like {EXAMPLE[1:-1]}, found {quoted(json.dumps(row._asdict()))}."
            )
    if len({row.slot for row in rows}) != len(rows):
        raise ValueError("The board of Multi-Reference Combine names a socket twice; give every picture one row.")
    return rows


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def arrange(images: dict[str, torch.Tensor | None], rows: Sequence[Row]) -> tuple[list[Reference], list[str]]:
    """Pictures in the board's order, with their names and strengths.

    Args:
        images: socket -> ``(batch, height, width, channels)`` or None.

    Returns:
        (references, lines of the report about pictures that are not read)
    """
    references, lines = [], []
    number = 0
    for row in rows:
        batch = images.get(row.slot)
        if batch is None:
            continue
        number += 1
        called = quoted(row.name) if row.name else f"Row {number} of the board"
        if not row.on or row.strength == 0:
            lines.append(f"{called} is {'off' if not row.on else 'at strength 0'}: it is not read.")
            continue
        references += from_batch(batch, called, row.name, row.strength, start=row.start, end=row.end)
    placed = {row.slot for row in rows}
    return references + from_images({slot: batch for slot, batch in images.items() if slot not in placed}), lines


def use_names(prompt: str, references: Sequence[Reference] | None) -> tuple[str, list[str]]:
    """Replace ``@name`` by what the model is told of the picture: its label, or ``image 2`` where it has none.

    Returns:
        (prompt, lines of the report about names that no picture has)
    """
    known = {}
    for number, reference in enumerate(references or (), 1):
        for name in (reference.name, reference.label):
            if name:
                known.setdefault(_as_written(name), reference.label or f"image {number}")
    lines: dict[str, None] = {}

    def replaced(match: re.Match) -> str:
        if (told := known.get(match[1].lower())) is not None:
            return told
        if references:
            names = ", ".join(f"@{name}" for name in known) or "none"
            lines[f"Warning: the prompt names @{match[1]}, but no picture has that name; names here: {names}."] = None
        return match[0]

    return NAMED.sub(replaced, prompt), list(lines)


def _as_written(name: str) -> str:
    """A name as it stands behind the @: "the Dog" is written @the_dog."""
    return re.sub(r"[^\w-]+", "_", name.strip()).lower()
