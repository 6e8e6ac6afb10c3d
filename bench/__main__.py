"""``python -m bench``: every figure beside what a creator would use instead, in one run with the same weights.

One commit, one machine, nothing else running: it refuses while other processes take more of the machine than ``--busy``,
and the table says how much they took while it ran.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from . import against
from .host import ROOT, pack
from .measure import Figure, Neighbours, share_before, threads

BUSY = 0.05  # share of all cores that other processes may take


def machine() -> str:
    """The machine in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu}, {gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def commit() -> str:
    """The commit that is measured, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "no commit") + (
        " with changes" if git("status", "--porcelain") else ""
    )


def table(figures: list[Figure]) -> str:
    """Markdown; a ratio below 1 means that the pack is faster or smaller."""
    lines = [
        "| what | beside | ratio (median, range) | CPU time | ours | theirs | runs | threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        cpu = "" if f.cpu is None else f"{f.cpu:.2f}"
        lines.append(
            f"| {f.name} | {f.other} | **{f.ratio:.2f}** ({f.low:.2f}-{f.high:.2f}) | {cpu} | {f.ours:.3g} {f.unit} | "
            f"{f.theirs:.3g} {f.unit} | {f.runs} | {f.threads} |"
        )
    return "\n".join(lines)


def plot(figures: list[Figure], points: list, path: Path) -> None:
    """Every ratio with its spread, and what grows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes_of_growth = list(dict.fromkeys(point.axis for point in points))
    rows = len(figures)
    height = 1.2 + 0.34 * rows + (3.2 if axes_of_growth else 0)
    whole = plt.figure(figsize=(13, height), layout="constrained")
    parts = whole.subfigures(2, 1, height_ratios=[max(rows * 0.34 + 1, 1), 3.2]) if axes_of_growth else [whole]
    axes = parts[0].subplots()
    for row, f in enumerate(figures):
        axes.plot([f.low, f.high], [row, row], color="#8aa0b4", linewidth=3, solid_capstyle="round")
        axes.plot(f.ratio, row, "o", color="#1f6f8b" if f.ratio <= 1 else "#c1553b", markersize=7)
    axes.axvline(1.0, color="#333333", linewidth=1)
    labels = [f"{f.name}\nbeside {f.other}, {f.threads} thread{'s' * (f.threads != 1)}" for f in figures]
    axes.set_yticks(range(rows), labels, fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    low = min((f.low for f in figures), default=1)
    high = max((f.high for f in figures), default=1)
    axes.set_xticks([tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if low / 1.5 <= tick <= high * 1.5] or [1])
    axes.set_xlabel("ours / theirs (left of the line: the pack is faster or smaller)")
    axes.spines[["top", "right"]].set_visible(False)
    for index, name in enumerate(axes_of_growth):
        growing = parts[1].add_subplot(1, len(axes_of_growth), index + 1)
        for side, colour in (("ours", "#1f6f8b"), ("stock", "#c1553b")):
            line = [point for point in points if (point.axis, point.side) == (name, side)]
            growing.plot(
                [p.size for p in line], [p.seconds for p in line], "o-", color=colour, label=side, markersize=4
            )
        growing.set_xscale("log", base=2)
        growing.set_yscale("log")
        growing.set_title(name, fontsize=7)
        growing.set_ylabel("s", fontsize=7)
        growing.tick_params(labelsize=6)
        growing.spines[["top", "right"]].set_visible(False)
        growing.legend(fontsize=6, frameon=False)
    whole.savefig(path, dpi=130)
    plt.close(whole)


def one_thread(quick: bool) -> list[Figure]:
    """The text rows once more on one thread."""
    from . import encoding, rewriting

    with threads(1):
        return [
            *encoding.texts({128: 3} if quick else {128: 5, 512: 3}),
            *rewriting.figures({16: 3} if quick else {64: 3}),
        ]


def parts_of(quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    """The parts by name. Through the server first: what this process measures later would take its cores and memory."""
    from . import drawing, encoding, model_rows, reference_reuse, rewriting, whole_graph

    return {
        "graph": lambda: whole_graph.figures(quick),
        "encode": lambda: encoding.figures(quick),
        "draw": lambda: drawing.figures(quick),
        "verifi": lambda: rewriting.figures({16: 3} if quick else rewriting.LENGTHS),
        "references": reference_reuse.figures,
        "models": lambda: model_rows.figures(quick),
        "one thread": lambda: one_thread(quick),
    }


def check_quiet(bound: float, anyway: bool) -> float:
    """Share of the machine that others take.

    Raises:
        SystemExit: if it is more than ``bound`` and ``anyway`` was not given.
    """
    taken = share_before()
    if taken > bound and not anyway:
        raise SystemExit(
            f"Other processes take {taken:.0%} of this machine, and at most {bound:.0%} is quiet enough for a comparison. "
            f"End them, or run with --anyway: the table then says so."
        )
    return taken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and runs: a few minutes on two cores")
    parser.add_argument("--only", default="", help="parts to run, e.g. 'encode,draw'; 'growth' is run when it is named")
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="folder of the result, default bench/out")
    parser.add_argument("--busy", type=float, default=BUSY, help=f"share that others may take, default {BUSY}")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; the table says so")
    parser.add_argument("--against", metavar="REV", default="", help="compare this checkout with another commit")
    return parser.parse_args()


def run(given: argparse.Namespace, before: float) -> dict:
    """Measure; what the JSON file holds."""
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    import comfy.utils

    from . import random_sizes

    comfy.utils.set_progress_bar_enabled(False)
    parts = parts_of(given.quick)
    wanted = [part.strip() for part in given.only.split(",") if part.strip()] or list(parts)
    if unknown := sorted(set(wanted) - {*parts, "growth"}):
        raise SystemExit(f"There is no part '{unknown[0]}'; the parts are {', '.join([*parts, 'growth'])}.")
    figures: list[Figure] = []
    points: list = []
    others, start = {}, time.time()
    for name in wanted:
        neighbours, began = Neighbours(), time.time()
        with torch.inference_mode():
            if name == "growth":
                from . import growth

                points = growth.points(given.quick)
            else:
                figures += [replace(line, threads=0) if name == "graph" else line for line in parts[name]()]
        # The server of the whole graph is a process beside this one, so there its load says nothing.
        others[name] = None if name == "graph" else neighbours.share()
        print(f"[{time.time() - start:.0f} s] {name}: {time.time() - began:.0f} s", flush=True)
    about = {
        "commit": commit(),
        "machine": machine(),
        "models": random_sizes.SIZES,
        "threads": torch.get_num_threads(),
        "quick": given.quick,
        "seconds": round(time.time() - start),
        "others before": before,
        "others during": others,
        "figures": [f.as_dict() for f in figures],
        "growth": [point.as_dict() for point in points],
    }
    if torch.cuda.is_available():
        about["peak_vram_mb"] = torch.cuda.max_memory_allocated() / 2**20
    write(about, figures, points, given)
    return about


def loads(about: dict, bound: float) -> str:
    """How quiet it was, in a sentence."""
    during = [share for share in about["others during"].values() if share is not None]
    worst = max([about["others before"], *during])
    said = (
        f"Other processes took {about['others before']:.0%} of the machine before and at most {worst:.0%} while it ran."
    )
    return said if worst <= bound else f"**Not a quiet machine.** {said}"


def write(about: dict, figures: list[Figure], points: list, given: argparse.Namespace) -> None:
    """bench.json, bench.png and bench.md."""
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bench.json").write_text(json.dumps(about, indent=1) + "\n")
    plot(figures, points, given.out / "bench.png")
    text = (
        f"Commit {about['commit']}. {about['machine']}, {about['threads']} threads unless the row says otherwise. "
        f"{about['models']}. {about['seconds']} s. {loads(about, given.busy)}\n\n{table(figures)}\n"
    )
    if points:
        from . import growth

        text += f"\n{growth.table(points)}\n"
    (given.out / "bench.md").write_text(text)
    print(text)


def main() -> None:
    given = arguments()
    before = check_quiet(given.busy, given.anyway)
    if given.against:
        sys.exit(against.compare(given))
    run(given, before)


if __name__ == "__main__":
    main()
