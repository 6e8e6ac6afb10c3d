"""The words of the miniature world: the caption its VLM writes, and what a prompt states.

A caption has one style and one order (reading order), so that it can be parsed and compared exactly::

    on a white background: a large red striped circle at the top left, a small blue solid star at the center.

Each thing's phrase ends with its position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations

from .scene import BACKGROUNDS, PAINTS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene, Thing

CAPTION_SYSTEM = "Describe the picture."

_THING = re.compile(
    rf"an? ({'|'.join(SIZES)}) ({'|'.join(PAINTS)}) ({'|'.join(TEXTURES)}) ({'|'.join(SHAPES)}) "
    rf"at the ({'|'.join(sorted(POSITIONS, key=len, reverse=True))})"
)
_CAPTION = re.compile(rf"on a ({'|'.join(BACKGROUNDS)}) background: (.+)\.")


def thing_phrase(thing: Thing) -> str:
    """A thing in the caption's style, e.g. ``a large red striped circle at the top left``."""
    return f"a {thing.size} {thing.color} {thing.texture} {thing.shape} at the {POSITIONS[thing.cell]}"


def caption(scene: Scene) -> str:
    """The one canonical description of a scene."""
    return f"on a {scene.background} background: {', '.join(map(thing_phrase, scene.things))}."


def parse_caption(text: str) -> Scene | None:
    """The scene of a caption in canonical style, or None.  Things may come in any order."""
    whole = _CAPTION.fullmatch(text.strip())
    if whole is None:
        return None
    things = [_THING.fullmatch(phrase) for phrase in whole[2].split(", ")]
    if not all(things):
        return None
    things = tuple(Thing(m[4], m[2], m[1], m[3], POSITIONS.index(m[5])) for m in things)
    if len({thing.cell for thing in things}) != len(things):
        return None
    return Scene(whole[1], things)


@dataclass(frozen=True)
class Stated:
    """What a prompt says about one thing; None where it says nothing.  ``cells``: the cells its words allow."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    texture: str | None = None
    cells: frozenset[int] | None = None

    def allows(self, thing: Thing) -> bool:
        return all(
            getattr(self, field) in (None, getattr(thing, field)) for field in ("shape", "color", "size", "texture")
        ) and (self.cells is None or thing.cell in self.cells)


@dataclass(frozen=True)
class PromptSpec:
    """What a prompt states: its things (as many as the picture must have) and the background or None.

    Attributes:
        relations: (index of a thing, one of RELATIONS, index of another).
        absent: what no thing of the picture may be.
        more: whether the picture may hold further things.
    """

    things: tuple[Stated, ...]
    background: str | None = None
    relations: tuple[tuple[int, str, int], ...] = ()
    absent: tuple[Stated, ...] = ()
    more: bool = False


def _related(name: str, one: int, other: int) -> bool:
    """Whether cell ``one`` stands to cell ``other`` as a relation says; slanted counts up to the diagonal."""
    down, across = other // 3 - one // 3, other % 3 - one % 3
    return {
        "above": down > 0 and abs(across) <= down,
        "below": down < 0 and abs(across) <= -down,
        "left of": across > 0 and abs(down) <= across,
        "right of": across < 0 and abs(down) <= -across,
        "next to": max(abs(down), abs(across)) == 1,
    }[name]


RELATIONS = ("above", "below", "left of", "right of", "next to")


def keeps_attributes(spec: PromptSpec, scene: Scene) -> bool:
    """Whether a scene has everything a prompt stated: background, number of things, attributes, relations."""
    count = len(spec.things)
    if spec.background not in (None, scene.background) or len(scene.things) < count:
        return False
    if len(scene.things) > count and not spec.more:
        return False
    if any(stated.allows(thing) for stated in spec.absent for thing in scene.things):
        return False
    return any(
        all(stated.allows(thing) for stated, thing in zip(spec.things, order))
        and all(_related(name, order[i].cell, order[j].cell) for i, name, j in spec.relations)
        for order in permutations(scene.things, count)
    )
