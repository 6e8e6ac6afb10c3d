"""The reference board: what its rows do to pictures, and what a prompt's @names become."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unifusion.board import Row, arrange, read_board, use_names
from unifusion.references import combine


def picture(value):
    return torch.full((1, 64, 64, 3), value)


IMAGES = {"image0": picture(0.0), "image1": picture(0.5), "image2": picture(1.0)}


def shades(references):
    return [round(reference.picture.mean().item(), 1) for reference in references]


def test_without_rows_pictures_are_what_they_were():
    references, lines = arrange(IMAGES, read_board(" "))
    assert shades(references) == [0.0, 0.5, 1.0] and lines == []
    assert {(reference.label, reference.strength) for reference in references} == {("", 1.0)}


def test_rows_give_order_name_and_strength_and_pictures_without_a_row_come_last():
    references, lines = arrange(IMAGES, [Row("image2", "hero", 1.5), Row("image0")])
    assert shades(references) == [1.0, 0.0, 0.5] and lines == []
    assert [reference.label for reference in references] == ["hero", "", ""]
    assert [reference.strength for reference in references] == [1.5, 1.0, 1.0]


@pytest.mark.parametrize("row", [Row("image1", "night", 1.0, False), Row("image1", "night", 0.0)])
def test_a_picture_that_is_off_or_at_strength_0_is_not_read_and_that_is_said(row):
    references, (line,) = arrange(IMAGES, [row])
    assert shades(references) == [0.0, 1.0] and "'night'" in line and "not read" in line


def test_a_row_gives_its_share_of_the_schedule():
    rows = read_board('[{"slot": "image1", "start": 0.25, "end": 0.5}, {"slot": "image0"}]')
    references, _ = arrange(IMAGES, rows)
    assert [(one.start, one.end) for one in references] == [(0.25, 0.5), (0.0, 1.0), (0.0, 1.0)]
    with pytest.raises(ValueError, match="start 0.5 and end 0.5"):
        arrange(IMAGES, [Row("image0", start=0.5, end=0.5)])


def test_a_picture_without_a_name_is_called_by_its_row():
    lines = arrange(IMAGES, [Row("image7"), Row("image2"), Row("image1", on=False)])[1]
    assert lines == ["Row 2 of the board is off: it is not read."]


def test_rows_of_unplugged_pictures_do_nothing():
    assert shades(arrange({"image0": picture(0.5), "image1": None}, [Row("image1"), Row("image7")])[0]) == [0.5]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        "[7]",
        '["image0"]',
        '[{"name": "a"}]',
        '[{"slot": "image0", "colour": 1}]',
        '[{"slot": 0}]',
        '[{"slot": "image0", "strength": "2"}]',
        '[{"slot": "image0", "strength": true}]',
        '[{"slot": "image0", "on": 1}]',
        '[{"slot": "image0", "start": "0"}]',
        '[{"slot": "image0", "end": true}]',
        '[{"slot": "image0"}, {"slot": "image0"}]',
        "[" * 100_000,
    ],
)
def test_a_text_that_is_no_board_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="board") as stopped:
        read_board(text)
    assert "\n" not in str(stopped.value) and str(stopped.value).endswith(".")


@pytest.mark.parametrize("strength", ["-2.5", "NaN", "Infinity"])
def test_a_strength_that_is_none_is_refused(strength):
    rows = read_board(f'[{{"slot": "image0", "strength": {strength}}}]')
    with pytest.raises(ValueError, match="strength"):
        arrange(IMAGES, rows)


def named(labels):
    references, _ = arrange(IMAGES, [Row("image0", "the Dog"), Row("image1", "night")])
    return combine(references, labels=labels)


def test_names_become_labels_or_numbers():
    prompt = "@the_dog under @Night, a@b.com and @the_dog"
    assert use_names(prompt, named("own labels")) == ("the Dog under night, a@b.com and the Dog", [])
    assert use_names(prompt, named("none")) == ("image 1 under image 2, a@b.com and image 1", [])


def test_unknown_names_stay_and_are_said_once():
    prompt, (line,) = use_names("@cat and @cat", named("none"))
    assert prompt == "@cat and @cat" and "@cat" in line and "@the_dog, @night" in line
    assert use_names("@cat", None) == ("@cat", [])  # an @ in a prompt without pictures is nobody's name


@given(st.text())
def test_no_prompt_breaks_the_names(prompt):
    changed, lines = use_names(prompt, named("none"))
    assert isinstance(changed, str) and all("@" in line for line in lines)
    if "@" not in prompt:
        assert changed == prompt
