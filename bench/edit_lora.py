"""``python -m bench.edit_lora --out DIR``: a LoRA that teaches the miniature to edit from a picture and an instruction alone.

The bundled model was trained to edit from what the VLM writes about the result. Here the instruction itself conditions, beside
the picture's tokens (VLM Encode without VERIFI), which it never learned. A LoRA is trained on pairs through the command that
everyone uses; the picture goes through the VLM and nowhere else. Held-out scenes are scored before and after. Started again,
it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.miniature import scene as world
from recipes.miniature.dit_score import wilson
from recipes.miniature.render import render, sample_jitter
from recipes.miniature.scorer import read_scene
from recipes.miniature.vae_train import to_pictures
from recipes.miniature.wordings import edit_instruction
from unifusion.training import runs
from unifusion.training.__main__ import main as train
from unifusion.training.config import Config, load
from unifusion.training.encode_once import load_vae, vae_file
from unifusion.training.euler import sample
from unifusion.training.frozen_encoder import condition, prepare
from unifusion.training.models import build
from unifusion.training.trainer import generator_for

KINDS = ("recolour", "background")
TEXT = """out = "run"
device = "cpu"
threads = 1
[model]
start = "bundled"
[train]
what = "lora"
rank = {rank}
pooling = true
[data]
reconstruct = 0.03
unconditional = 0.08
heldout = 16
[[data.sources]]
kind = "pairs"
path = "pairs"
[schedule]
steps = {steps}
batch = 4
levels = 2
lr = 3e-3
warmup = 10
level_mean = 0.6
[watch]
log_every = 10
keep_every = 50
look_every = 100
"""


def drawn(rng: np.random.Generator, held_out: bool, split: str):
    """(scene before, scene after, instruction, the drawing's slight shifts)."""
    scene, jitter = world.sample_scene(rng, held_out=held_out), sample_jitter(rng)
    edit = world.sample_edit(rng, scene, str(rng.choice(KINDS)), held_out=None if held_out else False)
    return scene, edit.apply(scene), edit_instruction(scene, edit, rng, split), jitter


def write_pairs(whole: Path, count: int) -> None:
    """``target/``, ``control/`` and instructions of training scenes and wordings; there when all of them are."""
    rng = np.random.default_rng(0)
    folder = whole.with_name(f"{whole.name}.unfinished")
    for side in ("target", "control"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        before, after, words, jitter = drawn(rng, False, "train")
        Image.fromarray(render(before, jitter=jitter)).save(folder / "control" / f"{index}.png")
        Image.fromarray(render(after, jitter=jitter)).save(folder / "target" / f"{index}.png")
        (folder / "target" / f"{index}.txt").write_text(words)
    folder.rename(whole)


class Scores:
    """One line for each scene that was scored, so that a stopped run goes on behind the last.

    Args:
        folder: where they are kept.
        of: the file that is scored, by its content; None for the model as it is.
    """

    def __init__(self, folder: Path, of: Path | None):
        self.path = (
            folder / f"scored_{'before' if of is None else hashlib.sha256(of.read_bytes()).hexdigest()[:12]}.jsonl"
        )
        text = self.path.read_text() if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # the last line may have been torn
        self.path.write_text(whole)
        self.rows: list[dict[str, bool]] = list(map(json.loads, whole.splitlines()))

    def add(self, row: dict[str, bool]) -> None:
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def total(self, count: int) -> dict[str, int]:
        """How many of the first ``count`` scenes."""
        return {name: sum(row[name] for row in self.rows[:count]) for name in self.rows[0]}


@torch.no_grad()
def score(config: Config, lora: Path | None, count: int, kept: Path) -> dict[str, int]:
    """Held-out scenes and wordings: how many edits are made, how many of these leave the rest as it was.

    Args:
        lora: the trained file, or None for the model as it is.
        kept: folder of the scenes that are scored already.
    """
    scores = Scores(kept, lora)
    run = runs.prepare(config, say=lambda _: None)
    encoder, contract = run.encoder, run.contract
    dit = build(config, contract)
    if lora is not None:
        from safetensors.torch import load_file

        tensors = load_file(lora)
        own = {name: p for name, p in dit.named_parameters() if ".lora_" in name}
        for name, p in own.items():
            p.copy_(tensors[f"diffusion_model.{name}.weight"].float())
    vae, rng = load_vae(vae_file(config)), np.random.default_rng(99)
    empty = condition(encoder, contract.profile, contract.taps, "").states
    for index in range(count):
        before, after, words, jitter = drawn(rng, True, "test")
        if index < len(scores.rows):
            continue
        picture = torch.from_numpy(render(before, jitter=jitter))[None].float() / 255
        shown = prepare(encoder, contract.profile, [picture])
        hidden = condition(encoder, contract.profile, contract.taps, words, shown)
        noise = torch.randn(1, 16, 16, 16, generator=generator_for(5, index))
        latent = sample(dit, noise, hidden.states, None, empty, steps=12, guidance=2.0)
        seen = read_scene(to_pictures(vae.decode(latent))[0])
        changed = [(a, b) for a, b in zip(before.things, after.things) if a != b]
        if changed:
            made = all(any((t.cell, t.color) == (b.cell, b.color) for t in seen.things) for _, b in changed)
        else:
            made = seen.background == after.background
        scores.add({"made": bool(made), "made and rest kept": bool(seen == after)})
    return scores.total(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=800)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--count", type=int, default=100, help="held-out scenes to score")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "pairs").exists():
        write_pairs(given.out / "pairs", given.pairs)
    path = given.out / "config.toml"
    path.write_text(TEXT.format(steps=given.steps, rank=given.rank))
    if train(["run", str(path)]):
        raise SystemExit(1)
    config = load(path)
    results = {
        when: score(config, lora, given.count, given.out)
        for when, lora in (("before", None), ("after", given.out / "run/lora.safetensors"))
    }
    (given.out / "scores.json").write_text(json.dumps({"count": given.count, **results}, indent=2))
    print("| edits of held-out scenes | before | after |\n|---|---|---|")
    for name in results["before"]:
        cells = []
        for when in results.values():
            low, high = wilson(when[name], given.count)
            cells.append(f"{when[name]}/{given.count} [{100 * low:.0f}, {100 * high:.0f}]%")
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
