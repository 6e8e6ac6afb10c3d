"""What each job of a picture moves and keeps, and drawing away: ``python -m bench.picture_jobs --count 100``.

A prompt names a shape and its place ("a large ring at the top left") and leaves colour, texture and background open; the
picture shows another shape elsewhere, in a colour, a texture and on a background of its own. Drawn through Reference, VLM
Encode, the pool and DiT Sampler; read back by the scorer. Moved: what of the picture is found again. Kept: the asked shape at
its place, and nothing beside it. For *layout* a second prompt names colour and shape without a place.

``--away`` draws a prompt, and then the same prompt and seed away from the picture that came out: how often background and
colour are another than before, beside drawing away from a foreign picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from recipes.miniature.render import render
from recipes.miniature.scene import BACKGROUNDS, COLORS, POSITIONS, SHAPES, TEXTURES, Scene, Thing
from recipes.miniature.scorer import read_scene

from .host import pack
from .reproduction.shares import Tally, differences

JOBS = ("whole", "style", "palette", "layout", "subject", "read, not shown")
AWAY = (-0.1, -0.25)
NONE = "without it (strength 0)"
PLACED, UNPLACED = "shape and place", "colour and shape"


def scene(rng: np.random.Generator, other: Scene | None = None) -> Scene:
    """One large thing on a background, with nothing in common with ``other``."""

    def pick(values, taken=None):
        return str(rng.choice([value for value in values if value != taken]))

    before = other.things[0] if other else None
    thing = Thing(
        pick(SHAPES, before and before.shape),
        pick(COLORS, before and before.color),
        "large",
        pick(TEXTURES, before and before.texture),
        int(rng.choice([cell for cell in range(9) if before is None or cell != before.cell])),
    )
    return Scene(pick(BACKGROUNDS, other and other.background), (thing,))


def prompt_of(asked: Scene, kind: str) -> str:
    thing = asked.things[0]
    if kind == PLACED:
        return f"a {thing.size} {thing.shape} at the {POSITIONS[thing.cell]}"
    return f"a {thing.color} {thing.shape}"


def checks(found: Scene, asked: Scene, shown: Scene, kind: str) -> dict[str, list[bool]]:
    """Moved and kept, one bool each."""
    wanted, seen = asked.things[0], shown.things[0]
    things = found.things
    main = next((thing for thing in things if thing.shape == wanted.shape), None)
    moved = {
        "background of the picture": [found.background == shown.background],
        "its colour": [any(thing.color == seen.color for thing in things)],
        "its texture on the asked shape": [main is not None and main.texture == seen.texture],
        "its shape": [any(thing.shape == seen.shape for thing in things)],
        "something at its place": [any(thing.cell == seen.cell for thing in things)],
    }
    at = kind == UNPLACED or any(thing.shape == wanted.shape and thing.cell == wanted.cell for thing in things)
    right = at and (kind == PLACED or any((t.shape, t.color) == (wanted.shape, wanted.color) for t in things))
    return moved | {"kept: what was asked": [right], "kept: nothing beside it": [len(things) == 1]}


class Ways:
    """The shipped miniature through the nodes, with one reference."""

    def __init__(self):
        from .reproduction.through_nodes import Condition, Graph

        self.graph, self.condition = Graph(), Condition

    @torch.inference_mode()
    def draw(self, prompt: str, picture: np.ndarray, seed: int, **how) -> np.ndarray:
        image, strength = self.graph.image(picture), how.pop("strength", 1.0)
        references = self.graph.reference_node.execute(image, "", strength, "default", **how).result[0]
        states, negative, report = self.graph.encode_node.execute(
            self.graph.clip, prompt, "auto", "as the profile", references=references
        ).result
        return self.graph.picture(self.condition(states, negative, "", 0.0, report), seed)


def measure(count: int) -> list[dict]:
    """One row for each prompt kind and way."""
    ways = {NONE: {"strength": 0.0}}
    ways |= {job: {"job": job} for job in JOBS if job != "read, not shown"}
    ways |= {f"away, strength {strength:g}": {"strength": strength} for strength in AWAY}
    drawn, rows = Ways(), []
    for kind in (PLACED, UNPLACED):
        chosen = ways if kind == PLACED else {way: ways[way] for way in (NONE, "whole", "layout")}
        tallies = {way: Tally() for way in chosen}
        for index in range(count):
            rng = np.random.default_rng(index)
            asked = scene(rng)
            shown = scene(rng, asked)
            picture = render(shown, np.random.default_rng(index))
            for way, how in chosen.items():
                found = read_scene(drawn.draw(prompt_of(asked, kind), picture, index, **dict(how)))
                tallies[way].add(checks(found, asked, shown, kind))
        for way, tally in tallies.items():
            row = {"prompt names": kind, "way": way} | {one.measure: str(one) for one in tally.figures(way)}
            pair = ("without it", tallies[NONE])
            row["against without it"] = {one.measure: str(one) for one in differences((way, tally), pair)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def measure_away(count: int) -> list[dict]:
    """How often a picture leaves what it was told to leave, for its own first version and for a foreign picture."""
    drawn, rows = Ways(), []
    tallies = {(strength, which): Tally() for strength in AWAY for which in ("its own picture", "a foreign picture")}
    for index in range(count):
        asked = scene(np.random.default_rng(index))
        foreign = render(scene(np.random.default_rng(10_000 + index), asked), np.random.default_rng(index))
        prompt, wanted = prompt_of(asked, PLACED), asked.things[0]
        first = drawn.draw(prompt, foreign, index, strength=0.0)
        before = read_scene(first)
        colors = {thing.color for thing in before.things if thing.shape == wanted.shape}
        for (strength, which), tally in tallies.items():
            away_from = first if which == "its own picture" else foreign
            found = read_scene(drawn.draw(prompt, away_from, index, strength=strength))
            asked_shape = [thing for thing in found.things if thing.shape == wanted.shape]
            tally.add(
                {
                    "another background": [found.background != before.background],
                    "another colour of the asked shape": [not colors & {thing.color for thing in asked_shape}],
                    "kept: what was asked": [any(thing.cell == wanted.cell for thing in asked_shape)],
                }
            )
    for (strength, which), tally in tallies.items():
        row = {"away from": which, "strength": strength} | {one.measure: str(one) for one in tally.figures(which)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--away", action="store_true")
    given = parser.parse_args()
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    rows = (measure_away if given.away else measure)(given.count)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
