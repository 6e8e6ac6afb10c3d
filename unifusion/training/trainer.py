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
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..dit import SingleStreamBlock, SingleStreamDiT
from ..pooling import TextFusionBlock
from ..quoting import spoken
from . import checkpoint
from .curves import plot_log, save_grid
from .ema import EMA
from .folder_lock import FolderLock
from .learning_rate import factor
from .objective import Batch, FlowMatching, noise_levels
from .optimizer import MuonAdamW
from .sharding import set_sync, shard, whole

Source = Callable[[int, int, int], Batch]
"""(step, part, process) -> the batch of one accumulation part; must depend on nothing else."""

Scorer = Callable[[SingleStreamDiT, int], tuple[dict[str, float], list[np.ndarray]]]
"""(model with averaged weights, step) -> scores in 0..1 and rows of pictures for a sample grid."""

HeldOut = Callable[[nn.Module, Accelerator], dict[str, float]]
"""(objective, accelerator) -> losses by name; called by every process, and the same in all."""

Exporter = Callable[[dict[str, Tensor], Path, int], Path]
"""(trained weights by name, float32, on the CPU; folder; step) -> the file written."""


RUN_FILE = "run.json"
"""In a checkpoint: the settings and the number of processes that wrote it."""

CHOICES = {"optimizer": ("muon", "adamw", "adamw8bit"), "mixed_precision": ("no", "bf16", "fp16")}
HELD_OUT = "held-out"
LEAST_RATE = 0.05  # of the peak, at the end


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; what is trained comes from the model and the source.

    Attributes:
        steps: optimizer steps of the whole run.
        parts: accumulation parts of a step; a source may give each its own task or length.
        levels: noise levels drawn for every picture of a part.
        lr: peak learning rate; ``pooling_lr`` of LAP and refiner, which Muon with a large rate made
            outgrow the hidden states they are given.
        optimizer: ``muon`` for the matrices of the DiT's blocks with AdamW for the rest, ``adamw``, or
            ``adamw8bit`` of bitsandbytes.
        warmup: steps; ``decay``: last share of the run over which the rate falls to a twentieth.
        level_mean, level_deviation: of the logit-normal noise level; a higher mean trains more on noise.
        ema: decay of the averaged weights; 0 for none.
        keep_every, score_every, log_every: steps between checkpoints, scores and log lines; 0 for never.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        compile: compile the blocks with torch.compile; wants fixed shapes. Blocks of one kind share
            their code, so this takes a minute where the whole model takes many.
        shard: spread weights and optimizer over all processes (FSDP2).
        tensorboard: write TensorBoard's files.
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
    shard: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            found = getattr(self, name)
            if found not in allowed:
                raise ValueError(f"The setting {name} is {found!r}; choose one of {', '.join(allowed)}.")
        for name in ("steps", "parts", "levels"):
            found = getattr(self, name)
            if found < 1:
                raise ValueError(f"The setting {name} is {found}; it must be at least 1.")
        if self.shard and self.mixed_precision == "fp16":
            raise ValueError("Weights spread over processes cannot be trained in fp16; take bf16 or no.")


def build_optimizer(objective: FlowMatching, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Parameter groups: matrices of the DiT's blocks, LAP and refiner, the rest; no decay on vectors.

    Raises:
        ValueError: if ``adamw8bit`` is asked for and cannot be had.
    """
    blocks, pooling, matrices, vectors = [], [], [], []
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or name.endswith(".lin"):
            vectors.append(parameter)
        elif ".txtfusion." in name:
            pooling.append(parameter)
        elif ".blocks." in name and settings.optimizer == "muon" and ".lora_" not in name:
            blocks.append(parameter)
        else:
            matrices.append(parameter)
    # Muon's rate is too large for AdamW's parameters
    rest = 0.5 * settings.lr if settings.optimizer == "muon" else settings.lr
    groups = [
        dict(params=blocks, rule="muon", lr=settings.lr),
        dict(params=pooling, lr=settings.pooling_lr),
        dict(params=matrices, lr=rest),
        dict(params=vectors, lr=rest, weight_decay=0.0),
    ]
    groups = [dict(group, peak=group["lr"]) for group in groups if group["params"]]
    if settings.optimizer != "adamw8bit":
        return MuonAdamW(groups, weight_decay=settings.weight_decay)
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception:  # bitsandbytes raises its own kinds where it finds no GPU
        raise ValueError(
            "The optimizer adamw8bit needs bitsandbytes and a GPU; run pip install bitsandbytes, or take adamw."
        ) from None
    return AdamW8bit(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)


def generator_for(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on ``key`` alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class _Position:
    """The number of finished steps."""

    def __init__(self) -> None:
        self.step = 0


class Trainer:
    """One training run in a folder.

    The folder holds ``checkpoints/step_N`` (the two newest, complete state of what is trained),
    ``log.jsonl``, ``curve.png``, ``samples_N.png``, TensorBoard files and the exported weights
    (averaged where averages are kept) after every scoring, and the best of them so far.

    Args:
        objective: the model with its loss; what of it requires gradients is trained.
        source: see :data:`Source`.
        settings: see :class:`TrainingSettings`.
        out: the folder; a run found there is resumed.
        scorer: see :data:`Scorer`; None for none.
        best_by: the score that decides which weights are best, empty for none; the held-out loss where there is one.
        held_out: see :data:`HeldOut`; None for none.
        exporter: see :data:`Exporter`; None writes ``dit.safetensors`` in bfloat16 under Krea 2's names.
        about: further facts of the run that a checkpoint has to agree with, in plain values.
        told: further facts that may differ, which is then said.

    Raises:
        ValueError: if another process writes to the folder, or holds a run that this one cannot go on from.
    """

    def __init__(
        self,
        objective: FlowMatching,
        source: Source,
        settings: TrainingSettings,
        out: Path,
        scorer: Scorer | None = None,
        best_by: str = "whole",
        *,
        held_out: HeldOut | None = None,
        exporter: Exporter | None = None,
        about: dict | None = None,
        told: dict | None = None,
    ) -> None:
        self.settings, self.source, self.scorer, self.best_by = settings, source, scorer, best_by
        self.held_out, self.exporter = held_out, exporter or self._write_dit
        self.about, self.told = about or {}, told or {}
        self.out = Path(out)
        set_seed(settings.seed)
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.parts,
            log_with="tensorboard" if settings.tensorboard else None,
            project_config=ProjectConfiguration(project_dir=str(self.out), logging_dir=str(self.out)),
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.lock = FolderLock(self.out) if self.main else None
        if settings.compile:
            for module in objective.modules():
                if isinstance(module, (SingleStreamBlock, TextFusionBlock)):
                    module.compile()
        if self.sharded:
            self.objective = shard(objective, self.accelerator.device)
            self.optimizer = build_optimizer(objective, settings)
        else:
            self.objective, self.optimizer = self.accelerator.prepare(objective, build_optimizer(objective, settings))
        self.plain = objective
        self.dit = objective.dit
        self.ema = EMA(self.dit, settings.ema) if settings.ema else None
        self.position = _Position()
        if settings.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self._resume()

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def sharded(self) -> bool:
        """Whether weights are spread; one process has nothing to spread them over."""
        return self.settings.shard and self.accelerator.num_processes > 1

    @property
    def _inner_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _checkpoints(self) -> list[Path]:
        found = (self.out / "checkpoints").glob("step_*[0-9]")
        return sorted(found, key=lambda path: int(path.name[5:]))

    def _resume(self) -> None:
        found = self._checkpoints()
        if found:
            self._compare(found[-1])
            state = checkpoint.read(found[-1])
            checkpoint.restore(state, self.plain, self._inner_optimizer, self.ema)
            if self.ema is not None and state["ema"] is None:
                self.ema = EMA(self.dit, self.settings.ema)
            if self.accelerator.scaler is not None and state.get("scaler"):
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.position.step = state["step"]
            self.accelerator.print(f"resumed at step {self.position.step} of {self.settings.steps}")

    def _about(self) -> dict:
        return {**asdict(self.settings), "processes": self.accelerator.num_processes, **self.told, **self.about}

    def _compare(self, folder: Path) -> None:
        """Refuse a checkpoint that these settings cannot go on from; say what else differs from it.

        Raises:
            ValueError: another optimizer, other fixed facts, or fewer steps than the checkpoint has taken.
        """
        taken, about = int(folder.name[5:]), folder / RUN_FILE
        if self.settings.steps < taken:
            raise ValueError(
                f"The run in {self.out} has taken {taken} steps and the settings ask for {self.settings.steps}; "
                "ask for at least as many or choose another folder."
            )
        if not about.exists():
            self.accelerator.print(f"{folder} does not say its settings; they could not be compared")
            return
        before = json.loads(about.read_text())
        changed = {name: value for name, value in self._about().items() if before.get(name) != value}
        if "optimizer" in changed:
            raise ValueError(
                f"The run in {self.out} was trained with optimizer {before.get('optimizer')!r}, not "
                f"{changed['optimizer']!r}; set it back or choose another folder."
            )
        for name in self.about:
            if name in changed:
                raise ValueError(
                    f"The run in {self.out} was trained with {name} {before.get(name)!r}, not {changed[name]!r}; set it "
                    "back or choose another folder."
                )
        for name, value in changed.items():
            self.accelerator.print(f"resuming with {name} {value}, was {before.get(name)}: not the same run any more")

    def save(self) -> Path:
        """Write a complete checkpoint; older ones than the last two go."""
        target = self.out / "checkpoints" / f"step_{self.position.step}"
        state = checkpoint.gather(self.plain, self._inner_optimizer, self.ema, self.main)
        if self.main:
            state["step"] = self.position.step
            scaler = self.accelerator.scaler
            state["scaler"] = None if scaler is None else scaler.state_dict()
            unfinished = target.with_name(target.name + "_unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            torch.save(state, unfinished / checkpoint.STATE)
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
        settings, step, processes = self.settings, self.position.step, self.accelerator.num_processes
        now = factor(step, settings.steps, warmup=settings.warmup, decay=settings.decay, floor=LEAST_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * now
        sums: dict[str, float] = {}
        for part in range(settings.parts):
            batch = self.source(step, part, self.accelerator.process_index)
            self.plain.check(batch)
            batch = batch.to(self.accelerator.device)
            # parts are numbered over all processes: two processes draw what one draws in two parts
            generator = generator_for(settings.seed, step, part * processes + self.accelerator.process_index)
            t = noise_levels(
                len(batch.latents), settings.levels, settings.level_mean, settings.level_deviation, generator
            )
            noise = torch.randn(len(batch.latents), settings.levels, *batch.latents.shape[1:], generator=generator)
            losses = self._accumulate(part, batch, noise.to(batch.latents.device), t.to(batch.latents.device), sums)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / settings.parts
        if self.ema is not None:
            self.ema.update()
        self.position.step += 1
        return sums

    def _accumulate(self, part: int, batch: Batch, noise: Tensor, t: Tensor, sums: dict) -> dict[str, Tensor]:
        """Forward and backward of a part; the optimizer's step after the last."""
        if self.sharded:
            last = part == self.settings.parts - 1
            set_sync(self.plain, last)
            with self.accelerator.autocast():
                losses = self.objective(batch, noise, t)
            (losses["loss"] / self.settings.parts).backward()
            if last:
                norm = nn.utils.clip_grad_norm_(list(self.plain.parameters()), self.settings.clip)
                sums["gradient"] = float(whole(norm))
                self.optimizer.step()
                self.optimizer.zero_grad()
            return losses
        with self.accelerator.accumulate(self.objective):
            with self.accelerator.autocast():
                losses = self.objective(batch, noise, t)
            self.accelerator.backward(losses["loss"])
            if self.accelerator.sync_gradients:
                sums["gradient"] = float(self.accelerator.clip_grad_norm_(self.plain.parameters(), self.settings.clip))
            self.optimizer.step()
            self.optimizer.zero_grad()
        return losses

    def run(self, until: int | None = None) -> Path:
        """Train to the last step, or to step ``until`` of it.

        Returns:
            The file with trained weights.

        Raises:
            FloatingPointError: if the loss is no number any more.
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
                self._log(step, self._over_processes(mean), note=f"{spoken(left)} left")
            # first the checkpoint: a scorer that fails must not cost the steps before it
            if settings.keep_every and (step % settings.keep_every == 0 or step == last):
                self.save()
            if settings.score_every and (step % settings.score_every == 0 or step == last):
                self.score()
        return self.export()

    def _over_processes(self, values: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return values
        mean = self.accelerator.reduce(
            torch.tensor(list(values.values()), device=self.accelerator.device, dtype=torch.float32), "mean"
        )
        return dict(zip(values, mean.tolist()))

    def _log(self, step: int, values: dict[str, float], note: str = "") -> None:
        if self.settings.tensorboard:
            self.accelerator.log(values, step=step)
        if self.main:
            line = {"step": step, **values}
            with open(self.out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(" ".join([*(f"{name} {value:.4g}" for name, value in line.items()), note]).rstrip(), flush=True)

    def _averaged(self):
        return nullcontext() if self.ema is None else self.ema.applied()

    def score(self) -> dict[str, float]:
        """Held-out loss, scores and samples of the averaged weights; write the grid, the curve and the weights.

        Scores are the main process's alone, unless weights are spread: then every process takes part.
        """
        scores: dict[str, float] = {}
        losses: dict[str, float] = {}
        rows: list[np.ndarray] = []
        step = self.position.step
        self.plain.eval()
        with self._averaged(), self.accelerator.autocast(), torch.no_grad():
            if self.held_out is not None:
                losses = self.held_out(self.plain, self.accelerator)
            if self.scorer is not None and (self.main or self.sharded):
                scores, rows = self.scorer(self.dit, step)
        self.plain.train()
        if self.main and (losses or scores):
            self._log(step, losses | {f"score/{name}": value for name, value in scores.items()})
        if self.main:
            if rows:
                save_grid(rows, self.out / f"samples_{step}.png")
            if (self.out / "log.jsonl").exists():
                plot_log(self.out / "log.jsonl", self.out / "curve.png")
        if losses or self.scorer is not None:
            path = self.export()
            if self.main:
                self._keep_best(step, scores, losses, path)
        self.accelerator.wait_for_everyone()
        return scores

    def _keep_best(self, step: int, scores: dict[str, float], losses: dict[str, float], path: Path) -> None:
        """Copy the exported weights to ``best.safetensors`` when they are at least as good as the best so far."""
        if HELD_OUT in losses:
            name, value = HELD_OUT, -losses[HELD_OUT]
        elif self.best_by in scores:
            name, value = self.best_by, scores[self.best_by]
        elif not self.best_by:
            return
        else:
            found = ", ".join(scores) or "nothing"
            print(f"no best weights are kept: the scorer gives {found}, not {self.best_by}", flush=True)
            return
        best = self.out / "best.json"
        before = json.loads(best.read_text()).get("values", {}).get(name, -math.inf) if best.exists() else -math.inf
        if value >= before:
            shutil.copyfile(path, self.out / "best.safetensors")
            best.write_text(json.dumps({"step": step, "scores": scores, "values": {name: value}}, indent=2))

    def export(self) -> Path:
        """Write the trained weights (averaged where averages are kept), and the settings as JSON."""
        with self._averaged():
            own = checkpoint.trained(self.dit).items()
            state = {name: whole(p.detach()).float().to("cpu", copy=True) for name, p in own}
        path = self.out
        if self.main:
            path = self.exporter(state, self.out, self.position.step)
            (self.out / "settings.json").write_text(json.dumps(asdict(self.settings), indent=2))
        self.accelerator.wait_for_everyone()
        return path

    @staticmethod
    def _write_dit(state: dict[str, Tensor], out: Path, step: int) -> Path:
        path = out / "dit.safetensors"
        save_file({k: v.bfloat16().contiguous() for k, v in state.items()}, path, metadata={"step": str(step)})
        return path

    def close(self) -> None:
        """Finish TensorBoard's files and let go of the folder."""
        self.accelerator.end_training()
        if self.lock is not None:
            self.lock.release()


def load_weights(dit: SingleStreamDiT, path: Path) -> SingleStreamDiT:
    """Put the weights of :meth:`Trainer.export`, or of any Krea 2 file of the same sizes, into ``dit``."""
    dit.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return dit
