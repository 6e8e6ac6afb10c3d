"""Reads the hand-written prompts and edits of newcomers and judges pictures by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recipes.miniature.captions import RELATIONS, PromptSpec, Stated, keeps_attributes
from recipes.miniature.newcomer_edits import newcomer_edit
from recipes.miniature.newcomers import AREAS, newcomer_prompt
from recipes.miniature.scene import PAINTS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene, Thing
from recipes.miniature.wordings import exact_spec

HERE = Path(__file__).parent
FIELDS = {"shape": SHAPES, "color": PAINTS, "size": SIZES, "texture": TEXTURES}


@dataclass(frozen=True)
class Prompt:
    """A prompt and what is right: one of ``specs``, ``same`` row or column, ``unknown`` words to be named."""

    kind: str
    text: str
    specs: tuple[PromptSpec, ...]
    same: str | None = None
    unknown: tuple[str, ...] = ()

    def is_right(self, scene: Scene) -> bool:
        if self.same:
            lines = {thing.cell // 3 if self.same == "row" else thing.cell % 3 for thing in scene.things}
            if len(lines) != 1:
                return False
        return any(keeps_attributes(spec, scene) for spec in self.specs)


@dataclass(frozen=True)
class EditAsked:
    """A picture's scene, an instruction, and the picture that must come; ``after`` says every thing of it."""

    kind: str
    before: Scene
    text: str
    after: PromptSpec

    def is_right(self, scene: Scene) -> bool:
        return keeps_attributes(self.after, scene)


def _attribute(word: str) -> tuple[str, str]:
    for name, values in FIELDS.items():
        if word in values:
            return name, word
    raise ValueError(f"no attribute '{word}'")


def _cells(words: str) -> frozenset[int]:
    return frozenset((POSITIONS.index(words),)) if words in POSITIONS else frozenset(AREAS[words])


def _stated(text: str) -> list[Stated]:
    """``2 small red star @top left``"""
    words, _, where = text.partition("@")
    names = words.split()
    count = int(names.pop(0)) if names[0].isdigit() else 1
    attributes = dict(_attribute(name) for name in names if name != "thing")
    cells = {name: _cells(where.strip()) for name in ("cells",) if where}
    return [Stated(**attributes, **cells)] * count


def _prompt(kind: str, line: str) -> Prompt:
    text, expected = line.rsplit(" => ", 1)
    expected, _, unknown = expected.partition("!")
    specs, same = [], None
    for choice in expected.split("|"):
        things, absent, relations, background, more = [], [], [], None, False
        for part in filter(None, map(str.strip, choice.split(";"))):
            words = part.split()
            if words[0] == "bg":
                background = words[1]
            elif words[0] == "no":
                absent += _stated(part[3:])
            elif words[0] == "same":
                same = words[1]
            elif part == "more":
                more = True
            elif words[0].isdigit() and " ".join(words[1:-1]) in RELATIONS:
                relations.append((int(words[0]), " ".join(words[1:-1]), int(words[-1])))
            else:
                things += _stated(part)
        specs.append(PromptSpec(tuple(things), background, tuple(relations), tuple(absent), more or not things))
    return Prompt(kind, text.replace("\\n", "\n"), tuple(specs), same, tuple(unknown.split()))


def _lines(name: str) -> Iterator[tuple[str, str]]:
    kind = ""
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            kind = line[1:-1]
        elif line and not line.startswith("#"):
            yield kind, line


def prompts() -> list[Prompt]:
    return [_prompt(kind, line) for kind, line in _lines("prompts.txt")]


def _scene(text: str) -> tuple[Scene, list[Thing]]:
    *things, background = [part.strip() for part in text.split(";")]
    made = []
    for part in things:
        stated = _stated(part)[0]
        made.append(Thing(stated.shape, stated.color, stated.size, stated.texture, next(iter(stated.cells))))
    return Scene(background.split()[1], tuple(made)), made


def _changed(things: list[Thing], background: str, change: str) -> PromptSpec:
    exact = {index: Stated(t.shape, t.color, t.size, t.texture, frozenset((t.cell,))) for index, t in enumerate(things)}
    for part in map(str.strip, change.split(";")):
        words = part.split()
        if words[0] == "bg":
            background = words[1]
        elif part[0] == "-":
            del exact[int(part[1:])]
        elif part[0] == "+":
            exact[len(exact) + 10] = _stated(part[1:])[0]
        elif words[0] == "swap":
            one, other = int(words[1]), int(words[2])
            cells = exact[one].cells, exact[other].cells
            exact[one], exact[other] = replace(exact[one], cells=cells[1]), replace(exact[other], cells=cells[0])
        elif words[0] == "only":
            exact = {0: exact[int(words[1])]}
        else:
            chosen = list(exact) if words[0] == "all" else [int(words[0])]
            rest = part.split(" ", 1)[1]
            for index in chosen:
                if rest[0] == "@":
                    exact[index] = replace(exact[index], cells=_cells(rest[1:]))
                else:
                    exact[index] = replace(exact[index], **dict(map(_attribute, rest.split())))
    return PromptSpec(tuple(exact.values()), background)


def edits() -> list[EditAsked]:
    made, scene, things = [], None, []
    for kind, line in _lines("edits.txt"):
        if line.startswith("@"):
            scene, things = _scene(line[1:].strip())
            continue
        text, change = line.rsplit(" => ", 1)
        made.append(EditAsked(kind, scene, text, _changed(things, scene.background, change)))
    return made


def developed_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts of the training grammar by their kinds; those in other languages by language."""
    rng, made = np.random.default_rng((90_000, seed)), []
    for _ in range(count):
        text, _, spec, kind, key = newcomer_prompt(rng, held_out=True)
        made.append(Prompt(kind if key == "en" else f"{key}", text, (spec,)))
    return made


def developed_edits(count: int, seed: int) -> list[EditAsked]:
    """Edits of the training grammar by their kinds."""
    rng, made = np.random.default_rng((91_000, seed)), []
    for _ in range(count):
        change = newcomer_edit(rng, held_out=True)
        made.append(EditAsked(change.kind, change.before, change.text, exact_spec(change.after)))
    return made
