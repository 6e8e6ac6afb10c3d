"""Weights of words, in ComfyUI's syntax: ``a (red fox:1.4) in the snow``.

Prompts for these models are sentences, so only an explicit number makes a weight: brackets without one stay text
(ComfyUI's "(word)" = 1.1 would change prompts that nobody meant to weight), and so do times and ratios such as
``(at 10:30)`` or ``(16:9)``.
"""

from __future__ import annotations

import re

HIGHEST = 10.0  # a larger number is text, as in "(episode:42)"

_NUMBER = re.compile(r":\s*(\d+(?:\.\d*)?|\.\d+)\s*$")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Split a prompt into pieces of one weight each.

    ``(words:1.4)`` weights words; nested weights multiply; ``\(`` and ``\)`` are plain brackets. The number runs from
    0 to :data:`HIGHEST`. A whole number straight behind a digit is a time or a ratio and stays text.

    Returns:
        ``(text, weight)`` pieces without empty ones. Their texts joined are the prompt without the syntax, so a
        weighted prompt has exactly the tokens of the plain one.
    """
    pieces: list[tuple[str, float]] = []
    open_at: list[int] = []  # where in ``pieces`` each open bracket stands
    text = re.split(r"(\\[()]|[()])", prompt)
    for part in text:
        if part in ("\\(", "\\)"):
            pieces.append((part[1], 1.0))
        elif part == "(":
            open_at.append(len(pieces))
            pieces.append(("(", 1.0))
        elif part == ")" and open_at:
            start = open_at.pop()
            number = _NUMBER.search(pieces[-1][0])
            if number is None or not _is_weight(pieces[-1][0], number):
                pieces.append((")", 1.0))
                continue
            pieces[-1] = (pieces[-1][0][: number.start()], pieces[-1][1])
            weight = float(number[1])
            pieces[start:] = [(inner, w * weight) for inner, w in pieces[start + 1 :]]
        elif part:
            pieces.append((part, 1.0))
    return _merged(pieces)


def plain_text(pieces: list[tuple[str, float]]) -> str:
    """The prompt without its weights."""
    return "".join(text for text, _ in pieces)


def _is_weight(text: str, number: re.Match) -> bool:
    behind_digit = text[: number.start()][-1:].isdigit() and "." not in number[1]
    return float(number[1]) <= HIGHEST and not behind_digit


def _merged(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in pieces:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        elif text:
            merged.append((text, weight))
    return merged
