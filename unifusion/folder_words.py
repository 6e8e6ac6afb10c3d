"""The tokenizer of a transformers folder, with the questions that the pack asks of one.

``tokenizer.json`` alone is read: it holds no code. The place of a view of a picture is written ``<|image_pad|>`` in every
chat of this pack, whatever the model calls it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .hidden_states import SYSTEM, TEMPLATE
from .messages import IMAGE_PAD, Segment, Tokens, token_bytes
from .messages import tokenize as tokenize_bytes
from .quoting import printable, quoted

LARGEST_TOKENIZER = 128 * 2**20  # bytes of tokenizer.json; those of today's models have 2 to 34 million


class FolderWords:
    """A ``tokenizers.Tokenizer`` and the model's own token for pictures.

    Args:
        tokenizer: from tokenizer.json.
        name: of the folder.
        image: text of the token that stands for a view of a picture; empty for models without pictures.
        image_id: its id.
    """

    def __init__(self, tokenizer, name: str, image: str = "", image_id: int | None = None):
        self.tokenizer = tokenizer
        self.name_or_path = name
        self.image, self.image_id = image, image_id
        added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
        self._added = {text: number for text, number in added.items() if text}
        self._special = [
            token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special and token.content
        ]
        if image:
            self._added[IMAGE_PAD] = image_id
        self.front = tuple(tokenizer.encode("").ids)  # e.g. <s>, which some models want in front of every text
        parts = json.loads(tokenizer.to_str())
        self.byte_level = (parts.get("decoder") or {}).get("type") == "ByteLevel"

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self._encoded(text).ids}

    def _encoded(self, text: str):
        if self.image and self.image != IMAGE_PAD:
            text = text.replace(IMAGE_PAD, self.image)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def normal_form(self, text: str) -> str:
        """A text as the tokenizer reads it."""
        normalizer = self.tokenizer.normalizer
        return text if normalizer is None or not self.byte_level else normalizer.normalize_str(text)

    def get_added_vocab(self) -> dict[str, int]:
        return self._added

    @property
    def all_special_tokens(self) -> list[str]:
        return self._special

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._token(number) for number in ids]

    def _token(self, number: int) -> str:
        if self.image and number == self.image_id:
            return IMAGE_PAD
        return self.tokenizer.id_to_token(number) or ""

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]):
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        if tokens == IMAGE_PAD and self.image:
            return self.image_id
        return self.tokenizer.token_to_id(tokens)

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """UTF-8 bytes of every token; of a sentencepiece vocabulary its pieces, with their spaces."""
        if self.byte_level:
            return token_bytes(self, ids)
        out = []
        for number in ids:
            piece = self._token(number)
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                out.append(bytes([int(piece[3:5], 16)]))
            else:
                out.append(piece.replace("\u2581", " ").encode())
        return out

    def tokens_of(self, segments: Sequence[Segment], opener: str) -> Tokens:
        """A chat as tokens, each with the role of the segment it ends in.

        Args:
            segments: from ``messages.chat``.
            opener: text of the segment that opens the assistant's turn.
        """
        try:
            if not self.byte_level:
                raise ValueError
            tokens = tokenize_bytes(segments, self, opener)
        except (ValueError, KeyError):  # a tokenizer that adds a space in front, or takes one away beside a token
            tokens = self._by_offsets(segments, opener)
        front = list(self.front)
        if not front or tokens.ids[: len(front)] == front:
            return tokens
        first = next((segment.role for segment in segments if segment.text), TEMPLATE)
        role = SYSTEM if first == SYSTEM else TEMPLATE  # it is no word of the creator's
        return Tokens(
            [*front, *tokens.ids],
            [*[role] * len(front), *tokens.roles],
            [*[1.0] * len(front), *tokens.weights],
            [*[""] * len(front), *tokens.pieces],
            tokens.opener + len(front),
        )

    def _by_offsets(self, segments: Sequence[Segment], opener: str) -> Tokens:
        image = self.image or IMAGE_PAD
        borders, length = [], 0
        for segment in segments:
            length += len(segment.text.replace(IMAGE_PAD, image))
            borders.append(length)
        encoded = self._encoded("".join(segment.text for segment in segments))
        roles, weights, first, current, reached = [], [], len(encoded.ids), 0, 0
        for index, (_, end) in enumerate(encoded.offsets):
            reached = max(reached, end)
            while current < len(segments) - 1 and (reached > borders[current] or not segments[current].text):
                current += 1
            roles.append(segments[current].role)
            weights.append(segments[current].weight)
            if opener and segments[current].text == opener:
                first = min(first, index)
        pieces = [piece.decode("utf-8", "replace") for piece in self.bytes_of(encoded.ids)]
        return Tokens(list(encoded.ids), roles, weights, pieces, first)


def read_tokenizer(folder: Path):
    """``tokenizers.Tokenizer`` of a folder.

    Raises:
        ValueError: if tokenizer.json is missing, too large or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{quoted(folder.name)} has no tokenizer.json, the only form of a tokenizer that is read from such a folder. Save it "
            f"with AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers."
        )
    if path.stat().st_size > LARGEST_TOKENIZER:
        raise ValueError(
            f"tokenizer.json in {quoted(folder.name)} is larger than {LARGEST_TOKENIZER >> 20} MB. Take the one that came with "
            f"the weights."
        )
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except BaseException as error:  # a panic of the Rust library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"tokenizer.json in {quoted(folder.name)} cannot be read ({printable(error)[:120].rstrip('.')}). Take the one that "
            f"came with the weights."
        ) from None
