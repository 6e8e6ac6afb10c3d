"""What is said before anything runs."""

import pytest

from unifusion.before_queue import cfg_of, check_gains, check_guidance, check_rewrite, check_taps

FINE = {
    "prompt": "a cat",
    "edited_text": "",
    "system_prompt": "as the profile",
    "custom_system_prompt": "",
    "taps": "",
    "pictures": False,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"prompt": "", "pictures": True},
        {"prompt": "", "edited_text": "a dog"},
        {"prompt": None},
        {"prompt": "", "edited_text": None},
        {"system_prompt": "custom", "custom_system_prompt": "Describe."},
        {"system_prompt": "custom", "custom_system_prompt": None},
        {"taps": "2, 5; 8"},
        {"taps": None},
    ],
)
def test_what_may_run_is_let_through(change):
    check_rewrite(**{**FINE, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " \n"}, "nothing to rewrite"),
        ({"system_prompt": "custom", "custom_system_prompt": " "}, "custom_system_prompt is empty"),
        ({"system_prompt": "baroque"}, "There is no system prompt 'baroque'"),
        ({"taps": "2, two"}, "Taps must be"),
        ({"taps": "5, 2"}, "Taps must be"),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(change, said):
    with pytest.raises(ValueError, match=said) as stopped:
        check_rewrite(**{**FINE, **change})
    assert "\n" not in str(stopped.value) and str(stopped.value).endswith(".")


def test_gains_are_read_for_custom_alone():
    check_gains("off", "foo")
    check_gains("custom", "11=1.45, 5=0.9")
    check_gains("custom", "1, 2, 3")
    check_gains("custom", None)
    for preset, gains in (("custom", "foo"), ("custom", "0=2"), ("loud", "")):
        with pytest.raises(ValueError, match="gain|tap") as stopped:
            check_gains(preset, gains)
        assert str(stopped.value).endswith(".")


def test_no_taps_at_all_mean_the_profile():
    check_taps("  ")


@pytest.mark.parametrize(
    ("preset", "image_guidance", "negative", "images_only", "said"),
    [
        ({"preset": "Krea 2 Raw"}, -1.0, False, False, "CFG 4.5 needs a negative"),
        ({"preset": "custom", "cfg": 2.0}, -1.0, False, False, "CFG 2 needs a negative"),
        ({"preset": "custom", "cfg": 1.0}, 3.0, False, True, "Image guidance 3 needs a negative"),
        ({"preset": "auto"}, 3.0, False, True, "Image guidance 3 needs a negative"),
        ({"preset": "Krea 2 Raw"}, 3.0, True, False, "'images only'"),
        ({"preset": "custom", "cfg": 31.0}, -1.0, True, False, "CFG must be from 0 to 30, found 31"),
        ({"preset": "Krea 2 Raw"}, -2.0, True, True, "Image guidance must be from -1 to 30"),
        ({"preset": "custom", "cfg": float("nan")}, -1.0, True, False, "CFG must be"),
        ({"preset": "Krea 2 Turbo"}, -1.0, False, False, None),
        ({"preset": "Krea 2 Raw"}, -1.0, True, False, None),
        ({"preset": "Krea 2 Raw"}, 4.5, True, False, None),
        ({"preset": "Krea 2 Raw"}, 3.0, True, True, None),
        ({"preset": "Krea 2 Raw"}, None, False, False, None),
        ({"preset": "auto"}, -1.0, False, False, None),
        ({"preset": "of another version"}, -1.0, False, False, None),
        (None, -1.0, False, False, None),
    ],
)
def test_what_guidance_needs_is_said_before_anything_is_drawn(preset, image_guidance, negative, images_only, said):
    def check():
        check_guidance(cfg_of(preset), image_guidance, negative=negative, images_only=images_only)

    if said is None:
        return check()
    with pytest.raises(ValueError) as refused:
        check()
    assert said in str(refused.value) and str(refused.value).endswith(".")
