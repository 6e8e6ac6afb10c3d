"""The queue of runs: eight ways to use layers, each with the same data in the same order, steps and drawing model.

Round by round and seed by seed, all variants of one before the next, so that whatever is finished is a fair table. The rate of
learning does not fall, so a run of the last round goes on in the next. One that was killed goes on from its checkpoint; what is
finished is left alone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from recipes.emoji.emoji_words import TRAINING, VALIDATION
from recipes.emoji.icon_sets import STYLES
from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.layers_to_blocks import INJECTION, KEY_VALUE_FUSION, build_dit
from unifusion.training.objective import Batch, FlowMatching
from unifusion.training.trainer import HELD_OUT, Trainer, TrainingSettings, generator_for, load_weights

from .emoji_set import Comparison, EmojiSet

HEADS = 18  # of 32 in SmolLM2's width of 576, which Krea 2's 20 do not divide
MULTIPLIER = 2
REFINER = 2
WITHOUT_WORDS = 0.1
LEVELS_HELD_OUT = (0.3, 0.6, 0.9)
WARMUP = 25
KEEP_EVERY, LOG_EVERY = 50, 10
SCORED = 20  # times in a round, at most; validation's words cost two steps


@dataclass(frozen=True)
class Variant:
    """One way to use the layers.

    Attributes:
        name: in tables and folders.
        pooling: of :class:`DiTConfig`; ``tap`` stands for the best single layer.
        refiner: blocks.
    """

    name: str
    pooling: str
    refiner: int = REFINER


VARIANTS = (
    Variant("LAP", "lap"),
    Variant("last layer", "last"),
    Variant("mean of layers", "average"),
    Variant("best single layer", "tap"),
    Variant("concatenation", "concatenation"),
    Variant("last layer, more refiner", "last", REFINER + 2),  # two blocks for LAP's two
    Variant("key-value fusion", KEY_VALUE_FUSION),
    Variant("injection", INJECTION),
)


def config_of(variant: Variant, comparison: Comparison, width: int, best_tap: int) -> DiTConfig:
    """Sizes of a variant's model.

    Args:
        width: of the hidden states.
        best_tap: place of the best single layer among the taps.
    """
    heads = comparison.features // 64
    return DiTConfig(
        features=comparison.features,
        heads=heads,
        kvheads=heads,
        layers=comparison.blocks,
        channels=3,
        patch=comparison.patch,
        multiplier=MULTIPLIER,
        txtdim=width,
        txtlayers=len(comparison.taps),
        txtheads=HEADS,
        pooling=f"tap:{best_tap}" if variant.pooling == "tap" else variant.pooling,
        refiner=variant.refiner,
    )


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Run:
    """One training of the queue, up to ``steps``."""

    variant: Variant
    seed: int
    pooling_rate: float
    steps: int

    @property
    def folder(self) -> str:
        return f"{self.variant.name.replace(',', '').replace(' ', '_')}/rate_{self.pooling_rate:g}/seed_{self.seed}"

    def file(self, out: Path, name: str) -> Path:
        """Where a result of this round lies."""
        stem, _, kind = name.rpartition(".")
        return out / self.folder / f"{stem}_{self.steps}.{kind}"


DONE = "done.json"


def losses_on_validation(folder: Path) -> dict[int, float]:
    """Loss on validation's words by step, of a run."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[HELD_OUT] for line in lines if HELD_OUT in line}


def better_rate(comparison: Comparison, variant: Variant) -> float:
    """The pooling rate that was better on validation's words in the round that tries all, by the first seed."""
    seed, steps, out = comparison.seeds[0], comparison.rates_at, comparison.out
    runs = [Run(variant, seed, rate, steps) for rate in comparison.pooling_rates]
    done = [run for run in runs if run.file(out, DONE).is_file()]
    if not done:
        return comparison.pooling_rates[0]
    return min(done, key=lambda run: losses_on_validation(out / run.folder)[steps]).pooling_rate


def queue(comparison: Comparison) -> Iterator[Run]:
    """All runs, in order: round, seed, variant; behind the round that tries all rates every variant has its better one."""
    rate, *others = comparison.pooling_rates
    for steps, count in zip(comparison.rounds, comparison.seeds_in_round, strict=True):
        for seed in comparison.seeds[:count]:
            for variant in VARIANTS:
                yield Run(
                    variant, seed, rate if steps <= comparison.rates_at else better_rate(comparison, variant), steps
                )
        if steps == comparison.rates_at:
            for other in others:
                for variant in VARIANTS:
                    yield Run(variant, comparison.seeds[0], other, steps)


class Batches:
    """Training's batches: the same for every variant of a seed. A :data:`~unifusion.training.trainer.Source`."""

    def __init__(self, emoji: EmojiSet, conditions: int, seed: int) -> None:
        self.emoji, self.conditions, self.seed = emoji, conditions, seed
        self.things = emoji.of(TRAINING)

    def chosen(self, step: int) -> tuple[list[int], list[int], list[int]]:
        """Things, styles, and the things that are named: -1 where the condition is without words."""
        generator = generator_for(self.seed, 1, step)
        picked = torch.randint(len(self.things), (self.conditions,), generator=generator).tolist()
        styles = torch.randint(len(STYLES), (self.conditions,), generator=generator).tolist()
        silent = (torch.rand(self.conditions, generator=generator) < WITHOUT_WORDS).tolist()
        things = [self.things[index] for index in picked]
        return things, styles, [-1 if no else thing for thing, no in zip(things, silent)]

    def __call__(self, step: int, part: int, process: int) -> Batch:
        things, styles, named = self.chosen(step)
        states, bias = self.emoji.states_of(named, styles)
        return Batch(self.emoji.latents(things, styles), states, bias)


def flow_losses(
    dit: SingleStreamDiT, emoji: EmojiSet, things: list[int], styles: list[int], levels: tuple[float, ...]
) -> Tensor:
    """Mean squared error of the velocity (items, levels), at fixed noise: the same for every model."""
    rows = []
    for start in range(0, len(things), 64):
        own, style = things[start : start + 64], styles[start : start + 64]
        states, bias = emoji.states_of(own, style)
        latents = emoji.latents(own, style)
        noise = torch.stack(
            [torch.randn(latents.shape[1:], generator=generator_for(7, t, s)) for t, s in zip(own, style)]
        )
        text, errors = dit.condition(states, bias), []
        for level in levels:
            t = torch.full((len(own),), level)
            velocity = dit.denoise((1 - level) * latents + level * noise, t, text, bias)
            errors.append((velocity - (noise - latents)).square().mean((1, 2, 3)))
        rows.append(torch.stack(errors, 1))
    return torch.cat(rows)


class HeldOutWords:
    """Loss on the words of the validation part. A :data:`~unifusion.training.trainer.HeldOut`."""

    def __init__(self, emoji: EmojiSet) -> None:
        self.emoji, self.things = emoji, emoji.of(VALIDATION)
        self.styles = [index % len(STYLES) for index in range(len(self.things))]

    def __call__(self, objective: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        errors = flow_losses(objective.dit, self.emoji, self.things, self.styles, LEVELS_HELD_OUT).mean(0).tolist()
        return {HELD_OUT: sum(errors) / len(errors)} | {
            f"{HELD_OUT} at {level:g}": value for level, value in zip(LEVELS_HELD_OUT, errors)
        }


def settings_of(run: Run, comparison: Comparison) -> TrainingSettings:
    return TrainingSettings(
        steps=run.steps,
        levels=comparison.levels,
        lr=comparison.rate,
        pooling_lr=run.pooling_rate,
        optimizer=comparison.optimizer,
        weight_decay=0.01,
        warmup=WARMUP,
        decay=0.0,
        ema=0.98,
        keep_every=KEEP_EVERY,
        score_every=max(25, run.steps // SCORED),
        log_every=LOG_EVERY,
        mixed_precision="no",  # float32 is the faster on the CPUs this was made on
        seed=run.seed,
        tensorboard=False,
    )


def train(run: Run, comparison: Comparison, emoji: EmojiSet, best_tap: int) -> None:
    """One run from where it stands to the end of its round; then ``done_N.json`` says what it was."""
    folder, began = comparison.out / run.folder, time.process_time()
    config = config_of(run.variant, comparison, emoji.width, best_tap)
    dit = build_dit(config).initialise(torch.Generator().manual_seed(run.seed))
    trainer = Trainer(
        FlowMatching(dit),
        Batches(emoji, comparison.conditions, run.seed),
        settings_of(run, comparison),
        folder,
        held_out=HeldOutWords(emoji),
        about={"variant": run.variant.name, "tap": best_tap},
    )
    first = trainer.position.step
    trainer.run()
    trainer.close()
    done = {
        "variant": run.variant.name,
        "seed": run.seed,
        "pooling_rate": run.pooling_rate,
        "steps": run.steps,
        "parameters": parameters(dit),
        "pooling_parameters": parameters(dit.txtfusion) + parameters(dit.txtmlp),
        "seconds": round(time.process_time() - began, 1),
        "from_step": first,
    }
    for old in (folder / "checkpoints").iterdir():  # a quarter of a gigabyte each; the last is for the next round
        if old.name != f"step_{run.steps}":
            shutil.rmtree(old)
    (folder / "best.safetensors").unlink(missing_ok=True)
    run.file(comparison.out, DONE).write_text(json.dumps(done, indent=1) + "\n")


def trained(folder: Path, config: DiTConfig) -> SingleStreamDiT:
    """The averaged weights of a finished run."""
    return load_weights(build_dit(config), folder / "dit.safetensors").eval()


def finished(comparison: Comparison) -> list[Run]:
    """Runs of the queue that are done."""
    return [run for run in queue(comparison) if run.file(comparison.out, DONE).is_file()]
