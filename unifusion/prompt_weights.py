"""Weights of words, in ComfyUI's syntax: ``a (red fox:1.4) in the snow``.

Prompts for these models are sentences, so only an explicit number makes a weight: brackets without one stay text
(ComfyUI's "(word)" = 1.1 would change prompts that nobody meant to weight), and so do times and ratios such as
``(at 10:30)`` or ``(16:9)``.
"""

from __future__ import annotations

import re
from itertools import groupby

from .limits import LARGEST_WEIGHT

HIGHEST = 10.0  # a larger number is text, as in "(episode:42)"

_NUMBER = re.compile(r":\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$")
_AT_THE_END = 40  # characters of a bracket's text in which its number must stand


class _Bracket:
    """An open or closed bracket: texts and brackets inside, and the weight behind them, or None if there is none."""

    def __init__(self) -> None:
        self.inside: list[str | _Bracket] = []
        self.weight: float | None = None


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Split a prompt into pieces of one weight each.

    ``(words:1.4)`` weights words; nested weights multiply; ``\(`` and ``\)`` are plain brackets. The number runs from
    -:data:`HIGHEST` to :data:`HIGHEST`; below 0 subtracts. A whole number straight behind a digit is a time or a ratio
    and stays text.

    Returns:
        ``(text, weight)`` pieces without empty ones. Their texts joined are the prompt without the syntax, so a
        weighted prompt has exactly the tokens of the plain one.

    Raises:
        ValueError: if nested weights multiply to more than :data:`~.limits.LARGEST_WEIGHT`.
    """
    open_brackets = [_Bracket()]
    for part in re.split(r"(\\[()]|[()])", prompt):
        inside = open_brackets[-1].inside
        if part in ("\\(", "\\)"):
            inside.append(part[1])
        elif part == "(":
            open_brackets.append(_Bracket())
        elif part == ")" and len(open_brackets) > 1:
            closed = open_brackets.pop()
            open_brackets[-1].inside += _closed(closed)
        elif part:
            inside.append(part)
    while len(open_brackets) > 1:  # never closed: text
        unclosed = open_brackets.pop()
        unclosed.inside.insert(0, "(")
        open_brackets[-1].inside.append(unclosed)
    return _merged(_flattened(open_brackets[0]))


def _closed(bracket: _Bracket) -> list[str | _Bracket]:
    """A weighted bracket, or the texts of a plain one."""
    inner = bracket.inside[-1] if bracket.inside else ""
    last = inner if isinstance(inner, str) else ""
    number = _NUMBER.search(last[-_AT_THE_END:])
    if number is None or not _is_weight(last, number):
        plain = _Bracket()
        plain.inside = ["(", *bracket.inside, ")"]
        return [plain]
    bracket.inside[-1] = last[: len(last) - len(number[0])]
    bracket.weight = float(number[1])
    return [bracket]


def _flattened(whole: _Bracket) -> list[tuple[str, float]]:
    """Texts with the product of the weights around them; without recursion, since brackets nest as deep as one likes."""
    pieces: list[tuple[str, float]] = []
    todo: list[tuple[str | _Bracket, float]] = [(whole, 1.0)]
    while todo:
        part, weight = todo.pop()
        if isinstance(part, str):
            pieces.append((part, weight))
            continue
        product = weight if part.weight is None else weight * part.weight
        if abs(product) > LARGEST_WEIGHT:
            raise ValueError(
                f"Weights that stand in one another multiply to more than {LARGEST_WEIGHT:g}. Take brackets out, or use "
                f"smaller numbers."
            )
        todo += [(inner, product) for inner in reversed(part.inside)]
    return pieces


def unread_weights(prompt: str) -> list[str]:
    """What looks like a weight but stays text, since its number is beyond :data:`HIGHEST`: ``(fox:99)``."""
    found = re.findall(r"\(([^()]{1,60}):\s*([+-]?\d+(?:\.\d*)?)\s*\)", prompt)
    return [f"({text}:{number})" for text, number in found if abs(float(number)) > HIGHEST and not text[-1:].isdigit()]


def plain_text(pieces: list[tuple[str, float]]) -> str:
    """The prompt without its weights."""
    return "".join(text for text, _ in pieces)


def _is_weight(text: str, number: re.Match) -> bool:
    before = text[: len(text) - len(number[0])]
    behind_digit = before[-1:].isdigit() and "." not in number[1]
    return abs(float(number[1])) <= HIGHEST and not behind_digit


def _merged(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    written = [piece for piece in pieces if piece[0]]
    runs = groupby(written, key=lambda piece: piece[1])
    return [("".join(text for text, _ in run), weight) for weight, run in runs]
