"""What is asked and how the answer is judged: held-out scenes, wordings that training never used, checks of pictures.

Every scene holds at least one combination of shape, colour and texture that no training scene had.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from recipes.miniature import scene as world
from recipes.miniature.captions import PromptSpec
from recipes.miniature.render import render, sample_jitter
from recipes.miniature.scene import Edit, Scene
from recipes.miniature.scorer import score_things
from recipes.miniature.wordings import (
    caption_request,
    edit_instruction,
    three_picture_instruction,
    two_picture_instruction,
    user_prompt,
)

ATTRIBUTES = {"colour": "color", "shape": "shape", "size": "size", "texture": "texture"}


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        prompt: the creator's words.
        scene: what the picture, or the caption, must show.
        spec: what the prompt states of it; None if everything counts.
        pictures: uint8 (128, 128, 3) each, given beside the prompt.
        before, edit: for an edit, the scene of the picture and the change.
    """

    prompt: str
    scene: Scene
    spec: PromptSpec | None = None
    pictures: tuple[np.ndarray, ...] = ()
    before: Scene | None = None
    edit: Edit | None = None


def within(minutes: float | None, items: Iterable[Asked]) -> Iterator[tuple[int, Asked]]:
    """Numbered items until the time is over; at least one, all of them without a limit."""
    began = time.monotonic()
    for number, item in enumerate(items):
        if number and minutes is not None and time.monotonic() - began > 60 * minutes:
            print(f"{minutes:g} minutes are over after {number} scenes", flush=True)
            return
        yield number, item


def prompts(count: int, seed: int, detail: float | None, split: str = "test") -> list[Asked]:
    """Text-to-image prompts; ``detail`` is the chance of each attribute to be said, None draws it for each.

    ``split``: the wordings of tests, or ``"fresh"`` for the second set of them.
    """
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        scene = world.sample_scene(rng, held_out=True)
        prompt, spec = user_prompt(scene, rng, split, detail)
        made.append(Asked(prompt, scene, spec))
    return made


def pictures(count: int, seed: int) -> list[Asked]:
    """Pictures that are only to be described or drawn again."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        scene = world.sample_scene(rng, held_out=True)
        picture = render(scene, jitter=sample_jitter(rng))
        made.append(Asked(caption_request(rng, "test"), scene, pictures=(picture,)))
    return made


def edits(count: int, seed: int) -> list[Asked]:
    """A picture and an instruction; the six kinds of edit in turn."""
    rng, made = np.random.default_rng(seed), []
    while len(made) < count:
        kind = world.EDIT_KINDS[len(made) % len(world.EDIT_KINDS)]
        before = world.sample_scene(rng, held_out=True)
        things = len(before.things)
        if (kind == "add" and things == world.MAX_THINGS) or (kind == "remove" and things == 1):
            continue
        edit = world.sample_edit(rng, before, kind, held_out=None)
        picture = render(before, jitter=sample_jitter(rng))
        made.append(
            Asked(
                edit_instruction(before, edit, rng, "test"),
                edit.apply(before),
                pictures=(picture,),
                before=before,
                edit=edit,
            )
        )
    return made


def pairs(count: int, seed: int) -> list[Asked]:
    """Two pictures and an instruction that makes one of them."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        first, second = (world.sample_scene(rng, held_out=True) for _ in range(2))
        composition = world.sample_composition(rng, first, second)
        shown = tuple(render(scene, jitter=sample_jitter(rng)) for scene in (first, second))
        made.append(
            Asked(
                two_picture_instruction(first, second, composition, rng, "test"),
                composition.apply(first, second),
                pictures=shown,
            )
        )
    return made


def triples(count: int, seed: int) -> list[Asked]:
    """Three pictures and an instruction that puts a thing of each into one."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        scenes = [world.sample_scene(rng, held_out=True) for _ in range(3)]
        composition = world.sample_gathering(rng, scenes)
        shown = tuple(render(scene, jitter=sample_jitter(rng)) for scene in scenes)
        prompt = three_picture_instruction(scenes, composition, rng, "test")
        made.append(Asked(prompt, composition.apply(*scenes), pictures=shown))
    return made


def picture_checks(found: Scene, asked: Scene) -> dict[str, list[bool]]:
    """Of the picture: position (things in exactly the asked cells), background, whole. Of each thing: attributes."""
    things = score_things(found, asked)
    return {
        "position": [{t.cell for t in found.things} == {t.cell for t in asked.things}],
        "background": [found.background == asked.background],
        **{name: things[field] for name, field in ATTRIBUTES.items()},
        "whole": [found == asked],
    }


def edit_checks(found: Scene, asked: Asked) -> dict[str, list[bool]]:
    """Whether the change was made, and whether everything else stayed as it was.

    ``kept`` is strict: the background, every other thing with all its attributes, no new thing, and what the edit does
    not touch of the thing it changes. A thing that should have moved and did not still counts as kept.
    """
    edit, wanted = asked.edit, asked.scene
    at, should = ({thing.cell: thing for thing in scene.things} for scene in (found, wanted))
    target = None if edit.target is None else asked.before.things[edit.target]
    touched: set[int] = set()
    kept_of_target = True
    if edit.kind == "background":
        made = found.background == wanted.background
    elif edit.kind == "add":
        touched, made = {edit.value.cell}, at.get(edit.value.cell) == edit.value
    elif edit.kind == "remove":
        touched, made = {target.cell}, target.cell not in at
    elif edit.kind == "move":
        touched = {target.cell, edit.value}
        made = edit.value in at and target.cell not in at
        drawn = at.get(edit.value) or at.get(target.cell)
        kept_of_target = drawn is not None and replace(drawn, cell=edit.value) == should[edit.value]
    else:
        fields = ["color"] if edit.kind == "recolour" else ["shape"] + ["color"] * isinstance(edit.value, tuple)
        touched, goal, drawn = {target.cell}, should[target.cell], at.get(target.cell)
        made = drawn is not None and all(getattr(drawn, field) == getattr(goal, field) for field in fields)
        kept_of_target = (
            drawn is not None and replace(drawn, **{field: getattr(goal, field) for field in fields}) == goal
        )
    rest = all(at.get(cell) == should.get(cell) for cell in range(9) if cell not in touched)
    background = edit.kind == "background" or found.background == wanted.background
    return {"change made": [made], "rest kept": [rest and background and kept_of_target], "both": [found == wanted]}


def stated_checks(found: Scene, spec: PromptSpec) -> dict[str, list[bool]]:
    """What a terse prompt stated, whatever else was drawn.

    Stated things are matched to drawn ones so that most of what was stated is right.
    """

    def outcomes(order) -> dict[str, list[bool]]:
        checks: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "position")}
        for stated, thing in zip(spec.things, order):
            for name, field in ATTRIBUTES.items():
                if getattr(stated, field) is not None:
                    checks[name].append(thing is not None and getattr(thing, field) == getattr(stated, field))
            if stated.cells is not None:
                checks["position"].append(thing is not None and thing.cell in stated.cells)
        return checks

    drawn = [*found.things, *[None] * max(0, len(spec.things) - len(found.things))]
    best = max(
        (outcomes(order) for order in permutations(drawn, len(spec.things))),
        key=lambda checks: sum(map(sum, checks.values())),
    )
    number = len(found.things) == len(spec.things)
    background = [] if spec.background is None else [found.background == spec.background]
    everything = number and all(map(all, best.values())) and all(background)
    return {"number of things": [number], "background": background, **best, "everything stated": [everything]}
