"""Score the shipped miniature through the pack's own nodes: ``python -m bench.scores --count 500``.

Held-out combinations, wordings that training never used, every widget at its default. The scorer reads the saved
picture. ``--count`` pictures from text, as many captions and rewritings, two fifths as many edits and pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from unifusion.tiny.scorer import read_scene
from unifusion.tiny.text import caption, keeps_attributes, parse_caption

from .host import pack
from .reproduction.scenes import edit_checks, edits, pairs, picture_checks, pictures, prompts
from .reproduction.shares import Tally

TARGETS = {  # task and measure -> floor and goal in percent
    ("text to image through VERIFI", "position"): (98, 99),
    ("text to image through VERIFI", "background"): (95, 99),
    ("text to image through VERIFI", "colour"): (90, 97),
    ("text to image through VERIFI", "shape"): (80, 95),
    ("text to image through VERIFI", "whole"): (55, 85),
    ("edit by instruction", "change made"): (65, 80),
    ("edit by instruction", "rest kept"): (65, 80),
    ("two references", "whole"): (35, 60),
    ("rewriting", "every stated attribute kept"): (90, 98),
    ("caption", "exact"): (95, 99),
}
SEED = 500_000  # of the scenes


class Scores:
    """The tasks, each on its own scenes."""

    def __init__(self, graph, count: int) -> None:
        self.graph, self.count, self.fewer = graph, count, max(1, round(0.4 * count))
        self.seconds: dict[str, list[float]] = {"rewrite": [], "picture": []}

    def drawn(self, condition, seed: int):
        """The scene that is read from the picture of a condition."""
        began = time.perf_counter()
        picture = self.graph.picture(condition, seed)
        self.seconds["rewrite"].append(condition.seconds)
        self.seconds["picture"].append(time.perf_counter() - began)
        return read_scene(picture)

    def text_to_image(self) -> Tally:
        """Prompts that state everything, against the scene."""
        tally = Tally()
        for seed, asked in enumerate(prompts(self.count, SEED, detail=1.0)):
            tally.add(picture_checks(self.drawn(self.graph.verifi(asked.prompt), seed), asked.scene))
        return tally

    def edit(self) -> Tally:
        tally = Tally()
        for seed, asked in enumerate(edits(self.fewer, SEED + 1)):
            found = self.drawn(self.graph.verifi(asked.prompt, asked.pictures), seed)
            checks = edit_checks(found, asked)
            tally.add(checks | {f"{asked.edit.kind}: {name}": values for name, values in checks.items()
                                if name != "both"})
        return tally

    def two_references(self) -> Tally:
        tally = Tally()
        for seed, asked in enumerate(pairs(self.fewer, SEED + 2)):
            condition = self.graph.verifi(asked.prompt, asked.pictures)
            checks = picture_checks(self.drawn(condition, seed), asked.scene)
            tally.add(checks | {"caption of the result right": [parse_caption(condition.text) == asked.scene]})
        return tally

    def rewriting(self) -> Tally:
        """Prompts of any detail; what was stated must be in the text."""
        tally = Tally()
        for asked in prompts(self.count, SEED + 3, detail=None):
            scene = parse_caption(self.graph.verifi(asked.prompt).text)
            tally.add({"every stated attribute kept": [scene is not None and keeps_attributes(asked.spec, scene)]})
        return tally

    def caption(self) -> Tally:
        tally = Tally()
        for asked in pictures(self.count, SEED + 4):
            text = self.graph.verifi(asked.prompt, asked.pictures).text
            tally.add({"exact": [text.strip() == caption(asked.scene)]})
        return tally


def table(results: dict[str, list[dict]]) -> str:
    """Markdown of all tasks that were run."""
    lines = ["| task | measure | right | 95% interval | floor | goal | |", "|---|---|---|---|---|---|---|"]
    for task, figures in results.items():
        for f in figures:
            floor, goal, reached = "", "", ""
            if target := TARGETS.get((task, f["measure"])):
                floor, goal = target
                reached = "goal" if f["value"] >= goal else "floor" if f["value"] >= floor else "missed"
            lines.append(f"| {task} | {f['measure']} | {f['right']}/{f['count']} = {f['value']:.1f}% | "
                         f"{f['low']:.1f} to {f['high']:.1f} | {floor} | {goal} | {reached} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scores", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="pictures from text; the other tasks scale with it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/scores.json"))
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--tasks", default="", help="tasks to run, e.g. 'caption,rewriting'; default all")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pack("unifusion.profiles")
    from .__main__ import machine
    from .reproduction.graph import SHIPPED, Graph, fingerprints

    folder = given.weights or SHIPPED
    scores = Scores(Graph(folder), given.count)
    tasks = {"text to image through VERIFI": scores.text_to_image, "edit by instruction": scores.edit,
             "two references": scores.two_references, "rewriting": scores.rewriting, "caption": scores.caption}
    wanted = [task.strip() for task in given.tasks.split(",") if task.strip()] or list(tasks)
    about = {"machine": machine(), "weights": fingerprints(folder), "count": given.count, "results": {}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.time()
    for task in wanted:
        about["results"][task] = [f.as_dict() for f in tasks[task]().figures(task)]
        about["seconds"] = {name: {"median": round(statistics.median(values), 3), "longest": round(max(values), 3),
                                   "of": len(values)} for name, values in scores.seconds.items() if values}
        given.out.write_text(json.dumps(about, indent=1) + "\n")
        print(f"[{time.time() - began:.0f} s] {task}", flush=True)
    names = ", ".join(f"{name} {digits}" for name, digits in about["weights"].items())
    seconds = "; ".join(f"{name} {s['median']:.2f} s (median of {s['of']}, longest {s['longest']:.2f} s)"
                        for name, s in about["seconds"].items())
    text = (f"{about['machine']}. Weights (SHA-256): {names}. Seconds: {seconds or 'no picture drawn'}.\n\n"
            f"{table(about['results'])}\n")
    given.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
