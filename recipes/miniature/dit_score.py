"""Score the miniature on held-out scenes: ``python -m recipes.miniature.dit_score --scenes 500``.

Without ComfyUI: the VLM writes, its states are pooled, the DiT draws with the plain Euler sampler, the
VAE decodes, the scorer reads. Scenes hold combinations, and instructions wordings, that training never
saw. Every share comes with its count and Wilson's 95% interval.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from unifusion.dit import SingleStreamDiT
from unifusion.miniature import MINIATURE, part_of
from unifusion.training.trainer import load_weights

from .dit_data import Example
from .dit_train import ATTRIBUTES, DIT, draw, heldout_examples
from .frozen_vlm import FrozenVLM, load_vlm
from .scorer import read_scene, score_things
from .vae_model import StillVAE, from_wan
from .vlm_decode import generate

CONDITIONS = {
    "caption": "text to image, the true caption as the VLM's words",
    "verifi": "text to image, the caption the VLM writes to a fully stated prompt",
    "raw": "text to image, the prompt's own states",
    "reconstruct": "a picture from its image tokens alone",
    "edit": "picture and instruction, the true caption of the result",
    "edit verifi": "picture and instruction, the caption the VLM writes",
}


def wilson(right: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    z, share = 1.96, right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return centre - half, centre + half


def condition(examples: list[Example], kind: str, vlm: FrozenVLM) -> tuple[list, list[bool]]:
    """Chats and whether the instruction conditions, for a key of :data:`CONDITIONS`."""
    chats = [example.chat for example in examples]
    if kind == "raw":
        return [replace(chat, answer=None) for chat in chats], [True] * len(chats)
    if kind.endswith("verifi"):
        answers = generate(vlm.model, vlm.tokenizer, chats)
        chats = [replace(chat, answer=answer) for chat, answer in zip(chats, answers)]
    return chats, [False] * len(chats)


def count_right(pictures: np.ndarray, examples: list[Example], totals: dict[str, list[int]]) -> None:
    """Add (right, all) of position, background, attributes of things, whole pictures to ``totals``."""
    for picture, example in zip(pictures, examples):
        found, asked = read_scene(picture), example.target
        things = score_things(found, asked)
        checks = {name: things[name] for name in ATTRIBUTES}
        checks["position"] = [{t.cell for t in found.things} == {t.cell for t in asked.things}]
        checks["background"] = [found.background == asked.background]
        checks["whole"] = [found == asked]
        for name, values in checks.items():
            entry = totals.setdefault(name, [0, 0])
            entry[0] += sum(values)
            entry[1] += len(values)


def score(
    dit: SingleStreamDiT,
    vlm: FrozenVLM,
    vae: StillVAE,
    kind: str,
    scenes: int,
    seed: int = 2024,
    batch: int = 50,
    **sampling,
) -> dict[str, list[int]]:
    """(right, all) for each check on ``scenes`` held-out scenes under one of :data:`CONDITIONS`."""
    task = {"reconstruct": "reconstruct", "edit": "edit", "edit verifi": "edit"}.get(kind, "caption")
    detail = 1.0 if kind in ("verifi", "raw") else None
    examples = heldout_examples(scenes, seed, task, detail)
    totals: dict[str, list[int]] = {}
    for start in range(0, scenes, batch):
        part = examples[start : start + batch]
        chats, instruction = condition(part, kind, vlm)
        count_right(draw(dit, vlm, vae, chats, instruction, seed + start, **sampling), part, totals)
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", type=Path, default=MINIATURE, help="folder with vlm/, vae.safetensors, dit.safetensors"
    )
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = load_vlm(arguments.weights / "vlm")
    vae = from_wan(load_file(part_of(arguments.weights, "vae.safetensors")))
    dit = load_weights(SingleStreamDiT(DIT), part_of(arguments.weights, "dit.safetensors")).eval()
    for kind in arguments.only:
        with torch.autocast("cpu", torch.bfloat16):
            totals = score(dit, vlm, vae, kind, arguments.scenes, steps=arguments.steps, guidance=arguments.guidance)
        print(json.dumps({"condition": kind, "meaning": CONDITIONS[kind], **totals}))
        for name, (right, count) in totals.items():
            low, high = wilson(right, count)
            print(
                f"  {name:11s} {right}/{count} = {100 * right / count:5.1f}%  [{100 * low:.1f}, {100 * high:.1f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
