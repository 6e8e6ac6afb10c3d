"""A creator's text inside a sentence: one line, printable, short.

ComfyUI's log is strict UTF-8: half an emoji (a lone surrogate, which JSON can carry) in an exception's text stops its
prompt worker until it is restarted.
"""

from __future__ import annotations

LONGEST = 60  # characters of a quotation


def whole_letters(text: str) -> str:
    """The text, of one line or many, without halves of characters, which become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: object) -> str:
    """The text with everything escaped that is no printable character of one line; halves of characters become U+FFFD."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole_letters(str(text)))


def quoted(text: object, limit: int = LONGEST) -> str:
    """``'text'`` for a sentence: printable, and cut in its middle when it is longer than ``limit`` characters."""
    shown = printable(_shortened(str(text), limit))
    return f"'{_shortened(shown, limit)}'"  # again: an escaped character takes up to ten


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[len(text) - half :]}"


def spoken(seconds: float) -> str:
    """``3 s``, ``4.5 minutes``, ``2.3 hours``, ``5.1 days``."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
