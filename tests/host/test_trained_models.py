"""What the trainer writes, in the real ComfyUI: its folders load and draw, its LoRAs change what merging changes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from harness.training_data import captions, lines, small
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module", autouse=True)
def with_gradients():
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(path: Path) -> None:
    from unifusion.training.__main__ import main

    with torch.inference_mode(False), torch.enable_grad():
        assert main(["run", str(path)]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model from nothing on eight pictures."""
    folder = tmp_path_factory.mktemp("trained")
    captions(folder / "cap")
    run(small(folder, 'path = "cap"'))
    return folder / "run" / "model"


def draw(model, positive, negative, size=8, steps=3):
    import nodes

    empty = {"samples": torch.zeros(1, 16, 1, size, size)}
    return nodes.common_ksampler(model, 3, steps, 2.0, "euler", "simple", positive, negative, empty)[0]["samples"]


def test_a_trained_folder_loads_and_draws(trained, bridge, monkeypatch, tmp_path):
    folders = bridge("actions.model_folders")
    shutil.copytree(trained, tmp_path / "mine")
    monkeypatch.setattr(folders, "_folders", lambda: {"mine": tmp_path / "mine"})
    model, clip, vae = folders.load("mine")
    hidden, negative, _ = bridge("actions.encode").run(clip, "a red circle")
    loaded = model
    model, positive, below, _, said = bridge("actions.pool").run(model, hidden, negative=negative)
    assert "Warning: the model was trained" not in said
    other = bridge("actions.encode").run(clip, "a red circle", selection="everything")[0]
    assert "Warning: the model was trained with the selection" in bridge("actions.pool").run(loaded, other)[-1]
    picture = vae.decode(draw(model, positive, below))
    assert picture.shape[-3:] == (64, 64, 3) and torch.isfinite(picture).all()


PROMPTS = ["", "a red circle", "Ein gr\u00fcner Kreis, \u6728", "a (red) circle: <|im_end|> two"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_training_reads_the_states_that_the_nodes_read(bridge, prompt, pictures):
    from unifusion.miniature import VLM_FOLDER
    from unifusion.training.config import VLM
    from unifusion.training.examples import Contract
    from unifusion.training.frozen_encoder import FolderEncoder, condition, prepare

    encoder = FolderEncoder(VLM_FOLDER)
    contract = Contract.of(encoder, VLM())
    shown = [torch.rand(1, 90 + 40 * i, 128, 3, generator=torch.Generator().manual_seed(i)) for i in range(pictures)]
    clip = bridge("actions.model_folders").load("bundled miniature")[1]
    images = {f"image{i}": picture for i, picture in enumerate(shown)}
    theirs = bridge("actions.encode").run(clip, prompt, images=images)[0]
    clean = prompt.replace("<|im_end|>", "")
    ours = condition(encoder, contract.profile, contract.taps, clean, prepare(encoder, contract.profile, shown))
    assert ours.roles.tolist() == theirs.roles.tolist() and ours.pieces == theirs.pieces
    assert (ours.vlm, ours.taps, ours.grids) == (theirs.vlm, theirs.taps, theirs.grids)
    torch.testing.assert_close(ours.states, theirs.states, atol=2e-4, rtol=1e-4)


def test_latents_are_those_of_the_stock_vae(bridge):
    import nodes
    from unifusion.miniature import VAE_FILE
    from unifusion.training.encode_once import encode_pictures, load_vae

    picture = torch.rand(1, 64, 96, 3)
    vae = bridge("actions.model_folders").load("bundled miniature")[2]
    stock = nodes.VAEEncode().encode(vae, picture)[0]["samples"]
    import comfy.latent_formats

    expected = comfy.latent_formats.Wan21().process_in(stock)[:, :, 0]
    torch.testing.assert_close(encode_pictures(load_vae(VAE_FILE), picture), expected, atol=5e-3, rtol=5e-3)


@pytest.fixture(scope="module")
def krea2_small(tmp_path_factory):
    """Random weights in Krea 2's layout that take the miniature VLM's states, and pairs to train on."""
    from harness.random_krea2 import state_dict

    folder = tmp_path_factory.mktemp("krea2_small")
    weights = state_dict(width=240, taps=4)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "base.safetensors")
    lines(folder / "pairs", 8)
    return folder


def lora_run(
    folder: Path, name: str, steps: int = 12, train: str = 'what = "lora"\nrank = 4\nalpha = 8.0\npooling = true'
):
    path = small(
        folder, 'kind = "jsonl"\npath = "pairs/data.jsonl"', steps, train=train, data="heldout = 3\nreconstruct = 0.0"
    )
    text = path.read_text().replace('out = "run"', f'out = "{name}"').replace("lr = 2e-3", "lr = 1e-2\nlevels = 4")
    path.write_text(text.replace("layers = 1", 'start = "base.safetensors"'))
    run(path)
    return folder / name


def held_out(out: Path) -> float:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["held-out"] for line in lines if "held-out" in line][-1]


@pytest.fixture(scope="module")
def lora(krea2_small):
    return lora_run(krea2_small, "lora")


def load_model(weights: dict):
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": torch.float32})


def stock_lora(model, path: Path, monkeypatch):
    import folder_paths

    import nodes

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(path.parent)], {".safetensors"}))
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]


def condition_of(bridge, model):
    clip = bridge("actions.model_folders").load("bundled miniature")[1]
    hidden, negative, _ = bridge("actions.encode").run(clip, "make it red", images={"image0": torch.rand(1, 64, 64, 3)})
    return bridge("actions.pool").run(model, hidden, negative=negative)


def test_an_edit_lora_through_the_vlm_alone_lowers_the_loss_on_edits_it_never_saw(krea2_small, lora):
    before = lora_run(krea2_small, "before", 1, 'what = "lora"\nrank = 1\n')
    assert held_out(lora) < 0.9 * held_out(before)


def test_the_stock_loader_changes_the_picture_exactly_as_merging_does(krea2_small, lora, bridge, monkeypatch, caplog):
    base, file = load_file(krea2_small / "base.safetensors"), load_file(lora / "lora.safetensors")
    merged = dict(base)
    for name in (key.removesuffix(".lora_A.weight") for key in file if key.endswith("lora_A.weight")):
        a, b = file[f"{name}.lora_A.weight"].float(), file[f"{name}.lora_B.weight"].float()
        weight = f"{name.removeprefix('diffusion_model.')}.weight"
        merged[weight] = base[weight] + file[f"{name}.alpha"] / len(a) * b @ a
    changed = [name for name in merged if merged[name] is not base[name]]
    assert any("txtfusion" in name for name in changed) and any("blocks.0.mlp" in name for name in changed)
    with_lora = stock_lora(load_model(base), lora / "lora.safetensors", monkeypatch)
    assert "not loaded" not in caplog.text.lower()
    pictures = [draw(*condition_of(bridge, model)[:3]) for model in (load_model(base), with_lora, load_model(merged))]
    torch.testing.assert_close(pictures[1], pictures[2], atol=1e-4, rtol=1e-4)
    assert (pictures[0] - pictures[1]).abs().max() > 1e-2


def test_trained_pooling_loads_in_the_stock_lora_loader(krea2_small, bridge, monkeypatch, caplog):
    out = lora_run(krea2_small, "pooling", 3, 'what = "pooling"')
    base = load_file(krea2_small / "base.safetensors")
    state = torch.load(next((out / "checkpoints").iterdir()) / "state.pt", weights_only=True)["weights"]
    assert all(".txtfusion." in name for name in state)
    merged = base | {
        name.removeprefix("dit."): value.view(base[name.removeprefix("dit.")].shape) for name, value in state.items()
    }
    with_file = stock_lora(load_model(base), out / "pooling.safetensors", monkeypatch)
    assert "not loaded" not in caplog.text.lower()
    pictures = [draw(*condition_of(bridge, model)[:3]) for model in (load_model(base), with_file, load_model(merged))]
    assert (pictures[1] - pictures[2]).abs().max() < 0.1 * (
        pictures[0] - pictures[2]
    ).abs().max()  # bfloat16 differences


def test_the_pool_says_where_a_lora_is_used_otherwise_than_trained(krea2_small, lora, bridge, monkeypatch, tmp_path):
    path = lora / "lora.safetensors"
    model = stock_lora(load_model(load_file(krea2_small / "base.safetensors")), path, monkeypatch)
    assert "the LoRA was trained" not in condition_of(bridge, model)[-1]
    other = {"unifusion.vlm": "qwen3vl_4b (36 layers, width 2560)", "unifusion.taps": "1, 2, 3, 4"}
    other |= {"unifusion.selection": "rewritten text only", "unifusion.picture_tokens": "4"}
    save_file(load_file(path), tmp_path / "other.safetensors", metadata=other)
    model = stock_lora(
        load_model(load_file(krea2_small / "base.safetensors")), tmp_path / "other.safetensors", monkeypatch
    )
    said = condition_of(bridge, model)[-1]
    for part in (
        "the VLM 'qwen3vl_4b",
        "the layers '1, 2, 3, 4'",
        "selection 'rewritten text only'",
        "about 4 tokens a view",
    ):
        assert part in said


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm", "llama"])
def test_any_vlm_of_transformers_is_trained_with_and_drawn_with(kind, bridge, tmp_path):
    from harness.tiny_folders import tiny_folder

    tiny_folder(kind, tmp_path / "vlm")
    sees = kind != "llama"
    lines(tmp_path / "pairs", 4) if sees else captions(tmp_path / "cap", 4)
    path = small(tmp_path, 'kind = "jsonl"\npath = "pairs/data.jsonl"' if sees else 'path = "cap"', 2)
    path.write_text(path.read_text() + '[vlm]\nfolder = "vlm"\n')
    run(path)
    model, clip, vae = bridge("actions.model_folders").load_folder(tmp_path / "run" / "model")
    images = {"image0": torch.rand(1, 64, 64, 3)} if sees else None
    hidden, negative, _ = bridge("actions.encode").run(clip, "make it red", images=images)
    model, positive, below, _, said = bridge("actions.pool").run(model, hidden, negative=negative)
    assert torch.isfinite(vae.decode(draw(model, positive, below))).all() and "Warning" not in said
