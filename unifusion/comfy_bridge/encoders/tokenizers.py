"""Tokenizers of ComfyUI's text encoders, read alike: ids as stock makes them, a role for every token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace

from ...folder_words import FolderWords
from ...hidden_states import PADDING, TEMPLATE
from ...messages import Segment, Tokens, token_bytes
from ...messages import tokenize as tokenize_bytes


class SentencePieces:
    """ComfyUI's sentencepiece tokenizer with the questions of transformers' tokenizers."""

    name_or_path = "sentencepiece"

    def __init__(self, stock):
        self.stock = stock
        self.pieces = stock.tokenizer
        self.special = dict(stock.special_tokens or {})
        pieces = self.pieces
        self.control = {
            pieces.id_to_piece(i): i for i in range(len(self)) if pieces.is_control(i) or pieces.is_unknown(i)
        }
        turns = {piece: pieces.piece_to_id(piece) for piece in ("<start_of_turn>", "<end_of_turn>")}
        self.control |= {piece: i for piece, i in turns.items() if not pieces.is_unknown(i)} | self.special
        self.all_special_tokens = list(self.control)

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

    def get_added_vocab(self) -> dict[str, int]:
        return self.control

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        texts = {number: text for text, number in self.control.items()}
        out = []
        for number in ids:
            piece = texts.get(number) or self.pieces.id_to_piece(number)
            if number not in texts and self.pieces.is_byte(number):
                out.append(bytes([int(piece[1:-1], 16)]))
            else:
                out.append(piece.replace("\u2581", " ").encode())
        return out

    def ids_of(self, text: str) -> list[int]:
        """Ids of a text as the stock tokenizer gives them, without a token in front."""
        pattern = "|".join(re.escape(token) for token in self.special)
        parts = re.split(f"({pattern})", text) if pattern else [text]
        ids = []
        for part in filter(None, parts):
            own = self.special.get(part)
            ids += self.pieces.encode(part, add_bos=False, add_eos=False) if own is None else [own]
        return ids


def adapted(tokenizer):
    """What the pack asks of a tokenizer, for any of the host's; None stays None."""
    return SentencePieces(tokenizer) if hasattr(tokenizer, "serialize_model") else tokenizer


def bytes_of(tokenizer, ids: Sequence[int]) -> list[bytes]:
    """UTF-8 bytes of every token."""
    own = isinstance(tokenizer, (SentencePieces, FolderWords))
    return tokenizer.bytes_of(ids) if own else token_bytes(tokenizer, ids)


def _by_bytes(segments: Sequence[Segment], ids: list[int], tokenizer, opener: str) -> Tokens:
    """Every token gets the role of the segment it ends in.

    Raises:
        ValueError: if the tokenizer changes the text it reads, so that the place of a token in it is not known.
    """
    borders, length = [], 0
    for segment in segments:
        length += len(segment.text.encode())
        borders.append(length)
    raw = bytes_of(tokenizer, ids)
    if sum(map(len, raw)) != length:
        raise ValueError(
            "This tokenizer changes the text it reads, so the roles of its tokens cannot be known. Use the model's own "
            "text-encode node."
        )
    roles, weights, first, current, position = [], [], len(ids), 0, 0
    for index, piece in enumerate(raw):
        position += len(piece)
        while position > borders[current]:
            current += 1
        roles.append(segments[current].role)
        weights.append(segments[current].weight)
        if opener and segments[current].text == opener:
            first = min(first, index)
    return Tokens(ids, roles, weights, [piece.decode("utf-8", "replace") for piece in raw], first)


def tokenize(segments: Sequence[Segment], wrapper, tokenizer, *, opener: str, pad: bool) -> Tokens:
    """A chat as token ids, equal to what the stock tokenizer of the encoder gives for its text.

    Args:
        segments: from ``messages.chat``.
        wrapper: ComfyUI's ``SDTokenizer``, which knows the token in front and the length to pad to.
        tokenizer: the one inside, from :func:`adapted`.
        opener: text of the segment that opens the assistant's turn; empty if it is not opened.
        pad: whether to pad as the stock encode does.
    """
    if isinstance(tokenizer, FolderWords):
        return tokenizer.tokens_of(segments, opener)
    text = "".join(segment.text for segment in segments)
    if isinstance(tokenizer, SentencePieces):
        tokens, front = _by_bytes(segments, tokenizer.ids_of(text), tokenizer, opener), [wrapper.start_token]
    elif wrapper.start_token is None:
        tokens, front = tokenize_bytes(segments, tokenizer, opener), []
    else:
        ids = list(tokenizer(text)["input_ids"])[wrapper.tokens_start :]
        tokens, front = _by_bytes(segments, ids, tokenizer, opener), [wrapper.start_token]
    return _padded(_with_front(tokens, front, segments), wrapper if pad else SimpleNamespace(min_length=0))


def _with_front(tokens: Tokens, front: list[int], segments: Sequence[Segment]) -> Tokens:
    if not front:
        return tokens
    role = next((segment.role for segment in segments if segment.text), TEMPLATE)
    return Tokens(
        [*front, *tokens.ids],
        [role, *tokens.roles],
        [1.0, *tokens.weights],
        ["", *tokens.pieces],
        tokens.opener + 1,
    )


def _padded(tokens: Tokens, wrapper) -> Tokens:
    missing = max(0, (wrapper.min_length or 0) - len(tokens.ids))
    if not missing:
        return tokens
    parts: tuple[list, ...] = ([wrapper.pad_token] * missing, [PADDING] * missing, [1.0] * missing, [""] * missing)
    own_parts: list[list] = [list(own) for own in (tokens.ids, tokens.roles, tokens.weights, tokens.pieces)]
    if wrapper.pad_left:
        ids, roles, weights, pieces = (added + own for added, own in zip(parts, own_parts))
        return Tokens(ids, roles, weights, pieces, tokens.opener + missing)
    ids, roles, weights, pieces = (own + added for added, own in zip(parts, own_parts))
    return Tokens(ids, roles, weights, pieces, tokens.opener)
