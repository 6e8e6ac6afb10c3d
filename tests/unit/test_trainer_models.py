"""Frozen weights in few bits, adapters, memory and plans."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from harness.training_data import captions, lines, small
from safetensors.torch import save_file
from torch import nn

from unifusion.dit import KREA2, DiTConfig, SingleStreamDiT
from unifusion.training import memory, plan
from unifusion.training.__main__ import main
from unifusion.training.config import from_values, load
from unifusion.training.frozen_linear import FrozenLinear
from unifusion.training.krea2_files import Krea2File
from unifusion.training.lora import add_lora, lora_file, targets_in
from unifusion.training.models import build, sizes
from unifusion.training.objective import Batch, FlowMatching
from unifusion.training.runs import settings_of
from unifusion.training.trainer import TrainingSettings, build_optimizer

SMALL = DiTConfig(features=128, heads=1, kvheads=1, layers=2, txtdim=40, txtlayers=3)


@pytest.mark.parametrize("kind, error", [("fp32", 0.0), ("bf16", 3e-3), ("int8", 6e-3), ("fp8", 3e-2)])
@pytest.mark.parametrize("stays", [False, True])
def test_a_frozen_layer_is_the_layer_to_the_precision_of_its_kind(kind, error, stays):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    frozen = FrozenLinear(linear, kind, stays)
    x, y = torch.randn(2, 5, 64, requires_grad=True), torch.randn(2, 5, 64, requires_grad=True)
    y.data.copy_(x.data)
    a, b = linear(x), frozen(y)
    a.square().sum().backward()
    b.square().sum().backward()
    assert (a - b).norm() <= error * a.norm() + 1e-5
    assert (x.grad - y.grad).norm() <= 2 * error * x.grad.norm() + 1e-4
    assert not [p for p in frozen.parameters() if p.requires_grad] and "packed" not in frozen.state_dict()
    torch.testing.assert_close(
        frozen.weight_in() @ torch.ones(64), linear.weight @ torch.ones(64), atol=0.2 + error, rtol=error
    )


def test_a_frozen_layer_survives_a_weight_of_zeros():
    linear = nn.Linear(8, 4)
    nn.init.zeros_(linear.weight)
    assert torch.equal(FrozenLinear(linear, "int8")(torch.randn(1, 8)), linear.bias[None])


def test_an_adapter_starts_as_nothing_and_equals_its_merged_weight():
    dit = SingleStreamDiT(SMALL).initialise(torch.Generator().manual_seed(0))
    nn.init.normal_(dit.last.linear.weight, std=0.05)
    inputs = torch.randn(1, 16, 4, 4), torch.rand(1), torch.randn(1, 3, 3, 40)
    before = dit(*inputs)
    targets = targets_in(dit, ["blocks.*.attn.w?", "txtfusion.refiner_blocks.*"])
    assert "blocks.1.attn.wq" in targets and "blocks.0.attn.gate" not in targets
    add_lora(dit, targets, rank=4, alpha=2.0)
    torch.testing.assert_close(dit(*inputs), before, atol=1e-5, rtol=1e-5)
    trained = {name: p for name, p in dit.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(targets)
    for p in trained.values():
        nn.init.normal_(p, std=0.1)
    changed = dit(*inputs)
    file = lora_file(trained, 2.0, torch.float32)
    for name in targets:
        layer, key = dit.get_submodule(name), f"diffusion_model.{name}"
        assert file[f"{key}.alpha"] == 2
        layer.base.weight.data += 2.0 / 4 * file[f"{key}.lora_B.weight"] @ file[f"{key}.lora_A.weight"]
        layer.factor = 0.0
    torch.testing.assert_close(dit(*inputs), changed, atol=1e-5, rtol=1e-4)
    assert (changed - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"'blocks\.9\.\*', which fits no matrix"):
        targets_in(dit, ["blocks.9.*"])


@pytest.fixture
def base(tmp_path):
    dit = SingleStreamDiT(DiTConfig(features=128, heads=1, kvheads=1, layers=2, txtdim=240, txtlayers=4))
    dit.initialise(torch.Generator().manual_seed(1))
    save_file({f"model.diffusion_model.{k}": v for k, v in dit.state_dict().items()}, tmp_path / "base.safetensors")
    return dit


def config_with(folder, train, base="fp32", **more):
    path = small(folder, 'path = "cap"', train=train, **more)
    text = path.read_text().replace("layers = 1", f'layers = 1\nstart = "base.safetensors"\nbase = "{base}"')
    path.write_text(text)
    return path


class Made:
    """Stands in for a contract."""

    vlm, width, taps = "a VLM", 240, (1, 3, 5, 7)


def test_a_file_with_a_prefix_or_scaled_weights_is_read(base, tmp_path):
    file = Krea2File(tmp_path / "base.safetensors")
    assert file.config() == base.config
    state = {k: v.clone() for k, v in base.state_dict().items()}
    weight = state.pop("blocks.0.attn.wq.weight")
    scale = weight.abs().max() / 448
    state["blocks.0.attn.wq.weight"] = (weight / scale).to(torch.float8_e4m3fn)
    state["blocks.0.attn.wq.weight_scale"] = scale
    save_file(state, tmp_path / "scaled.safetensors")
    read = Krea2File(tmp_path / "scaled.safetensors").read("blocks.0.attn.wq.weight")
    torch.testing.assert_close(read, weight, atol=0.1 * float(weight.abs().max()), rtol=0.1)


@pytest.mark.parametrize("what, kind", [("lora", "int8"), ("lora", "fp8"), ("pooling", "bf16"), ("everything", "fp32")])
def test_a_built_model_computes_what_its_file_does(base, tmp_path, what, kind):
    dit = build(load(config_with(tmp_path, f'what = "{what}"', kind)), Made)
    inputs = torch.randn(1, 16, 4, 4), torch.rand(1), torch.randn(1, 3, 4, 240)
    pooled = base.condition(inputs[2])
    assert (dit.condition(inputs[2]) - pooled).norm() < 0.02 * pooled.norm()
    names = {name for name, p in dit.named_parameters() if p.requires_grad}
    if what == "lora":
        assert all(".lora_" in name for name in names)
        assert dit.blocks[0].attn.wq.base.kind == kind and dit.first.kind == "bf16"
    else:
        assert all(name.startswith("txtfusion.") for name in names) == (what == "pooling")


def test_a_model_for_another_vlm_is_refused(base, tmp_path):
    class Other(Made):
        taps = (1, 3, 5)

    with pytest.raises(ValueError, match="takes 4 layers of width 240, and a VLM gives 3 of width 240"):
        sizes(load(config_with(tmp_path, 'what = "lora"')), Other)

    class Odd(Made):
        width = 256

    made = sizes(from_values({"data": {"sources": [{"path": "x"}]}}, Path("c.toml")), Odd)
    assert (made.states_width, made.txtdim % 20) == (256, 0)
    dit = SingleStreamDiT(made).initialise()
    save_file(dict(dit.state_dict()), tmp_path / "odd.safetensors")
    assert Krea2File(tmp_path / "odd.safetensors").config() == made


@pytest.mark.parametrize("missing", [True, False])
def test_damaged_files_of_models_are_named(base, tmp_path, missing):
    state = dict(base.state_dict())
    value = state.pop("blocks.1.mlp.up.weight")
    if not missing:
        state["blocks.1.mlp.up.weight"] = value[:5].clone()
    save_file(state, tmp_path / "bad.safetensors")
    file = Krea2File(tmp_path / "bad.safetensors")
    with pytest.raises(
        ValueError, match="lacks 1 tensors" if missing else r"with the shape \(5, 128\), which should be"
    ):
        file.check(dict(base.named_parameters()))


def measured(objective: FlowMatching, batch: Batch, levels: int, settings) -> int:
    """Peak bytes of real steps on this CPU: weights, gradients, optimizer and everything in between."""
    optimizer = build_optimizer(objective, settings)
    noise, t = torch.randn(len(batch.latents), levels, *batch.latents.shape[1:]), torch.rand(len(batch.latents), levels)
    with memory.LiveBytes() as live:
        live.add_weights(objective)
        for _ in range(2):
            objective(batch, noise, t)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    return live.peak


@pytest.mark.parametrize(
    "train, kind, size",
    [
        ('what = "lora"\nrank = 4', "bf16", 24),
        ('what = "lora"\nrank = 4\ncheckpointing = true', "int8", 24),
        ('what = "everything"', "fp32", 16),
    ],
)
def test_a_plans_memory_is_what_a_step_takes(base, tmp_path, train, kind, size):
    config = load(config_with(tmp_path, train, kind))
    dit = build(config, Made)
    batch = Batch(torch.randn(2, 16, size, size), torch.randn(2, 12, 4, 240), torch.zeros(2, 12))
    settings = TrainingSettings(steps=1, optimizer="adamw", mixed_precision="no", levels=1)
    found = memory.measure(config, base.config, settings, (size, size), 12, "cpu")
    assert found.total == pytest.approx(measured(FlowMatching(dit), batch, 1, settings), rel=0.1)


def test_krea_2_itself_is_counted_without_its_weights():
    values = {
        "mixed_precision": "bf16",
        "model": {"start": "krea2.safetensors", "base": "fp8"},
        "train": {"what": "lora", "blocks_on_cpu": 28},
        "data": {"sources": [{"path": "x"}]},
    }
    config = from_values(values, Path("krea2.toml"))
    found = memory._weights(memory.on_meta(config, KREA2, torch.bfloat16), config)
    assert found.parameters - found.parameters_trained == pytest.approx(12.8e9, rel=0.01)
    assert found.main_memory == pytest.approx(12.2e9, rel=0.02) and found.frozen < 2e9
    assert settings_of(config).mixed_precision == "bf16"


def test_what_does_not_fit_is_refused_with_what_to_change():
    values = {"model": {"start": "x"}, "train": {"what": "lora"}, "data": {"sources": [{"path": "x"}]}}
    config = from_values(values, Path("c.toml"))
    large = memory.Memory(frozen=30 * 10**9, step=20 * 10**9)
    with pytest.raises(
        ValueError, match='takes 50.0 GB and the device has 24.0 GB.*checkpointing = true.*base = "fp8"'
    ):
        plan.check_fits(config, large, 24 * 10**9)
    plan.check_fits(config, memory.Memory(frozen=10**9), 24 * 10**9)


def test_a_plan_reads_everything_times_steps_and_leaves_no_run(tmp_path, capsys):
    captions(tmp_path / "cap", 4)
    lines(tmp_path / "pairs")
    source = 'path = "cap"\n[[data.sources]]\nkind = "jsonl"\npath = "pairs/data.jsonl"'
    path = small(tmp_path, source, 40, data="heldout = 2", watch='prompts = ["a red circle"]')
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    for part in ("4 text, 6 edit, 10 reconstruct", "M are trained", "activations and products", "cache:", "s a step"):
        assert part in said
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["cache"]


def test_the_table_of_krea_2_is_the_one_in_the_documentation(monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    rows = [row for row in memory.krea2_table(lambda *_: memory.Memory(frozen=10**9)) if row.startswith("| L")]
    for row in rows:
        what, side = row.split("|")[1:3]
        assert f"|{what}|{side}|" in text
    assert json.dumps(len(rows)) == "10"
