"""Names and keywords of emoji as captions, and words that training never sees.

A word is held out, not a picture: every name that has it in its own words, in any style, belongs to the test part, and it is
taken out of the keywords of all others. What a model draws for it, it can only know from the language model.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

BACKGROUNDS = {"white": "#ffffff", "black": "#101010", "blue": "#8fb8ff", "green": "#a8dca0"}
TEST, VALIDATION, TRAINING = "test", "validation", "training"
_SHARES = ((TEST, 0.12), (VALIDATION, 0.06))  # of the words
# Words that say how, not what: names keep them in every part.
_COMMON = frozenset(
    "a an and at big black blue button circle eight face five four from girl green hand heart in man medium men no of off on one "
    "open orange person purple red six small square symbol the three to two up down left right white with without woman women "
    "yellow brown new old part side over under boy child people "
    "emoji style background draw same thing image noto flat soft cartoon".split()  # what captions say around a name
)
_WORD = re.compile(r"[a-z]+")


def words_of(text: str) -> list[str]:
    """Words of a name or keyword, lower case, plurals as their singular."""
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word
        for word in _WORD.findall(text.lower())
    ]


def part_of_word(word: str) -> str:
    """Which part a word belongs to: the same on every machine."""
    if word in _COMMON or len(word) < 3:
        return TRAINING
    place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") / 2**32
    for part, share in _SHARES:
        if place < share:
            return part
        place -= share
    return TRAINING


def part_of(name: str) -> str:
    """Part of a name: the strictest of its words'."""
    parts = {part_of_word(word) for word in words_of(name)}
    return TEST if TEST in parts else VALIDATION if VALIDATION in parts else TRAINING


@dataclass(frozen=True)
class Named:
    """One thing.

    Attributes:
        name: as the sets spell it, ``face-with-steam-from-nose``.
        label: in words.
        keywords: without words that are held out, unless the name is.
    """

    name: str
    label: str
    keywords: tuple[str, ...]

    @property
    def part(self) -> str:
        return part_of(self.name)


def named(name: str, known: tuple[str, tuple[str, ...]] | None) -> Named:
    """A name with its label and keywords.

    Args:
        known: (label, keywords) of ``icon_sets.annotations``; None where the set's code is not in it.
    """
    plain = name.replace("-", " ")
    label, keywords = known or (plain, ())
    if part_of(label) != part_of(name):
        label = plain
    own = {TEST: (TEST, VALIDATION, TRAINING), VALIDATION: (VALIDATION, TRAINING), TRAINING: (TRAINING,)}[part_of(name)]
    return Named(name, label, tuple(word for word in keywords if part_of(word) in own))


def caption(thing: Named, style: str, background: str, rng: np.random.Generator) -> str:
    """A caption of one of several lengths.

    Args:
        style: how captions call it.
        background: key of :data:`BACKGROUNDS`.
    """
    length = rng.integers(4)
    where = f"on a {background} background"
    if length == 0:
        return f"{thing.label}, {style} style, {where}"
    if length == 1:
        return f"an emoji of {thing.label} in {style} style {where}"
    keywords = list(rng.permutation(list(thing.keywords))[:3]) if thing.keywords else []
    if length == 2 and keywords:
        return f"{thing.label} ({', '.join(map(str, keywords))}), {style} style, {where}"
    return f"{style} style: {thing.label}, {where}"


def restyling(style: str) -> str:
    """The instruction of a pair: one thing in another style."""
    return f"draw the same thing in {style} style"


def with_style_of_the_second(thing: Named) -> str:
    """The instruction over two references: what is on the first, in the style of the second."""
    return f"draw the {thing.label} of Image 1 in the style of Image 2"
