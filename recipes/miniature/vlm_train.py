"""Trains the miniature VLM: ``python -m recipes.miniature.vlm_train --out DIR --steps N [--minutes M] [--resume]``.

Deterministic by ``--seed``: every step draws its examples from its own number.  All tasks are mixed in every step.
The vision tower first learns alone, by its heads, for ``--warm-up`` steps; captioning is then learned much faster.
The learning rate is constant and falls linearly over the last 30% of ``--steps``.

``--refine CHECKPOINT`` is the second stage: captions are learned by then, so rewriting, edits and pairs get most of a
step, at a lower rate.  The heads are frozen, which keeps every attribute readable along the same directions of the
states, so that a diffusion transformer trained before this stage goes on with the new states.  A folder of frozen
weights, which has no heads, can be refined as well: new ones are fitted to its states first.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from unifusion.hidden_states import GENERATED
from unifusion.miniature import IMAGE_TOKENS, VLMConfig
from unifusion.training.learning_rate import factor
from unifusion.training.optimizer import MuonAdamW

from .chats import ChatTokenizer
from .frozen_vlm import copy_tokenizer, load_vlm
from .render import render, sample_jitter
from .scene import sample_scene
from .vlm_decode import evaluate, held_out_examples
from .vlm_heads import Heads, picture_labels, text_labels
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
from .vocabulary import build_tokenizer, load_tokenizer

# Examples of a step, in groups of similar length that pass the model together.
MIX = (
    ((rewrite_example, 20), (described_edit_example, 8)),
    ((caption_example, 12), (edit_example, 20)),
    ((two_pictures_example, 6), (tiles_example, 2)),
)
REFINE_MIX = (
    ((rewrite_example, 28), (described_edit_example, 8)),
    ((caption_example, 4), (edit_example, 24)),
    ((two_pictures_example, 18), (tiles_example, 2)),
)
FIT_STEPS, FIT_RATE = 150, 1e-2  # of new heads to frozen states
REFINE_RATE = 0.6  # of the first stage's learning rates
PICTURES_IN_WARM_UP = 64
TEXT_HEAD, PICTURE_HEAD, TOWER_HEAD, SCALE = 0.5, 0.3, 0.1, 0.02  # weights beside the next-word loss


def parse_arguments(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop with a checkpoint after so long")
    parser.add_argument("--stop-at", type=int, help="stop with a checkpoint at this step")
    parser.add_argument("--warm-up", type=int, default=400, help="steps of the vision tower alone")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--refine",
        type=Path,
        metavar="CHECKPOINT",
        help="second stage, from a finished first one or from a folder of frozen weights",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the layers: minutes first, 1.8x faster then")
    parser.add_argument("--scale-batch", type=int, default=1, help="times the examples of a step, for a GPU")
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--evaluate-every", type=int, default=150)
    parser.add_argument("--evaluate-count", type=int, default=60)
    return parser.parse_args(arguments)


def rate(step: int, steps: int) -> float:
    """Factor of the learning rate in the stages of the VLM."""
    return factor(step, steps, warmup=40, decay=0.3, floor=0.02)


def make_optimizer(model: Qwen3VL, heads: Heads, muon_lr: float, adam_lr: float) -> MuonAdamW:
    matrices, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim == 2 and not any(part in name for part in ("embed", "lm_head"))
        (matrices if inner else rest).append(p)
    return MuonAdamW(
        [
            dict(params=matrices, rule="muon", lr=muon_lr, weight_decay=0.1),
            dict(params=rest, rule="adamw", lr=adam_lr, weight_decay=0.05),
            dict(params=list(heads.parameters()), rule="adamw", lr=adam_lr, weight_decay=0.01),
        ],
        lr=adam_lr,
        betas=(0.9, 0.98),
    )


def stack_picture_labels(views, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = [picture_labels(scene, jitter) for scene, jitter in views]
    classes, offsets, backgrounds = zip(*labels)
    return (
        torch.from_numpy(np.stack(classes)).to(device),
        torch.from_numpy(np.stack(offsets)).to(device),
        torch.tensor(backgrounds, device=device),
    )


def head_losses(heads: Heads, examples: list[Example], tapped, merged, generated, image_mask, notes: dict):
    """Weighted losses of all heads and of the scale of the states (towards RMS 1 at every tap)."""
    device, loss = generated.device, 0.0
    labels = torch.from_numpy(np.concatenate([text_labels(example.scene) for example in examples])).to(device)
    for index, (states, head) in enumerate(zip(tapped, heads.text)):
        head_loss, right = head(states[generated], labels)
        loss = loss + TEXT_HEAD * head_loss / len(tapped)
        loss = loss + SCALE * states[generated].float().square().mean(-1).log().square().mean()
        for name, hits in right.items():
            notes[f"text {name} tap{index}"].append(hits.float().mean().item())
    views = [view for example in examples for view in example.views]
    if not views:
        return loss
    shown = torch.tensor([view is not None for view in views], device=device)
    truth = stack_picture_labels([view for view in views if view is not None], device)
    for index, (states, head) in enumerate(zip(tapped, heads.picture)):
        head_loss, right = head(states[image_mask].unflatten(0, (-1, IMAGE_TOKENS))[shown], *truth)
        loss = loss + PICTURE_HEAD * head_loss / len(tapped)
        loss = loss + SCALE * states[image_mask].float().square().mean(-1).log().square().mean()
        for name, hits in right.items():
            notes[f"picture {name} tap{index}"].append(hits.float().mean().item())
    return loss + TOWER_HEAD * heads.tower(merged[shown], *truth)[0]


def chunk_loss(model: Qwen3VL, heads: Heads, tokenizer: ChatTokenizer, examples: list[Example], notes: dict):
    """Of one padded chunk: summed next-word loss, number of words predicted, loss of the heads."""
    device = model.model.embed_tokens.weight.device
    batch = tokenizer.collate([example.chat for example in examples])
    pictures = None if batch.pictures is None else batch.pictures.to(device)
    ids, mask = batch.ids.to(device), batch.image_mask.to(device)
    generated = (batch.roles == GENERATED).to(device)
    target = generated.clone()
    target[torch.arange(len(ids)), batch.lengths - 1] = True  # <|im_end|>
    target = target[:, 1:]
    with torch.autocast(device.type, torch.bfloat16):
        states, tapped, merged = model(ids, batch.positions.to(device), mask, pictures)
        logits = model.model.lm_head(states[:, :-1][target]).float()
    words = ids[:, 1:][target]
    notes["words"].append((logits.argmax(-1) == words).float().mean().item())
    extra = head_losses(heads, examples, tapped, merged, generated, mask, notes)
    return F.cross_entropy(logits, words, reduction="sum"), len(words), extra


def train_step(model, heads, tokenizer, rng, mix, scale: int, notes: dict) -> float:
    """Gradients of one step; a group of examples is sorted by length and passes in two chunks to pad less."""
    chunks = []
    for group in mix:
        examples = [make(rng) for make, count in group for _ in range(count * scale)]
        examples.sort(key=lambda e: (sum(map(len, e.chat.pictures)), len(e.chat.instruction) + len(e.chat.answer)))
        middle = len(examples) // 2 if len(examples) > 8 else len(examples)
        chunks += [part for part in (examples[:middle], examples[middle:]) if part]
    total = sum(len(chunk) for chunk in chunks)
    value = 0.0
    for chunk in chunks:
        loss, words, extra = chunk_loss(model, heads, tokenizer, chunk, notes)
        share = len(chunk) / total
        ((loss / words + extra) * share).backward()
        value += loss.item() / words * share
    return value


def warm_up_step(model, heads, rng, count: int, notes: dict) -> float:
    device = model.model.embed_tokens.weight.device
    views = [(sample_scene(rng), sample_jitter(rng)) for _ in range(count)]
    pictures = torch.from_numpy(np.stack([render(scene, jitter=jitter) for scene, jitter in views])).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        merged, deep = model.visual(pictures)
    truth = stack_picture_labels(views, device)
    loss, right = heads.tower(merged, *truth)
    for name, hits in right.items():
        notes[f"tower {name}"].append(hits.float().mean().item())
    for states, head in zip(deep, heads.picture):  # borrowed: DeepStack's levels learn to read as well
        loss = loss + 0.3 * head(states, *truth)[0]
    loss.backward()
    return loss.item()


class Notes(dict):
    def __missing__(self, key):
        self[key] = []
        return self[key]

    def means(self) -> dict[str, float]:
        return {key: round(sum(values) / len(values), 3) for key, values in self.items() if values}


def fit_heads(model, heads, tokenizer, seed: int, steps: int, mix) -> dict[str, float]:
    """Fit linear heads to the states of a model that does not change and needs no gradients afterwards.

    Returns:
        Mean losses and shares of right answers by head, over the last fifth of the steps.
    """
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=FIT_RATE)
    early, late = Notes(), Notes()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = FIT_RATE * rate(step, steps)
        optimizer.zero_grad()
        train_step(
            model,
            heads,
            tokenizer,
            np.random.default_rng((seed, step, 2)),
            mix,
            1,
            late if step >= int(0.8 * steps) else early,
        )
        optimizer.step()
    return late.means()


def main(arguments=None) -> None:
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    words = args.out / "tokenizer"
    frozen = args.refine is not None and args.refine.is_dir()
    if args.refine:
        copy_tokenizer(args.refine if frozen else args.refine.parent / "tokenizer", words)
    elif not words.exists():
        build_tokenizer(words)
    tokenizer = ChatTokenizer(load_tokenizer(words))
    model = Qwen3VL(VLMConfig(vocab_size=len(tokenizer.tokenizer)))
    model.initialise()
    heads = Heads(model.config)
    if frozen:
        model.load_state_dict(load_vlm(args.refine).model.state_dict())
    elif args.refine:
        saved = torch.load(args.refine, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
    model.to(args.device)
    heads.to(args.device)
    plain = Qwen3VL(model.config).to(args.device)  # for decoding, whose shapes would be compiled again and again
    if args.compile:
        for layer in (*model.model.layers, *model.visual.blocks):
            layer.compile(dynamic=True)
    share = REFINE_RATE if args.refine else 1.0
    optimizer = make_optimizer(model, heads, share * args.muon_lr, share * args.adam_lr)
    peaks = [group["lr"] for group in optimizer.param_groups]
    step, checkpoint = 0, args.out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    elif frozen:
        plain.load_state_dict(model.state_dict())
        fitted = fit_heads(plain, heads, tokenizer, args.seed, FIT_STEPS, REFINE_MIX)
        print("heads fitted to the frozen states:", fitted, flush=True)
    heads.requires_grad_(not args.refine)

    def save() -> None:
        state = dict(
            model=model.state_dict(),
            heads=heads.state_dict(),
            optimizer=optimizer.state_dict(),
            step=step,
            config=model.config.to_dict(),
        )
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    def log(**values) -> None:
        with open(args.out / "log.jsonl", "a") as file:
            file.write(json.dumps(dict(step=step, **values)) + "\n")
        print(step, values, flush=True)

    started, notes = time.monotonic(), Notes()
    last = args.steps if args.stop_at is None else min(args.steps, args.stop_at)
    while step < last and time.monotonic() - started < 60 * args.minutes:
        rng = np.random.default_rng((args.seed, step, 1) if args.refine else (args.seed, step))
        now = rate(step, args.steps)
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * now
        optimizer.zero_grad(set_to_none=True)
        if step < args.warm_up and not args.refine:
            loss = warm_up_step(model, heads, rng, PICTURES_IN_WARM_UP * args.scale_batch, notes)
        else:
            loss = train_step(model, heads, tokenizer, rng, REFINE_MIX if args.refine else MIX, args.scale_batch, notes)
        trained = [p for p in (*model.parameters(), *heads.parameters()) if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        notes["loss"].append(loss)
        step += 1
        if step % args.log_every == 0:
            log(minutes=round((time.monotonic() - started) / 60, 2), **notes.means())
            notes.clear()
        if step % args.save_every == 0:
            save()
        if (step > args.warm_up or args.refine) and (step % args.evaluate_every == 0 or step == args.steps):
            plain.load_state_dict(model.state_dict())
            scores = evaluate(plain, tokenizer, held_out_examples(args.evaluate_count))
            log(scores={name: f"{right}/{count}" for name, (right, count) in scores.items()})
    save()


if __name__ == "__main__":
    main()
