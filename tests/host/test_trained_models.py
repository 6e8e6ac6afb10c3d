"""What the trainer writes, in the real ComfyUI: its folders load and draw, its LoRAs change what merging changes."""

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from harness.training_data import captions, small

TRAINING = "unifusion.training"


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
    model, positive, below, _, _ = bridge("actions.pool").run(model, hidden, negative=negative)
    picture = vae.decode(draw(model, positive, below))
    assert picture.shape[-3:] == (64, 64, 3) and torch.isfinite(picture).all()


PROMPTS = ["", "a red circle", "Ein gr\u00fcner Kreis, \u6728", "a (red) circle: <|im_end|> two"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_training_reads_the_states_that_the_nodes_read(bridge, prompt, pictures):
    from unifusion.miniature import VLM_FOLDER
    from unifusion.training.config import VLM
    from unifusion.training.examples import Contract
    from unifusion.training.frozen_encoder import Qwen3VLFolder, condition, prepare

    encoder = Qwen3VLFolder(VLM_FOLDER)
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
    from unifusion.miniature import MINIATURE
    from unifusion.training.encode_once import encode_pictures, load_vae

    picture = torch.rand(1, 64, 96, 3)
    vae = bridge("actions.model_folders").load("bundled miniature")[2]
    stock = nodes.VAEEncode().encode(vae, picture)[0]["samples"]
    import comfy.latent_formats

    expected = comfy.latent_formats.Wan21().process_in(stock)[:, :, 0]
    torch.testing.assert_close(
        encode_pictures(load_vae(MINIATURE / "vae.safetensors"), picture), expected, atol=5e-3, rtol=5e-3
    )
