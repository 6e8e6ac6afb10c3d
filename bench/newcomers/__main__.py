"""Score the miniature by what newcomers type: ``python -m bench.newcomers``.

Hand-written prompts and edits by kind, through the pack's nodes at their defaults; the scorer reads the saved picture.
``--text`` judges what VERIFI wrote and draws nothing. ``--development`` takes prompts of the training grammar instead,
with scenes and seeds that training never drew: only those are for choosing weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from recipes.miniature.captions import parse_caption
from recipes.miniature.render import render, sample_jitter
from recipes.miniature.scorer import read_scene

from ..host import pack
from ..reproduction.shares import Tally
from .expectations import EditAsked, Prompt, developed_edits, developed_prompts, edits, prompts

OUTSIDE = "outside"
SEED = 11  # of the pictures' jitter


def said(report: str, unknown) -> bool:
    """Whether the first line of a report names every unknown word."""
    first = report.split("\n", 1)[0].lower()
    return all(word in first for word in unknown)


def judge(graph, asked: Prompt | EditAsked, number: int, draws: bool) -> tuple[dict[str, list[bool]], dict]:
    """Outcomes of one prompt or edit, and what to look at."""
    pictures = ()
    if isinstance(asked, EditAsked):
        pictures = (render(asked.before, jitter=sample_jitter(np.random.default_rng((SEED, number)))),)
    condition = graph.verifi(asked.text, pictures)
    scene = parse_caption(condition.text)
    written = scene is not None and asked.is_right(scene)
    picture = None
    if draws:
        picture = graph.picture(condition, number)
        scene = read_scene(picture)
    right = scene is not None and asked.is_right(scene)
    what = "edits" if pictures else "prompts"
    checks = {f"{what}: {asked.kind}": [right], f"{what}: text": [written]}
    unknown = getattr(asked, "unknown", ())
    if unknown:
        checks["unknown named"] = [said(condition.report, unknown)]
    elif not pictures:
        checks["known not named as unknown"] = ["Not known:" not in condition.report]
    if asked.kind != OUTSIDE:
        checks[f"{what}: whole set"] = [right]  # "all" is a kind of edit
    about = {"kind": asked.kind, "prompt": asked.text, "text": condition.text, "right": right}
    return checks, about | {"first line": condition.report.split("\n", 1)[0], "picture": picture}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.newcomers", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--out", type=Path, default=Path("bench/results/newcomers.json"))
    parser.add_argument("--text", action="store_true", help="judge the text, draw nothing")
    parser.add_argument("--development", type=int, metavar="COUNT", help="prompts of the grammar, half as many edits")
    parser.add_argument("--every", type=int, default=1, help="take every n-th only")
    parser.add_argument("--seed", type=int, default=0, help="of the development set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    from ..reproduction.through_nodes import SHIPPED, Graph

    folder = given.weights or SHIPPED
    graph = Graph(folder, draws=not given.text)
    if given.development:
        asked = developed_prompts(given.development, given.seed) + developed_edits(given.development // 2, given.seed)
    else:
        asked = prompts() + edits()
    tally, wrong, began = Tally(), [], time.monotonic()
    for number, one in list(enumerate(asked))[:: given.every]:
        checks, about = judge(graph, one, number, not given.text)
        tally.add(checks)
        about.pop("picture")
        if not about.pop("right"):
            wrong.append(about)
    figures = sorted(tally.figures("newcomers"), key=lambda figure: figure.measure)
    lines = ["| measure | right | 95% interval |", "|---|---|---|"]
    lines += [f"| {f.measure} | {f.right}/{f.count} = {f.value:.1f}% | {f.low:.1f} to {f.high:.1f} |" for f in figures]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"figures": [f.as_dict() for f in figures], "wrong": wrong}
    given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
