"""``python -m bench.training_cost``: a step of the trainer beside a plain loop, encoding beside a bare transformers loop.

CPU seconds of this process are compared, in turn (ours, theirs, ours, theirs ...), so that other programs count little.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from unifusion.conditions import encode_segments
from unifusion.training import runs
from unifusion.training.cache import LATENTS, STATES
from unifusion.training.cached_source import collate
from unifusion.training.config import Config, load
from unifusion.training.examples import EDIT, TEXT
from unifusion.training.frozen_encoder import prepare
from unifusion.training.models import build
from unifusion.training.objective import FlowMatching, noise_levels
from unifusion.training.trainer import build_optimizer
from unifusion.transformers_vlm import TransformersVLM

COLOURS = ("red", "green", "blue", "yellow")


def data(folder: Path, count: int = 16) -> Path:
    """Coloured squares with captions and the configuration of a model like the miniature's."""
    (folder / "pictures").mkdir(parents=True)
    for index in range(count):
        colour = COLOURS[index % len(COLOURS)]
        Image.new("RGB", (128, 128), colour).save(folder / "pictures" / f"{index}.png")
        (folder / "pictures" / f"{index}.txt").write_text(f"a {colour} square at the center of a white picture")
    path = folder / "config.toml"
    path.write_text(
        'out = "run"\ndevice = "cpu"\nthreads = 1\n[data]\n[[data.sources]]\npath = "pictures"\n'
        "[schedule]\nbatch = 4\nlevels = 2\nsteps = 1000\n[watch]\nlog_every = 1000\n"
    )
    return path


def in_turn(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple[float, float, float]:
    """(median ratio, seconds of ours, of theirs), CPU seconds a round."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for function, kept in zip((ours, theirs), times):
            began = time.process_time()
            function()
            if turn:  # the first round warms up
                kept.append(time.process_time() - began)
    ratio = statistics.median(a / b for a, b in zip(*times))
    return ratio, statistics.median(times[0]), statistics.median(times[1])


def plain_step(config: Config, run: runs.Run) -> Callable[[], None]:
    """A loop as one would write it: read, collate, noise, loss, backward, clip, step."""
    dit = build(config, run.contract)
    objective = FlowMatching(dit)
    settings = runs.settings_of(config)
    optimizer = build_optimizer(objective, settings)
    examples, generator = run.encoded_examples(), torch.Generator().manual_seed(0)

    def step() -> None:
        chosen = [examples[i] for i in torch.randint(len(examples), (config.schedule.batch,), generator=generator)]
        batch = collate(
            [run.cache.read(LATENTS, e.latent) for e in chosen],
            [run.cache.read(STATES, e.conditions[TEXT].key) for e in chosen],
        )
        t = noise_levels(len(chosen), settings.levels, settings.level_mean, settings.level_deviation, generator)
        noise = torch.randn(len(chosen), settings.levels, *batch.latents.shape[1:], generator=generator)
        objective(batch, noise, t)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def encoding(run: runs.Run) -> tuple[Callable[[], None], Callable[[], None]]:
    """Our encoding of captions and of a picture each, and transformers' model on the same ids and pixels."""
    conditions = [
        c for e in run.examples[:4] for task, c in e.conditions.items() if task in (TEXT, EDIT, "reconstruct")
    ]
    encoder, contract = run.encoder, run.contract
    vlm = TransformersVLM.from_folder(encoder.folder)

    def ours() -> None:
        for condition in conditions:
            condition.encode(encoder, contract)

    def theirs() -> None:
        for condition in conditions:
            pictures = [picture.pixels() for picture in condition.pictures]
            references = prepare(encoder, contract.profile, pictures)
            system = contract.profile.system_for(condition.prompt, bool(pictures))
            tokens = vlm.tokenize(encode_segments(contract.profile, system, condition.prompt, references))
            with torch.no_grad():
                read = vlm.embed([(tokens, [[vlm.features(view) for view in r.views] for r in references])])
                vlm.decoder(
                    inputs_embeds=read.embeds,
                    position_ids=read.positions,
                    use_cache=False,
                    output_hidden_states=True,
                    **(
                        {"visual_pos_masks": read.pictures, "deepstack_visual_embeds": read.deepstack}
                        if pictures
                        else {}
                    ),
                )

    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="unifusion_cost_"))
    try:
        config = load(data(folder))
        runs.start_processes(config)
        run = runs.prepare(config)
        runs.encode(run)
        trainer = runs.make_trainer(run)
        rows = [("a step", *in_turn(lambda: trainer.step(), plain_step(config, run), given.rounds))]
        trainer.close()
        rows.append(("encoding", *in_turn(*encoding(run), given.rounds)))
        print("| what | beside | ratio of CPU time | ours | theirs |\n|---|---|---|---|---|")
        beside = ("a plain loop over the same cache", "transformers' forward pass with output_hidden_states")
        for (what, ratio, ours, theirs), other in zip(rows, beside):
            print(f"| {what} | {other} | **{ratio:.3f}** | {ours:.3f} s | {theirs:.3f} s |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
