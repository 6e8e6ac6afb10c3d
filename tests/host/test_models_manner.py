"""Rewriting in the manner of a model: Ideogram 4's JSON caption is checked, the language of the prompt is kept or said."""

import json
from functools import cache

import pytest
import torch
from harness.tapped_models import make_encoder

encoder = cache(make_encoder)
CAPTION = (
    '{"high_level_description":"a red fox","compositional_deconstruction":{"background":"the snow","elements":[]}}'
)


@pytest.fixture
def writes(bridge, monkeypatch):
    """Lets the encoder write the given texts, one after the other; returns the settings it was called with."""
    rewrite, calls = bridge("actions.rewrite"), []
    real = rewrite.write

    def install(*texts):
        def write(reading, request, settings, seeds=None):
            calls.append(settings)
            return [one._replace(text=texts[len(calls) - 1]) for one in real(reading, request, settings, seeds)]

        monkeypatch.setattr(rewrite, "write", write)
        return calls

    return install


def rewritten(bridge, key="ideogram4", prompt="a red fox", **more):
    settings = {"sampling": {"sampling": "greedy"}, "max_length": 3, **more}
    return bridge("actions.rewrite").run(encoder(key), prompt, **settings)


def test_a_valid_caption_conditions_as_it_is(bridge, writes):
    calls = writes(CAPTION)
    states, _, text, report = rewritten(bridge)
    assert text == CAPTION and len(calls) == 1 and "Warning" not in report and "JSON" not in report
    assert torch.equal(states.states, bridge("actions.encode").run(encoder("ideogram4"), CAPTION)[0].states)


def test_a_broken_end_is_closed_and_said_and_conditions_closed(bridge, writes):
    calls = writes(CAPTION[:-18])
    states, _, text, report = rewritten(bridge)
    assert len(calls) == 1 and json.loads(text)["high_level_description"] == "a red fox"
    assert "broke off" in report and "max_length" in report
    assert torch.equal(states.states, bridge("actions.encode").run(encoder("ideogram4"), text)[0].states)


def test_with_the_states_of_the_pass_a_closed_caption_is_read_again(bridge, writes):
    writes(CAPTION[:-18])
    states, _, text, _ = rewritten(bridge, selection="everything after the system prompt")
    as_edited, _, same, _ = rewritten(bridge, selection="everything after the system prompt", edited_text=text)
    assert same == text == states.text and torch.equal(states.states, as_edited.states)


@pytest.mark.parametrize("second", [CAPTION, "a fox, in the snow"])
def test_what_is_no_json_is_written_once_more_and_said(bridge, writes, second):
    calls = writes("A fox sits in the snow.", second)
    _, _, text, report = rewritten(bridge)
    assert [call.sample for call in calls] == [False, True]
    if second == CAPTION:
        assert text == CAPTION and "is no JSON object, so it was written once more" in report
    else:
        assert text == "A fox sits in the snow." and report.count("is no JSON object") == 2


def test_an_edited_text_that_is_no_json_is_said_and_kept(bridge):
    _, _, text, report = rewritten(bridge, edited_text="a red fox")
    assert text == "a red fox" and "Warning: the edited text is no JSON object" in report
    assert "Warning" not in rewritten(bridge, edited_text=CAPTION)[3]


def test_other_system_prompts_ask_for_no_json(bridge, writes):
    writes("A fox sits in the snow.")
    assert "JSON" not in rewritten(bridge, system_prompt="keep it short")[3]


@pytest.mark.parametrize("key", ["z-image", "flux2-klein-4b", "ideogram4"])
def test_another_language_than_the_prompts_is_said(bridge, writes, key):
    english = CAPTION if key == "ideogram4" else "A red fox sits in the snow."
    chinese = json.dumps(
        {"high_level_description": "雪地里的红狐狸", "compositional_deconstruction": {"background": "雪"}}
    )
    texts = english, chinese if key == "ideogram4" else "雪地里坐着一只红狐狸"
    writes(*texts)
    assert (
        "written in Chinese or Japanese letters, the text in Latin ones" in rewritten(bridge, key, "雪地里的红狐狸")[3]
    )
    assert "letters, the text in" not in rewritten(bridge, key, "雪地里的红狐狸")[3]


def test_every_manner_of_a_model_asks_for_the_language_of_the_request(pack):
    from unifusion_pack.unifusion.profiles import PROFILES
    from unifusion_pack.unifusion.system_prompts import JSON_CAPTIONS, SAME_LANGUAGE, SYSTEM_PROMPTS

    own = {
        row.rewrite_system for row in PROFILES.values() if row.rewrite_system not in ("faithful detail", "miniature")
    }
    assert {*own, "Qwen-Image Edit"} == set(SAME_LANGUAGE) and set(JSON_CAPTIONS) <= own
    assert all("language of the request" in SYSTEM_PROMPTS[key] for key in SAME_LANGUAGE)
