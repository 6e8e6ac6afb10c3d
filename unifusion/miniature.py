"""The bundled miniature as ComfyUI needs it: where its weights lie, its sizes, its words.

How it was made (world, words, training, scores) is ``recipes/miniature`` in the repository; nothing here rests on it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

# The bundled weights; ComfyUI's stock loaders list them under the folder's name.
MINIATURE = Path(__file__).resolve().parent / "weights" / "unifusion_miniature"
VLM_FOLDER = MINIATURE / "vlm"
SIDE = 128  # pixels; the vision tower has learned pictures of this size only
IMAGE_TOKENS = 16  # of one view of that size: patches of 16, merged 2x2

_WORD = re.compile(r"[^\W\d_]+")
_EAST = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_GRAMMAR = re.compile("[\u3040-\u309f]+")  # hiragana
_ACCENT = re.compile("[\u0300-\u036f]")
_MARKS = str.maketrans(dict(zip("’‘“”„«»、。・•–—−·", '\'\'""""",.,----,')))


@dataclass(frozen=True)
class VLMConfig:
    """Sizes of the miniature VLM.  ``taps``: layers whose inputs condition the diffusion transformer."""

    vocab_size: int
    hidden_size: int = 240
    intermediate_size: int = 432
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 10000.0
    rope_dims: tuple[int, int, int] = (12, 10, 10)
    rms_norm_eps: float = 1e-6
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 384
    vision_depth: int = 4
    vision_heads: int = 4
    deepstack_visual_indexes: tuple[int, ...] = (1, 2)
    num_position_embeddings: int = 64
    taps: tuple[int, ...] = (1, 3, 5, 7)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> VLMConfig:
        names = cls.__dataclass_fields__
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})


def read_config(folder: str | Path) -> VLMConfig:
    """Sizes from a VLM folder's config.json."""
    values = json.loads((Path(folder) / "config.json").read_text())
    text, vision = values["text_config"], values["vision_config"]
    return VLMConfig.from_dict(
        {
            **text,
            "rope_dims": text["rope_parameters"]["mrope_section"],
            "taps": values["taps"],
            "deepstack_visual_indexes": vision["deepstack_visual_indexes"],
            "vision_heads": vision["num_heads"],
            "vision_hidden_size": vision["hidden_size"],
            "vision_intermediate_size": vision["intermediate_size"],
            "vision_depth": vision["depth"],
            "num_position_embeddings": vision["num_position_embeddings"],
        }
    )


def normal_form(text: str) -> str:
    """A text as the miniature's tokenizer reads it.

    Case, accents of Latin letters, full width and the kind of a quotation mark or bullet are no properties of a word
    here.  A lower-case English text stays as it is.
    """
    text = unicodedata.normalize("NFKD", text.lower().translate(_MARKS))
    return unicodedata.normalize("NFC", _ACCENT.sub("", text)).lower()


_CAPTION = re.compile(r"on an? \w+ background: (an? [\w ]+ at the [a-z ]+(?:, an? [\w ]+ at the [a-z ]+)*)\.")


def broken_caption(text: str, ended: bool) -> str | None:
    """What is wrong with a text in the miniature's one style, e.g. ``on a white background: a ... at the center.``

    Returns:
        The end of a sentence that begins with "The text ...", or None.
    """
    if not ended:
        return "does not end"
    whole = _CAPTION.fullmatch(text.strip())
    if whole is None:
        return "is no description in the model's style"
    places = [phrase.rsplit(" at the ", 1)[1] for phrase in whole[1].split(", ")]
    for place in places:
        if places.count(place) > 1:
            return f"puts two things at the {place}"
    return None


@lru_cache(maxsize=1)
def _tokenizer_class() -> type:
    from transformers import Qwen2Tokenizer

    class MiniatureWords(Qwen2Tokenizer):
        """Qwen's tokenizer over texts in :func:`normal_form`."""

        normal_form = staticmethod(normal_form)

        def __call__(self, text, *arguments, **options):
            text = normal_form(text) if isinstance(text, str) else list(map(normal_form, text))
            return super().__call__(text, *arguments, **options)

    return MiniatureWords


def load_words(folder: str | Path):
    """The tokenizer of a miniature's folder (vocab.json, merges.txt and tokenizer_config.json)."""
    return _tokenizer_class().from_pretrained(str(folder), local_files_only=True)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, as the miniature's vocabulary counts them."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=4)
def _word_lists(folder: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """(words of the drawn world, words that name nothing to draw, words that are no slip of a known one)."""
    values = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    world = {normal_form(word) for word in values["world_words"]}
    passed = frozenset(values.get("passed_words", ()))
    content = frozenset(values.get("content_words", world))
    return content, frozenset(world | passed) - content, frozenset(values.get("other_words", ()))


def _slips(word: str, other: str, most: int) -> bool:
    """Whether ``most`` slips of the fingers (a letter too many, missing, wrong, or two swapped) lead to ``other``."""
    if abs(len(word) - len(other)) > most or word[0] != other[0]:
        return False
    before, row = None, list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        last, row = row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if before is not None and j > 1 and letter == other[j - 2] and word[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = last
    return row[-1] <= most


def _is_slip(word: str, known) -> bool:
    if len(word) < 4:  # one letter missing: "fve" for "five"
        return len(word) == 3 and any(len(other) == 4 and _slips(word, other, 1) for other in known)
    most = 1 if len(word) < 7 else 2
    return any(len(other) > 2 and _slips(word, other, most) for other in known)


def _unknown_run(run: str, known: frozenset[str]) -> list[str]:
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
    content, passed, others = _word_lists(str(folder))
    known, found = content | passed, []
    for word in words_of(text):
        plain = normal_form(word)
        if _EAST.search(plain):
            found += _unknown_run(plain, known)
        elif plain not in known and (plain in others or not _is_slip(plain, content if len(plain) < 5 else known)):
            found.append(word)  # four letters lie near too many little words
    return list(dict.fromkeys(found))


def knows_any(text: str, folder: str | Path = VLM_FOLDER) -> bool:
    """Whether a text holds a word of what the miniature draws: a shape, colour, size, texture, place or change."""
    content, _, others = _word_lists(str(folder))
    plain = normal_form(text)
    return any(
        (bool(_EAST.search(word)) and any(known in word for known in content))
        or word in content
        or (word not in others and _is_slip(word, content))
        for word in words_of(plain)
    )
