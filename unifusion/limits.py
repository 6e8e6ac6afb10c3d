"""Bounds that are checked before work: what a creator pastes must not cost memory or minutes."""

from __future__ import annotations

from .quoting import quoted

MOST_CHARACTERS = 200_000  # of one text; a tokenizer needs about a second for them
MOST_TOKENS = 16_384  # of one sequence; memory of attention grows with their square
LONGEST_LABEL = 100  # characters of a reference's name
LARGEST_WEIGHT = 100.0  # of a word, when nested weights multiply


def check_length(text: str, what: str) -> str:
    """The text itself.

    Args:
        text: a creator's.
        what: its name in the sentence.

    Raises:
        ValueError: if it is longer than :data:`MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"The {what} has {len(text):,} characters ({quoted(text, 30)}), more than the {MOST_CHARACTERS:,} that are "
            f"read. Shorten it."
        )
    return text


def check_tokens(count: int, context: int, encoder: str) -> None:
    """Refuse sequences that the encoder cannot hold or that would fill the memory.

    Args:
        count: tokens of the sequence, pictures included.
        context: tokens the encoder was made for.
        encoder: its name in the sentence.

    Raises:
        ValueError: naming both numbers.
    """
    most = min(context, MOST_TOKENS)
    if count > most:
        raise ValueError(
            f"{count:,} tokens are more than the {most:,} that {encoder} can read at once. Shorten the prompt, or use "
            f"fewer or smaller pictures."
        )
