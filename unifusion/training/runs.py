"""A whole run: read the data, encode it once, train, look, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from . import processes
from .cache import STATES, Cache, Digests, key_of
from .cached_source import CachedSource
from .config import Config
from .data.buckets import describe
from .data.read_sources import read_sources
from .data.sample import Notes
from .encode_once import Encoded, Work, encode_all, load_encoder, load_vae, vae_file, vae_identity
from .examples import Condition, Contract, Example, ExampleMaker, split, without_long
from .exporting import Export
from .folder_lock import FolderLock
from .frozen_encoder import FrozenEncoder, file_identity
from .held_out import HeldOutLoss
from .models import build, load_pooling, place, sizes, start_file
from .objective import FlowMatching
from .previews import Previews
from .run_report import write_report
from .trainer import Trainer, TrainingSettings

LONGEST_WAIT = timedelta(hours=48)  # for a process that still encodes

Say = Callable[[str], None]


def device_of(config: Config) -> torch.device:
    """The device that a configuration names, for this process.

    Raises:
        ValueError: if it asks for a GPU and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'{config.path.name}: device is "cuda" and PyTorch finds no GPU; take "cpu" or "auto".')
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def settings_of(config: Config) -> TrainingSettings:
    """Settings of the trainer.

    Raises:
        ValueError: if TensorBoard is asked for and is not there.
    """
    s, w, t = config.schedule, config.watch, config.train
    if w.tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            f"{config.path.name}: watch.tensorboard is true and TensorBoard is not installed; run pip install tensorboard, "
            "or leave the key out."
        )
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if device_of(config).type == "cuda" else "no"
    return TrainingSettings(
        steps=s.steps,
        parts=s.parts,
        levels=s.levels,
        lr=s.lr,
        pooling_lr=s.pooling_lr or s.lr,
        weight_decay=s.weight_decay,
        optimizer=s.optimizer,
        warmup=s.warmup,
        decay=s.decay,
        clip=s.clip,
        level_mean=s.level_mean,
        level_deviation=s.level_deviation,
        ema=t.ema,
        keep_every=w.keep_every or s.steps,
        score_every=w.look_every or s.steps,
        log_every=w.log_every,
        mixed_precision=precision,
        compile=t.compile,
        seed=config.seed,
        shard=t.shard,
        tensorboard=w.tensorboard,
    )


@dataclass
class Run:
    """A configuration with its data read, before anything is encoded."""

    config: Config
    encoder: FrozenEncoder
    contract: Contract
    cache: Cache
    examples: list[Example]
    previews: Previews
    notes: Notes = field(default_factory=Notes)

    @property
    def extra(self) -> list[Condition]:
        return self.previews.conditions if self.previews else []

    @property
    def work(self) -> Work:
        return Work(self.examples, self.extra, self.cache)

    def lengths(self) -> dict[str, int]:
        """Tokens of every condition, from the cache; those that are not there have none."""
        found = {}
        for key in self.work.states:
            try:
                found[key] = self.cache.shape(STATES, key)[0]
            except FileNotFoundError:
                continue
        return found

    def encoded_examples(self) -> list[Example]:
        """Examples whose entries are all in the cache and short enough.

        Raises:
            ValueError: if there is none.
        """
        there = []
        for example in self.examples:
            if all(self.cache.has(*key) for key in example.keys()):
                there.append(example)
            else:
                self.notes.add("examples that could not be encoded, left out", example.name)
        longest = self.config.data.longest
        kept = without_long(there, self.lengths() if longest else {}, longest, self.notes)
        if not kept:
            raise ValueError(f"No example is left to train on. {' '.join(self.notes.lines())}")
        return kept


def prepare(config: Config, say: Say = print) -> Run:
    """Read and check all that a configuration names; loads no weights.

    Raises:
        ValueError: naming what is wrong.
    """
    encoder = load_encoder(config, device_of(config))
    contract = Contract.of(encoder, config.vlm)
    path = start_file(config)
    if config.data.cache_pooled and path is not None:
        sizes(config, contract)
        contract = replace(contract, pooled=file_identity(path))
    cache = Cache(config.cache_folder)
    samples, notes = read_sources(config)
    maker = ExampleMaker(
        config, contract, encoder.tokenizer, vae_identity(config), Digests(cache.folder, processes.rank())
    )
    examples, more = maker.make(samples)
    notes.extend(more)
    previews = Previews(config, maker, cache, lambda: load_vae(vae_file(config), device_of(config)))
    say(f"{len(examples):,} examples: {describe([example.size for example in examples])}")
    for line in notes.lines():
        say(line)
    return Run(config, encoder, contract, cache, examples, previews, notes)


def pooling_of(run: Run) -> Callable[[], nn.Module] | None:
    """Loads the pooling that is applied to states before they are kept; None where states are kept."""
    if not run.contract.pooled:
        return None
    return lambda: load_pooling(run.config, run.contract, device_of(run.config))


def encode(run: Run, say: Say = print) -> Encoded:
    """Fill the cache with this process's part."""
    config, work = run.config, run.work
    device, (latents, states) = device_of(config), work.missing()
    if latents or states:
        say(f"encoding {len(latents):,} pictures and {len(states):,} conditions once")
    done, notes, _ = encode_all(
        work,
        run.contract,
        lambda: load_vae(vae_file(config), device),
        lambda: run.encoder,
        processes.rank(),
        processes.running(),
        say,
        pooling_of(run),
    )
    for line in notes.lines():
        print(line, flush=True)
    run.notes.extend(notes)
    run.encoder.release()
    say(f"encoded {done.latents:,} pictures and {done.states:,} conditions; {done.found:,} were in the cache")
    return done


def start_processes(config: Config) -> PartialState:
    """The group of processes that train together.

    Raises:
        ValueError: if a launcher was asked for more than it started.
    """
    if processes.launched():
        processes.die_with_parent()
    counted = processes.check_asked_for()
    cpu = device_of(config).type == "cpu"
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if processes.launched():
            torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // processes.running()))
        elif config.threads:
            torch.set_num_threads(config.threads)
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1") and not config.train.shard:
        raise ValueError(
            f"{config.path.name}: accelerate is set to FSDP; set train.shard = true, which spreads the weights in the way "
            "that is tested, and leave FSDP out of accelerate's own settings."
        )
    state = PartialState(cpu=cpu, **({"timeout": LONGEST_WAIT} if processes.launched() else {}))
    if state.is_main_process:
        print(f"{counted}, on {device_of(config).type}", flush=True)
    return state


def fixed_facts(run: Run) -> dict:
    """What a checkpoint has to agree with."""
    train, config = run.config.train, run.config
    facts: dict = {"what": train.what, "vlm": run.contract.identity, "taps": list(run.contract.taps)}
    facts |= {"profile": run.contract.profile.key, "start": config.model.start}
    if train.what == "lora":
        facts |= {"rank": train.rank, "alpha": train.alpha}
    return facts


def train(config: Config, until: int | None = None) -> Path:
    """Everything, from the data to the report; a run found in the folder goes on.

    Returns:
        The file with trained weights.

    Raises:
        ValueError: naming what is wrong with the configuration, the data or the folder.
    """
    began = time.time()
    state = start_processes(config)
    say: Say = lambda text: print(text, flush=True) if state.is_main_process else None
    if state.is_main_process:
        FolderLock(config.out_folder).release()  # found before the encoding, not after it
    run = prepare(config, say)
    done = encode(run, say)
    state.wait_for_everyone()
    trainer = make_trainer(run, say)
    path = trainer.run(until)
    if trainer.main:
        write_report(run.config, run.contract, run.notes, done, trainer, path, time.time() - began)
        say(f"weights: {path}")
        say(f"report: {config.out_folder / 'report.html'}")
    trainer.close()
    return path


def make_trainer(run: Run, say: Say = print) -> Trainer:
    """The trainer over an encoded run."""
    config, contract = run.config, run.contract
    kept, held = split(run.encoded_examples(), config.data.heldout)
    dit = build(config, contract)
    place(dit, device_of(config))
    torch.manual_seed(config.seed)
    objective = FlowMatching(dit)
    source = CachedSource(kept, run.cache, config, processes.running())
    count = sum(p.numel() for p in dit.parameters() if p.requires_grad)
    say(f"{count / 1e6:,.2f} M parameters trained; {len(kept):,} examples, {len(held):,} held out")
    return Trainer(
        objective,
        source,
        settings_of(config),
        config.out_folder,
        run.previews or None,
        best_by="",
        held_out=HeldOutLoss(held, run.cache, config.seed) if held else None,
        exporter=Export(config, contract),
        about=fixed_facts(run),
        told={
            "batch": config.schedule.batch,
            "data": key_of(sorted(example.latent for example in kept))[:12],
            "held_out": len(held),
        },
    )
