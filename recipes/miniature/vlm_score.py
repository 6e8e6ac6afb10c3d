"""Scores a frozen miniature VLM on held-out scenes: ``python -m recipes.miniature.vlm_score [--vlm DIR] [--count 500]``.

Captions, edits and pairs count as right when every word of the caption is; a rewriting when it keeps everything
that was stated.  Scenes hold combinations, and instructions have wordings, that training never used.
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path

import numpy as np
import torch

from .frozen_vlm import VLM_FOLDER, FrozenVLM, load_vlm
from .vlm_decode import evaluate, held_out_examples
from .vlm_tasks import caption_example, edit_example, rewrite_example


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion, in 0..1."""
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def state_scale(vlm: FrozenVLM, count: int = 60) -> dict[int, dict[str, float]]:
    """By tap, of selected tokens: RMS, largest component, and the strongest direction's share of the power."""
    rng = np.random.default_rng(77)
    makers = (caption_example, edit_example, rewrite_example)
    chats = [makers[i % 3](rng, "test").chat for i in range(count)]
    encoded = vlm.encode(chats)
    states = encoded.states[encoded.selected]
    out = {}
    for index, tap in enumerate(vlm.taps):
        x = states[:, index]
        power = torch.linalg.svdvals(x).square()
        out[tap] = dict(
            rms=round(float(x.square().mean().sqrt()), 3),
            largest=round(float(x.abs().max()), 1),
            first_direction=round(float(power[0] / power.sum()), 3),
        )
    return out


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vlm", type=Path, default=VLM_FOLDER)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    vlm = load_vlm(args.vlm)
    figures = dict(scale=state_scale(vlm), scores={})
    for name, (right, count) in evaluate(vlm.model, vlm.tokenizer, held_out_examples(args.count, args.seed)).items():
        low, high = interval(right, count)
        figures["scores"][name] = dict(right=right, count=count, low=round(100 * low, 1), high=round(100 * high, 1))
        share = 100 * right / count
        print(f"{name:18s} {right:4d} of {count:4d}  {share:5.1f}%  ({100 * low:.1f} to {100 * high:.1f})")
    for tap, values in figures["scale"].items():
        print(f"tap {tap}: {values}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
