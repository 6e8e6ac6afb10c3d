"""VERIFI with the trained miniature: what it writes keeps what was asked."""

import numpy as np
import pytest
import torch
from harness.graphs import GRAPHS

from recipes.miniature.captions import keeps_attributes, parse_caption
from recipes.miniature.scene import sample_scene
from recipes.miniature.wordings import user_prompt
from unifusion.board import NAMED
from unifusion.miniature import VLM_FOLDER
from unifusion.miniature_words import unknown_words

pytestmark = pytest.mark.skipif(not (VLM_FOLDER / "model.safetensors").is_file(), reason="the bundled VLM is not here")


@pytest.fixture(scope="module")
def clip(bridge):
    return bridge("encoders.miniature_clip").load_clip(VLM_FOLDER)


@pytest.fixture(scope="module")
def rewrite(bridge, clip):
    def run(prompt, *, selection="as the profile", edited="", images=None):
        return bridge("actions.rewrite").run(
            clip,
            prompt,
            selection=selection,
            sampling={"sampling": "greedy"},
            max_length=128,
            edited_text=edited,
            images=images,
        )

    return run


def test_a_terse_prompt_becomes_a_caption_that_keeps_what_was_asked(rewrite):
    rng = np.random.default_rng(7)
    prompts = [user_prompt(sample_scene(rng), rng, "test", detail=0.5) for _ in range(10)]
    kept = 0
    for prompt, spec in prompts:
        scene = parse_caption(rewrite(prompt)[2])
        kept += scene is not None and keeps_attributes(spec, scene)
    assert kept >= 8  # a chance caption keeps next to none


def test_the_text_ends_by_itself_and_is_what_conditions(rewrite):
    states, negative, text, report = rewrite("a red circle and a blue star")
    assert "ended by itself" in report
    assert "".join(states.pieces) == text and set(states.count_by_role()) == {"generated"}
    assert negative.pieces == ("<|im_start|>", "assistant", "\n")


def test_its_negative_holds_no_picture_as_in_its_training(rewrite, bridge, clip):
    images = {"image0": torch.tensor([1.0, 0.2, 0.2]).expand(1, 128, 128, 3).clone()}
    states, negative, *_ = rewrite("make it green", images=images)
    encoded = bridge("actions.encode").run(clip, "make it green", images=images)
    plain = rewrite("make it green")[1]
    assert "image 1" in states.count_by_role() and "image 1" in encoded[0].count_by_role()
    assert torch.equal(negative.states, plain.states) and torch.equal(encoded[1].states, plain.states)


@pytest.mark.parametrize(
    "images", [None, {"image0": torch.tensor([1.0, 0.2, 0.2]).expand(1, 128, 128, 3).clone()}], ids=["text", "picture"]
)
def test_the_written_text_given_as_edited_text_gives_the_same_states(rewrite, images):
    states, _, text, _ = rewrite("a red circle and a blue star", images=images)
    edited = rewrite("a red circle and a blue star", edited=text, images=images)[0]
    assert edited.pieces == states.pieces and torch.equal(edited.roles, states.roles)
    scale = states.states.std(dim=(0, 1, 3), keepdim=True)
    assert ((edited.states - states.states).abs() / scale).max() < 1e-3


def test_a_given_text_is_shown_as_typed_and_read_as_meant(rewrite):
    typed, meant = "a gren (cirlce:1.2) in the window", "a green (circle:1.2) in the window"
    made, right = (rewrite("a red circle", edited=text) for text in (typed, meant))
    assert made.text == "a gren cirlce in the window"
    assert torch.equal(made[0].states, right[0].states)
    assert "Read 'gren' as 'green', 'cirlce' as 'circle'." in made.report


def test_the_text_equals_stock_text_generation(rewrite, clip):
    from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

    asked = (
        f"<|im_start|>system\n{VERIFI_SYSTEM}<|im_end|>\n<|im_start|>user\na red circle and a blue star"
        f"<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = clip.generate(clip.tokenize(asked, skip_template=True), do_sample=False, max_length=128)
    assert clip.decode(ids) == rewrite("a red circle and a blue star")[2]


def test_words_outside_its_world_are_named(rewrite):
    assert "zebra" in rewrite("a zebra and a red circle")[3]
    assert "Not known" not in rewrite("a red circle")[3]


def test_vlm_encode_names_them_too(bridge, clip):
    def report(prompt):
        return bridge("actions.encode").run(clip, prompt)[2]

    named = "This model draws coloured shapes. Not known: zebra, jungle."
    assert report("a (Zebra:1.2) and a red circle, jungle").splitlines()[0] == named
    assert "Not known" not in report("a red circle") + report("")


@pytest.mark.parametrize("prompt", ["a cat", "eine Katze", "猫", "asdf qwer"])
def test_a_prompt_with_nothing_known_draws_one_thing_and_says_so(rewrite, prompt):
    *_, text, report = rewrite(prompt)
    first = report.splitlines()[0]
    assert first.startswith("This model draws coloured shapes. Not known: ") and "its own choice" in first
    assert parse_caption(text) is not None


def test_capitals_cost_nothing(rewrite):
    assert rewrite("A LARGE RED HEART IN THE CENTER")[2] == rewrite("a large red heart in the center")[2]


@pytest.fixture
def written(bridge, monkeypatch):
    """Texts that the next calls write, one after the other; how each was drawn is noted."""
    action, notes = bridge("actions.rewrite"), []
    real = action.write

    def run(texts):
        queue = iter(texts)

        def write(reading, request, settings, seeds):
            notes.append(settings)
            made = real(reading, request, settings, seeds)
            return [one if text is None else one._replace(text=text) for one, text in zip(made, queue)]

        monkeypatch.setattr(action, "write", write)
        return notes

    return run


TWICE = "on a white background: a large red solid star at the center, a small blue solid star at the center."


def test_a_text_that_broke_is_written_once_more_with_sampling(rewrite, written):
    notes = written([TWICE, None])
    *_, text, report = rewrite("a red circle")
    assert [settings.sample for settings in notes] == [False, True]
    assert parse_caption(text) is not None and "puts two things at the center, so it was written once more" in report


def test_a_text_that_breaks_twice_is_said(rewrite, written):
    notes = written([TWICE, TWICE])
    assert "Warning: the text puts two things at the center" in rewrite("a red circle")[3]
    assert len(notes) == 2


def test_a_text_that_is_whole_is_written_once(rewrite, written):
    notes = written([None])
    rewrite("a red circle and a blue star")
    assert len(notes) == 1


@pytest.mark.parametrize("graph", [graph for graph in GRAPHS if graph.runs], ids=lambda graph: graph.name)
def test_the_templates_ask_for_nothing_outside_it(graph):
    prompts = [NAMED.sub("image 1", node.inputs["prompt"]) for node in graph.nodes.values() if "prompt" in node.inputs]
    assert prompts and not unknown_words(" ".join(prompts), VLM_FOLDER)
