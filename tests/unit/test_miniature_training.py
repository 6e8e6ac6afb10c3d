"""The miniature VLM: tokenizer, chats, parity with transformers, training."""

import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from recipes.miniature import recipe, vlm_train
from recipes.miniature.captions import caption
from recipes.miniature.chats import Chat, ChatTokenizer
from recipes.miniature.frozen_vlm import FrozenVLM, as_transformers, encode_batch, load_vlm, save_vlm
from recipes.miniature.render import render, sample_jitter
from recipes.miniature.scene import sample_edit, sample_scene
from recipes.miniature.vlm_decode import generate_ids
from recipes.miniature.vlm_heads import TEXT_CLASSES, UNKNOWN, picture_labels, text_labels
from recipes.miniature.vlm_model import Qwen3VL, mrope_positions
from recipes.miniature.vlm_tasks import crops, edit_example, two_pictures_example
from recipes.miniature.vocabulary import SPECIAL_TOKENS, build_tokenizer, load_tokenizer
from recipes.miniature.wordings import edit_instruction, user_prompt
from unifusion.hidden_states import GENERATED, image_role
from unifusion.messages import chat, tokenize
from unifusion.miniature import VLMConfig
from unifusion.miniature_words import unknown_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def random_vlm(folder):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(folder)
    model = Qwen3VL(VLMConfig(len(tokenizer)))
    model.initialise()
    return FrozenVLM(model, ChatTokenizer(tokenizer))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_every_word_of_the_world_is_one_token(folder, rng):
    tokenizer = load_tokenizer(folder)
    for _ in range(100):
        scene = sample_scene(rng)
        for text in (
            caption(scene),
            user_prompt(scene, rng, "test")[0],
            edit_instruction(scene, sample_edit(rng, scene), rng),
        ):
            for word in re.findall(r"[a-zA-Z]+", text):  # numbers are tokens of their own, without the space
                assert len(tokenizer(" " + word.lower())["input_ids"]) == 1, word
                assert len(tokenizer(word.capitalize())["input_ids"]) == 1, word


def test_any_text_can_be_tokenised_and_unknown_words_are_named(folder):
    tokenizer = load_tokenizer(folder)
    text = "A red café on Mount Everest, 木 and a star!"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == "a red cafe on mount everest, 木 and a star!"
    assert unknown_words(text, folder) == ["café", "mount", "everest", "木"]
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)


def test_chats_are_tokenised_as_the_host_tokenises_them(random_vlm, rng):
    tokenizer = random_vlm.tokenizer
    for _ in range(20):
        example = two_pictures_example(rng).chat
        example.system = example.system or "Describe the picture."
        ids, roles, start = tokenizer(example)
        segments = chat(example.system, example.instruction, [1, 1], example.labels, example.answer)
        whole = tokenize(segments, tokenizer.tokenizer)
        repeat = [16 if token == tokenizer.image_pad else 1 for token in whole.ids]
        assert np.repeat(whole.ids, repeat).tolist() == ids[:-1]
        assert np.repeat(whole.roles, repeat).tolist() == roles[:-1]
        assert roles[start] == GENERATED


def test_selection_is_image_tokens_and_caption_and_never_empty(random_vlm, rng):
    scene = sample_scene(rng)
    picture = render(scene, rng)
    encoded = encode_batch(
        random_vlm, [([picture], "make it red", caption(scene)), ([], "a red star", caption(scene)), ([], "", "")]
    )
    words = len(random_vlm.tokenizer.ids(caption(scene)))
    assert encoded.selected.sum(1).tolist() == [16 + words, words, 3]
    assert set(encoded.roles[0][encoded.selected[0]].tolist()) == {GENERATED, image_role(0)}
    states, mask = encoded.compact(64)
    assert states.shape == (3, 64, 4, 240) and mask.sum(1).tolist() == [16 + words, words, 3]
    assert torch.equal(states[1, :words], encoded.states[1][encoded.selected[1]])
    with pytest.raises(ValueError, match="more than the 8 asked for"):
        encoded.compact(8)


def test_padding_does_not_change_states(random_vlm, rng):
    chats = [Chat("a red star", [], "on a white background"), edit_example(rng).chat]
    alone = random_vlm.encode(chats[:1]).states
    together = random_vlm.encode(chats, 160).states
    assert torch.allclose(alone[0], together[0, : alone.shape[1]], atol=1e-5)


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_states_equal_those_of_transformers(random_vlm, rng, pictures):
    twin = as_transformers(random_vlm)
    views = [render(sample_scene(rng), rng) for _ in range(pictures)]
    item = Chat("put the red star at the top left", [[view] for view in views], "on a white background: a large")
    batch = random_vlm.tokenizer.collate([item])
    caught = {}
    hooks = [
        twin.model.language_model.layers[tap].register_forward_pre_hook(
            lambda module, args, kwargs, tap=tap: caught.update({tap: args[0] if args else kwargs["hidden_states"]}),
            with_kwargs=True,
        )
        for tap in random_vlm.taps
    ]
    arguments = {}
    if views:
        pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = pixels[:, :, None].repeat(1, 1, 2, 1, 1).view(-1, 3, 2, 4, 2, 16, 4, 2, 16)
        arguments = dict(
            pixel_values=patches.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(-1, 1536),
            image_grid_thw=torch.tensor([[1, 8, 8]] * pictures),
            mm_token_type_ids=batch.image_mask.int(),
        )
    with torch.no_grad():
        logits = twin(input_ids=batch.ids, **arguments).logits
        states, _, _ = random_vlm.model(batch.ids, batch.positions, batch.image_mask, batch.pictures)
        own = random_vlm.model.model.lm_head(states)
    for hook in hooks:
        hook.remove()
    encoded = random_vlm.encode([item])
    for index, tap in enumerate(random_vlm.taps):
        assert (encoded.states[:, :, index] - caught[tap]).abs().max() < 1e-4
    assert (own - logits).abs().max() < 1e-4


def test_decoding_step_by_step_equals_teacher_forcing(random_vlm, rng):
    chats = [edit_example(rng).chat, Chat("a red star")]
    answers = generate_ids(random_vlm.model, random_vlm.tokenizer, chats, max_answer=6)
    for item, answer in zip(chats, answers):
        prompt = random_vlm.tokenizer.collate([Chat(item.instruction, item.pictures, None, item.system, item.labels)])
        ids = torch.cat((prompt.ids, torch.tensor([answer])), 1)
        mask = torch.nn.functional.pad(prompt.image_mask, (0, len(answer)))
        with torch.no_grad():
            states, _, _ = random_vlm.model(ids, mrope_positions(mask), mask, prompt.pictures)
        best = random_vlm.model.model.lm_head(states[0]).argmax(-1)
        assert best[-1 - len(answer) : -1].tolist() == answer


def test_a_saved_vlm_loads_with_the_same_states_up_to_bfloat16(random_vlm, folder, rng, tmp_path):
    save_vlm(random_vlm.model, tmp_path, folder)
    loaded = load_vlm(tmp_path)
    assert loaded.model.config == random_vlm.model.config
    item = edit_example(rng).chat
    a, b = random_vlm.encode([item]).states, loaded.encode([item]).states
    assert (a - b).square().mean() < 1e-3 * a.square().mean()


def test_labels_of_the_heads_follow_the_caption_word_by_word(random_vlm, rng):
    names = list(TEXT_CLASSES)
    for _ in range(30):
        scene = sample_scene(rng)
        labels, ids = text_labels(scene), random_vlm.tokenizer.ids(caption(scene))
        words = random_vlm.tokenizer.tokenizer.convert_ids_to_tokens(list(ids))
        assert len(labels) == len(ids)
        for word, row in zip(words, labels):
            for name in ("size", "color", "texture", "shape"):
                if word.lstrip("Ġ") in TEXT_CLASSES[name]:
                    assert TEXT_CLASSES[name][row[names.index(name)]] == word.lstrip("Ġ")
        assert (labels[-1, :5] != UNKNOWN).all()


def test_labels_of_a_picture_token_name_the_cells_it_overlaps(rng):
    scene = sample_scene(rng, count=3)
    classes, offsets, _ = picture_labels(scene, sample_jitter(rng))
    assert (classes[0, 1:] == UNKNOWN).all() and (classes[5] != UNKNOWN).all()
    assert np.isfinite(offsets).any()


def test_tiles_are_the_enlarged_quarters_of_a_picture(rng):
    picture = render(sample_scene(rng), rng)
    tiles = crops(picture)
    assert len(tiles) == 4 and tiles[0].shape == picture.shape
    assert (tiles[3][::2, ::2] == picture[64:, 64:]).all()


@pytest.fixture
def small_training(folder, monkeypatch):
    """Trains two layers on eight examples a step."""
    monkeypatch.setattr(vlm_train, "VLMConfig", partial(VLMConfig, num_hidden_layers=2, taps=(0, 1)))
    monkeypatch.setattr(vlm_train, "MIX", (((vlm_train.rewrite_example, 4),), ((vlm_train.edit_example, 4),)))
    monkeypatch.setattr(vlm_train, "PICTURES_IN_WARM_UP", 8)

    def train(out, *more):
        shutil.copytree(folder, out / "tokenizer", dirs_exist_ok=True)  # building it takes longer than this training
        vlm_train.main(
            [
                "--warm-up",
                "4",
                "--device",
                "cpu",
                "--evaluate-every",
                "1000",
                "--save-every",
                "5",
                "--log-every",
                "5",
                "--out",
                str(out),
                *more,
            ]
        )

    return train


def test_training_lowers_the_loss_and_resumes_exactly(small_training, tmp_path):
    small_training(tmp_path / "whole", "--steps", "30")
    small_training(tmp_path / "parts", "--steps", "30", "--stop-at", "10")
    small_training(tmp_path / "parts", "--steps", "30", "--resume")
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 30
    assert all(torch.equal(whole["model"][name], parts["model"][name]) for name in whole["model"])
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "words" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_refining_starts_from_the_first_stage_and_keeps_its_heads(small_training, monkeypatch, tmp_path):
    monkeypatch.setattr(vlm_train, "REFINE_MIX", vlm_train.MIX)
    small_training(tmp_path / "first", "--steps", "6")
    small_training(tmp_path / "second", "--steps", "2", "--refine", str(tmp_path / "first" / "checkpoint.pt"))
    first, second = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("first", "second"))
    assert all(torch.equal(first["heads"][name], second["heads"][name]) for name in first["heads"])
    assert not torch.equal(first["model"]["model.lm_head.weight"], second["model"]["model.lm_head.weight"])


def test_a_folder_of_frozen_weights_is_refined_with_heads_fitted_to_it(small_training, monkeypatch, tmp_path):
    monkeypatch.setattr(vlm_train, "REFINE_MIX", vlm_train.MIX)
    monkeypatch.setattr(vlm_train, "FIT_STEPS", 8)
    small_training(tmp_path / "first", "--steps", "6")
    recipe.freeze_vlm(tmp_path / "first", tmp_path / "frozen")
    fitted, fit = [], vlm_train.fit_heads
    monkeypatch.setattr(
        vlm_train, "fit_heads", lambda model, heads, *more: fitted.append(heads) or fit(model, heads, *more)
    )
    for steps in ("1", "2"):  # interrupted and resumed: the heads are not fitted again
        small_training(
            tmp_path / "second", "--steps", "2", "--stop-at", steps, "--resume", "--refine", str(tmp_path / "frozen")
        )
    second = torch.load(tmp_path / "second" / "checkpoint.pt", weights_only=True)
    frozen = load_vlm(tmp_path / "frozen").model.state_dict()
    assert len(fitted) == 1 and second["step"] == 2
    assert all(torch.equal(value, second["heads"][name]) for name, value in fitted[0].state_dict().items())
    moved = (second["model"]["model.lm_head.weight"] - frozen["model.lm_head.weight"]).abs().max()
    assert 0 < moved < 0.1


def test_fitted_heads_read_the_states_better_than_new_ones(random_vlm):
    torch.manual_seed(0)
    heads = vlm_train.Heads(random_vlm.model.config)
    mix = (((vlm_train.rewrite_example, 4),),)
    early, late = (
        vlm_train.fit_heads(random_vlm.model, heads, random_vlm.tokenizer, 0, steps, mix) for steps in (1, 120)
    )
    names = [name for name in late if name.startswith("text shape")]
    assert sum(late[name] for name in names) > 1.2 * sum(early[name] for name in names)
