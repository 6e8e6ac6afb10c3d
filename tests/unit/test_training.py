"""The trainer: losses fall, an interrupted run ends where an uninterrupted one does, its files load."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from safetensors.torch import load_file

from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.training.ema import EMA
from unifusion.training.euler import sample, schedule
from unifusion.training.objective import Batch, FlowMatching, noise_levels
from unifusion.training.optimizer import MuonAdamW, orthogonalise
from unifusion.training.trainer import Trainer, TrainingSettings, generator_for, load_weights

SIZES = DiTConfig(features=128, heads=1, kvheads=1, layers=2, txtdim=20, txtlayers=2)
COLOURS = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
WORDS = torch.randn(4, 1, 2, 20, generator=torch.Generator().manual_seed(2))


def source(step: int, part: int, process: int) -> Batch:
    """Evenly coloured latents; the only word says which of four colours."""
    which = torch.randint(4, (8,), generator=generator_for(7, step, part, process))
    states = torch.cat([WORDS[which], torch.zeros(8, 1, 2, 20)], dim=1)
    bias = torch.tensor([0.0, -math.inf]).expand(8, 2)
    latents = COLOURS[which][:, :, None, None].expand(8, 16, 4, 4)
    return Batch(latents, states, bias, labels=which[:, None, None].expand(8, 4, 1))


def objective() -> FlowMatching:
    torch.manual_seed(0)
    dit = SingleStreamDiT(SIZES).initialise(torch.Generator().manual_seed(0))
    return FlowMatching(dit, token_classes=(4,), features_at=1)


def settings(**changes) -> TrainingSettings:
    values = dict(
        steps=60, parts=2, levels=2, lr=3e-3, warmup=5, keep_every=20, score_every=0, log_every=5, mixed_precision="no"
    )
    return TrainingSettings(**{**values, **changes})


def score_colours(dit, step):
    noise = torch.randn(4, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    drawn = sample(dit, noise, WORDS, None, WORDS[:1] * 0, steps=8, guidance=1.0)
    nearest = torch.cdist(drawn.mean((2, 3)), COLOURS).argmin(1)
    rows = [np.zeros((4, 8, 8, 3), dtype=np.uint8)]
    return {"whole": float((nearest == torch.arange(4)).float().mean())}, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    trainer = Trainer(objective(), source, settings(score_every=30), out, score_colours)
    trainer.run()
    trainer.close()
    return out, trainer


def test_losses_fall_and_the_model_learns_its_words(finished):
    out, trainer = finished
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    flow = [line["flow"] for line in lines if "flow" in line]
    assert flow[-1] < 0.5 * flow[0]
    assert trainer.score()["whole"] == 1.0


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(finished, tmp_path):
    _, whole = finished
    first = Trainer(objective(), source, settings(), tmp_path)
    first.run(until=40)
    first.close()
    second = Trainer(objective(), source, settings(), tmp_path)
    assert second.position.step == 40
    second.run()
    second.close()
    for name, value in whole.dit.state_dict().items():
        assert torch.equal(value, second.dit.state_dict()[name]), name
    for a, b in zip(whole.ema.averages, second.ema.averages):
        assert torch.equal(a, b)


def test_what_a_run_leaves_behind(finished):
    out, trainer = finished
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_40", "step_60"]
    assert (out / "curve.png").stat().st_size > 1000
    assert (out / "samples_60.png").exists()
    assert any(out.rglob("events.out.tfevents*"))
    weights = load_file(out / "best.safetensors")
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    assert "txtfusion.projector.weight" in weights
    assert not any("head" in name for name in weights)
    dit = load_weights(SingleStreamDiT(SIZES), out / "dit.safetensors")
    torch.testing.assert_close(dit.first.weight, trainer.ema.averages[0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("scores", [{"flow": 0.5}, {}])
def test_a_scorer_without_the_best_score_or_pictures_does_not_end_a_run(tmp_path, capsys, scores):
    trainer = Trainer(
        objective(), source, settings(steps=2, score_every=1, keep_every=1), tmp_path, lambda *_: (scores, [])
    )
    trainer.run()
    trainer.close()
    assert "no best weights are kept" in capsys.readouterr().out
    assert not (tmp_path / "best.safetensors").exists()


def test_a_failing_scorer_costs_no_step(tmp_path):
    def fail(*_):
        raise RuntimeError("scorer")

    trainer = Trainer(objective(), source, settings(steps=2, score_every=2, keep_every=2), tmp_path, fail)
    with pytest.raises(RuntimeError, match="scorer"):
        trainer.run()
    trainer.close()
    assert (tmp_path / "checkpoints/step_2").exists()


def test_resuming_with_other_settings_is_refused_or_said(tmp_path, capsys):
    first = Trainer(objective(), source, settings(steps=2, keep_every=2), tmp_path)
    first.run()
    first.close()
    with pytest.raises(ValueError, match="optimizer 'muon', not 'adamw'"):
        Trainer(objective(), source, settings(steps=2, optimizer="adamw"), tmp_path)
    with pytest.raises(ValueError, match="has taken 2 steps and the settings ask for 1"):
        Trainer(objective(), source, settings(steps=1), tmp_path)
    capsys.readouterr()
    Trainer(objective(), source, settings(steps=3, keep_every=2), tmp_path).close()
    said = capsys.readouterr().out
    assert "resuming with steps 3, was 2" in said and "processes" not in said


def test_an_all_masked_caption_is_named(tmp_path):
    def masked(*key):
        batch = source(*key)
        batch.key_bias = batch.key_bias.clone()
        batch.key_bias[3] = -math.inf
        return batch

    trainer = Trainer(objective(), masked, settings(steps=1), tmp_path)
    with pytest.raises(ValueError, match="1 of 8 conditions .*number 3"):
        trainer.run()
    trainer.close()


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(states=torch.zeros(8, 2, 3, 20)), "3 taps of width 20 and the model takes 2 of width 20"),
        (dict(states=torch.zeros(8, 2, 2, 16)), "2 taps of width 16"),
        (dict(latents=torch.zeros(8, 4, 4, 4)), "4 channels"),
        (dict(latents=torch.zeros(8, 16, 5, 4)), r"sides \[5, 4\]"),
        (dict(labels=None), "no labels"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_named(change, said):
    batch = source(0, 0, 0)
    objective().check(batch)
    with pytest.raises(ValueError, match=said):
        objective().check(Batch(**{**vars(batch), **change}))


@pytest.mark.parametrize("wrong", [{"optimizer": "adam"}, {"mixed_precision": "fp8"}, {"parts": 0}, {"steps": 0}])
def test_settings_outside_what_is_allowed_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)


def test_two_processes_stay_equal(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import os, sys, torch\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]}\n"
        "torch.set_num_threads(1)\n"
        "from test_training import Trainer, objective, settings, source\n"
        f"trainer = Trainer(objective(), source, settings(steps=4, keep_every=4), {str(tmp_path / 'run')!r})\n"
        "trainer.run()\n"
        "total = torch.stack([p.double().sum() for p in trainer.dit.parameters()])\n"
        "both = trainer.accelerator.gather(total[None])\n"
        "assert both.shape[0] == 2 and torch.equal(both[0], both[1]), both\n"
        "trainer.close()\n"
        # PyTorch leaves gloo's threads running after a group with DDP is destroyed; one that takes the interpreter's
        # lock while it is torn down aborts the process.  Everything asserted above is done by then.
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    # accelerate launch starts several CPU processes through MPI only; torchrun needs none
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/checkpoints/step_4").exists()


def test_one_condition_serves_all_its_noise_levels():
    model = objective()
    batch = source(0, 0, 0)
    noise, t = torch.randn(8, 2, 16, 4, 4), torch.rand(8, 2)
    together = model(batch, noise, t)["flow"]
    apart = [model(batch, noise[:, i : i + 1], t[:, i : i + 1])["flow"] for i in range(2)]
    torch.testing.assert_close(together, sum(apart) / 2)


def test_noise_levels_of_a_picture_are_spread():
    t = noise_levels(2000, 4, 0.0, 1.0, torch.Generator().manual_seed(0))
    assert t.min() > 0 and t.max() < 1
    assert t.logit().mean().abs() < 0.05
    assert ((t < 0.5).sum(1) == 2).all()


def test_averages_forget_a_random_start():
    layer = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(layer.weight, 100.0)
    ema = EMA(layer, decay=0.999)
    torch.nn.init.zeros_(layer.weight)
    for _ in range(100):
        ema.update()
    assert ema.averages[0].abs().max() < 0.01
    with ema.applied():
        assert layer.weight.abs().max() > 0
    assert layer.weight.abs().max() == 0


def test_orthogonalised_matrices_have_singular_values_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 40, 20)))
    assert 0.6 < values.min() and values.max() < 1.3


def test_adamw_rule_equals_torch():
    ours, theirs = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    a = MuonAdamW([dict(params=list(ours.parameters()))], lr=1e-2, weight_decay=0.1)
    b = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        x = torch.randn(4, 3)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)


def test_schedule_is_krea_2s():
    levels = schedule(4, math.log(3.0))
    assert levels == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
