"""JSON captions: valid ones stay, broken ones are closed without inventing anything, the rest is named."""

import json
import random

import pytest

from unifusion.json_caption import checked, values

CAPTION = {
    "high_level_description": "Ein Fuchs, 'rot', mit \"Zitat\" und \\ im Schnee — 雪 🦊",
    "style_description": {"aesthetics": "ruhig, weit", "lighting": "kalt", "color_palette": ["#FF8800", "#FFFFFF"]},
    "compositional_deconstruction": {
        "background": "Schnee\nund Wald",
        "elements": [
            {"type": "obj", "bbox": [1, -2.5, 3e2, 4], "desc": "der Fuchs {sitzt}", "seen": True, "more": None},
            {"type": "text", "text": "ZEILE EINS\nZEILE [ZWEI]", "desc": "weiss, oben, über allem"},
        ],
    },
}
FORMS = [
    json.dumps(CAPTION),
    json.dumps(CAPTION, ensure_ascii=False, separators=(",", ":")),
    json.dumps(CAPTION, ensure_ascii=False, indent=4),
]


@pytest.mark.parametrize("text", FORMS)
def test_a_valid_caption_stays_as_it_is(text):
    assert checked(text) == (text, (), None)


@pytest.mark.parametrize("text", FORMS)
def test_wherever_it_breaks_off_it_is_closed_and_what_was_there_is_kept(text):
    """Every beginning of a caption: valid JSON, a part of the whole, and no value that was complete is lost."""
    closed = 0
    for length in range(len(text)):
        found = checked(text[:length])
        if found.problem:
            assert length < 60 and found.text == text[:length]
            continue
        closed += 1
        assert "broke off" in found.notes[0] and "\n" not in found.notes[0]
        assert part_of(json.loads(found.text), CAPTION)
        assert values(found.text).replace("\n", "") == "" or len(values(found.text)) <= len(values(text))
    assert closed > len(text) - 60
    almost = json.loads(checked(text.rstrip()[:-1]).text)
    assert almost == CAPTION


def part_of(part, whole) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and part_of(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) <= len(whole) and all(map(part_of, part, whole))
    if isinstance(part, str):
        return isinstance(whole, str) and whole.startswith(part.encode("utf-8", "ignore").decode())
    return part == whole or isinstance(part, (int, float))  # a number may have lost digits


@pytest.mark.parametrize(
    "before, after", [("```json\n", "\n```"), ("Here it is: ", ""), ("", "\nI hope you like it {really}."), ("\n", " ")]
)
def test_words_around_it_are_left_out_and_said_unless_they_are_a_fence(before, after):
    found = checked(before + FORMS[0] + after)
    assert found.text == FORMS[0] and found.problem is None
    said = any(word in before + after for word in ("Here", "hope"))
    assert [("were left out" in note) for note in found.notes] == [True] * said


def test_line_breaks_in_strings_and_commas_too_many_are_corrected():
    text = '{"high_level_description": "one\ntwo\t,]",\n "compositional_deconstruction": {"background": "x", "elements": [1,],},}'
    found = checked(text)
    assert json.loads(found.text)["high_level_description"] == "one\ntwo\t,]" and "corrected" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red fox",
        "{",
        "{}",
        "[1, 2]",
        "{'a': 1}",
        '{"a" 1}',
        '{"a": NaN}',
        '{"a": 1}',
        "{" * 5000,
        '{"a":' * 3000,
        "[{]}",
        '"{',
    ],
)
def test_what_is_no_caption_is_named_and_left_alone(text):
    found = checked(text)
    assert found.text == text and found.problem in ("is no JSON object", "is no valid JSON object")


def test_a_missing_part_is_said():
    assert "no 'compositional_deconstruction'" in checked('{"high_level_description": "a fox"}').notes[0]
    assert "no 'high_level_description'" in checked('{"a": "x"}').notes[0]


def test_a_long_text_is_read_in_time_and_no_text_fails():
    import time

    start = time.perf_counter()
    assert checked('{"a": "' + "x" * 200_000).problem is None
    assert checked('{"a": ["x", ' + "1, " * 50_000).problem is None
    checked('{"a": ' + "}" * 50_000)
    assert time.perf_counter() - start < 5
    draw = random.Random(0)
    for _ in range(3000):
        text = list(FORMS[draw.randrange(3)])
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(text))
            text[place : place + draw.randrange(4)] = draw.choice(
                ['"', "{", "}", "[", "]", ",", ":", "\\", "\n", "", "é"]
            )
        found = checked("".join(text))
        assert found.problem or isinstance(json.loads(found.text), dict)


def test_values_are_what_is_said_without_keys():
    assert values('{"key": ["eins", {"other": "zwei", "n": 3}]}') == "eins\nzwei"
