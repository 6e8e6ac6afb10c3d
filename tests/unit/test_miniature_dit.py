"""What the miniature's DiT is trained on: the token rule, the targets, and a few steps of it all."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from recipes.miniature import scene as world
from recipes.miniature.captions import caption
from recipes.miniature.dit_data import (
    EDIT_STAGE,
    TEXT_STAGE,
    TOKEN_CLASSES,
    WITH_INSTRUCTION,
    MiniatureSource,
    draw_example,
    encode_chats,
    loss_weight,
    patch_labels,
)
from recipes.miniature.dit_train import CONDITION_TOKENS, DiTRun, draw, heldout_examples, score_pictures, train
from recipes.miniature.frozen_vlm import FrozenVLM, load_vlm, save_vlm
from recipes.miniature.render import render
from recipes.miniature.vae_model import StillVAE
from recipes.miniature.vlm_model import Qwen3VL
from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.hidden_states import GENERATED, IMAGE, INSTRUCTION
from unifusion.miniature import VLMConfig
from unifusion.selection import selection_mask
from unifusion.training.trainer import TrainingSettings, load_weights

TASKS = ("caption", "prompt", "empty", "reconstruct", "edit")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> FrozenVLM:
    folder = tmp_path_factory.mktemp("vlm")
    torch.manual_seed(0)
    model = Qwen3VL(VLMConfig(vocab_size=1400))
    model.initialise()
    save_vlm(model, folder)
    return load_vlm(folder)


@pytest.fixture(scope="module")
def vae() -> StillVAE:
    return StillVAE(8).initialise(torch.Generator().manual_seed(0)).eval()


def examples(task, count=12):
    rng = np.random.default_rng(0)
    return [draw_example(rng, task) for _ in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_training_never_shows_a_held_out_combination(task):
    assert not any(world.is_held_out(example.target) for example in examples(task, 200))


@pytest.mark.parametrize("task", TASKS)
def test_selection_is_that_of_the_pack(vlm, task):
    drawn = examples(task)
    selection = "images and prompt" if task in ("prompt", "empty") else "images and rewritten text"
    batch = vlm.tokenizer.collate([e.chat for e in drawn], selections=[selection] * len(drawn))
    for row, length, start, kept in zip(batch.roles, batch.lengths, batch.answer_start, batch.selected):
        roles = row[:length]
        if task == "reconstruct" and not (roles == GENERATED).any():
            assert set(roles[kept[:length]].tolist()) == {IMAGE, int(roles[start - 1])}
            continue
        theirs = selection_mask(roles[:start] if task in ("prompt", "empty") else roles, selection, int(start) - 3)
        assert torch.equal(kept[: len(theirs)], theirs)


def test_raw_prompts_show_the_instruction_alone(vlm):
    drawn = examples("prompt")
    batch = vlm.tokenizer.collate([e.chat for e in drawn], selections=[WITH_INSTRUCTION] * len(drawn))
    assert set(batch.roles[batch.selected].tolist()) == {INSTRUCTION}


def test_reference_and_target_share_what_stays():
    for example in examples("edit", 40):
        before, after = example.chat.pictures[0][0], render(example.target, jitter=example.jitter)
        assert example.chat.answer == caption(example.target)
        assert (before == after).all(-1).any() or before[0, 0].tolist() != after[0, 0].tolist()


def test_padding_is_marked_and_fits(vlm):
    drawn = [example for task in TASKS for example in examples(task, 4)]
    states, bias = encode_chats(vlm, [e.chat for e in drawn], [e.instruction for e in drawn], CONDITION_TOKENS)
    assert states.shape == (20, CONDITION_TOKENS, 4, 240)
    assert (states[bias == -torch.inf] == 0).all()
    assert (states[bias == 0].abs().amax((1, 2)) > 0).all()


def test_labels_and_weights_lie_on_the_things():
    scene = world.Scene("navy", (world.Thing("heart", "red", "large", "dotted", 4),))
    labels = patch_labels(scene, np.zeros((9, 2), dtype=int)).reshape(8, 8, len(TOKEN_CLASSES))
    assert labels[4, 4].tolist() == [6, 0, 0, 2, 4]
    assert labels[0, 0].tolist() == [8, 10, 2, 3, 4]
    weight = loss_weight(scene, np.zeros((9, 2), dtype=int), 3.0)
    assert weight[8, 8] == 4.0 and weight[0, 0] == 1.0


def test_edits_join_in_the_second_stage_only(vlm, vae):
    source = MiniatureSource(vlm, vae, batch=64, stages=((0, TEXT_STAGE), (5, EDIT_STAGE)))
    is_edit = lambda e: bool(e.chat.pictures) and e.chat.answer is not None and bool(e.chat.instruction)
    changed = [
        sum(
            e.chat.pictures != [] and not np.array_equal(e.chat.pictures[0][0], render(e.target, jitter=e.jitter))
            for e in source.examples(step, 0, 0)
        )
        for step in (4, 5)
    ]
    assert changed[0] == 0 and changed[1] > 8
    assert all(len(e.chat.pictures) <= 1 for e in source.examples(5, 0, 0) if is_edit(e))


def test_batches_depend_on_step_and_process_alone(vlm, vae):
    source = MiniatureSource(vlm, vae, batch=3)
    first, again, other = source(7, 0, 1), source(7, 0, 1), source(7, 0, 0)
    assert torch.equal(first.states, again.states) and torch.equal(first.latents, again.latents)
    assert first.states.shape != other.states.shape or not torch.equal(first.states, other.states)


def test_a_perfect_picture_scores_one():
    held_out = heldout_examples(4, 0, "edit")
    pictures = np.stack([render(example.target, jitter=example.jitter) for example in held_out])
    assert set(score_pictures(pictures, [example.target for example in held_out]).values()) == {1.0}
    assert any(world.is_held_out(example.target) for example in heldout_examples(4, 0, "caption"))


def test_a_few_steps_train_and_draw(vlm, vae, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.miniature.dit_train.build_scorer", lambda *_: None)
    config = DiTConfig(features=128, heads=1, kvheads=1, layers=2, txtdim=240, txtlayers=4)
    settings = TrainingSettings(steps=3, levels=2, keep_every=0, score_every=0, log_every=1)
    weights = train(tmp_path, vlm, vae, DiTRun(settings, batch=2, features_at=1), config)
    dit = SingleStreamDiT(config)
    chats = [example.chat for example in heldout_examples(2, 0, "caption")]
    pictures = draw(load_weights(dit, weights), vlm, vae, chats, [False, False], seed=0, steps=2)
    assert pictures.shape == (2, 128, 128, 3) and pictures.dtype == np.uint8


def test_refining_goes_on_from_finished_weights_with_edits_from_the_first_step(vlm, vae, tmp_path, monkeypatch):
    sources = []
    monkeypatch.setattr("recipes.miniature.dit_train.build_scorer", lambda *_: None)
    monkeypatch.setattr(
        "recipes.miniature.dit_train.MiniatureSource",
        lambda *more: sources.append(MiniatureSource(*more)) or sources[-1],
    )
    config = DiTConfig(features=128, heads=1, kvheads=1, layers=2, txtdim=240, txtlayers=4)
    settings = TrainingSettings(steps=2, lr=1e-4, pooling_lr=1e-4, levels=2, keep_every=0, score_every=0, log_every=1)
    first = train(tmp_path / "first", vlm, vae, DiTRun(settings, batch=2, features_at=1), config)
    second = train(tmp_path / "second", vlm, vae, DiTRun(settings, batch=2, features_at=1, start=first), config)
    assert [source.stages[0][1] for source in sources] == [TEXT_STAGE, EDIT_STAGE]
    before, after = load_file(first), load_file(second)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=0.01) for name in before)
    log = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert "flow" in log[0] and "tokens" not in log[0]
