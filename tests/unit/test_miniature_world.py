"""The drawn world: scenes, renderer, words and scorer."""

import re
from dataclasses import replace

import numpy as np
import pytest

from recipes.miniature import wordings as prompts
from recipes.miniature.captions import PromptSpec, Stated, caption, keeps_attributes, parse_caption
from recipes.miniature.newcomer_edits import newcomer_edit
from recipes.miniature.newcomers import newcomer_prompt
from recipes.miniature.render import foreground, render, render_batch, sample_jitter
from recipes.miniature.scene import (
    COLORS,
    EDIT_KINDS,
    NEUTRALS,
    SHAPES,
    TEXTURES,
    Edit,
    Scene,
    Thing,
    can_be_seen,
    is_held_out,
    sample_composition,
    sample_edit,
    sample_scene,
    thing_is_held_out,
    with_neutral_things,
)
from recipes.miniature.scorer import read_scene, score, score_things
from recipes.miniature.wordings import described_edit, edit_instruction, two_picture_instruction, user_prompt
from unifusion.miniature_words import unknown_words


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_training_scenes_hold_no_held_out_combination_and_test_scenes_do(rng):
    assert not any(is_held_out(sample_scene(rng)) for _ in range(200))
    assert all(is_held_out(sample_scene(rng, held_out=True)) for _ in range(200))


def test_white_and_black_things_are_drawn_where_they_show_and_read_back(rng):
    colored = [sample_scene(rng) for _ in range(60)]
    scenes = [with_neutral_things(rng, scene, 0.7) for scene in colored]
    things = [thing for scene in scenes for thing in scene.things if thing.color in NEUTRALS]
    assert {(thing.color, thing.texture) for thing in things} == {(c, t) for c in NEUTRALS for t in TEXTURES}
    for scene in scenes:
        assert can_be_seen(scene) and parse_caption(caption(scene)) == scene
    read = sum(read_scene(render(scene, rng)) == scene for scene in scenes)
    assert read >= len(scenes) - 1  # one in 700: the dots of a small white square leave a circle of it
    assert [with_neutral_things(rng, scene, 0.0) for scene in colored] == colored
    assert not can_be_seen(Scene("navy", (Thing("star", "black", "large", "solid", 4),)))


def test_newcomers_ask_for_white_and_black_things_and_their_background_shows_them(rng):
    asked = [newcomer_prompt(rng)[1] for _ in range(300)] + [newcomer_edit(rng).after for _ in range(100)]
    neutral = [scene for scene in asked if {thing.color for thing in scene.things} & set(NEUTRALS)]
    assert len(neutral) > 20 and all(map(can_be_seen, asked))


def test_every_shape_and_colour_lacks_exactly_one_partner_per_texture():
    for texture in TEXTURES:
        hidden = [
            (shape, color)
            for shape in SHAPES
            for color in COLORS
            if thing_is_held_out(Thing(shape, color, "large", texture, 0))
        ]
        assert sorted(shape for shape, _ in hidden) == sorted(SHAPES)
        assert sorted(color for _, color in hidden) == sorted(COLORS)


def test_edits_change_the_scene_and_stay_in_the_training_combinations(rng):
    for kind in EDIT_KINDS:
        for _ in range(50):
            scene = sample_scene(rng, count=2)
            edit = sample_edit(rng, scene, kind)
            assert edit.kind == kind
            assert edit.apply(scene) != scene
            assert not is_held_out(edit.apply(scene))


def test_an_edit_leaves_the_rest_of_the_picture_untouched(rng):
    scene = Scene("white", (Thing("circle", "red", "large", "striped", 0), Thing("star", "blue", "small", "solid", 8)))
    jitter = sample_jitter(rng)
    before, after = render(scene, jitter=jitter), render(Edit("recolour", 1, "green").apply(scene), jitter=jitter)
    assert (before[:64] == after[:64]).all()
    assert (before[86:, 86:] != after[86:, 86:]).any()


def test_two_things_in_one_cell_are_refused():
    with pytest.raises(ValueError, match="share a cell"):
        Scene("white", (Thing("circle", "red", "large", "solid", 0), Thing("star", "red", "large", "solid", 0)))


def test_captions_can_be_parsed_back(rng):
    for _ in range(300):
        scene = sample_scene(rng)
        assert parse_caption(caption(scene)) == scene
    assert parse_caption("on a white background: a large red circle at the top left.") is None


def test_prompts_state_what_their_specification_says(rng):
    for _ in range(500):
        scene = sample_scene(rng)
        text, spec = user_prompt(scene, rng)
        assert keeps_attributes(spec, scene)
        for stated in spec.things:
            assert stated.shape is None or len(text) > 3


def test_wordings_of_tests_are_not_in_training_and_the_shipped_model_knows_the_words_of_training():
    tables = [table for table in vars(prompts).values() if isinstance(table, dict) and {"train", "test"} <= set(table)]
    assert len(tables) == 12
    for table in tables:
        flat = {
            split: {words for part in table[split] for words in ([part] if isinstance(part, str) else part)}
            for split in table
        }
        assert not flat["train"] & (flat["test"] | flat.get("fresh", set()))
        for wording in flat["train"] | flat["test"]:
            assert not unknown_words(re.sub(r"{\w+}", "", wording)), wording


def test_keeps_attributes_sees_every_difference():
    thing = Thing("heart", "pink", "small", "dotted", 4)
    scene = Scene("gray", (thing,))
    spec = PromptSpec((Stated("heart", "pink", "small", "dotted", frozenset((3, 4))),), "gray")
    assert keeps_attributes(spec, scene)
    assert not keeps_attributes(spec, replace(scene, background="navy"))
    for field, value in (("shape", "star"), ("color", "red"), ("size", "large"), ("texture", "solid"), ("cell", 5)):
        assert not keeps_attributes(spec, replace(scene, things=(replace(thing, **{field: value}),)))
    assert not keeps_attributes(spec, replace(scene, things=(thing, replace(thing, cell=0))))


def test_instructions_are_written_for_every_kind_and_split(rng):
    for split in ("train", "test"):
        for _ in range(100):
            first, second = sample_scene(rng), sample_scene(rng)
            assert described_edit(first, edit_instruction(first, sample_edit(rng, first), rng, split), rng)
            composition = sample_composition(rng, first, second)
            assert two_picture_instruction(first, second, composition, rng, split)
            assert composition.apply(first, second).things


def test_drawing_is_deterministic_by_seed(rng):
    scenes = [sample_scene(rng) for _ in range(4)]
    first = render_batch(scenes, np.random.default_rng(3))
    assert (first == render_batch(scenes, np.random.default_rng(3))).all()
    assert first.shape == (4, 128, 128, 3)
    assert 0.005 < foreground(scenes[0]).mean() < 0.5


@pytest.mark.parametrize("noise", [0, 8])
def test_scorer_reads_rendered_scenes_at_least_99_percent_right(rng, noise):
    right = 0
    for index in range(200):
        scene = sample_scene(rng, held_out=index % 2 == 0)
        picture = render(scene, rng) + rng.normal(0, noise, (128, 128, 3))
        right += score(picture.clip(0, 255), scene)["whole"]
    assert right >= 198


def test_scorer_reports_which_attribute_is_wrong():
    asked = Scene("white", (Thing("circle", "red", "large", "solid", 0),))
    drawn = Scene("white", (Thing("circle", "blue", "large", "striped", 0),))
    result = score(render(drawn), asked)
    assert [name for name, right in result.items() if not right] == ["color", "texture", "whole"]
    assert score_things(read_scene(render(drawn)), asked)["shape"] == [True]
    assert not score(render(Scene("white", ())), asked)["count"]
