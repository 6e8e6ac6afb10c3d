"""The table of known models says what their own code says, and taps are read or refused in one sentence."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unifusion.guidance import resolution_shift
from unifusion.hidden_states import INSTRUCTION
from unifusion.messages import chat
from unifusion.profiles import LAP, PROFILES, SAMPLER_PRESETS, parse_taps, taps_for
from unifusion.selection import REWRITE_SELECTIONS, SELECTIONS


def krea2_pipeline():
    return pytest.importorskip("diffusers.pipelines.krea2.pipeline_krea2")


def test_krea2_taps_and_template_are_those_of_diffusers():
    source = inspect.getsource(krea2_pipeline().Krea2Pipeline.__init__)
    assert str(PROFILES["krea2"].taps) in source
    text = "".join(segment.text for segment in chat(PROFILES["krea2"].system, "a fox"))
    prefix, suffix = text.split("a fox")
    flat = source.replace('"\n            "', "")
    assert repr(prefix).strip("'") in flat and repr(suffix).strip("'") in flat


@given(st.integers(64, 20000))
def test_resolution_shift_is_diffusers_for_krea2(tokens):
    theirs = krea2_pipeline().calculate_shift(tokens, 256, 6400, base_shift=0.5, max_shift=1.15)
    assert resolution_shift(tokens) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_profiles_name_selections_that_exist_and_keep_the_instruction_in_the_chat(profile):
    assert profile.encode_selection in SELECTIONS and profile.rewrite_selection in REWRITE_SELECTIONS
    for template in (profile.chat, profile.writing_chat):
        said = chat(profile.system, "a fox", template=template)
        assert [s.text for s in said if s.role == INSTRUCTION] == ["a fox"]
    assert set(profile.presets) <= set(SAMPLER_PRESETS)


def test_krea2_presets_are_the_settings_in_use():
    turbo, raw = SAMPLER_PRESETS["Krea 2 Turbo"], SAMPLER_PRESETS["Krea 2 Raw"]
    assert (turbo.steps, turbo.cfg, turbo.shift, turbo.mu) == (8, 1.0, "fixed", 1.15)
    assert (raw.cfg, raw.shift) == (3.5 + 1, "by resolution")  # Krea counts g = CFG - 1


@given(st.sampled_from(list(PROFILES.values())), st.integers(3, 80))
def test_taps_rise_and_stay_inside_the_model_or_the_profile_is_refused(profile, layers):
    try:
        taps = taps_for(profile, layers)
    except ValueError as error:
        assert f"'{profile.key}'" in str(error) and f"only {layers} layers" in str(error)
    else:
        deepest = layers if profile.combination != LAP else layers - 1  # its number is the end of the last layer
        assert list(taps) == sorted(set(taps)) and 0 <= taps[0] and taps[-1] <= deepest


@given(st.lists(st.integers(0, 35), min_size=1, unique=True).map(sorted))
def test_taps_a_creator_writes_come_back(taps):
    assert parse_taps(", ".join(map(str, taps)), 36) == tuple(taps)


@given(st.text(alphabet="0123456789,; -x.", max_size=20))
def test_any_text_for_taps_is_read_or_refused_in_one_sentence(text):
    try:
        taps = parse_taps(text, 36)
    except ValueError as error:
        assert str(error).startswith("Taps must be") and text in str(error)
    else:
        assert list(taps) == sorted(set(taps)) and 0 <= taps[0] and taps[-1] < 36
