"""The miniature's tokenizer: Qwen's byte-level BPE over a small vocabulary.

Any text can be tokenised; every word of the miniature's world is one token, with a leading space and at the
start of a text.  The files are read by transformers' ``Qwen2Tokenizer``, as ComfyUI reads Qwen's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from unifusion.miniature import words_of
from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

from .captions import CAPTION_SYSTEM, caption
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
    """Writes vocab.json, merges.txt and tokenizer_config.json to ``folder``.

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
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def load_tokenizer(folder: str | Path):
    """transformers' Qwen2Tokenizer over the files of :func:`build_tokenizer`."""
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
