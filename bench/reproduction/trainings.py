"""The parts that train small drawing models with the same budget each.

(a) and (b) differ in their pooling or refiner alone, (g) in the tasks of the last steps: same data in the same order, same
seed, same steps and settings. The pooling with fixed weights (last, average, one tap) has no layerwise blocks, hence fewer
parameters; refiner, DiT and everything else are the same.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from recipes.miniature.dit_data import EDIT_STAGE, TEXT_STAGE, MiniatureSource, encode_chats
from recipes.miniature.dit_train import draw, heldout_examples
from recipes.miniature.frozen_vlm import load_vlm
from recipes.miniature.render import render
from recipes.miniature.scorer import read_scene
from recipes.miniature.vae_model import from_wan
from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.miniature import part_of
from unifusion.training.objective import Batch, FlowMatching, noise_levels
from unifusion.training.trainer import Source, Trainer, TrainingSettings, generator_for, load_weights

from .part import Part, compared
from .scenes import picture_checks
from .shares import Tally

SIZES = dict(features=256, heads=2, kvheads=1, layers=3)
BATCH, LEVELS, LOSS_LEVELS = 8, 4, 8
CHUNK = 25


class Kept:
    """A source that encodes every batch once: the variants of a part see the same ones."""

    def __init__(self, source: MiniatureSource) -> None:
        self.source = source
        self.batches: dict[tuple[int, int, int], Batch] = {}

    def __call__(self, step: int, part: int, process: int) -> Batch:
        key = step, part, process
        if key not in self.batches:
            self.batches[key] = self.source(*key)
        return self.batches[key]


class Trainings:
    """Trains one variant at a time, keeps it in ``work`` and goes on where it was interrupted.

    Args:
        folder: of the miniature whose VLM and VAE are used.
        work: where runs are kept.
        steps: optimizer steps of each.
        count: held-out scenes.
    """

    def __init__(self, folder: Path, work: Path, steps: int, count: int) -> None:
        self.work, self.steps, self.count = work, steps, count
        self.device = PartialState().device
        self.vlm = load_vlm(folder / "vlm", self.device)
        self.vae = from_wan(load_file(part_of(folder, "vae.safetensors"))).to(self.device)
        self.examples = heldout_examples(count, 4711, "caption")
        self.from_text = Kept(MiniatureSource(self.vlm, self.vae, BATCH))

    def config(self, pooling: str, refiner: int) -> DiTConfig:
        return DiTConfig(**SIZES, txtdim=self.vlm.width, txtlayers=len(self.vlm.taps), pooling=pooling, refiner=refiner)

    def trained(self, pooling: str = "lap", refiner: int = 2) -> SingleStreamDiT:
        """The averaged weights of a variant, trained from nothing now or found in ``work``."""
        config = self.config(pooling, refiner)
        torch.manual_seed(0)
        dit = SingleStreamDiT(config).initialise(torch.Generator().manual_seed(0))
        return self.train(dit, config, self.from_text, self.steps, f"{pooling.replace(':', '_')}_{refiner}")

    def train(self, dit: SingleStreamDiT, config: DiTConfig, source: Source, steps: int, name: str) -> SingleStreamDiT:
        """``dit`` after ``steps`` steps, averaged; a run of that name and length goes on where it was interrupted."""
        settings = TrainingSettings(
            steps=steps,
            levels=LEVELS,
            lr=4e-3,
            pooling_lr=1e-3,
            warmup=min(60, steps // 4),
            level_mean=0.6,
            ema=0.99,
            score_every=0,
            keep_every=100,
        )
        began = time.monotonic()
        trainer = Trainer(FlowMatching(dit), source, settings, self.work / f"{name}_{steps}")
        weights = trainer.run()
        trainer.close()
        print(f"{name}, {steps} steps: {time.monotonic() - began:.0f} s", flush=True)
        return load_weights(SingleStreamDiT(config), weights).eval().to(self.device)

    @torch.no_grad()
    def tally(self, dit: SingleStreamDiT) -> Tally:
        """Loss on held-out pictures at fixed noise, and what is read from pictures drawn from true captions."""
        tally = Tally()
        for start in range(0, self.count, CHUNK):
            part = self.examples[start : start + CHUNK]
            chats, instruction = [e.chat for e in part], [False] * len(part)
            states, bias = encode_chats(self.vlm, chats, instruction)
            shown = np.stack([render(e.target, jitter=e.jitter) for e in part])
            latents = self.vae.encode(torch.from_numpy(shown).to(self.device).movedim(-1, 1).float() / 127.5 - 1.0)
            for value in self.losses(dit, latents.float(), states, bias, start):
                tally.add_value("loss", value, "loss")
            drawn = draw(dit, self.vlm, self.vae, chats, instruction, seed=start)
            for picture, example in zip(drawn, part):
                tally.add(picture_checks(read_scene(picture), example.target))
        return tally

    @staticmethod
    def losses(dit: SingleStreamDiT, latents, states, bias, seed: int) -> list[float]:
        """Mean squared error of the velocity for each picture (B, C, H, W), over the same levels for every variant."""
        generator = generator_for(99, seed)
        levels = noise_levels(len(latents), LOSS_LEVELS, 0.6, 1.1, generator).to(latents.device)
        text, sums = dit.condition(states, bias), torch.zeros(len(latents), device=latents.device)
        for t in levels.unbind(1):
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            mixed = t[:, None, None, None] * noise + (1 - t[:, None, None, None]) * latents
            error = dit.denoise(mixed, t, text, bias).float() - (noise - latents)
            sums += error.square().mean((1, 2, 3))
        return (sums / LOSS_LEVELS).tolist()

    def budget(self) -> str:
        """What every variant got, in words."""
        return (
            f"Each variant is trained from nothing for {self.steps} steps of {BATCH} conditions with {LEVELS} "
            f"noise levels ({self.steps * BATCH * LEVELS} noise samples) on a DiT of {SIZES['layers']} blocks of "
            f"width {SIZES['features']}: same data, order, seed and settings. Loss at fixed noise on held-out "
            f"scenes; pictures drawn from the true captions, without ComfyUI, which loads no other pooling than "
            f"LAP."
        )

    def poolings(self) -> Part:
        """(a)"""
        last = self.vlm.taps[-1]
        kinds = {"LAP": "lap", f"last tapped layer ({last})": "last", "plain average": "average"}
        kinds |= {f"layer {layer} alone": f"tap:{index}" for index, layer in enumerate(self.vlm.taps[:-1])}
        tallies = {name: self.tally(self.trained(kind)) for name, kind in kinds.items()}
        return compared(self.budget(), tallies, {name: "LAP" for name in kinds if name != "LAP"})

    def refiner(self) -> Part:
        """(b)"""
        tallies = {
            name: self.tally(self.trained("lap", blocks))
            for name, blocks in {"with refiner": 2, "without refiner": 0}.items()
        }
        return compared(self.budget(), tallies, {"without refiner": "with refiner"})

    def editing(self) -> Part:
        """(g)"""
        config, more = self.config("lap", 2), max(2, self.steps // 2)
        tallies = {"before": self.tally(self.trained())}
        for name, mix in {"after editing": EDIT_STAGE, "as long without editing": TEXT_STAGE}.items():
            source = MiniatureSource(self.vlm, self.vae, BATCH, ((0, mix),), seed=1)
            tallies[name] = self.tally(self.train(self.trained(), config, source, more, name.replace(" ", "_")))
        return compared(
            f"{self.budget()} 'Before' is the variant with LAP of (a). Both others go on from it for {more} steps: one "
            f"with edits by one picture in {EDIT_STAGE.edit:.0%} of the conditions, the other with text to image and "
            f"reconstruction as before.",
            tallies,
            {"after editing": "as long without editing", "before": "as long without editing"},
        )
