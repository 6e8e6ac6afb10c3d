"""Captions that are a JSON object, as Ideogram 4 was trained with: checked, and a broken end closed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

PARTS = ("high_level_description", "compositional_deconstruction")  # what a caption of Ideogram 4 has at least
_TRIES = 200  # ends that are tried from behind; more than a caption has values near its broken end
_DEPTH = 64  # of lists and objects inside each other; a caption has four
_PRIMITIVE = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|true|false|null")


class Checked(NamedTuple):
    """A caption that was looked at.

    Attributes:
        text: valid JSON, or the text as it was if it could not be made valid.
        notes: what was done and what is missing, sentences for the report.
        problem: the end of a sentence that begins with "The text ...", or None.
    """

    text: str
    notes: tuple[str, ...] = ()
    problem: str | None = None


def checked(text: str) -> Checked:
    """A written caption as valid JSON, if that is possible without inventing anything.

    Words around the object are left out, line breaks in strings written as JSON wants them, commas in front of a closing
    bracket taken out, and an object that broke off is closed behind the last of it that is whole.
    """
    start = text.find("{")
    if start < 0:
        return Checked(text, problem="is no JSON object")
    body = text[start:]
    closed = _end(body)
    around = (text[:start] + (body[closed:] if closed else "")).strip()
    notes = []
    if closed:
        body = body[:closed]
        caption = _read(body)
        if caption is None:
            body = _cleaned(body)
            caption = _read(body)
            notes.append("The JSON caption held line breaks or commas that JSON does not allow; they were corrected.")
    else:
        caption, body, left_out = _closed(_cleaned(body))
        lost = f"; left out: '{_short(left_out)}'" if left_out.strip() else ""
        notes.append(f"The JSON caption broke off, so its end was closed{lost}. A higher max_length gives it room.")
    if not isinstance(caption, dict) or not any(_strings(caption)):
        return Checked(text, problem="is no valid JSON object")
    if around and around.strip("`").strip() not in ("", "json"):
        notes.append(f"Words around the JSON caption were left out: '{_short(around)}'.")
    missing = [part for part in PARTS if not caption.get(part)]
    if missing:
        notes.append(f"The JSON caption has no '{missing[0]}', which Ideogram 4 was trained with.")
    return Checked(body, tuple(notes))


def values(text: str) -> str:
    """All strings of a valid caption that are no keys, one a line."""
    return "\n".join(_strings(_read(text)))


def _strings(caption) -> list[str]:
    found, left = [], [caption]
    while left:  # no recursion: a foreign text may be nested as deep as JSON can be read
        value = left.pop()
        if isinstance(value, dict):
            left += reversed(value.values())
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, str):
            found.append(value)
    return found


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:57]}..."


def _refuse(constant: str):
    raise ValueError(constant)


def _read(text: str):
    try:
        return json.loads(text, parse_constant=_refuse)  # Python alone reads NaN
    except (ValueError, RecursionError):
        return None


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end): a bracket, a comma or a colon itself, ``"`` for a string, ``?`` for one that does not end, ``v``
    for a number or literal, ``x`` for what JSON does not know."""
    index = 0
    while index < len(text):
        letter = text[index]
        if letter.isspace():
            index += 1
        elif letter in "{}[],:":
            yield letter, index, index + 1
            index += 1
        elif letter == '"':
            end = index + 1
            while end < len(text) and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            yield ('"', index, end + 1) if end < len(text) else ("?", index, len(text))
            index = end + 1
        else:
            found = _PRIMITIVE.match(text, index)
            yield ("v", index, found.end()) if found else ("x", index, index + 1)
            index = found.end() if found else index + 1


def _end(text: str) -> int:
    """Where the object that ``text`` begins with is closed; 0 if it is not."""
    open_now = 0
    for kind, _, end in _tokens(text):
        open_now += (kind in "{[") - (kind in "}]")
        if open_now == 0:
            return end
    return 0


def _cleaned(text: str) -> str:
    """Control characters in strings escaped, commas in front of a closing bracket taken out."""
    out, last = [], 0
    tokens = list(_tokens(text))
    for (kind, start, end), (following, *_) in zip(tokens, [*tokens[1:], ("", 0, 0)]):
        out.append(text[last:start])
        part = text[start:end]
        if kind in '"?':
            part = "".join(letter if letter >= " " else json.dumps(letter)[1:-1] for letter in part)
        if kind != "," or following not in ("}", "]"):
            out.append(part)
        last = end
    return "".join([*out, text[last:]])


def _closed(text: str) -> tuple[object, str, str]:
    """(caption or None, its text, what was left out behind), cut as far behind as it can be closed."""
    ends: list[tuple[int, str]] = []  # where a value ends, and what closes everything around it
    around: list[str] = []
    for kind, start, end in _tokens(text):
        if kind in "{[":
            around.append("}" if kind == "{" else "]")
            if len(around) > _DEPTH:
                break
        elif kind in "}]" and around:
            around.pop()
        elif kind == "?":
            inside = _whole_letters(text[start:end])
            ends.append((start + len(inside), '"' + "".join(reversed(around))))
        if kind not in ",:?x":
            ends.append((end, "".join(reversed(around))))
    for end, closing in reversed(ends[-_TRIES:]):
        caption = _read(text[:end] + closing)
        if caption:
            return caption, text[:end] + closing, text[end:]
    return None, text, ""


def _whole_letters(string: str) -> str:
    """A string that does not end, without half an escape at its end."""
    half = re.search(r"(?<!\\)(?:\\\\)*(\\u[0-9a-fA-F]{0,3}|\\)$", string)
    return string[: half.start(1)] if half else string
