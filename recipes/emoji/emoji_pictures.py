"""Writes emoji as the trainer reads them: pictures with captions, pairs of one thing in two styles, held-out words apart.

    python -m recipes.emoji.emoji_pictures --archives FOLDER_OF_NPM_PACK --out runs/emoji

gives, for each of ``training``, ``validation`` and ``test``: ``text/STYLE/NAME.png`` with ``NAME.txt``, ``pairs.jsonl`` (target,
references, instruction) and ``two_references.jsonl``; and ``CARD.md`` with sources, licences and counts. The same files on
every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

from .emoji_words import (
    BACKGROUNDS,
    TEST,
    TRAINING,
    VALIDATION,
    Named,
    caption,
    named,
    restyling,
    with_style_of_the_second,
)
from .icon_sets import STYLES, IconSet, annotations, shared_names


def _seeded(*parts: str) -> np.random.Generator:
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def write_pictures(sets: dict[str, IconSet], things: list[Named], out: Path, side: int) -> None:
    """Every thing in every style, with its caption; a thing has one background in all of them."""
    from PIL import Image

    for thing in things:
        background = list(BACKGROUNDS)[_seeded(thing.name, "background").integers(len(BACKGROUNDS))]
        for style, icons in sets.items():
            folder = out / thing.part / "text" / style
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(icons.draw(thing.name, side, BACKGROUNDS[background])).save(folder / f"{thing.name}.png")
            words = caption(thing, STYLES[style].words, background, _seeded(thing.name, style))
            (folder / f"{thing.name}.txt").write_text(words + "\n", encoding="utf-8")


def write_pairs(things: list[Named], out: Path) -> None:
    """Edits: every thing from one style to another, and by a second picture that shows the style."""
    styles = list(STYLES)
    for part in (TRAINING, VALIDATION, TEST):
        some = [thing for thing in things if thing.part == part]
        pairs, two = [], []
        for thing in some:
            rng = _seeded(thing.name, "pairs")
            source, target = map(str, rng.permutation(styles)[:2])
            picture = f"text/{target}/{thing.name}.png"
            shown = f"text/{source}/{thing.name}.png"
            pairs.append(dict(target=picture, references=[shown], instruction=restyling(STYLES[target].words)))
            others = [other for other in some if other.name != thing.name]
            if others:
                other = others[rng.integers(len(others))]
                references = [shown, f"text/{target}/{other.name}.png"]
                two.append(dict(target=picture, references=references, instruction=with_style_of_the_second(thing)))
        for name, lines in (("pairs", pairs), ("two_references", two)):
            (out / part).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (out / part / f"{name}.jsonl").write_text(text, encoding="utf-8")


def card(things: list[Named], side: int) -> str:
    """Sources, licences and counts."""
    counts = {part: sum(thing.part == part for thing in things) for part in (TRAINING, VALIDATION, TEST)}
    lines = [f"# {len(things)} emoji in {len(STYLES)} styles, {side} x {side} pixels", ""]
    lines += [f"- `{style}`: {about.archive.rstrip('-1')}, {about.licence}" for style, about in STYLES.items()]
    lines += ["- names and keywords: emojibase-data, MIT, after Unicode CLDR", ""]
    lines += [f"- {part}: {count} names, {count * len(STYLES)} pictures" for part, count in counts.items()]
    lines += [
        "",
        "A word of a validation or test name is in no training name or keyword (`recipes/emoji/emoji_words.py`).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True, help="folder with the .tgz files of npm pack")
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="folder to write")
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture")
    parser.add_argument("--most", type=int, default=0, help="names at most, for a look; 0 = all")
    options = parser.parse_args()
    sets = {style: IconSet(options.archives, style) for style in STYLES}
    known = annotations(options.archives)
    names = shared_names(sets)[: options.most or None]
    things = [named(name, known.get(sets["noto"].codes.get(name, ""))) for name in names]
    write_pictures(sets, things, options.out, options.side)
    write_pairs(things, options.out)
    text = card(things, options.side)
    (options.out / "CARD.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
