"""Emoji of four open sets, drawn from their SVG; names that stand in all of them are the same thing in four styles.

    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji@1.2.7 \
        @iconify-json/twemoji@1.2.5 emojibase-data@17.0.0

fetches what is read here, without installing anything: archives with one JSON of SVG bodies each.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Style:
    """A set of emoji.

    Attributes:
        archive: beginning of the file's name, as ``npm pack`` writes it.
        words: how a caption calls the style.
        licence: of the pictures; the card of a dataset names it.
    """

    archive: str
    words: str
    licence: str


STYLES = {
    "noto": Style("iconify-json-noto-", "Noto", "Apache-2.0, Google"),
    "flat": Style("iconify-json-fluent-emoji-flat-", "flat", "MIT, Microsoft"),
    "soft": Style("iconify-json-fluent-emoji-1", "soft 3D", "MIT, Microsoft"),
    "cartoon": Style("iconify-json-twemoji-", "cartoon", "CC BY 4.0, Twitter and other contributors"),
}
WORDS = "emojibase-data-"


def _archive(folder: Path, beginning: str) -> Path:
    found = sorted(folder.glob(f"{beginning}*.tgz"))
    if not found:
        raise ValueError(
            f"{folder} has no {beginning}*.tgz. Fetch it with the npm pack line of recipes/emoji/icon_sets.py."
        )
    return found[-1]


def _read(path: Path, name: str):
    with tarfile.open(path) as archive:
        return json.load(archive.extractfile(f"package/{name}"))


class IconSet:
    """The pictures of one style.

    Args:
        folder: holds the archives of ``npm pack``.
        style: key of :data:`STYLES`.
    """

    def __init__(self, folder: Path, style: str):
        path = _archive(folder, STYLES[style].archive)
        values = _read(path, "icons.json")
        self.sides = values.get("width", 16), values.get("height", 16)
        self.icons = values["icons"]
        self.codes = {name: code for code, name in _read(path, "chars.json").items()}

    def draw(self, name: str, side: int, background: str) -> np.ndarray:
        """``(side, side, 3)`` uint8.

        Args:
            name: of the emoji.
            background: a colour of CSS.
        """
        import resvg_py
        from PIL import Image

        icon = self.icons[name]
        width, height = icon.get("width", self.sides[0]), icon.get("height", self.sides[1])
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        picture = resvg_py.svg_to_bytes(
            svg_string=svg, width=side, height=side, background=background, skip_system_fonts=True
        )
        return np.asarray(Image.open(io.BytesIO(bytes(picture))).convert("RGB").resize((side, side)))


def shared_names(sets: dict[str, IconSet]) -> list[str]:
    """Names that every set draws, without variants of skin tone."""
    names = set.intersection(*(set(one.icons) for one in sets.values()))
    return sorted(name for name in names if "skin-tone" not in name)


def annotations(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """(label, keywords) of every emoji by its code, from CLDR by way of emojibase-data."""
    values = _read(_archive(folder, WORDS), "en/data.json")
    return {one["hexcode"].lower(): (one["label"], tuple(one.get("tags", ()))) for one in values}


def categories(folder: Path) -> dict[str, str]:
    """Category of every emoji by its name, as noto sorts them."""
    values = _read(_archive(folder, STYLES["noto"].archive), "metadata.json")
    return {name: category for category, names in values["categories"].items() for name in names}
