"""Measure the paper's claims on the miniature: ``python -m bench.reproduction --out bench/results``.

(a), (b) and (g) train small drawing models with equal budgets; the others use the shipped weights through the pack's own
nodes. Parts can be run singly; what was measured earlier stays in the result, and a part that was not run is listed as
not run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from ..host import pack
from .part import TITLES, Part


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reproduction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder of table, JSON and plots")
    parser.add_argument("--parts", default=",".join(TITLES), help="e.g. 'c,e,h'; default all")
    parser.add_argument("--count", type=int, default=200, help="scenes of each variant")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of each training of (a), (b) and (g)")
    parser.add_argument("--work", type=Path, default=Path("bench/out/reproduction"), help="where trainings are kept")
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--minutes", type=float, help="end a part that does not train after this time")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    wanted = [part.strip() for part in given.parts.split(",") if part.strip()]
    if unknown := set(wanted) - set(TITLES):
        parser.error(f"no part {', '.join(sorted(unknown))}; parts are {', '.join(TITLES)}")
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    from .. import __main__ as bench
    from . import report
    from .shipped import Shipped
    from .through_nodes import SHIPPED, Graph, fingerprints

    folder = given.weights or SHIPPED
    runs = {}
    if set(wanted) & set("abg"):
        from .trainings import Trainings

        trainings = Trainings(folder, given.work, given.steps, given.count)
        runs |= {"a": trainings.poolings, "b": trainings.refiner, "g": trainings.editing}
    if set(wanted) - set("abg"):
        parts = Shipped(Graph(folder), given.count, given.minutes)
        runs |= {
            "c": parts.verifi_against_raw,
            "d": parts.reconstruction_by_tiles,
            "e": parts.edit_accuracy,
            "f": parts.two_references,
            "h": parts.layer_dropout,
        }

    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "reproduction.json"
    results = {}
    for key in wanted:
        began = time.time()
        part: Part = runs[key]()
        results = json.loads(kept.read_text()) if kept.exists() else {}  # parts may run side by side
        results[key] = {
            **part.as_dict(),
            "seconds": round(time.time() - began),
            "weights": fingerprints(folder),
            "machine": bench.machine(),
        }
        kept.write_text(json.dumps(results, indent=1) + "\n")
        report.plot(key, results[key], given.out / f"reproduction_{key}.png")
        (given.out / "reproduction.md").write_text(f"{report.headings(results)}\n{report.table(results)}\n")
        print(f"({key}) {TITLES[key]}: {results[key]['seconds']} s", flush=True)
    print(report.table(results))


if __name__ == "__main__":
    main()
