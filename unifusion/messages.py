"""From a system prompt, pictures and an instruction to tokens whose roles are known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from transformers.convert_slow_tokenizer import bytes_to_unicode

from .hidden_states import GENERATED, INSTRUCTION, SYSTEM, TEMPLATE, image_role

VISION_BLOCK = "<|vision_start|>{}<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
OPENER = "<|im_start|>assistant\n"


class Segment(NamedTuple):
    """A piece of the chat with one role and one weight; an ``<|image_pad|>`` is the place of one view of a picture."""

    text: str
    role: int
    weight: float = 1.0


class Tokens(NamedTuple):
    """A tokenised chat.

    Attributes:
        ids: token ids; an image view is one ``<|image_pad|>`` here.
        roles: one per token.
        weights: one per token, 1 = neutral.
        pieces: text of every token.
        opener: index of the first token of the assistant's turn.
    """

    ids: list[int]
    roles: list[int]
    weights: list[float]
    pieces: list[str]
    opener: int


def _segments(words: str | Sequence[tuple[str, float]], role: int) -> list[Segment]:
    return [Segment(text, role, weight) for text, weight in ([(words, 1.0)] if isinstance(words, str) else words)]


def chat(
    system: str,
    instruction: str | Sequence[tuple[str, float]],
    views: Sequence[int] = (),
    labels: Sequence[str] = (),
    answer: str | Sequence[tuple[str, float]] = "",
    strengths: Sequence[float] = (),
) -> list[Segment]:
    """Qwen's chat with pictures in front of the instruction (Krea 2's template when there is no picture).

    Args:
        system: system prompt.
        instruction: the creator's words, or (text, weight) pieces of them from ``prompt_weights``.
        views: number of views (thumbnail and tiles) of each picture.
        labels: words in front of each picture, e.g. ``"Image 1: "``; empty for none.
        answer: words of the assistant that are given, not decoded; as text or as (text, weight) pieces.
        strengths: weight of each picture's tokens; empty for neutral.
    """
    segments = [Segment(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n", SYSTEM)]
    before, after = VISION_BLOCK.split("{}")
    for index, count in enumerate(views):
        if index < len(labels) and labels[index]:
            segments.append(Segment(labels[index], TEMPLATE))
        for _ in range(count):
            weight = strengths[index] if strengths else 1.0
            segments += [
                Segment(before, TEMPLATE),
                Segment(IMAGE_PAD, image_role(index), weight),
                Segment(after, TEMPLATE),
            ]
    segments += [*_segments(instruction, INSTRUCTION), Segment("<|im_end|>\n", TEMPLATE), Segment(OPENER, TEMPLATE)]
    if answer:
        segments += _segments(answer, GENERATED)
    return segments


def chat_text(system: str, instruction: str, answer: str = "") -> str:
    """The chat of :func:`chat` as one string."""
    return "".join(segment.text for segment in chat(system, instruction, answer=answer))


def _control_pattern(tokenizer) -> str:
    control = sorted(set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return "|".join(re.escape(token) for token in control)


def remove_control_tokens(text: str, tokenizer) -> tuple[str, list[str]]:
    """Cut the tokenizer's control tokens out of a creator's text.

    ``<|im_end|>`` in a prompt would end the turn, ``<|endoftext|>`` would mask everything behind it. Half an emoji,
    which JSON can carry and no tokenizer takes, becomes the replacement character.

    Returns:
        (clean text, tokens found)
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    pattern = _control_pattern(tokenizer)
    found: list[str] = []
    if pattern and (form := getattr(tokenizer, "normal_form", None)) and re.search(pattern, form(text)):
        text = form(text)  # what only becomes a control token when it is read
    while pattern and (hits := re.findall(pattern, text)):  # again: removing one may join the halves of another
        found += hits
        text = re.sub(pattern, "", text)
    return text, found


@lru_cache(maxsize=1)
def _byte_values() -> dict[str, int]:
    return {char: value for value, char in bytes_to_unicode().items()}


def token_bytes(tokenizer, ids: Sequence[int]) -> list[bytes]:
    """UTF-8 bytes of every token of a byte-level BPE tokenizer (Qwen's kind)."""
    added = set(tokenizer.get_added_vocab())
    values = _byte_values()
    return [
        piece.encode() if piece in added else bytes(values[char] for char in piece)
        for piece in tokenizer.convert_ids_to_tokens(list(ids))
    ]


def tokenize(segments: Sequence[Segment], tokenizer) -> Tokens:
    """Tokenise a chat as one string, as ComfyUI does, and give every token the role of the segment it ends in.

    Tokenising segment by segment would differ where the tokenizer merges across a border.

    Args:
        segments: from :func:`chat`.
        tokenizer: a byte-level BPE tokenizer of transformers.
    """
    control = re.compile(f"({_control_pattern(tokenizer)})")
    form = getattr(tokenizer, "normal_form", partial(unicodedata.normalize, "NFC"))

    def normal(text: str) -> str:
        """As the tokenizer does (Qwen's: composed characters), never across a control token."""
        return "".join(form(part) for part in control.split(text))

    text, ends = "", []
    for segment in segments:  # from the start each time: an accent may join the last letter of the segment before
        text += segment.text
        ends.append(len(normal(text).encode()))
    ids = list(tokenizer(normal(text))["input_ids"])
    raw = token_bytes(tokenizer, ids)
    if sum(map(len, raw)) != ends[-1]:
        raise ValueError(
            "This tokenizer changes the text it reads, so the roles of its tokens cannot be known; "
            "only byte-level BPE tokenizers such as Qwen's are supported."
        )
    roles, weights, position, segment, opener = [], [], 0, 0, len(ids)
    for index, piece in enumerate(raw):
        position += len(piece)
        while position > ends[segment]:
            segment += 1
        roles.append(segments[segment].role)
        weights.append(segments[segment].weight)
        if segments[segment].text == OPENER:
            opener = min(opener, index)
    return Tokens(ids, roles, weights, [piece.decode("utf-8", "replace") for piece in raw], opener)
