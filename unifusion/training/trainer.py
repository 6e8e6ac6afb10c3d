"""The training loop, on accelerate.

It knows a model, a source of encoded batches and a scoring function, nothing else. Everything
random is drawn from (seed, step, part, process), so a run resumed from a checkpoint takes the same
steps as one that was never interrupted. Start it under ``accelerate launch`` for several processes,
GPUs or machines; one process needs no launcher.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from safetensors.torch import load_file, save_file

from ..dit import SingleStreamBlock, SingleStreamDiT
from ..pooling import TextFusionBlock
from .curves import plot_log, save_grid
from .ema import EMA
from .objective import Batch, FlowMatching, noise_levels
from .optimizer import MuonAdamW

Source = Callable[[int, int, int], Batch]
"""(step, part, process) -> the batch of one accumulation part; must depend on nothing else."""

Scorer = Callable[[SingleStreamDiT, int], tuple[dict[str, float], list[np.ndarray]]]
"""(model with averaged weights, step) -> scores in 0..1 and rows of pictures for a sample grid."""


RUN_FILE = "run.json"
"""In a checkpoint: the settings and the number of processes that wrote it."""

CHOICES = {"optimizer": ("muon", "adamw"), "mixed_precision": ("no", "bf16", "fp16")}


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; what is trained comes from the model and the source.

    Attributes:
        steps: optimizer steps of the whole run.
        parts: accumulation parts of a step; a source may give each its own task or length.
        levels: noise levels drawn for every picture of a part.
        lr: peak learning rate; ``pooling_lr`` of LAP and refiner, which Muon with a large rate made
            outgrow the hidden states they are given.
        optimizer: ``muon`` for the matrices of the DiT's blocks with AdamW for the rest, or ``adamw``
            (needed when FSDP shards matrices).
        warmup: steps; ``decay``: last share of the run over which the rate falls to a twentieth.
        level_mean, level_deviation: of the logit-normal noise level; a higher mean trains more on noise.
        ema: decay of the averaged weights.
        keep_every, score_every, log_every: steps between checkpoints, scores and log lines; 0 for never.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        compile: compile the blocks with torch.compile; wants fixed shapes. Blocks of one kind share
            their code, so this takes a minute where the whole model takes many.
    """

    steps: int
    parts: int = 1
    levels: int = 4
    lr: float = 2e-3
    pooling_lr: float = 4e-4
    weight_decay: float = 0.1
    optimizer: str = "muon"
    warmup: int = 100
    decay: float = 0.3
    clip: float = 1.0
    level_mean: float = 0.5
    level_deviation: float = 1.1
    ema: float = 0.999
    keep_every: int = 500
    score_every: int = 500
    log_every: int = 10
    mixed_precision: str = "bf16"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            found = getattr(self, name)
            if found not in allowed:
                raise ValueError(f"The setting {name} is {found!r}; choose one of {', '.join(allowed)}.")
        for name in ("steps", "parts", "levels"):
            found = getattr(self, name)
            if found < 1:
                raise ValueError(f"The setting {name} is {found}; it must be at least 1.")


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Factor on the peak rate: linear warm-up, constant, linear to 0.05."""
    remaining = (settings.steps - step) / max(1.0, settings.decay * settings.steps)
    return min(1.0, (step + 1) / max(1, settings.warmup), max(0.05, remaining))


def build_optimizer(objective: FlowMatching, settings: TrainingSettings) -> MuonAdamW:
    """Parameter groups: matrices of the DiT's blocks, LAP and refiner, the rest; no decay on vectors."""
    blocks, pooling, matrices, vectors = [], [], [], []
    for name, parameter in objective.named_parameters():
        if parameter.ndim < 2 or name.endswith(".lin"):
            vectors.append(parameter)
        elif ".txtfusion." in name:
            pooling.append(parameter)
        elif ".blocks." in name and settings.optimizer == "muon":
            blocks.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        dict(params=blocks, rule="muon", lr=settings.lr),
        dict(params=pooling, lr=settings.pooling_lr),
        dict(params=matrices, lr=0.5 * settings.lr),
        dict(params=vectors, lr=0.5 * settings.lr, weight_decay=0.0),
    ]
    groups = [dict(group, peak=group["lr"]) for group in groups if group["params"]]
    return MuonAdamW(groups, weight_decay=settings.weight_decay)


def generator_for(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on ``key`` alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class _Position:
    """The number of finished steps, kept with a checkpoint."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]


class Trainer:
    """One training run in a folder.

    The folder holds ``checkpoints/step_N`` (the two newest, complete state), ``log.jsonl``,
    ``curve.png``, ``samples_N.png``, TensorBoard files and ``dit.safetensors`` (averaged weights,
    bfloat16, Krea 2's names) after every scoring, ``best.safetensors`` for the best score so far.

    Args:
        objective: the model with its loss.
        source: see :data:`Source`.
        settings: see :class:`TrainingSettings`.
        out: the folder; a run found there is resumed.
        scorer: see :data:`Scorer`; None for none.
        best_by: the score that decides which weights are best.
    """

    def __init__(
        self,
        objective: FlowMatching,
        source: Source,
        settings: TrainingSettings,
        out: Path,
        scorer: Scorer | None = None,
        best_by: str = "whole",
    ) -> None:
        self.settings, self.source, self.scorer, self.best_by = settings, source, scorer, best_by
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        set_seed(settings.seed)
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.parts,
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(self.out), logging_dir=str(self.out)),
            step_scheduler_with_optimizer=False,
        )
        optimizer = build_optimizer(objective, settings)
        if settings.compile:
            for module in objective.modules():
                if isinstance(module, (SingleStreamBlock, TextFusionBlock)):
                    module.compile()
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.dit = self.accelerator.unwrap_model(self.objective).dit
        self.ema = EMA(self.dit, settings.ema)
        self.position = _Position()
        self.accelerator.register_for_checkpointing(self.ema, self.position)
        self.accelerator.init_trackers("tensorboard")
        self._resume()

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def _checkpoints(self) -> list[Path]:
        found = (self.out / "checkpoints").glob("step_*[0-9]")
        return sorted(found, key=lambda path: int(path.name[5:]))

    def _resume(self) -> None:
        found = self._checkpoints()
        if found:
            self._compare(found[-1])
            self.accelerator.load_state(str(found[-1]))
            self.accelerator.print(f"resumed at step {self.position.step} of {self.settings.steps}")

    def _about(self) -> dict:
        return {**asdict(self.settings), "processes": self.accelerator.num_processes}

    def _compare(self, checkpoint: Path) -> None:
        """Refuse a checkpoint that these settings cannot go on from; say what else differs from it.

        Raises:
            ValueError: another optimizer, or fewer steps than the checkpoint has taken.
        """
        taken, about = int(checkpoint.name[5:]), checkpoint / RUN_FILE
        if self.settings.steps < taken:
            raise ValueError(
                f"The run in {self.out} has taken {taken} steps and the settings ask for {self.settings.steps}; "
                "ask for at least as many or choose another folder."
            )
        if not about.exists():
            self.accelerator.print(f"{checkpoint} does not say its settings; they could not be compared")
            return
        before = json.loads(about.read_text())
        changed = {name: value for name, value in self._about().items() if before.get(name) != value}
        if "optimizer" in changed:
            raise ValueError(
                f"The run in {self.out} was trained with optimizer {before.get('optimizer')!r}, not "
                f"{changed['optimizer']!r}; set it back or choose another folder."
            )
        for name, value in changed.items():
            self.accelerator.print(f"resuming with {name} {value}, was {before.get(name)}: not the same run any more")

    def save(self) -> Path:
        """Write a complete checkpoint; older ones than the last two go."""
        target = self.out / "checkpoints" / f"step_{self.position.step}"
        unfinished = target.with_name(target.name + "_unfinished")
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.main:
            (unfinished / RUN_FILE).write_text(json.dumps(self._about(), indent=2))
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
            for old in self._checkpoints()[:-2]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return target

    def step(self) -> dict[str, float]:
        """One optimizer step over all parts.

        Returns:
            Mean losses of this process's parts and the norm of the gradient.
        """
        settings, step = self.settings, self.position.step
        factor = learning_rate(step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        sums: dict[str, float] = {}
        for part in range(settings.parts):
            batch = self.source(step, part, self.accelerator.process_index)
            self.accelerator.unwrap_model(self.objective).check(batch)
            batch = batch.to(self.accelerator.device)
            generator = generator_for(settings.seed, step, part, self.accelerator.process_index)
            t = noise_levels(
                len(batch.latents), settings.levels, settings.level_mean, settings.level_deviation, generator
            )
            noise = torch.randn(len(batch.latents), settings.levels, *batch.latents.shape[1:], generator=generator)
            with self.accelerator.accumulate(self.objective):
                with self.accelerator.autocast():
                    losses = self.objective(batch, noise.to(batch.latents.device), t.to(batch.latents.device))
                self.accelerator.backward(losses["loss"])
                if self.accelerator.sync_gradients:
                    sums["gradient"] = float(
                        self.accelerator.clip_grad_norm_(self.objective.parameters(), settings.clip)
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / settings.parts
        self.ema.update()
        self.position.step += 1
        return sums

    def run(self, until: int | None = None) -> Path:
        """Train to the last step, or to step ``until`` of it.

        Returns:
            The file with averaged weights.
        """
        settings = self.settings
        last = min(settings.steps, until or settings.steps)
        recent: list[dict[str, float]] = []
        began, first = time.monotonic(), self.position.step
        while self.position.step < last:
            losses = self.step()
            step = self.position.step
            if not math.isfinite(losses["loss"]):
                raise FloatingPointError(f"the loss is {losses['loss']} at step {step}; lower the learning rate")
            recent.append(losses)
            if settings.log_every and step % settings.log_every == 0:
                mean = {name: sum(line[name] for line in recent) / len(recent) for name in losses}
                recent.clear()
                left = (time.monotonic() - began) / (step - first) * (last - step)
                self._log(step, mean, seconds_left=round(left))
            # first the checkpoint: a scorer that fails must not cost the steps before it
            if settings.keep_every and (step % settings.keep_every == 0 or step == last):
                self.save()
            if settings.score_every and (step % settings.score_every == 0 or step == last):
                self.score()
        return self.export()

    def _log(self, step: int, values: dict[str, float], **about) -> None:
        self.accelerator.log(values, step=step)
        if self.main:
            line = {"step": step, **values}
            with open(self.out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(" ".join(f"{name} {value:.4g}" for name, value in {**line, **about}.items()), flush=True)

    def score(self) -> dict[str, float]:
        """Score the averaged weights on the main process; write the grid, the curve and the weights."""
        scores: dict[str, float] = {}
        if self.main and self.scorer is not None:
            step = self.position.step
            self.dit.eval()
            with self.ema.applied(), self.accelerator.autocast():
                scores, rows = self.scorer(self.dit, step)
            self.dit.train()
            self._log(step, {f"score/{name}": value for name, value in scores.items()})
            if rows:
                save_grid(rows, self.out / f"samples_{step}.png")
            plot_log(self.out / "log.jsonl", self.out / "curve.png")
            self.export()
            self._keep_best(step, scores)
        self.accelerator.wait_for_everyone()
        return scores

    def _keep_best(self, step: int, scores: dict[str, float]) -> None:
        """Copy the exported weights to ``best.safetensors`` when their score is at least the best so far."""
        if self.best_by not in scores:
            found = ", ".join(scores) or "nothing"
            print(f"no best weights are kept: the scorer gives {found}, not {self.best_by}", flush=True)
            return
        best = self.out / "best.json"
        before = json.loads(best.read_text())["scores"].get(self.best_by, -math.inf) if best.exists() else -math.inf
        if scores[self.best_by] >= before:
            shutil.copyfile(self.out / "dit.safetensors", self.out / "best.safetensors")
            best.write_text(json.dumps({"step": step, "scores": scores}, indent=2))

    def export(self) -> Path:
        """Write the averaged weights, bfloat16, under Krea 2's names; also :class:`TrainingSettings` as JSON."""
        path = self.out / "dit.safetensors"
        if self.main:
            with self.ema.applied():
                state = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in self.dit.state_dict().items()}
            save_file(state, path, metadata={"step": str(self.position.step)})
            (self.out / "settings.json").write_text(json.dumps(asdict(self.settings), indent=2))
        return path

    def close(self) -> None:
        """Finish TensorBoard's files."""
        self.accelerator.end_training()


def load_weights(dit: SingleStreamDiT, path: Path) -> SingleStreamDiT:
    """Put the weights of :meth:`Trainer.export`, or of any Krea 2 file of the same sizes, into ``dit``."""
    dit.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return dit
