"""Eight ways to use the layers of a frozen language model, compared on emoji.

python -m bench.emoji prepare recipes/emoji/layers.toml
python -m bench.emoji run     recipes/emoji/layers.toml             all runs; start it again to go on where it stopped
python -m bench.emoji report  recipes/emoji/layers.toml --out bench/results/emoji
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from .emoji_set import SET_FILE, Comparison, EmojiSet, prepare

PROBES = "probes.json"


def opened(comparison: Comparison) -> tuple[EmojiSet, dict[str, float]]:
    """The prepared set and its linear probes, made if they are not there."""
    from .emoji_reading import layer_probes

    emoji = EmojiSet(prepare(comparison))
    path = comparison.out / PROBES
    if not path.is_file():
        path.write_text(json.dumps(layer_probes(emoji), indent=1) + "\n")
    return emoji, json.loads(path.read_text())


def run_all(comparison: Comparison, seconds: float | None) -> None:
    """The queue, to its end or until the time is over."""
    import time

    from .emoji_reading import best_tap
    from .emoji_runs import DONE, config_of, queue, train, trained
    from .emoji_scores import DRAWN, SCORES, score

    emoji, probes = opened(comparison)
    tap = best_tap(probes, emoji.taps)
    began = time.monotonic()
    for run in queue(comparison):
        done, scores, drawn = (run.file(comparison.out, name) for name in (DONE, SCORES, DRAWN))
        if scores.is_file():
            continue
        if seconds is not None and time.monotonic() - began > seconds:
            print("the time is over; start it again to go on")
            return
        if not done.is_file():
            print(f"{run.folder} to step {run.steps}", flush=True)
            train(run, comparison, emoji, tap)
        config = config_of(run.variant, comparison, emoji.width, tap)
        score(trained(comparison.out / run.folder, config), emoji, scores, drawn)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.emoji", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("prepare", "run", "report"))
    parser.add_argument("config", type=Path, help="such as recipes/emoji/layers.toml")
    parser.add_argument("--runs", type=Path, help="folder of archives, language model and runs; default the file's")
    parser.add_argument("--out", type=Path, default=Path("bench/results/emoji"), help="of the report")
    parser.add_argument("--minutes", type=float, help="start no further run after this time")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    comparison = Comparison.read(given.config, given.runs)
    if given.what == "prepare":
        _, probes = opened(comparison)
        print(f"{comparison.out / SET_FILE}: {', '.join(f'{name} {value:.3f}' for name, value in probes.items())}")
    elif given.what == "run":
        run_all(comparison, None if given.minutes is None else 60 * given.minutes)
    else:
        from .emoji_report import write

        print(write(comparison, *opened(comparison), given.out))


if __name__ == "__main__":
    main()
