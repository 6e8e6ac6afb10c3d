"""Greedy decoding of the miniature VLM for whole batches, and its scores on held-out scenes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from .captions import keeps_attributes, parse_caption
from .chats import ChatTokenizer
from .scene import EDIT_KINDS
from .vlm_model import Qwen3VL
from .vlm_tasks import (
    Example,
    caption_example,
    described_edit_example,
    edit_example,
    rewrite_example,
    tiles_example,
    two_pictures_example,
)

MAX_ANSWER = 44  # tokens; the longest caption has 36


@torch.inference_mode()
def generate_ids(model: Qwen3VL, tokenizer: ChatTokenizer, chats, max_answer: int = MAX_ANSWER) -> list[list[int]]:
    """Token ids of the most likely answers to chats, without the end token (their own answers are ignored)."""
    config, device = model.config, model.model.embed_tokens.weight.device
    batch = tokenizer.collate(
        [type(chat)(chat.instruction, chat.pictures, None, chat.system, chat.labels) for chat in chats]
    )
    count, prompt = batch.ids.shape
    room = prompt + max_answer
    shape = (count, config.num_key_value_heads, room, config.head_dim)
    cache = [(torch.zeros(shape, device=device), torch.zeros(shape, device=device)) for _ in model.model.layers]
    columns = torch.arange(room, device=device)
    places = torch.arange(prompt, device=device).expand(count, -1)
    visible = (columns <= places[..., None])[:, None]
    pictures = None if batch.pictures is None else batch.pictures.to(device)
    lengths, positions = batch.lengths.to(device), batch.positions.to(device)
    states, _, _ = model(batch.ids.to(device), positions, batch.image_mask.to(device), pictures, cache, places, visible)
    rows = torch.arange(count, device=device)
    state, position = states[rows, lengths - 1], positions[:, rows, lengths - 1] + 1
    answers, done = [], torch.zeros(count, dtype=torch.bool, device=device)
    no_image = torch.zeros(count, 1, dtype=torch.bool, device=device)
    for step in range(max_answer):
        token = model.model.lm_head(state).argmax(-1)
        done |= token == tokenizer.end
        answers.append(torch.where(done, tokenizer.pad, token))
        if done.all():
            break
        places = (lengths + step)[:, None]
        visible = (columns <= places[..., None])[:, None]
        states, _, _ = model(token[:, None], position[..., None], no_image, None, cache, places, visible)
        state, position = states[:, 0], position + 1
    return [[i for i in row if i != tokenizer.pad] for row in torch.stack(answers, 1).tolist()]


def generate(model: Qwen3VL, tokenizer: ChatTokenizer, chats, max_answer: int = MAX_ANSWER) -> list[str]:
    """The most likely answers to chats, as text."""
    return [tokenizer.tokenizer.decode(ids) for ids in generate_ids(model, tokenizer, chats, max_answer)]


def held_out_examples(count: int, seed: int = 1234) -> list[Example]:
    """``count`` captions, ``count`` rewritings, ``count`` edits (kinds in turn), and half as many of the rest.

    All of scenes with combinations that training never shows, all in wordings that training never uses.
    """
    rng = np.random.default_rng(seed)
    examples = [caption_example(rng, "test") for _ in range(count)]
    examples += [rewrite_example(rng, "test") for _ in range(count)]
    examples += [edit_example(rng, "test", EDIT_KINDS[i % len(EDIT_KINDS)]) for i in range(count)]
    examples += [described_edit_example(rng, "test", EDIT_KINDS[i % len(EDIT_KINDS)]) for i in range(count // 2)]
    examples += [two_pictures_example(rng, "test") for _ in range(count // 2)]
    return examples + [tiles_example(rng, "test") for _ in range(count // 4)]


def is_right(example: Example, answer: str) -> bool:
    """Whether an answer says exactly the scene; for a rewriting, whether it keeps everything stated."""
    scene = parse_caption(answer)
    if scene is None:
        return False
    return keeps_attributes(example.spec, scene) if example.kind == "rewrite" else scene == example.scene


def evaluate(
    model: Qwen3VL, tokenizer: ChatTokenizer, examples: list[Example], batch: int = 50
) -> dict[str, tuple[int, int]]:
    """(right, all) by kind of task, and for edits, captions and rewritings as wholes."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    order = sorted(range(len(examples)), key=lambda i: sum(map(len, examples[i].chat.pictures)))
    for start in range(0, len(order), batch):
        part = [examples[i] for i in order[start : start + batch]]
        for example, answer in zip(part, generate(model, tokenizer, [example.chat for example in part])):
            for name in {example.kind, example.kind.split()[0]}:
                counts[name][0] += is_right(example, answer)
                counts[name][1] += 1
    return {name: tuple(count) for name, count in sorted(counts.items())}
