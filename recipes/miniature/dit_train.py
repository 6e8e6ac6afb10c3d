"""Train the miniature's DiT with LAP and refiner: ``python -m recipes.miniature.dit_train --out DIR``.

Needs the frozen VLM and VAE. Two processes on a CPU, or several GPUs, through torchrun or
``accelerate launch``; the settings count pictures of one process.

``--refine FILE`` goes on from finished weights, for instance after the VLM was refined: the tasks of the last stage
from the first step on, lower rates, and no heads, which are not kept with the weights.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.training.euler import sample
from unifusion.training.objective import FlowMatching
from unifusion.training.trainer import Trainer, TrainingSettings, generator_for, load_weights

from . import scene as world
from .captions import caption
from .chats import Chat
from .dit_data import EDIT_STAGE, TEXT_STAGE, TOKEN_CLASSES, Example, MiniatureSource, encode_chats
from .frozen_vlm import FrozenVLM, load_vlm
from .render import render, sample_jitter
from .scorer import read_scene, score_things
from .vae_model import StillVAE, from_wan
from .vae_train import to_pictures
from .wordings import edit_instruction, user_prompt

DIT = DiTConfig(features=256, heads=2, kvheads=1, layers=6, txtdim=240, txtlayers=4)
CONDITION_TOKENS = 58  # the caption of five things; 16 of a picture and 35 of a caption; raw prompts stay below 44
REFINE_RATE = 0.3  # of the learning rates of a training from nothing
ATTRIBUTES = ("color", "shape", "size", "texture")


@dataclass(frozen=True)
class DiTRun:
    """How the miniature's DiT is trained.

    Attributes:
        batch: conditions in a step of one process; each serves ``training.levels`` noise levels.
        edits_from: share of the run after which edits with one reference join.
        length: fixed number of condition tokens, 0 for the longest of each batch.
        start: finished weights to go on from; None trains from nothing.
    """

    training: TrainingSettings
    batch: int = 16
    edits_from: float = 0.6
    length: int = 0
    features_at: int = 4
    token_weight: float = 0.25
    foreground_weight: float = 3.0
    start: Path | None = None


def heldout_examples(count: int, seed: int, task: str, detail: float | None = None) -> list[Example]:
    """Test scenes with combinations and wordings that training never saw.

    Args:
        task: caption, reconstruct or edit.
        detail: how much a caption's prompt states, see :func:`recipes.miniature.wordings.user_prompt`.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        scene, jitter = world.sample_scene(rng, held_out=True), sample_jitter(rng)
        if task == "caption":
            examples.append(
                Example(Chat(user_prompt(scene, rng, "test", detail)[0], answer=caption(scene)), scene, jitter)
            )
        elif task == "reconstruct":
            examples.append(Example(Chat("", [[render(scene, jitter=jitter)]]), scene, jitter))
        else:
            edit = world.sample_edit(rng, scene, held_out=None)
            result = edit.apply(scene)
            chat = Chat(edit_instruction(scene, edit, rng, "test"), [[render(scene, jitter=jitter)]], caption(result))
            examples.append(Example(chat, result, jitter))
    return examples


def score_pictures(pictures: np.ndarray, scenes: list[world.Scene]) -> dict[str, float]:
    """Shares right: position, background and whole of pictures; the attributes of things.

    Args:
        pictures: uint8 (N, 128, 128, 3).
    """
    totals: dict[str, list[bool]] = {name: [] for name in ("position", "background", *ATTRIBUTES, "whole")}
    for picture, asked in zip(pictures, scenes):
        found = read_scene(picture)
        things = score_things(found, asked)
        for name in ATTRIBUTES:
            totals[name] += things[name]
        totals["position"].append({t.cell for t in found.things} == {t.cell for t in asked.things})
        totals["background"].append(found.background == asked.background)
        totals["whole"].append(found == asked)
    return {name: float(np.mean(values)) for name, values in totals.items()}


@torch.no_grad()
def draw(
    dit: SingleStreamDiT,
    vlm: FrozenVLM,
    vae: StillVAE,
    chats: list[Chat],
    instruction: list[bool],
    seed: int,
    **sampling,
) -> np.ndarray:
    """Pictures of chats, uint8 (N, 128, 128, 3); ``sampling`` goes to :func:`unifusion.training.euler.sample`."""
    states, bias = encode_chats(vlm, chats, instruction)
    empty, _ = encode_chats(vlm, [Chat("")], [False])
    noise = torch.randn(len(chats), 16, 16, 16, generator=generator_for(seed)).to(states.device)
    return to_pictures(vae.decode(sample(dit, noise, states, bias, empty, **sampling)))


def build_scorer(vlm: FrozenVLM, vae: StillVAE, count: int = 48, seed: int = 77) -> Callable:
    """Scores on ``count`` held-out scenes of each task with the true captions, and a grid of the first ten."""
    sets = {task: heldout_examples(count, seed, task) for task in ("caption", "reconstruct", "edit")}

    def score(dit: SingleStreamDiT, step: int) -> tuple[dict[str, float], list[np.ndarray]]:
        scores, rows = {}, []
        for task, examples in sets.items():
            pictures = draw(dit, vlm, vae, [e.chat for e in examples], [False] * count, seed, steps=10)
            found = score_pictures(pictures, [e.target for e in examples])
            scores |= {name if task == "caption" else f"{task} {name}": value for name, value in found.items()}
            rows += [np.stack([render(e.target, jitter=e.jitter) for e in examples[:10]]), pictures[:10]]
        return scores, rows

    return score


def train(
    out: Path, vlm: FrozenVLM, vae: StillVAE, run: DiTRun, config: DiTConfig = DIT, until: int | None = None
) -> Path:
    """Train, or go on with the run in ``out``; vlm and vae lie on the device that will train.

    Returns:
        The file with averaged weights.
    """
    settings = run.training
    dit = SingleStreamDiT(config).initialise(torch.Generator().manual_seed(settings.seed))
    torch.manual_seed(settings.seed)  # the heads'
    classes, stages = TOKEN_CLASSES, ((0, TEXT_STAGE), (int(run.edits_from * settings.steps), EDIT_STAGE))
    if run.start:
        load_weights(dit, run.start)
        classes, stages = (), ((0, EDIT_STAGE),)
    objective = FlowMatching(dit, classes, run.features_at, run.token_weight)
    source = MiniatureSource(vlm, vae, run.batch, stages, run.length or None, run.foreground_weight, settings.seed)
    trainer = Trainer(objective, source, settings, out, build_scorer(vlm, vae))
    trainer.accelerator.print(f"{sum(p.numel() for p in dit.parameters()) / 1e6:.2f} M parameters")
    weights = trainer.run(until)
    trainer.close()
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vlm", type=Path, required=True, help="folder of the frozen VLM")
    parser.add_argument("--vae", type=Path, required=True, help="Wan 2.1 layout file of the frozen VAE")
    parser.add_argument("--refine", type=Path, metavar="FILE", help="go on from finished weights, at lower rates")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--until", type=int, default=None, help="stop after this step of the run")
    parser.add_argument("--batch", type=int, default=DiTRun.batch, help="conditions in a step of one process")
    parser.add_argument("--levels", type=int, default=4, help="noise levels of each condition")
    parser.add_argument("--level-mean", type=float, default=0.6, help="of the logit of noise levels; lower: finer")
    parser.add_argument("--score-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one process")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rate = REFINE_RATE if arguments.refine else 1.0
    training = TrainingSettings(
        steps=arguments.steps,
        levels=arguments.levels,
        lr=rate * 4e-3,
        pooling_lr=rate * 1e-3,
        warmup=40,
        level_mean=arguments.level_mean,
        keep_every=100,
        score_every=arguments.score_every,
        seed=arguments.seed,
        compile=not arguments.no_compile,
    )
    rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    vae = from_wan(load_file(arguments.vae)).to(device)
    run = DiTRun(training, batch=arguments.batch, length=CONDITION_TOKENS, start=arguments.refine)
    train(arguments.out, load_vlm(arguments.vlm, device), vae, run, until=arguments.until)


if __name__ == "__main__":
    main()
