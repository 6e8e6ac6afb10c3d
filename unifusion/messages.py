"""From a system prompt, pictures and an instruction to tokens whose roles are known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from transformers.convert_slow_tokenizer import bytes_to_unicode

from .chat_templates import QWEN, Template
from .hidden_states import GENERATED, INSTRUCTION, SYSTEM, TEMPLATE, image_role
from .limits import check_length

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
    template: Template = QWEN,
) -> list[Segment]:
    """Qwen's chat with pictures in front of the instruction (Krea 2's template when there is no picture).

    Args:
        system: system prompt.
        instruction: the creator's words, or (text, weight) pieces of them from ``prompt_weights``.
        views: number of views (thumbnail and tiles) of each picture.
        labels: words in front of each picture, e.g. ``"Image 1: "``; empty for none.
        answer: words of the assistant that are given, not decoded; as text or as (text, weight) pieces.
        strengths: weight of each picture's tokens; empty for neutral.
        template: how the model writes a chat down.
    """
    segments = [
        Segment(text, SYSTEM if stripped else TEMPLATE) for text, stripped in template.opening(system, bool(views))
    ]
    before, after = template.image.split("{}")
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
    segments += [*_segments(instruction, INSTRUCTION), Segment(template.close, TEMPLATE)]
    segments.append(Segment(template.opener, TEMPLATE))
    if answer:
        segments += _segments(answer, GENERATED)
    return segments


def chat_text(system: str, instruction: str, answer: str = "") -> str:
    """The chat of :func:`chat` as one string."""
    return "".join(segment.text for segment in chat(system, instruction, answer=answer))


def _control_tokens(tokenizer) -> list[str]:
    """Longest first; an empty one, which a damaged folder may name, is none."""
    named = set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
    return sorted((token for token in named if token), key=len, reverse=True)


def remove_control_tokens(text: str, tokenizer) -> tuple[str, list[str]]:
    """Cut the tokenizer's control tokens out of a creator's text.

    ``<|im_end|>`` in a prompt would end the turn, ``<|endoftext|>`` would mask everything behind it. Half an emoji,
    which JSON can carry and no tokenizer takes, becomes the replacement character. Removing one may join the halves of
    another, which goes too: the text is read once, and each removal is looked at from its left.

    Returns:
        (clean text, tokens found)
    """
    text = check_length(text, "text").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    by_last: dict[str, list[str]] = {}
    for token in _control_tokens(tokenizer):
        by_last.setdefault(token[-1], []).append(token)
    kept: list[str] = []
    found: list[str] = []
    form = getattr(tokenizer, "normal_form", None)
    if form is not None and any(token in form(text) for token in _control_tokens(tokenizer)):
        text = form(text)  # what only becomes a control token when it is read
    for character in text:
        kept.append(character)
        for token in by_last.get(character, ()):
            if len(kept) >= len(token) and "".join(kept[-len(token) :]) == token:
                del kept[-len(token) :]
                found.append(token)
                break
    return "".join(kept), found


def spelled_as_meant(text: str, tokenizer) -> str:
    """A creator's text as this tokenizer takes it: the miniature's reads slips of the fingers as meant, others do not."""
    spelled = getattr(tokenizer, "spelled", None)
    return spelled(text) if spelled else text


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


def _composes_with_nothing_before(character: str) -> bool:
    """Characters in front of which composition (NFC) never reaches: ASCII, kana and ideographs."""
    return character < "\x80" or "\u3040" <= character <= "\u3096" or "\u30a1" <= character <= "\u9fff"


def _normalised(texts: Sequence[str], control: Sequence[str], form: Callable[[str], str]) -> tuple[str, list[int]]:
    """The texts as one, composed (NFC) as Qwen's tokenizer does it, never across a control token.

    An accent may join the last letter of the text before, so a border is found by composing what lies in front of it;
    only the part behind the last character that composes with nothing before it has to be looked at again.

    Returns:
        (text, UTF-8 length up to the end of each of the texts)
    """
    pattern = re.compile(f"({'|'.join(map(re.escape, control))})") if control else None

    def normal(text: str) -> str:
        parts = pattern.split(text) if pattern else [text]
        return "".join(map(form, parts))

    done, tail, settled, ends = [], "", 0, []
    for text in texts:
        tail += text
        cut = next((i for i in range(len(tail) - 1, 0, -1) if _composes_with_nothing_before(tail[i])), 0)
        for token in pattern.finditer(tail) if pattern else ():
            if token.start() < cut < token.end():  # never cut a control token in two
                cut = token.start()
        ready = normal(tail[:cut])
        done.append(ready)
        settled, tail = settled + len(ready.encode()), tail[cut:]
        ends.append(settled + len(normal(tail).encode()))
    done.append(normal(tail))
    return "".join(done), ends


def _keep_a_torn_opening(
    segments: Sequence[Segment], ends: Sequence[int], raw: Sequence[bytes], roles: list[int]
) -> None:
    """The opening of the user's turn counts as template where its last token has merged with the words behind it.

    ComfyUI cuts it off by its tokens (``krea2.py``: "user", then a line end) and leaves it where the line end is part of
    another token, as in front of a prompt that begins with one.
    """
    last = max((index for index, segment in enumerate(segments) if segment.role == SYSTEM), default=0)
    if not last or not segments[last].text or segments[last].role != SYSTEM:
        return
    start, border, position = ends[last - 1], ends[last], 0
    inside = []
    for index, piece in enumerate(raw):
        if position == border:
            return
        if start <= position < border:
            inside.append(index)
        position += len(piece)
        if position > border:
            break
    for index in inside:
        if roles[index] == SYSTEM:
            roles[index] = TEMPLATE


def tokenize(segments: Sequence[Segment], tokenizer, opener_text: str = OPENER) -> Tokens:
    """Tokenise a chat as one string, as ComfyUI does, and give every token the role of the segment it ends in.

    Tokenising segment by segment would differ where the tokenizer merges across a border.

    Args:
        segments: from :func:`chat`.
        tokenizer: a byte-level BPE tokenizer of transformers.
        opener_text: the segment that opens the assistant's turn.
    """
    form = getattr(tokenizer, "normal_form", partial(unicodedata.normalize, "NFC"))
    text, ends = _normalised([segment.text for segment in segments], _control_tokens(tokenizer), form)
    ids = list(tokenizer(text)["input_ids"])
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
        if segments[segment].text == opener_text:
            opener = min(opener, index)
    _keep_a_torn_opening(segments, ends, raw, roles)
    return Tokens(ids, roles, weights, [piece.decode("utf-8", "replace") for piece in raw], opener)
