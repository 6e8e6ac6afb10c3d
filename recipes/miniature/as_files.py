"""The miniature's world as files that anyone's trainer reads: ``python -m recipes.miniature.as_files --out DIR --count N``.

Writes pictures and ``examples.jsonl`` (target, references, caption or instruction, and what the VLM writes about it). The
trainer makes the same chats, roles and selections of them as ``dit_data`` does in memory; ``refine.toml`` trains on them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from .dit_data import EDIT_STAGE, Example, Mix, draw_example
from .render import render


def line_of(example: Example, number: int, folder: Path) -> dict:
    """Pictures of an example as files, and its line."""

    def put(pixels: np.ndarray, name: str) -> str:
        Image.fromarray(pixels).save(folder / "pictures" / name)
        return f"pictures/{name}"

    chat = example.chat
    line: dict = {"target": put(render(example.target, jitter=example.jitter), f"{number}.png")}
    if chat.pictures:
        line["references"] = [put(views[-1], f"{number}_{index}.png") for index, views in enumerate(chat.pictures, 1)]
        line["instruction"] = chat.instruction
    else:
        line["caption"] = chat.instruction
    if chat.answer:
        line["answer"] = chat.answer
    return line


def write(folder: Path, count: int, seed: int = 0, mix: Mix = EDIT_STAGE) -> Path:
    """Write examples; those without words are left to the trainer, which makes them of every picture.

    Returns:
        The JSONL file.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    shares = {task: share for task, share in vars(mix).items() if task != "empty" and share}
    share = np.array(list(shares.values()))
    rng, lines = np.random.default_rng(seed), []
    while len(lines) < count:
        example = draw_example(rng, str(rng.choice(list(shares), p=share / share.sum())))
        if example.chat.instruction:
            lines.append(line_of(example, len(lines), folder))
    path = folder / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(write(given.out, given.count, given.seed))


if __name__ == "__main__":
    main()
