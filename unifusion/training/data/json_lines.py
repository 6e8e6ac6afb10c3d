"""JSONL: one example a line, in the spellings that trainers use."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...quoting import quoted
from .sample import Notes, Picture, Sample

TARGET = ("target", "image", "image_path", "file_name", "target_path")
REFERENCES = ("references", "reference", "control", "control_path", "control_image", "source", "source_path")
CAPTION = ("caption", "text", "prompt")
INSTRUCTION = ("instruction", "edit")
ANSWER = ("answer", "rewrite")
_NUMBERED = re.compile(r"(?:control_path|control|reference|source)_?(\d+)")


def _first(line: dict, names: tuple[str, ...]):
    return next((line[name] for name in names if line.get(name)), None)


def _references(line: dict) -> list[str]:
    given = _first(line, REFERENCES)
    found = [given] if isinstance(given, str) else list(given or [])
    numbered = sorted((int(match[1]), name) for name in line if (match := _NUMBERED.fullmatch(name)))
    return [*found, *(line[name] for _, name in numbered if line[name])]


def read_lines(path: Path, notes: Notes) -> list[Sample]:
    """Examples of a file; relative paths count from its folder.

    A line with references takes its caption for the instruction if it has no instruction of its own.

    Raises:
        ValueError: if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {quoted(path, 120)}; correct the path in the configuration.")
    samples, unknown = [], set()
    known = {*TARGET, *REFERENCES, *CAPTION, *INSTRUCTION, *ANSWER, "labels", "repeats"}
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            where = f"{path.name} line {number}"
            try:
                line = json.loads(text)
                sample = _sample(line, where, path.parent, notes)
            except (ValueError, TypeError, AttributeError, RecursionError):
                notes.add("lines that are no example, left out", where)
                continue
            unknown |= {name for name in line if name not in known and not _NUMBERED.fullmatch(name)}
            if sample is not None:
                samples.append(sample)
    for name in sorted(unknown):
        notes.add(f"keys of {path.name} that are not read", name)
    return samples


def _sample(line: dict, where: str, folder: Path, notes: Notes) -> Sample | None:
    target = _first(line, TARGET)
    words = [str(_first(line, names) or "").strip() for names in (CAPTION, INSTRUCTION, ANSWER)]
    caption, instruction, answer = words
    references = _references(line)
    if not isinstance(target, str):
        raise ValueError(where)
    paths = [folder / name for name in (target, *references)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        notes.add("lines whose picture is not there, left out", f"{where} ({missing[0].name})")
        return None
    if references and not instruction:
        caption, instruction = "", caption
    if not (caption or instruction):
        notes.add("lines without words, left out", where)
        return None
    if instruction and not references:
        caption, instruction = caption or instruction, ""
    first, *rest = map(Picture.of_file, paths)
    labels = tuple(map(str, line.get("labels") or ()))
    repeats = float(line.get("repeats", 1.0))
    if not 0 < repeats < float("inf"):
        raise ValueError(where)
    return Sample(where, first, tuple(rest), caption, instruction, answer, labels, repeats=repeats)
