"""The miniature's tokenizer: Qwen's byte-level BPE over a small vocabulary.

Any text can be tokenised; every word of the miniature's world is one token, with a leading space and at the
start of a text.  The files are read by transformers' ``Qwen2Tokenizer``, as ComfyUI reads Qwen's own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from unifusion.miniature_words import load_words, normal_form, words_of
from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

from .captions import CAPTION_SYSTEM, caption
from .known_words import word_lists
from .languages import meanings
from .scene import sample_composition, sample_edit, sample_scene
from .wordings import (
    SHAPE_WORDS,
    caption_request,
    described_edit,
    edit_instruction,
    plural,
    two_picture_instruction,
    user_prompt,
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# Qwen's own splitting rule, so that a word never merges with what stands before it but one space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
OTHER_SYSTEMS = (
    "describe the picture .",
    "You are a helpful assistant.",
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:",
)
CHAT_WORDS = "system user assistant Image Picture image picture"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def _world_texts() -> list[str]:
    """Sentences in which every word of the world occurs, in both splits (wordings of tests must be readable)."""
    rng = np.random.default_rng(0)
    texts = [VERIFI_SYSTEM, CAPTION_SYSTEM, *OTHER_SYSTEMS, CHAT_WORDS]
    texts += [f"{noun} {plural(noun)}" for nouns in SHAPE_WORDS.values() for noun in nouns]
    for index in range(6000):
        split = ("train", "test")[index % 2]
        first, second = sample_scene(rng), sample_scene(rng)
        edit = sample_edit(rng, first)
        instruction = edit_instruction(first, edit, rng, split)
        texts += [
            caption(first),
            user_prompt(first, rng, split)[0],
            instruction,
            described_edit(first, instruction, rng),
            two_picture_instruction(first, second, sample_composition(rng, first, second), rng, split),
            caption_request(rng, split),
        ]
    return texts


def build_tokenizer(folder: str | Path) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json of the first world's English to ``folder``.

    BPE is trained to exhaustion on the world's words (alone, with a leading space, capitalised), which makes each
    of them one token and shares the pieces that unknown words then fall into.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    words = sorted({word for text in _world_texts() for word in words_of(text)})
    plain = sorted({word.lower() for word in words})
    forms = [form for word in plain for form in (" " + word, word, word.capitalize())]
    forms += [" " + word for word in words if word != word.lower()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(forms, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    first = len(model["vocab"])
    added = {
        str(first + index): dict(
            content=token, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True
        )
        for index, token in enumerate(SPECIAL_TOKENS)
    }
    config = dict(
        tokenizer_class="Qwen2Tokenizer",
        add_prefix_space=False,
        added_tokens_decoder=added,
        bos_token=None,
        clean_up_tokenization_spaces=False,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        errors="replace",
        model_max_length=131072,
        split_special_tokens=False,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        world_words=plain,
    )
    write_word_lists(folder, config)


# Rarer words stay in pieces: the bundled weights are to stay below 40 MB together.
IN_PIECES = re.compile(
    "(knallrot|getupft|einfach|minuscul|diminut|rosad|punteado|punteada|pointill|purpur|celeste|uniform|quadrate|mauves|"
    "reddish|greenish|yellowish|bluish|dotty|lined|lila|medialuna|kasten|reif|pluszeichen|kugel|crepe|azure).*"
)


def _new_words() -> list[str]:
    """Words of the six languages in normal form, in the order of :func:`~.languages.meanings`, each once."""
    words = dict.fromkeys(normal_form(word) for word, _ in meanings())
    return [word for word in words if not IN_PIECES.fullmatch(word)]


def extend_tokenizer(source: str | Path, folder: str | Path) -> None:
    """Gives a tokenizer the words of :func:`~.languages.meanings` as tokens; every id it has stays.

    The control tokens keep their ids in between.  Pieces that only lead to a new word become tokens, too.  The new
    merges rank behind the old ones, so that a text of old words is split as it was.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    source, folder = Path(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocab = json.loads((source / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (source / "merges.txt").read_text().splitlines()[1:] if line]
    config = json.loads((source / "tokenizer_config.json").read_text())
    vocab |= {token["content"]: int(index) for index, token in config["added_tokens_decoder"].items()}
    latin = [word for word in _new_words() if word.isascii() or "ß" in word or "œ" in word]
    forms = [form for word in _new_words() for form in ((word, " " + word) if word in latin else (word,))]
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    runs = [run for form in forms for run, _ in splitter.pre_tokenize_str(form)]
    while True:  # the pair that most words need next becomes a token
        reader = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        pairs = Counter()
        for run in runs:
            pieces = reader.encode(run).tokens
            pairs.update(zip(pieces, pieces[1:]))
        if not pairs:
            break
        most = max(pairs.values())
        fresh = [pair for pair, count in pairs.items() if count == most]
        for pair in fresh if most == 1 else fresh[:1]:
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
            merges.append(pair)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    write_word_lists(folder, config)


def write_word_lists(folder: Path, config: dict) -> None:
    """Writes tokenizer_config.json with the words that reports know."""
    config |= word_lists()
    text = json.dumps(config, ensure_ascii=False, separators=(",", ":")) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def meaning_rows(tokenizer) -> dict[int, int]:
    """New token id -> id of the old word that means the same; a start for the embeddings of new words."""
    rows = {}
    for word, meaning in meanings():
        for space in ("", " "):
            new, old = (tokenizer(space + text)["input_ids"] for text in (word, meaning))
            if len(new) == len(old) == 1:
                rows.setdefault(new[0], old[0])
    return {new: old for new, old in rows.items() if new != old}


def load_tokenizer(folder: str | Path):
    """The miniature's tokenizer over the files of :func:`build_tokenizer`, as its CLIP loads it."""
    return load_words(folder)
