"""VLM Encode and VERIFI on models without pooling inside, beside ComfyUI's own nodes with the same encoder.

Encoders in ComfyUI's own classes with random weights, all their layers, wide enough that matrix products take the time.
"""

from __future__ import annotations

import itertools
from unittest import mock

from .host import pack
from .measure import Figure, figure, interleaved

SIZES = dict(hidden_size=256, intermediate_size=1024, num_attention_heads=4, num_key_value_heads=2)
ENCODERS = ("flux2-klein-4b", "z-image", "qwen-image", "ideogram4-lm")
WRITERS = ("flux2-klein-4b", "z-image")
STOCK, WRITE = "ComfyUI's CLIPTextEncode", "ComfyUI's TextGenerate, then CLIPTextEncode"
SETTINGS = dict(temperature=0.7, top_p=0.95, top_k=64, min_p=0.05, repetition_penalty=1.05)  # TextGenerate's own
WORDS = 32


def figures(quick: bool = False) -> list[Figure]:
    """Encoding on four models, writing on two."""
    pack("unifusion.profiles")
    from harness import tapped_models

    with mock.patch.dict(tapped_models.SMALL, SIZES), mock.patch.dict(tapped_models.LANGUAGE, SIZES):
        clips = {key: tapped_models.make_encoder(key) for key in ENCODERS}
    lines = [_encoded(key, clips[key], words) for key in ENCODERS for words in ((24,) if quick else (24, 120))]
    return lines + [_written(key, clips[key]) for key in WRITERS]


def _title(key: str) -> str:
    return pack("unifusion.profiles").PROFILES[key.removesuffix("-lm")].title


def _encoded(key: str, clip, words: int) -> Figure:
    """A prompt that is new at every call, since the pack keeps what it has read."""
    encode, number = pack("unifusion.comfy_bridge.actions.encode").run, itertools.count()

    def prompt() -> str:
        return "a red fox in snow " * (words // 5) + f"{next(number):04}"

    def stock():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt()))

    times = interleaved({"ours": lambda: encode(clip, prompt()), "stock": stock}, 5)
    return figure(f"{_title(key)}: encode {words} words", STOCK, list(zip(times["ours"], times["stock"])))


def _written(key: str, clip) -> Figure:
    """From a terse prompt to conditioning: in the pass that writes, or written and then encoded."""
    rewrite, number = pack("unifusion.comfy_bridge.actions.rewrite"), itertools.count()
    row = pack("unifusion.profiles").PROFILES[key]
    system = pack("unifusion.system_prompts").SYSTEM_PROMPTS[row.rewrite_system]
    chat, name = pack("unifusion.messages").chat, clip.cond_stage_model.clip
    vlm = rewrite.VLM(clip)

    def prompt() -> str:
        return f"a red fox in snow {next(number):04}"

    def ours():
        sampling = {"sampling": "sample", **SETTINGS}
        report = rewrite.run(clip, prompt(), sampling=sampling, seed=3, max_length=WORDS, min_length=WORDS)[-1]
        if "once more" in report or "Warning" in report:
            raise RuntimeError(f"The text of random weights was written twice; choose another seed: {report}")

    def stock():
        segments = chat(system, prompt(), template=row.writing_chat)
        asked = {name: [[(token, 1.0) for token in vlm.tokenize(segments, opener=row.writing_chat.opener).ids]]}
        ids = clip.generate(asked, do_sample=True, max_length=WORDS, seed=3, **SETTINGS)
        clip.encode_from_tokens_scheduled(clip.tokenize(clip.decode(ids)))

    times = interleaved({"ours": ours, "stock": stock}, 3)
    name = f"{row.title}: VERIFI to hidden states, {WORDS} tokens"
    return figure(name, WRITE, list(zip(times["ours"], times["stock"])))
