"""Which letters a text is written in: enough to notice a rewrite that left the language of its prompt."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_SHARE = 0.6  # of all letters, above which a text is said to be written in them
_LEAST = 4  # letters, below which nothing is said
_PLAIN = {
    "LATIN": "Latin",
    "CJK": "Chinese or Japanese",
    "KATAKANA": "Chinese or Japanese",
    "HIRAGANA": "Chinese or Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "THAI": "Thai",
    "DEVANAGARI": "Devanagari",
}
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|『[^』]*』')


def script_of(text: str) -> str | None:
    """Plain name of the letters that most of a text is written in, words to be read in the picture left out.

    Returns:
        A name, or None where there are few letters, no script prevails, or it is one that is not listed.
    """
    letters = Counter(
        _PLAIN.get(unicodedata.name(letter, "").split(" ")[0], "")
        for letter in _QUOTED.sub("", text)
        if letter.isalpha()
    )
    if letters.total() < _LEAST:
        return None
    name, count = letters.most_common(1)[0]
    return name if name and count >= _SHARE * letters.total() else None
