"""Before the first step: everything checked, one batch of each task taken, ten steps timed, and what it will all take."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..quoting import spoken
from . import processes
from .cache import STATES
from .config import Config
from .encode_once import Encoded, Work, encode_all, load_vae, vae_file
from .examples import EDIT, EMPTY, RECONSTRUCT, TEXT, Condition, Example
from .memory import GB, Memory, advice, measure, room
from .models import sizes
from .runs import Run, device_of, make_trainer, pooling_of, prepare, settings_of, start_processes

TIMED = 10
SAFE = 0.92  # of a device's memory; the rest is the driver's and what falls between blocks


@dataclass
class Plan:
    """What a configuration will take.

    Attributes:
        memory: of a training step. room: of the device.
        seconds_step: from timed steps. seconds_encode: for all that is not in the cache.
        cache_bytes: of the whole cache. steps, epochs: of the run.
        tasks: examples that have each task.
    """

    memory: Memory
    room: int
    seconds_step: float = 0.0
    seconds_encode: float = 0.0
    seconds_look: float = 0.0
    cache_bytes: int = 0
    steps: int = 0
    looks: int = 0
    epochs: float = 0.0
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.seconds_encode + self.steps * self.seconds_step + self.looks * self.seconds_look

    def lines(self) -> list[str]:
        """In words."""
        m = self.memory
        tasks = ", ".join(f"{count:,} {task}" for task, count in self.tasks.items())
        return [
            f"tasks: {tasks}",
            f"parameters: {m.parameters / 1e6:,.2f} M, of which {m.parameters_trained / 1e6:,.2f} M are trained",
            f"memory of a step, of {self.room / GB:,.1f} GB:",
            *m.lines(),
            f"cache: {self.cache_bytes / 1e6:,.1f} MB",
            f"steps: {self.steps:,}, {self.epochs:,.1f} times through the data",
            f"time: {spoken(self.seconds)} ({spoken(self.seconds_encode)} to encode, {self.seconds_step:.3g} s a step, "
            f"{self.seconds_look:.3g} s for each of {self.looks} looks)",
        ]


def check_fits(config: Config, found: Memory, has: int) -> None:
    """Refuse what is larger than the device.

    Raises:
        ValueError: saying how much is missing and what to change.
    """
    if found.total > SAFE * has:
        changes = ", or ".join(advice(config, found)) or "a device with more memory"
        raise ValueError(
            f"A step takes {found.total / GB:.1f} GB and the device has {has / GB:.1f} GB, of which {SAFE * has / GB:.1f} GB "
            f"can be used. Try {changes}."
        )


def a_few(run: Run) -> list[Example]:
    """Up to a batch of examples for every task, the longest words among them."""
    batch, chosen = run.config.schedule.batch, {}
    for task in (TEXT, EDIT, RECONSTRUCT, EMPTY):
        fitting = [e for e in run.examples if task in e.conditions]
        fitting.sort(key=lambda e: -len(e.conditions[task].prompt))
        chosen |= {e.name: e for e in fitting[: max(2, batch)]}
    held = run.config.data.heldout
    return [*chosen.values(), *[e for e in run.examples if e.name not in chosen][: 1 if held else 0]]


def longest_condition(run: Run, encoded: Sequence[Example]) -> int:
    """Tokens of the longest condition, from what was encoded and the lengths of the texts."""
    lengths = {c.key: run.cache.shape(STATES, c.key)[0] for e in encoded for c in e.conditions.values()}
    longest = max(lengths.values())
    limit = run.config.data.longest
    return min(longest, limit) if limit else longest


def make_plan(config: Config) -> Plan:
    """Check all, take a few steps in a folder of its own, and count.

    Raises:
        ValueError: for what is wrong, and for what will not fit.
    """
    device = device_of(config)
    run = prepare(config)
    made, settings = sizes(config, run.contract), settings_of(config)
    largest = max((e.size for e in run.examples), key=lambda size: size[0] * size[1])
    latent, count = (largest[0] // 8, largest[1] // 8), processes.running()
    # a first look before anything large is loaded: words of the least length
    first = measure(config, made, settings, latent, 32, device.type, max(count, config.processes))
    check_fits(config, first, room(device))

    few = a_few(run)
    done, missing = _encode_few(run, few)
    encoded = [e for e in few if all(run.cache.has(*key) for key in e.keys())]
    tokens = longest_condition(run, encoded)
    found = measure(config, made, settings, latent, tokens, device.type, max(count, config.processes))
    check_fits(config, found, room(device))
    plan = Plan(found, room(device), steps=config.schedule.steps)
    plan.tasks = {
        task: n for task in (TEXT, EDIT, RECONSTRUCT) if (n := sum(task in e.conditions for e in run.examples))
    }
    _estimate_cache(plan, run, encoded, done, missing)
    per_step = config.schedule.batch * config.schedule.parts * max(count, config.processes)
    plan.epochs = config.schedule.steps * per_step / sum(e.repeats for e in run.examples)
    plan.looks = -(-config.schedule.steps // (config.watch.look_every or config.schedule.steps))
    _time_steps(plan, run, encoded)
    return plan


def _encode_few(run: Run, few: Sequence[Example]) -> tuple[Encoded, tuple[int, int]]:
    config, device = run.config, device_of(run.config)
    whole_latents, whole_states = run.work.missing()
    extra: list[Condition] = run.extra
    done, notes, _ = encode_all(
        Work(few, extra, run.cache),
        run.contract,
        lambda: load_vae(vae_file(config), device),
        lambda: run.encoder,
        make_pooling=pooling_of(run),
    )
    run.notes.extend(notes)
    for line in notes.lines():
        print(line)
    run.encoder.release()
    if not any(all(run.cache.has(*key) for key in e.keys()) for e in few):
        raise ValueError(f"None of the first examples can be encoded. {' '.join(notes.lines())}")
    return done, (len(whole_latents) - done.latents, len(whole_states) - done.states)


def _estimate_cache(plan: Plan, run: Run, encoded: Sequence[Example], done: Encoded, missing: tuple[int, int]) -> None:
    """Size and time of the whole from what was encoded now."""
    work = run.work
    there = {(STATES, c.key) for e in encoded for c in e.conditions.values()}
    of_states = run.cache.nbytes(there) / len(there)
    of_latents = run.cache.nbytes({("latents", e.latent) for e in encoded}) / len({e.latent for e in encoded})
    plan.cache_bytes = int(of_states * len(work.states) + of_latents * len(work.latents))
    share = max(processes.running(), run.config.processes)
    if done.latents:
        plan.seconds_encode += missing[0] * done.seconds_latents / done.latents / share
    if done.states:
        plan.seconds_encode += missing[1] * done.seconds_states / done.states / share


def _time_steps(plan: Plan, run: Run, encoded: Sequence[Example]) -> None:
    """Ten steps and one look in a folder that goes away again."""
    folder = Path(tempfile.mkdtemp(prefix="unifusion_plan_"))
    watch = run.config.watch.model_copy(update={"tensorboard": False})
    data = run.config.data.model_copy(
        update={"cache": str(run.cache.folder), "heldout": 1 if run.config.data.heldout and len(encoded) > 2 else 0}
    )
    config = run.config.model_copy(update={"out": str(folder / "run"), "watch": watch, "data": data})
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer(Run(config, run.encoder, run.contract, run.cache, list(encoded), run.previews))
        times = []
        for _ in range(min(TIMED, config.schedule.steps)):
            began = time.perf_counter()
            trainer.step()
            if trainer.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        plan.seconds_step = sorted(times)[len(times) // 2]
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.score()
        plan.seconds_look = time.perf_counter() - began
        trainer.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def print_plan(config: Config) -> Plan:
    """:func:`make_plan`, printed."""
    start_processes(config)
    plan = make_plan(config)
    print("\n".join(plan.lines()), flush=True)
    return plan
