"""Names of files that a creator gives: what ``%...%`` stands for in them, and which names every system can hold."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from datetime import datetime

from .quoting import quoted

RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')  # in names, on one system or another
PART_BYTES = 255  # of one folder or file, on every common file system
NUMBER_BYTES = 25  # "_00001_.safetensors", with room for a longer number
BY_COMFYUI = {"year", "month", "day", "hour", "minute", "second"}
_DATE_PARTS = re.compile("yyyy|yy|dd?|MM?|hh?|mm?|ss?")


def fill_in(name: str, prompt: object, extra: object, now: datetime) -> tuple[str, list[str]]:
    """Fill in ``%date:yyyy-MM-dd%`` and ``%Node.widget%`` as the frontend does for its own save nodes.

    A node is meant by its *Node name for S&R*, its title or its class; the first that has the value counts. What
    cannot be filled in stays, with the characters replaced that a file name cannot hold. ``%year%`` and its kin are
    left to ComfyUI.

    Args:
        prompt: the graph as it runs, node id to class and inputs (hidden input ``prompt``).
        extra: the hidden input ``extra_pnginfo``, with the graph as drawn under ``workflow``.
        now: the time that the date stands for.

    Returns:
        (name, one line for each place that was not filled in)
    """
    notes: list[str] = []

    def fill(match: re.Match) -> str:
        inner = match[1]
        if inner in BY_COMFYUI:
            return match[0]
        if inner.startswith("date:"):
            return ILLEGAL.sub("_", _date(inner.removeprefix("date:"), now))
        if inner in ("width", "height"):
            notes.append(f"'%{inner}%' in the name became 0: conditioning has no size in pixels")
            return match[0]
        value = _value(inner, prompt, extra)
        if value is not None:
            return ILLEGAL.sub("_", value).replace("/", "_")
        notes.append(
            f"{quoted(match[0])} in the name was not filled in: this graph has no node and value of that name, or "
            f"the value comes from another node"
        )
        return ILLEGAL.sub("_", match[0])

    return re.sub("%([^%]+)%", fill, name), notes


def _date(pattern: str, now: datetime) -> str:
    values = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match) -> str:
        letters = match[0]
        return f"{now.year:04}"[-len(letters) :] if letters[0] == "y" else f"{values[letters[0]]:0{len(letters)}}"

    return _DATE_PARTS.sub(part, pattern)


def _value(inner: str, prompt: object, extra: object) -> str | None:
    for border in (place for place, letter in enumerate(inner) if letter == "."):  # names may hold dots themselves
        widget = inner[border + 1 :]
        for node in _nodes(inner[:border], prompt, extra):
            value = node["inputs"].get(widget)
            if isinstance(value, bool):
                return str(value).lower()
            if isinstance(value, float) and value.is_integer():
                return str(int(value))
            if isinstance(value, (str, int, float)):
                return str(value)
    return None


def _nodes(name: str, prompt: object, extra: object) -> Iterator[dict]:
    """Nodes of the running graph that a name may mean, in the order of the frontend, then those of an API graph."""
    running = {
        key: node
        for key, node in (prompt.items() if isinstance(prompt, dict) else ())
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    drawn = list(_drawn(extra))
    for named in (
        lambda node: isinstance(node.get("properties"), dict) and node["properties"].get("Node name for S&R") == name,
        lambda node: node.get("title") == name,
    ):
        for node in filter(named, drawn):
            number = str(node.get("id"))
            for key, candidate in running.items():  # inside a subgraph the id is the last of several
                if str(key).split(":")[-1] == number and candidate.get("class_type") == node.get("type"):
                    yield candidate
    for candidate in running.values():
        if isinstance(candidate.get("_meta"), dict) and candidate["_meta"].get("title") == name:
            yield candidate
    yield from (candidate for candidate in running.values() if candidate.get("class_type") == name)


def _drawn(extra: object) -> Iterator[dict]:
    """Nodes of the graph as drawn, and of its subgraphs."""

    def inside(value: object, key: str) -> object:
        return value.get(key) if isinstance(value, dict) else None

    def nodes(graph: object) -> Iterator[dict]:
        found = inside(graph, "nodes")
        yield from (node for node in (found if isinstance(found, list) else ()) if isinstance(node, dict))

    workflow = inside(extra, "workflow")
    yield from nodes(workflow)
    subgraphs = inside(inside(workflow, "definitions"), "subgraphs")
    for graph in subgraphs if isinstance(subgraphs, list) else ():
        yield from nodes(graph)


def check_name(name: str) -> str:
    """Folder and beginning of a file's name, below the output folder, that every system can hold and every list shows.

    Returns:
        the name with ``/`` between its parts and without ``.`` and doubled slashes.

    Raises:
        ValueError: naming what the name must not hold.
    """

    def refuse(reason: str) -> None:
        raise ValueError(f"The file name prefix {quoted(name)} {reason}; use a name such as 'conditioning/UniFusion'.")

    try:
        name.encode()
    except UnicodeEncodeError:
        refuse("holds half a character (a lone surrogate)")
    whole = name.replace("\\", "/")
    parts = posixpath.normpath(whole).split("/")
    if whole.startswith("/") or ".." in parts:
        refuse("leaves ComfyUI's output folder")
    if not parts[-1].strip() or parts[-1] == ".":
        refuse("names no file")
    if found := ILLEGAL.search("/".join(parts)):
        letter = found[0] if found[0].isprintable() else f"U+{ord(found[0]):04X}"
        refuse(f"holds the character {letter}, which some systems allow in no file name")
    *folders, last = parts
    if last.startswith("."):
        refuse("begins with a dot, so that lists would not show the file")
    for folder in folders:
        if folder.endswith((".", " ")):
            refuse("has a folder that ends in a dot or a space, which Windows cuts off")
    for part in (*folders, f"{last}_"):
        if part.split(".")[0].strip().lower() in RESERVED:
            refuse(f"holds '{part.rstrip('_')}', a name that Windows keeps for a device")
    for part, most in (*((folder, PART_BYTES) for folder in folders), (last, PART_BYTES - NUMBER_BYTES)):
        if len(part.encode()) > most:
            refuse(f"has a part of {len(part.encode())} bytes, more than the {most} that fit")
    return "/".join(parts)
