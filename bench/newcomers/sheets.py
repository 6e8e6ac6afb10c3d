"""Contact sheets of the hand-written prompts and edits: ``python -m bench.newcomers.sheets``.

Every n-th of them, so that all kinds are on it; under each picture its words, with a red frame where the scorer reads
something else than was asked.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from recipes.miniature.render import render, sample_jitter

from ..host import pack
from .expectations import EditAsked, edits, prompts

CELL, WORDS, GAP = 128, 44, 8
FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf")


def _font(size: int = 11):
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def caption_of(asked, font) -> str:
    """The words of a prompt; where the font has no such letters, its language and what it states."""
    if not re.search("[\u3040-\u9fff]", asked.text) or "CJK" in str(getattr(font, "path", "")):
        return asked.text
    spec = asked.after if isinstance(asked, EditAsked) else asked.specs[0]
    stated = [" ".join(filter(None, (t.size, t.color, t.texture, t.shape))) for t in spec.things]
    return f"(Chinese or Japanese) {', '.join(stated)}"


def drawn(graph, asked, number: int) -> tuple[list[np.ndarray], bool]:
    """The pictures to show (the given one first) and whether the result is right."""
    from .__main__ import judge

    checks, about = judge(graph, asked, number, draws=True)
    shown = [about["picture"]]
    if isinstance(asked, EditAsked):
        shown.insert(0, render(asked.before, jitter=sample_jitter(np.random.default_rng((11, number)))))
    return shown, about["right"]


def sheet(items, columns: int) -> Image.Image:
    """``items``: (pictures side by side, words, right)."""
    width = max(len(pictures) for pictures, _, _ in items) * CELL
    rows = -(-len(items) // columns)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (CELL + WORDS + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(page), _font()
    for index, (pictures, words, right) in enumerate(items):
        left = GAP + index % columns * (width + GAP)
        top = GAP + index // columns * (CELL + WORDS + GAP)
        for place, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (left + place * CELL, top))
        if not right:
            draw.rectangle((left - 2, top - 2, left + width + 1, top + CELL + 1), outline="red", width=2)
        line = "\n".join(textwrap.wrap(words.replace("\n", " / "), width // 6)[:3])
        draw.multiline_text((left, top + CELL + 2), line, "black", font, spacing=1)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.newcomers.sheets", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="folder of another miniature; default the shipped one")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--edits", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    from ..reproduction.through_nodes import SHIPPED, Graph

    graph = Graph(given.weights or SHIPPED)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, asked, first, count, columns in (
        ("newcomers_prompts.png", prompts(), 0, given.prompts, 10),
        ("newcomers_edits.png", edits(), len(prompts()), given.edits, 5),
    ):
        chosen = np.linspace(0, len(asked) - 1, count).round().astype(int)
        items = [(*drawn(graph, asked[i], first + int(i)), caption_of(asked[i], _font())) for i in chosen]
        page = sheet([(pictures, words, right) for pictures, right, words in items], columns)
        page.quantize(128).save(given.out / name, optimize=True)
        print(given.out / name, sum(right for _, right, _ in items), "of", count, "right")


if __name__ == "__main__":
    main()
