"""The miniature's VLM inside ComfyUI's own classes equals the one it was trained as."""

import numpy as np
import pytest
import torch

from recipes.miniature.chats import Chat
from recipes.miniature.frozen_vlm import load_vlm
from recipes.miniature.render import render
from recipes.miniature.scene import sample_scene
from recipes.miniature.vlm_decode import generate_ids
from unifusion.miniature import VLM_FOLDER


@pytest.fixture(scope="module")
def trained():
    return load_vlm(VLM_FOLDER)


@pytest.fixture(scope="module")
def clip(bridge):
    clip = bridge("encoders.miniature_clip").load_clip(VLM_FOLDER)
    clip.cond_stage_model.float()
    return clip


def pictures(count):
    rng = np.random.default_rng(3)
    return [render(sample_scene(rng), rng) for _ in range(count)]


def as_images(views):
    return [torch.from_numpy(view).float()[None] / 255 for view in views]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_states_equal_those_of_training(trained, clip, count):
    views = pictures(count)
    states = trained.encode([Chat("a red star at the top left", [[view] for view in views])]).states[0]
    tokens = clip.tokenize("a red star at the top left", images=as_images(views))
    ((cond, _),) = clip.encode_from_tokens_scheduled(tokens)
    tail = states[-cond.shape[1] :].flatten(1)
    assert (cond[0].float().cpu() - tail).abs().max() < 1e-4


@pytest.mark.parametrize("count", [0, 1, 2])
def test_stock_text_generation_writes_what_training_scored(trained, clip, count):
    views = pictures(count)
    words = "a red star" if not count else "remove the red thing"
    expected = generate_ids(trained.model, trained.tokenizer, [Chat(words, [[view] for view in views])])[0]
    tokens = clip.tokenize(words, images=as_images(views))
    ids = clip.generate(tokens, do_sample=False, max_length=44)
    assert [i for i in ids if i != trained.tokenizer.end] == expected


def test_a_picture_of_any_size_becomes_sixteen_tokens(clip):
    merged, extra = clip.cond_stage_model.unifusion_miniature.transformer.preprocess_embed(
        {"type": "image", "data": torch.rand(1, 200, 333, 3)}, "cpu"
    )
    assert merged.shape == (16, 240) and extra["grid"].tolist() == [[1, 8, 8]]


def test_wrong_folders_are_named(bridge, tmp_path):
    folders = bridge("actions.model_folders")
    with pytest.raises(ValueError, match="no such folder"):
        folders.load_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="dit.safetensors, vae.safetensors, vlm/config.json missing"):
        folders.load_folder(tmp_path)
