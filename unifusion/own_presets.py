"""Presets of one's own: small readable files, one preset each, that can be shared like any other file.

``{"unifusion_preset": 1, "kind": "layer gains", "gains": "11=1.45, 5=0.9"}``
``{"unifusion_preset": 1, "kind": "system prompt", "text": "Describe ..."}``
``{"unifusion_preset": 1, "kind": "picture job", "mean_at": "deep", "tokens": "subject"}``

A preset is called what its file is called. A file comes from strangers: it is read up to :data:`LARGEST` bytes, as JSON and
nothing else, and what is not one of these three is refused in one sentence.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from .before_queue import check_gains
from .file_names import ILLEGAL, RESERVED
from .jobs import Job, check_parts
from .layer_gains import CUSTOM
from .quoting import quoted, whole_letters

GAINS, SYSTEM, JOB = "layer gains", "system prompt", "picture job"
FIELDS = {GAINS: ("gains",), SYSTEM: ("text",), JOB: ("mean_at", "tokens")}
MARK, VERSION = "unifusion_preset", 1
OWN = "own: "  # in front of its name in a list, so that no built-in one is ever hidden
LARGEST = 64 * 2**10  # bytes of a file
MOST_FILES = 500  # of the folder that are looked at
LONGEST_NAME = 60  # characters


def check_name(name: str) -> str:
    """A preset's name, which is its file's as well.

    Raises:
        ValueError: if a file of that name could not be written or shared on every system.
    """
    name = name.strip()
    reason = ""
    if not name:
        reason = "is empty"
    elif len(name) > LONGEST_NAME:
        reason = f"has {len(name)} characters, more than {LONGEST_NAME}"
    elif not name.isprintable() or ILLEGAL.search(name) or "/" in name:
        reason = "holds a character that some systems allow in no file name"
    elif name.startswith(".") or name.endswith(".") or name.split(".")[0].strip().lower() in RESERVED:
        reason = "is one that some systems hide, cut or keep for a device"
    if reason:
        raise ValueError(f"The name of a preset {quoted(name)} {reason}; use a few plain words such as 'soft light'.")
    return name


def check_fields(kind: object, fields: dict) -> dict[str, str]:
    """The fields of a preset of one kind, as texts.

    Raises:
        ValueError: if the kind is unknown, a field is missing or no text, or its value is none for this kind.
    """
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError(f"A preset's kind must be one of {', '.join(FIELDS)}, found {quoted(kind)}.")
    found = {}
    for name in FIELDS[kind]:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"A preset of the kind '{kind}' needs '{name}' as a text, found {quoted(value)}.")
        found[name] = whole_letters(value).strip()
    if kind == GAINS:
        check_gains(CUSTOM, found["gains"])
    if kind == JOB:
        check_parts(found["mean_at"], found["tokens"])
    return found


def read(path: Path) -> tuple[str, dict[str, str]]:
    """Kind and fields of a preset's file.

    Raises:
        ValueError: if it is not one, in one sentence with the file's name.
    """

    def refuse(reason: object) -> ValueError:
        said = str(reason).rstrip(".")
        return ValueError(
            f"The preset file {quoted(path.name)} cannot be used: {said}. Save it again, or take it away."
        )

    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise refuse(f"it is no file of at most {LARGEST // 2**10} kB")
        with path.open("rb") as file:
            content = json.loads(file.read(LARGEST + 1).decode("utf-8"))
    except OSError as error:
        raise refuse(error.strerror or "it cannot be read") from None
    except (ValueError, RecursionError) as error:
        if "cannot be used" in str(error):
            raise
        raise refuse("it is no JSON") from None
    if not isinstance(content, dict) or content.get(MARK) != VERSION or isinstance(content.get(MARK), bool):
        raise refuse(f"it is no preset of version {VERSION}")
    try:
        fields = check_fields(content.get("kind"), content)
        return str(content["kind"]), fields
    except ValueError as error:
        raise refuse(error) from None


def listing(folder: Path, kind: str) -> list[str]:
    """Names of the presets of one kind in a folder, sorted; what is none is left out."""
    found = []
    try:
        files = sorted(name for name in os.listdir(folder) if name.endswith(".json"))[:MOST_FILES]
    except OSError:
        files = []
    for file in files:
        try:
            name = check_name(file.removesuffix(".json"))
            if read(folder / file)[0] == kind:
                found.append(name)
        except ValueError:
            continue
    return sorted(found)


def load(folder: Path, name: str, kind: str) -> dict[str, str]:
    """Fields of the preset of that name.

    Raises:
        ValueError: if there is none, or it is of another kind or damaged.
    """
    path = folder / f"{check_name(name)}.json"
    if not path.is_file():
        known = listing(folder, kind)
        there = f"there are: {', '.join(quoted(one) for one in known[:20])}" if known else "there is none yet"
        raise ValueError(
            f"There is no preset {quoted(name)} of the kind '{kind}' in ComfyUI's user folder; {there}. Put its file there, "
            f"or choose another."
        )
    found, fields = read(path)
    if found != kind:
        raise ValueError(f"The preset {quoted(name)} holds a {found}, but a {kind} is wanted here. Choose another.")
    return fields


def save(folder: Path, name: str, kind: str, fields: dict, replace: bool = False) -> Path:
    """Write a preset; a file that is cut off never stands under its name.

    Raises:
        ValueError: for a bad name or value, or a preset of that name when it is not to be replaced.
    """
    checked = check_fields(kind, fields)
    path = folder / f"{check_name(name)}.json"
    if path.exists() and not replace:
        raise ValueError(f"There is a preset {quoted(name)} already. Choose another name, or set replace.")
    text = json.dumps({MARK: VERSION, "kind": kind, **checked}, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > LARGEST:
        raise ValueError(
            f"A preset holds at most {LARGEST // 2**10} kB, this one {len(text.encode()) // 2**10} kB. Shorten it."
        )
    unfinished = path.with_suffix(".unfinished")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ValueError(
            f"The preset {quoted(name)} could not be written: {quoted(error.strerror or error)}."
        ) from None
    return path


def job_of(name: str, fields: dict[str, str]) -> Job:
    """A creator's own job of a picture."""
    return Job(name, fields["mean_at"], fields["tokens"], experimental=True)
