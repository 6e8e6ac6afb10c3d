"""Words of the bundled miniature: its tokenizer, what it knows, and slips of the fingers, which are read as meant."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Set
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .miniature import VLM_FOLDER

LONGEST_SLIP = 24  # letters
MOST_SLIPS = 200  # words of a text that are looked at

_WORD = re.compile(r"[^\W\d_]+")
_EAST = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_GRAMMAR = re.compile("[\u3040-\u309f]+")  # hiragana
_ACCENT = re.compile("[\u0300-\u036f]")
_MARKS = str.maketrans(dict(zip("’‘“”„«»、。・•–—−·", '\'\'""""",.,----,')))


def normal_form(text: str) -> str:
    """A text as the miniature's tokenizer reads it.

    Case, accents of Latin letters, full width and the kind of a quotation mark or bullet are no properties of a word
    here.  A lower-case English text stays as it is.
    """
    text = unicodedata.normalize("NFKD", text.lower().translate(_MARKS))
    return unicodedata.normalize("NFC", _ACCENT.sub("", text)).lower()


@lru_cache(maxsize=1)
def _tokenizer_class() -> Any:
    from transformers import Qwen2Tokenizer

    class MiniatureWords(Qwen2Tokenizer):
        """Qwen's tokenizer over texts in :func:`normal_form`."""

        normal_form = staticmethod(normal_form)

        def __call__(self, text, *arguments, **options):
            text = normal_form(text) if isinstance(text, str) else list(map(normal_form, text))
            return super().__call__(text, *arguments, **options)

        def spelled(self, text: str) -> str:
            """A creator's text with :func:`slips` read as the words they stand for."""
            return as_meant(text, self.name_or_path)

    return MiniatureWords


def load_words(folder: str | Path):
    """The tokenizer of a miniature's folder (vocab.json, merges.txt and tokenizer_config.json)."""
    return _tokenizer_class().from_pretrained(str(folder), local_files_only=True)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, as the miniature's vocabulary counts them."""
    return _WORD.findall(text.lower())


class _WordLists(NamedTuple):
    """Words in normal form.  A slip stands for one of the first two lists; those of the last two are no slips."""

    content: Set[str] = frozenset()  # what can be drawn or changed
    passed: Set[str] = frozenset()  # name nothing to draw
    common: Set[str] = frozenset()  # neither, in any text
    others: Set[str] = frozenset()  # name what cannot be drawn

    @property
    def silent(self) -> Set[str]:
        """Words of which nothing is said."""
        return self.content | self.passed | self.common


@lru_cache(maxsize=4)
def _word_lists(folder: str) -> _WordLists:
    values = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = ("world_words", "content_words", "passed_words", "common_words", "other_words")
    lists = [values.get(name) for name in names]
    world, content, passed, common, others = (
        frozenset(normal_form(str(word)) for word in words) if isinstance(words, list) else frozenset()
        for words in lists
    )
    if not world:
        return _WordLists()
    content = content or world
    return _WordLists(content, (world | passed) - content - common, common, others)


def _slips(word: str, other: str, most: int) -> int | None:
    """How many slips of the fingers (a letter too many, missing, wrong, or two swapped) lead to ``other``, if ``most``."""
    if abs(len(word) - len(other)) > most:
        return None
    before, row = None, list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        last, row = row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if before is not None and j > 1 and letter == other[j - 2] and word[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = last
    return row[-1] if row[-1] <= most else None


def _slips_allowed(word: str, other: str) -> int:
    if len(word) > 3:
        return 1 if len(word) < 7 else 2
    return int(len(other) == 4 or sorted(word) == sorted(other))  # "fve" for "five", "rde" for "red"


def _kind_of_slip(word: str, other: str) -> int:
    """Lower is likelier: letters swapped or doubled, one missing, one too many, one wrong."""
    if sorted(word) == sorted(other) or any(
        a == b and word[:i] + word[i + 1 :] == other for i, (a, b) in enumerate(zip(word, word[1:]))
    ):
        return 0
    return 1 if len(other) > len(word) else 2 if len(other) < len(word) else 3


def slip_among(word: str, content: Set[str], passed: Set[str]) -> str | None:
    """The known word that a word in normal form most likely stands for, or None if it is far from all.

    Args:
        content, passed: known words in normal form; those of the first are the likelier ones.
    """
    if not 3 <= len(word) <= LONGEST_SLIP or _EAST.search(word):
        return None
    ranks = []
    for other in content if len(word) < 5 else content | passed:  # four letters lie near too many little words
        if len(other) > 2 and other[0] == word[0]:
            count = _slips(word, other, _slips_allowed(word, other))
            if count:
                ranks.append((count, other not in content, _kind_of_slip(word, other), other))
    return min(ranks)[-1] if ranks else None


@lru_cache(maxsize=4096)
def _slip_of(word: str, folder: str) -> str | None:
    """The known word that an unknown one in normal form stands for."""
    lists = _word_lists(folder)
    return None if any(word in known for known in lists) else slip_among(word, lists.content, lists.passed)


def slips(text: str, folder: str | Path = VLM_FOLDER) -> dict[str, str]:
    """Words of ``text`` that are slips of the fingers, and the words of the miniature that they stand for.

    At most ``MOST_SLIPS`` unknown words are looked at, so that a book costs no time.
    """
    known = frozenset().union(*_word_lists(str(folder)))
    unsure = [word for word in dict.fromkeys(_WORD.findall(text)) if normal_form(word) not in known]
    meant = {word: _slip_of(normal_form(word), str(folder)) for word in unsure[:MOST_SLIPS]}
    return {word: other for word, other in meant.items() if other is not None}


def as_meant(text: str, folder: str | Path = VLM_FOLDER) -> str:
    """``text`` with its :func:`slips` as the words they stand for; all else stays, letter by letter."""
    found = slips(text, folder)
    return _WORD.sub(lambda word: found.get(word[0], word[0]), text) if found else text


def _unknown_run(run: str, known: Set[str]) -> list[str]:
    """What a run of Chinese or Japanese text holds beside known words; hiragana between them is grammar."""
    longest = max(map(len, known), default=0)
    rest, at = "", 0
    while at < len(run):
        length = next((n for n in range(min(longest, len(run) - at), 0, -1) if run[at : at + n] in known), 0)
        rest += " " if length else run[at]
        at += length or 1
    return [part for part in _GRAMMAR.sub(" ", rest).split() if part]


def unknown_words(text: str, folder: str | Path = VLM_FOLDER) -> list[str]:
    """Words of ``text`` outside the miniature's world, each once, in order, lower case.

    Neither words that name nothing to draw nor likely typing errors of known words are among them.  ``folder`` holds
    the tokenizer's files.
    """
    lists = _word_lists(str(folder))
    if not lists.content:  # a folder that does not say what its world is
        return []
    known, found = lists.silent, []
    for word in words_of(text):
        plain = normal_form(word)
        if _EAST.search(plain):
            found += _unknown_run(plain, known)
        elif plain not in known and _slip_of(plain, str(folder)) is None:
            found.append(word)
    return list(dict.fromkeys(found))


def knows_any(text: str, folder: str | Path = VLM_FOLDER) -> bool:
    """Whether a text holds a word of what the miniature draws: a shape, colour, size, texture, place or change."""
    content = _word_lists(str(folder)).content
    plain = normal_form(text)
    return any(
        (bool(_EAST.search(word)) and any(known in word for known in content))
        or word in content
        or _slip_of(word, str(folder)) in content
        for word in words_of(plain)
    )
