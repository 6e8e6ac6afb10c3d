"""Score the shipped miniature through the pack's own nodes: ``python -m bench.scores --count 500``.

Held-out combinations, wordings that training never used, every widget at its default. The scorer reads the saved
picture. ``--count`` pictures from text, as many captions and rewritings, two fifths as many edits and pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from recipes.miniature.captions import caption, keeps_attributes, parse_caption
from recipes.miniature.scene import Scene
from recipes.miniature.scorer import read_scene

from .host import pack
from .reproduction.scenes import Asked, edit_checks, edits, pairs, picture_checks, pictures, prompts, triples, within
from .reproduction.shares import Tally

TARGETS = {  # task and measure -> floor and goal in percent
    ("text to image through VERIFI", "position"): (98, 99),
    ("text to image through VERIFI", "background"): (95, 99),
    ("text to image through VERIFI", "colour"): (90, 97),
    ("text to image through VERIFI", "shape"): (80, 95),
    ("text to image through VERIFI", "whole"): (55, 85),
    ("edit by instruction", "change made"): (65, 80),
    ("edit by instruction", "rest kept"): (65, 80),
    ("two references", "whole"): (80, 90),
    ("three references", "whole"): (50, 70),
    ("rewriting", "every stated attribute kept"): (97, 99),
    ("rewriting, second set of wordings", "every stated attribute kept"): (97, 99),
    ("caption", "exact"): (95, 99),
}
SEED = 500_000  # of the scenes


class Scores:
    """The tasks, each on its own scenes."""

    def __init__(self, graph, count: int, minutes: float | None = None) -> None:
        self.graph, self.count, self.fewer, self.minutes = graph, count, max(1, round(0.4 * count)), minutes
        self.seconds: dict[str, list[float]] = {"rewrite": [], "picture": []}

    def written(self, asked: Asked):
        """VERIFI's condition."""
        condition = self.graph.verifi(asked.prompt, asked.pictures)
        self.seconds["rewrite"].append(condition.seconds)
        return condition

    def drawn(self, condition, seed: int) -> Scene:
        """The scene that is read from the picture of a condition."""
        began = time.perf_counter()
        picture = self.graph.picture(condition, seed)
        self.seconds["picture"].append(time.perf_counter() - began)
        return read_scene(picture)

    def text_to_image(self) -> Tally:
        """Prompts that state everything, against the scene."""
        tally = Tally()
        for seed, asked in within(self.minutes, prompts(self.count, SEED, detail=1.0)):
            tally.add(picture_checks(self.drawn(self.written(asked), seed), asked.scene))
        return tally

    def edit(self) -> Tally:
        tally = Tally()
        for seed, asked in within(self.minutes, edits(self.fewer, SEED + 1)):
            found = self.drawn(self.written(asked), seed)
            checks = edit_checks(found, asked)
            tally.add(
                checks | {f"{asked.edit.kind}: {name}": values for name, values in checks.items() if name != "both"}
            )
        return tally

    def references(self, many) -> Tally:
        tally = Tally()
        for seed, asked in within(self.minutes, many(self.fewer, SEED + 2)):
            condition = self.written(asked)
            checks = picture_checks(self.drawn(condition, seed), asked.scene)
            tally.add(checks | {"caption of the result right": [parse_caption(condition.text) == asked.scene]})
        return tally

    def rewriting(self, split: str = "test") -> Tally:
        """Prompts of any detail; what was stated must be in the text."""
        tally = Tally()
        for _, asked in within(self.minutes, prompts(self.count, SEED + 3, None, split)):
            scene = parse_caption(self.written(asked).text)
            tally.add({"every stated attribute kept": [scene is not None and keeps_attributes(asked.spec, scene)]})
        return tally

    def caption(self) -> Tally:
        tally = Tally()
        for _, asked in within(self.minutes, pictures(self.count, SEED + 4)):
            text = self.written(asked).text
            tally.add({"exact": [text.strip() == caption(asked.scene)]})
        return tally


TASKS = {
    "text to image through VERIFI": Scores.text_to_image,
    "edit by instruction": Scores.edit,
    "two references": partial(Scores.references, many=pairs),
    "three references": partial(Scores.references, many=triples),
    "rewriting": Scores.rewriting,
    "rewriting, second set of wordings": partial(Scores.rewriting, split="fresh"),
    "caption": Scores.caption,
}
WORDS_ONLY = ("rewriting", "rewriting, second set of wordings", "caption")  # need no drawing model


def table(results: dict[str, dict]) -> str:
    """Markdown of all tasks; one that was not run is named as such.

    A floor or goal counts as reached, or missed, when the whole interval is beyond it; otherwise it is open.
    """
    lines = ["| task | measure | right | 95% interval | floor | goal | |", "|---|---|---|---|---|---|---|"]
    for task in TASKS:
        if task not in results:
            lines.append(f"| {task} | | **not run** | | | | |")
            continue
        for f in results[task]["figures"]:
            floor, goal, reached = "", "", ""
            if target := TARGETS.get((task, f["measure"])):
                floor, goal = target
                reached = (
                    "goal"
                    if f["low"] >= goal
                    else "floor"
                    if f["low"] >= floor
                    else "missed"
                    if f["high"] < floor
                    else "open"
                )
            lines.append(
                f"| {task} | {f['measure']} | {f['right']}/{f['count']} = {f['value']:.1f}% | "
                f"{f['low']:.1f} to {f['high']:.1f} | {floor} | {goal} | {reached} |"
            )
    return "\n".join(lines)


def notes(results: dict[str, dict]) -> str:
    """Weights, machine and seconds of each task."""
    lines = []
    for task, result in results.items():
        weights = ", ".join(f"{name} {digits}" for name, digits in result["weights"].items())
        seconds = "; ".join(
            f"{name} {s['median']:.2f} s (longest {s['longest']:.2f} s)" for name, s in result["seconds"].items()
        )
        lines.append(
            f"- {task}: {result['scenes']} scenes; median {seconds}. Weights (SHA-256): {weights}. {result['machine']}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500, help="pictures from text; the other tasks scale with it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/scores.json"))
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--tasks", default=";".join(TASKS), help="e.g. 'caption; rewriting'; earlier results stay")
    parser.add_argument("--minutes", type=float, help="end a task after this time, with the scenes done by then")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    wanted = [task.strip() for task in given.tasks.split(";") if task.strip()]
    if unknown := set(wanted) - set(TASKS):
        parser.error(f"no task {', '.join(sorted(unknown))}; tasks are {', '.join(TASKS)}")
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    from .__main__ import machine
    from .reproduction.through_nodes import FILES, SHIPPED, Graph, fingerprints

    folder = given.weights or SHIPPED
    graph = Graph(folder, draws=bool(set(wanted) - set(WORDS_ONLY)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for task in wanted:
        scores = Scores(graph, given.count, given.minutes)
        tally = TASKS[task](scores)
        results = json.loads(given.out.read_text()) if given.out.exists() else {}
        results[task] = {
            "scenes": max(map(len, tally.outcomes.values())),
            "figures": [f.as_dict() for f in tally.figures(task)],
            "seconds": {
                name: {"median": statistics.median(values), "longest": max(values)}
                for name, values in scores.seconds.items()
                if values
            },
            "weights": fingerprints(folder, [FILES[1]] if task in WORDS_ONLY else FILES),
            "machine": machine(),
        }
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(f"{notes(results)}\n\n{table(results)}\n")
        print(f"{task}: done", flush=True)
    print(given.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
