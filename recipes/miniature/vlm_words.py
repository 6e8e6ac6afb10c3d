"""Teaches the miniature VLM what a newcomer types: ``python -m recipes.miniature.vlm_words --out DIR --steps N``.

The third stage, from a folder of frozen weights.  Words of six languages become tokens that start with the meaning of
an English word; prompts and edits of :mod:`.newcomers` and :mod:`.newcomer_edits` are mixed with those of before.  The
states of the answer and of the pictures are held where the frozen VLM has them (``ANCHOR``), so that a diffusion
transformer trained on the frozen one goes on drawing.

Held-out combinations of shape, colour and texture are held out from pictures alone here: a rewrite that may not say "red
solid circle" would answer "red circle" with a dotted one. The drawing model never sees them drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unifusion.hidden_states import GENERATED
from unifusion.miniature import VLM_FOLDER, VLMConfig
from unifusion.training.optimizer import MuonAdamW

from .captions import PromptSpec, caption, keeps_attributes, parse_caption
from .chats import Chat, ChatTokenizer
from .frozen_vlm import FrozenVLM, load_vlm, save_vlm
from .languages import Item
from .newcomer_edits import newcomer_edit
from .newcomers import AREAS, Part, Wish, newcomer_prompt, realise
from .vlm_decode import evaluate, generate, held_out_examples
from .vlm_model import Qwen3VL
from .vlm_tasks import (
    _draw,
    _labels,
    _system,
    caption_example,
    described_edit_example,
    edit_example,
    rewrite_example,
    three_pictures_example,
    tiles_example,
    two_pictures_example,
)
from .vlm_train import Notes, rate
from .vocabulary import extend_tokenizer, load_tokenizer, meaning_rows
from .wordings import edit_instruction, user_prompt

ANCHOR = 0.5  # weight of the squared difference of tapped states, whose RMS is about 1
ANCHORED = 0.5  # share of the chunks that are held; the weight makes up for the rest
DEVELOPMENT_SEED = 4321


@dataclass
class Lesson:
    """A chat, and the chat over the same pictures and answer whose states the frozen VLM gives as the anchor."""

    chat: Chat
    anchor: Chat


def settled_rewrite(rng) -> Lesson:
    """A prompt of the first world; what it leaves open is chosen by the rules of :func:`~.newcomers.realise`."""
    while True:
        example = rewrite_example(rng)
        if example.spec is None:
            return Lesson(example.chat, example.chat)
        try:
            answer = caption(realise(_wish_of(example.spec), rng, held_out=True))
        except ValueError:
            continue
        chat = Chat(example.chat.instruction, [], answer, example.chat.system)
        return Lesson(chat, chat)


def _wish_of(spec: PromptSpec) -> Wish:
    areas = {frozenset(cells): name for name, cells in AREAS.items()}
    parts: list[Part] = []
    order = {stated: index for index, stated in reversed(list(enumerate(spec.things)))}
    for stated in sorted(spec.things, key=order.get):  # equal things are said together
        item = Item(stated.shape, stated.color, stated.size, stated.texture)
        cells = stated.cells or frozenset()
        parts.append(Part(item, next(iter(cells)) if len(cells) == 1 else None, areas.get(cells)))
    return Wish(parts, spec.background)


def prompt_lesson(rng) -> Lesson:
    text, scene, *_ = newcomer_prompt(rng, held_out=True)
    answer = caption(scene)
    plain = user_prompt(scene, rng)[0] if len(scene.things) < 4 else answer
    return Lesson(Chat(text, [], answer, _system(rng, "train")), Chat(plain, [], answer))


def edit_lesson(rng) -> Lesson:
    change = newcomer_edit(rng, held_out=True)
    picture, _ = _draw(change.before, rng, "train")
    answer, labels = caption(change.after), _labels(rng, 1) if rng.random() < 0.3 else ()
    plain = answer if change.edit is None else edit_instruction(change.before, change.edit, rng)
    return Lesson(
        Chat(change.text, [[picture]], answer, _system(rng, "train"), labels),
        Chat(plain, [[picture]], answer, labels=labels),
    )


def same(make):
    def lesson(rng) -> Lesson:
        chat = make(rng).chat
        return Lesson(chat, chat)

    return lesson


MIX = (
    ((prompt_lesson, 30), (settled_rewrite, 8), (same(described_edit_example), 3)),
    ((edit_lesson, 19), (same(edit_example), 7), (same(caption_example), 2)),
    ((same(two_pictures_example), 9), (same(three_pictures_example), 4), (same(tiles_example), 1)),
)


def grown(frozen: FrozenVLM, tokenizer) -> Qwen3VL:
    """The frozen model with rows for the new tokens: of the same meaning, else of the mean of the old pieces."""
    old = frozen.model
    config = VLMConfig.from_dict(old.config.to_dict() | {"vocab_size": len(tokenizer)})
    model = Qwen3VL(config)
    weights = {name: p.clone() for name, p in old.state_dict().items()}
    table, head = weights["model.embed_tokens.weight"], weights["model.lm_head.weight"]
    count, meant = len(tokenizer) - len(table), meaning_rows(tokenizer)
    words = frozen.tokenizer.tokenizer
    rows = []
    for index in range(len(table), len(tokenizer)):
        if index in meant and meant[index] < len(table):
            rows.append(table[meant[index]])
        else:
            ids = words.convert_tokens_to_ids(list(tokenizer.convert_ids_to_tokens(index)))
            rows.append(table[ids].mean(0))
    if not rows:
        model.load_state_dict(weights)
        return model
    silent = head[words.convert_tokens_to_ids("<|image_pad|>")].expand(count, -1)
    weights["model.embed_tokens.weight"] = torch.cat((table, torch.stack(rows)))
    weights["model.lm_head.weight"] = torch.cat((head, silent))
    model.load_state_dict(weights)
    return model


def make_optimizer(model: Qwen3VL, muon_lr: float, adam_lr: float) -> MuonAdamW:
    """Muon for the decoder's matrices, AdamW for the rest; the vision tower stays as it is."""
    model.visual.requires_grad_(False)
    matrices, rest = [], []
    for name, p in model.model.named_parameters():
        inner = p.ndim == 2 and not any(part in name for part in ("embed", "lm_head"))
        (matrices if inner else rest).append(p)
    return MuonAdamW(
        [
            dict(params=matrices, rule="muon", lr=muon_lr, weight_decay=0.1),
            dict(params=rest, rule="adamw", lr=adam_lr, weight_decay=0.02),
        ],
        lr=adam_lr,
        betas=(0.9, 0.98),
    )


def _states(model: Qwen3VL, tokenizer: ChatTokenizer, chats: list[Chat], whole: bool):
    batch = tokenizer.collate(chats)
    states, tapped, _ = model(
        batch.ids,
        batch.positions,
        batch.image_mask,
        batch.pictures,
        last_layer=None if whole else max(model.config.taps),
    )
    return batch, states, tapped


def _gathered(batch, tapped: list[Tensor]) -> Tensor:
    chosen = (batch.roles == GENERATED) | batch.image_mask
    return torch.stack([states[chosen].float() for states in tapped])


def chunk_loss(model, tokenizer, frozen: FrozenVLM, lessons: list[Lesson], anchored: bool, notes: Notes) -> Tensor:
    """Next-word loss of a padded chunk, and its anchor if ``anchored``."""
    batch, states, tapped = _states(model, tokenizer, [lesson.chat for lesson in lessons], whole=True)
    target = batch.roles == GENERATED
    target[torch.arange(len(target)), batch.lengths - 1] = True  # <|im_end|>
    target = target[:, 1:]
    logits = model.model.lm_head(states[:, :-1][target])
    words = batch.ids[:, 1:][target]
    loss = F.cross_entropy(logits, words)
    notes["words"].append((logits.argmax(-1) == words).float().mean().item())
    notes["loss"].append(loss.item())
    if not anchored:
        return loss
    with torch.no_grad():
        twin, _, wanted = _states(frozen.model, frozen.tokenizer, [lesson.anchor for lesson in lessons], whole=False)
    drift = (_gathered(batch, tapped) - _gathered(twin, wanted)).square().mean((1, 2))
    for tap, value in zip(model.config.taps, drift.tolist()):
        notes[f"drift {tap}"].append(value)
    return loss + ANCHOR / ANCHORED * drift.mean()


def train_step(model, tokenizer, frozen, rng, notes) -> None:
    chunks = []
    for group in MIX:
        lessons = [make(rng) for make, count in group for _ in range(count)]
        lessons.sort(key=lambda lesson: (len(lesson.chat.pictures), len(tokenizer(lesson.chat)[0])))
        middle = len(lessons) // 2 if len(lessons) > 12 else len(lessons)
        chunks += [part for part in (lessons[:middle], lessons[middle:]) if part]
    total = sum(map(len, chunks))
    for chunk in chunks:
        (chunk_loss(model, tokenizer, frozen, chunk, rng.random() < ANCHORED, notes) * len(chunk) / total).backward()


def development(count: int, seed: int = DEVELOPMENT_SEED):
    """(chat, whether an answer is right, kind) of newcomers' prompts and edits that training never draws."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        text, _, spec, kind, key = newcomer_prompt(rng, held_out=True)
        items.append((Chat(text), lambda scene, spec=spec: keeps_attributes(spec, scene), kind, key))
    for _ in range(count // 2):
        change = newcomer_edit(rng, held_out=True)
        picture, _ = _draw(change.before, rng, "test")
        right = lambda scene, after=change.after: scene == after
        items.append((Chat(change.text, [[picture]]), right, f"edit {change.kind}", change.language))
    return items


def develop(model, tokenizer, count: int) -> dict[str, str]:
    """Right answers by kind and by language."""
    counts: dict[str, list[int]] = {}
    items = development(count)
    for start in range(0, len(items), 50):
        part = items[start : start + 50]
        for pictures in (False, True):
            some = [item for item in part if bool(item[0].pictures) == pictures]
            if not some:
                continue
            answers = generate(model, tokenizer, [item[0] for item in some], max_answer=60)
            for (_, right, kind, key), answer in zip(some, answers):
                scene = parse_caption(answer)
                good = scene is not None and right(scene)
                for name in (kind, f"{'edits' if pictures else 'prompts'} {key}", "edits" if pictures else "prompts"):
                    counts.setdefault(name, [0, 0])
                    counts[name][0] += good
                    counts[name][1] += 1
    return {name: f"{right}/{all_}" for name, (right, all_) in sorted(counts.items())}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--source", type=Path, default=VLM_FOLDER, help="folder of frozen weights; words that it has stay"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most so long")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--muon-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--evaluate-every", type=int, default=150)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    frozen = load_vlm(args.source)
    words = args.out / "tokenizer"
    if not words.exists():
        extend_tokenizer(args.source, words)
    tokenizer = ChatTokenizer(load_tokenizer(words))
    model = grown(frozen, tokenizer.tokenizer)
    plain = Qwen3VL(model.config)
    if args.compile:
        for layer in model.model.layers:
            layer.compile(dynamic=True)
    optimizer = make_optimizer(model, args.muon_lr, args.adam_lr)
    peaks = [group["lr"] for group in optimizer.param_groups]
    step, checkpoint = 0, args.out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]

    def log(**values) -> None:
        with open(args.out / "log.jsonl", "a") as file:
            file.write(json.dumps(dict(step=step, **values)) + "\n")
        print(step, values, flush=True)

    def keep() -> None:
        state = dict(
            model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, config=model.config.to_dict()
        )
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        plain.load_state_dict(model.state_dict())
        (args.out / "vlm").mkdir(exist_ok=True)
        save_vlm(plain, args.out / "vlm", words)

    started, notes = time.monotonic(), Notes()
    while step < args.steps and time.monotonic() - started < 60 * args.minutes:
        spent = (time.monotonic() - started) / 60 / args.minutes  # the rate falls in time for whichever end comes first
        factor = rate(max(step, round(spent * args.steps)), args.steps)
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * factor
        optimizer.zero_grad(set_to_none=True)
        train_step(model, tokenizer, frozen, np.random.default_rng((args.seed, step, 3)), notes)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        step += 1
        if step % 25 == 0:
            log(minutes=round((time.monotonic() - started) / 60, 2), **notes.means())
            notes.clear()
        if step % 50 == 0:
            keep()
        if step % args.evaluate_every == 0 or step == args.steps:
            plain.load_state_dict(model.state_dict())
            log(newcomers=develop(plain, tokenizer, 160))
            held = evaluate(plain, tokenizer, held_out_examples(40))
            log(before={name: f"{right}/{count}" for name, (right, count) in held.items() if " " not in name})
    keep()


if __name__ == "__main__":
    main()
