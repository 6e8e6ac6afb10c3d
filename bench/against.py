"""``python -m bench --against REV``: two commits measured by the same bench in turn, so that a slowdown is seen.

The bench of this checkout measures both packs, each in processes of its own: this one, REV, this one, REV. What is compared
is the pack's own time of every row; a row is called slower or faster only where the ranges of both do not meet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .host import ROOT

ROUNDS = 2
PARTS = "encode,verifi,references"


def compare(given: argparse.Namespace) -> int:
    """Print the table; 1 if a row is slower than at REV, else 0.

    Raises:
        SystemExit: if there is no such commit, or one of the two cannot be measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        made = subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(other), given.against],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise SystemExit(f"There is no commit '{given.against}' here: {made.stderr.strip()}")
        try:
            found = {"here": [], given.against: []}
            for number in range(ROUNDS):
                for name, checkout in (("here", ROOT), (given.against, other)):
                    found[name].append(_measured(given, checkout, Path(folder) / f"{number} {name.replace('/', ' ')}"))
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(other)], capture_output=True)
    text, slower = table(found["here"], found[given.against], given.against)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "against.md").write_text(text)
    print(text)
    return int(slower)


def _measured(given: argparse.Namespace, checkout: Path, out: Path) -> dict[tuple, float]:
    """Row -> the pack's own figure."""
    command = [sys.executable, "-m", "bench", "--only", given.only or PARTS, "--out", str(out), "--anyway"]
    done = subprocess.run(
        [*command, *(["--quick"] if given.quick else [])],
        cwd=ROOT,
        env={**os.environ, "UNIFUSION_BENCH_PACK": str(checkout)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{checkout} cannot be measured by this bench:\n{done.stderr[-1500:]}")
    about = json.loads((out / "bench.json").read_text())
    return {(f["name"], f["unit"], f["threads"]): f["ours"] for f in about["figures"]}


def table(here: list[dict], there: list[dict], rev: str) -> tuple[str, bool]:
    """Markdown, and whether a row is slower here.

    Args:
        here, there: one dictionary a round, row -> figure.
    """
    lines = [f"| what | here / {rev} | here | {rev} | |", "|---|---|---|---|---|"]
    slower = False
    for row in here[0]:
        ours, theirs = ([found[row] for found in rounds if row in found] for rounds in (here, there))
        if not ours or not theirs:
            continue
        said = "slower" if min(ours) > 1.02 * max(theirs) else "faster" if max(ours) < 0.98 * min(theirs) else ""
        slower = slower or said == "slower"
        name, unit, _ = row
        ratio = sum(ours) / len(ours) / (sum(theirs) / len(theirs))
        lines.append(
            f"| {name} | **{ratio:.2f}** | {min(ours):.3g}-{max(ours):.3g} {unit} | "
            f"{min(theirs):.3g}-{max(theirs):.3g} {unit} | {said} |"
        )
    return "\n".join(lines) + "\n", slower
