"""Two and three regions in one forward, beside the stock way: ``python -m bench.regional --count 200``.

Every region is a prompt of its own through VERIFI Rewrite ("a red circle at the middle left"), masked to its part of the
picture; the stock way is Conditioning (Set Mask) on each pooled prompt and Conditioning Combine, one forward for each.
Counted: regions in whose part the scorer reads a thing of the asked colour and shape, and nothing of another colour.
Times are of the sampling alone, by turns, CPU seconds beside wall seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from recipes.miniature.scene import COLORS, SHAPES
from recipes.miniature.scorer import read_scene

from .host import pack
from .reproduction.shares import Tally

PARTS = {
    2: (("middle left", (0,)), ("middle right", (2,))),
    3: (("middle left", (0,)), ("center", (1,)), ("middle right", (2,))),
}
STEPS = "UniFusion miniature"


def masks(parts: int) -> list[torch.Tensor]:
    """Columns of equal width, ``(1, 128, 128)`` each."""
    edges = [round(128 * index / parts) for index in range(parts + 1)]
    made = []
    for left, right in zip(edges, edges[1:]):
        mask = torch.zeros(1, 128, 128)
        mask[..., left:right] = 1
        made.append(mask)
    return made


class Regions:
    """Both ways on one graph of the shipped miniature."""

    def __init__(self, graph):
        import nodes as host

        self.graph = graph
        by_id = {cls.define_schema().node_id: cls for cls in pack("nodes.extension").NODES}
        self.region = by_id["UniFusionRegion"]
        self.set_mask, self.combine = host.ConditioningSetMask(), host.ConditioningCombine()

    @torch.inference_mode()
    def ours(self, written, places):
        placed = [
            self.region.execute(condition.states, mask).result[0]
            for condition, mask in zip(written, places, strict=True)
        ]
        join = {f"hidden_states{index}": states for index, states in enumerate(placed[1:])}
        return self.graph.pool_node.execute(
            self.graph.model, placed[0], "off", "", negative=written[0].negative, join=join
        ).result[:3]

    @torch.inference_mode()
    def stock(self, written, places):
        model, combined, negative = None, None, None
        for condition, mask in zip(written, places, strict=True):
            model, positive, below, *_ = self.graph.pool_node.execute(
                self.graph.model, condition.states, "off", "", negative=condition.negative
            ).result
            masked = self.set_mask.append(positive, mask, "default", 1.0)[0]
            combined = masked if combined is None else self.combine.combine(combined, masked)[0]
            negative = negative or below
        return model, combined, negative

    @torch.inference_mode()
    def draw(self, model, positive, negative, seed: int):
        """(picture, wall seconds, CPU seconds) of the sampling."""
        wall, cpu = time.perf_counter(), time.process_time()
        latent = self.graph.sampler_node.execute(
            model, positive, self.graph.empty, seed, {"preset": STEPS}, 1.0, negative=negative
        ).result[0]
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        picture = self.graph.decode_node.decode(self.graph.vae, latent)[0]
        return np.clip(255.0 * picture[0].float().cpu().numpy(), 0, 255).astype(np.uint8), *seconds


def right(picture: np.ndarray, asked: list[tuple[str, str]], parts: int) -> list[bool]:
    """For each region whether its part shows the asked thing and no other colour."""
    columns = {2: ((0,), (2,)), 3: ((0,), (1,), (2,))}[parts]
    things = read_scene(picture).things
    found = []
    for (color, shape), here in zip(asked, columns, strict=True):
        inside = [thing for thing in things if thing.cell % 3 in here]
        found.append(bool(inside) and all(t.color == color for t in inside) and any(t.shape == shape for t in inside))
    return found


def measure(count: int, parts: int, out: Path | None = None) -> dict:
    """Counts and times of ``count`` prompts."""
    from .reproduction.through_nodes import Graph

    regions, rng = Regions(Graph()), np.random.default_rng(0)
    tallies = {way: Tally() for way in ("ours", "stock")}
    ratios, cpu_ratios, sheets = [], [], []
    for index in range(count):
        colors = rng.choice(COLORS, size=parts, replace=False)
        asked = [(str(color), str(rng.choice(SHAPES))) for color in colors]
        prompts = [f"a {color} {shape} at the {where}" for (color, shape), (where, _) in zip(asked, PARTS[parts])]
        written = [regions.graph.verifi(prompt) for prompt in prompts]
        seconds = {}
        for way in ("ours", "stock") if index % 2 else ("stock", "ours"):
            conditions = getattr(regions, way)(written, masks(parts))
            picture, wall, cpu = regions.draw(*conditions, seed=index)
            seconds[way] = wall, cpu
            tallies[way].add({"right thing in its part": right(picture, asked, parts)})
            if index < 8:
                sheets.append(picture)
        ratios.append(seconds["ours"][0] / seconds["stock"][0])
        cpu_ratios.append(seconds["ours"][1] / seconds["stock"][1])
    if out is not None and sheets:
        from PIL import Image

        pairs = [np.concatenate(sheets[i : i + 2], axis=1) for i in range(0, len(sheets), 2)]
        Image.fromarray(np.concatenate(pairs)).save(out / f"regions_{parts}.png")
    return {
        "regions": parts,
        "prompts": count,
        "right": {way: str(tally.figures(way)[0]) for way, tally in tallies.items()},
        "time": statistics.median(ratios),
        "cpu time": statistics.median(cpu_ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    results = [measure(given.count, parts, given.out) for parts in (2, 3)]
    print(json.dumps(results, indent=1))
    if given.out:
        (given.out / "regions.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
