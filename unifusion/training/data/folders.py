"""Folders of pictures: with captions beside them, or ``target/`` with ``control/``."""

from __future__ import annotations

import re
from pathlib import Path

from ...quoting import quoted
from .sample import Notes, Picture, Sample, pictures_in, words_of

_CONTROL = re.compile(r"control[_-]?(\d*)")


def read_captions(folder: Path, notes: Notes, ending: str = ".txt") -> list[Sample]:
    """Every picture that has a caption of the same name.

    Raises:
        ValueError: if there is no such folder.
    """
    samples = []
    for path in pictures_in(folder).values():
        caption = words_of(path.with_suffix(ending))
        if not caption:
            notes.add("pictures without a caption, left out", path.name)
            continue
        samples.append(Sample(str(path), Picture.of_file(path), caption=caption))
    return samples


def read_pairs(folder: Path, notes: Notes) -> list[Sample]:
    """``target/NAME``, ``control/NAME``, ``control2/NAME`` ... and ``target/NAME.txt`` with the instruction.

    Raises:
        ValueError: if the folders are not there.
    """
    controls = sorted(
        (int(match[1] or 1), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.is_dir() and (match := _CONTROL.fullmatch(path.name))
    )
    if not (folder / "target").is_dir() or not controls:
        raise ValueError(
            f"{quoted(folder, 120)} is no folder of pairs: it needs target/ and control/ (control2/ ...) with files of "
            "the same names, and .txt files with the instructions in target/."
        )
    return pair_up(folder / "target", [path for _, path in controls], notes)


def pair_up(target: Path, controls: list[Path], notes: Notes, ending: str = ".txt") -> list[Sample]:
    """Targets with the controls of the same name; a missing further control is fine, a missing first is not."""
    sides = [pictures_in(path) for path in controls]
    samples = []
    for name, path in pictures_in(target).items():
        references = [side[name] for side in sides if name in side]
        if not references:
            notes.add("targets without a control picture, left out", path.name)
            continue
        instruction = words_of(path.with_suffix(ending)) or words_of(references[0].with_suffix(ending))
        if not instruction:
            notes.add("pairs without an instruction, left out", path.name)
            continue
        pictures = tuple(map(Picture.of_file, references))
        samples.append(Sample(str(path), Picture.of_file(path), pictures, instruction=instruction))
    return samples
