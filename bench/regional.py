"""Two and three regions in one forward, beside the stock way: ``python -m bench.regional --count 200``.

Every region is a prompt of its own through VERIFI Rewrite ("a red circle at the middle left"), masked to its part of the
picture; the stock way is Conditioning (Set Mask) on each pooled prompt and Conditioning Combine, one forward for each.
Counted: regions in whose part the scorer reads a thing of the asked colour and shape, and nothing of another colour.
Times are of the sampling alone, by turns, CPU seconds beside wall seconds; ``--side 256`` and ``--cfg 1`` give those of
larger pictures and of one forward a step without a negative.

``--unplaced`` asks whether the mask decides: every prompt names its thing and no place ("a red circle"), and what is counted
is where the asked colour lies, with masks and with none (the same prompts joined without Region).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from recipes.miniature.render import COLOR_RGB
from recipes.miniature.scene import COLORS, SHAPES
from recipes.miniature.scorer import read_scene

from .host import pack
from .reproduction.shares import Tally

PARTS = {
    2: (("middle left", (0,)), ("middle right", (2,))),
    3: (("middle left", (0,)), ("center", (1,)), ("middle right", (2,))),
}
STEPS = {"preset": "UniFusion miniature"}
RGB = 60.0  # distance of a pixel from a colour, in 0..255, that still counts as that colour


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

    def __init__(self, graph, side: int = 128, cfg: float = 0.0):
        import nodes as host

        self.graph = graph
        self.empty = host.EmptyLatentImage().generate(side, side, 1)[0]
        self.steps = STEPS
        if cfg:
            own = {"steps": 16, "cfg": cfg, "sampler": "euler", "scheduler": "simple", "shift": "fixed", "mu": 0.5}
            self.steps = {"preset": "custom", **own}
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
    def joined(self, written, _places):
        """The same prompts in one sequence without a mask."""
        join = {f"hidden_states{index}": one.states for index, one in enumerate(written[1:])}
        return self.graph.pool_node.execute(
            self.graph.model, written[0].states, "off", "", negative=written[0].negative, join=join
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
            model, positive, self.empty, seed, self.steps, 1.0, negative=negative
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


def inside(picture: np.ndarray, color: str, index: int, parts: int) -> bool:
    """Whether more of the pixels of a colour lie in its part than outside; False where there are hardly any."""
    near = np.linalg.norm(picture.astype(float) - np.array(COLOR_RGB[color], dtype=float), axis=-1) < RGB
    columns = near.sum(axis=0)
    edges = [round(len(columns) * number / parts) for number in (index, index + 1)]
    own = columns[edges[0] : edges[1]].sum()
    return bool(columns.sum() > near.size / 400 and own > columns.sum() / 2)


def unplaced(count: int, parts: int) -> dict:
    """Shares of regions whose colour lies in their part, by prompts that name no place."""
    from .reproduction.through_nodes import Graph

    regions, rng = Regions(Graph()), np.random.default_rng(1)
    tallies = {way: Tally() for way in ("ours", "stock", "joined")}
    for index in range(count):
        colors = [str(color) for color in rng.choice(COLORS, size=parts, replace=False)]
        written = [regions.graph.verifi(f"a {color} {rng.choice(SHAPES)}") for color in colors]
        for way, tally in tallies.items():
            picture = regions.draw(*getattr(regions, way)(written, masks(parts)), seed=index)[0]
            tally.add({"colour in its part": [inside(picture, color, at, parts) for at, color in enumerate(colors)]})
    return {
        "regions": parts,
        "prompts without a place": count,
        "colour in its part": {way: str(tally.figures(way)[0]) for way, tally in tallies.items()},
    }


def measure(count: int, parts: int, out: Path | None = None, *, side: int = 128, cfg: float = 0.0) -> dict:
    """Counts and times of ``count`` prompts."""
    from .reproduction.through_nodes import Graph

    regions, rng = Regions(Graph(), side, cfg), np.random.default_rng(0)
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
            if side == 128:  # the scorer reads the size that the miniature was trained with
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
        "side": side,
        "cfg": cfg or "the preset's",
        "right": {way: str(tally.figures(way)[0]) for way, tally in tallies.items() if tally.outcomes},
        "time": statistics.median(ratios),
        "cpu time": statistics.median(cpu_ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", type=int, default=128, help="pixels of both sides")
    parser.add_argument("--cfg", type=float, default=0.0, help="0 = the miniature's preset")
    parser.add_argument("--unplaced", action="store_true")
    given = parser.parse_args()
    pack("unifusion.profiles")  # ComfyUI must be on the path before the parts are imported
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    if given.unplaced:
        results = [unplaced(given.count, parts) for parts in (2, 3)]
    else:
        results = [measure(given.count, parts, given.out, side=given.side, cfg=given.cfg) for parts in (2, 3)]
    print(json.dumps(results, indent=1))
    if given.out:
        (given.out / "regions.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
