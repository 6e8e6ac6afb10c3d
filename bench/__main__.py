"""``python -m bench``: every figure beside what a creator would use instead, in one run with the same weights."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

from .host import pack
from .measure import Figure

matplotlib.use("Agg")


def machine() -> str:
    """The machine in one line."""
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    cpu = f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{cpu}, {torch.get_num_threads()} threads used, {gpu}, Python {platform.python_version()}, torch "
        f"{torch.__version__}"
    )


def table(figures: list[Figure]) -> str:
    """Markdown; a ratio below 1 means that the pack is faster or smaller."""
    lines = ["| what | beside | ratio (median, range) | ours | theirs | runs |", "|---|---|---|---|---|---|"]
    for f in figures:
        lines.append(
            f"| {f.name} | {f.other} | **{f.ratio:.2f}** ({f.low:.2f}-{f.high:.2f}) | {f.ours:.3g} {f.unit} | "
            f"{f.theirs:.3g} {f.unit} | {f.runs} |"
        )
    return "\n".join(lines)


def plot(figures: list[Figure], path: Path) -> None:
    """Every ratio with its spread."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.34 * len(figures)))
    rows = range(len(figures))
    for row, f in zip(rows, figures):
        axes.plot([f.low, f.high], [row, row], color="#8aa0b4", linewidth=3, solid_capstyle="round")
        axes.plot(f.ratio, row, "o", color="#1f6f8b" if f.ratio <= 1 else "#c1553b", markersize=7)
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_yticks(list(rows), [f"{f.name}\nbeside {f.other}" for f in figures], fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    low, high = min(f.low for f in figures), max(f.high for f in figures)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5) if low / 1.5 <= tick <= high * 1.5]
    axes.set_xticks(ticks or [1])
    axes.set_xlabel("ours / theirs (left of the line: the pack is faster or smaller)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and runs: a few minutes on two cores")
    parser.add_argument("--only", default="", help="parts to run, e.g. 'encode,draw'")
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="folder of the result, default bench/out")
    given = parser.parse_args()
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    import comfy.utils

    from . import drawing, encoding, model_rows, random_sizes, reference_reuse, rewriting, whole_graph

    comfy.utils.set_progress_bar_enabled(False)
    # Through the server first: what is measured in this process later would take its cores and memory.
    parts: dict[str, Callable[[], list[Figure]]] = {
        "graph": lambda: whole_graph.figures(given.quick),
        "encode": lambda: encoding.figures(given.quick),
        "draw": lambda: drawing.figures(given.quick),
    }
    if not given.quick:
        parts |= {"verifi": rewriting.figures, "references": reference_reuse.figures, "models": model_rows.figures}
    wanted = [part.strip() for part in given.only.split(",") if part.strip()] or list(parts)
    figures: list[Figure] = []
    start = time.time()
    for name in wanted:
        with torch.inference_mode():
            found = parts[name]()
        figures += found
        print(f"[{time.time() - start:.0f} s] {name}: {len(found)} figures", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": machine(),
        "models": random_sizes.SIZES,
        "quick": given.quick,
        "seconds": round(time.time() - start),
        "figures": [f.as_dict() for f in figures],
    }
    if torch.cuda.is_available():
        about["peak_vram_mb"] = torch.cuda.max_memory_allocated() / 2**20
    (given.out / "bench.json").write_text(json.dumps(about, indent=1))
    plot(figures, given.out / "bench.png")
    text = f"{machine()}. {random_sizes.SIZES}. {about['seconds']} s.\n\n{table(figures)}\n"
    (given.out / "bench.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
