"""What VERIFI decides without a model: lengths, windows, refusals, system prompts."""

import pytest

from unifusion.hidden_states import GENERATED, INSTRUCTION, SYSTEM, TEMPLATE, image_role
from unifusion.profiles import PROFILES
from unifusion.selection import ENCODE_AGAIN
from unifusion.system_prompts import AS_PROFILE, CUSTOM, SYSTEM_PROMPTS, system_prompt_for
from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM
from unifusion.verifi import Decoding, count_words, room_to_write, what_is_broken, what_is_wrong

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot create this image.",
    "Sorry, I can't do that.",
    "I cannot assist with this request.",
    "I can't help with that.",
    "I am unable to describe this.",
    "As an AI language model, I do not draw.",
    "Unfortunately, I cannot provide a description.",
    "I must decline this request.",
    "I apologize, but this goes against my guidelines.",
    "**I'm sorry**, I can't.",
    "I won't be able to describe real people.",
    "We're sorry, this is not possible.",
    "抱歉，我无法满足您的请求。",
    "很抱歉，我不能描述这个内容。",
    "对不起，我不能帮助您。",
    "我无法提供这样的描述。",
    "作为一个AI，我不能这样做。",
    "Es tut mir leid, aber das kann ich nicht beschreiben.",
    "Tut mir leid, dabei kann ich nicht helfen.",
    "Leider kann ich diese Anfrage nicht erfüllen.",
    "Ich kann dabei leider nicht helfen.",
    "Ich bin nicht in der Lage, das zu beschreiben.",
    "Entschuldigung, das geht nicht.",
    "申し訳ありませんが、そのリクエストにはお応えできません。",
    "すみません、それはできません。",
    "そのリクエストにはお応えできません。",
]
PICTURES = [
    "A dog sits on a kitchen table.",
    'A sign on a door reads "Sorry, we are closed".',
    "I see a red fox in the snow.",
    'An apology card that says "I\'m sorry" in gold letters.',
    "Unfortunately placed umbrellas on a windy beach.",
    "I can see the sea behind the dunes.",
    "A robot, as an AI assistant, waits at a desk.",
    "Ein Hund, der nicht schläft.",
    "Ich kann den Wald und ein Haus sehen.",
    "一只猫坐在窗台上，表情抱歉。",
    "我看到一座桥。",
    "謝罪する会社員の写真、深くお辞儀している。",
    "Cannot-miss view of a canyon at dawn.",
    'The words "I cannot" are painted on a wall.',
    "Sorry-looking old boots.",
    '"I\'m sorry" is written in chalk on a blackboard.',
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_recognised(answer):
    assert what_is_wrong(answer).startswith("refused")


@pytest.mark.parametrize("answer", PICTURES)
def test_a_description_is_no_refusal(answer):
    assert what_is_wrong(answer) is None


@pytest.mark.parametrize(
    "answer,said", [("", "nothing"), (" \n\t", "nothing"), ("...", "no words"), ("—！？", "no words")]
)
def test_an_answer_without_words_is_recognised(answer, said):
    assert said in what_is_wrong(answer)


@pytest.mark.parametrize(
    "text,words",
    [("", 0), ("a red fox", 3), ("don't, ever-green!", 2), ("一只猫", 3), ("Haus am See, früh", 4), ("2 キャット", 5)],
)
def test_words_are_counted_in_every_script(text, words):
    assert count_words(text) == words


def roles(system=10, images=(), instruction=5, given=0):
    read = [SYSTEM] * system
    for index, size in enumerate(images):
        read += [TEMPLATE, *[image_role(index)] * size, TEMPLATE]
    return read + [INSTRUCTION] * instruction + [TEMPLATE] * 5 + [GENERATED] * given


@pytest.mark.parametrize(
    "selection,used",
    [
        ("images and rewritten text", 40 + 2),
        ("rewritten text only", 2),
        ("everything after the system prompt", 40 + 2 + 5 + 5 + 2),
        (ENCODE_AGAIN, 7 + 40 + 2),
    ],
)
def test_the_window_counts_only_what_conditions_the_picture(selection, used):
    read = roles(images=[40], given=2)
    assert room_to_write(read, selection, 7, 100, 1000, 500, "a model") == 100 - used
    assert room_to_write(read, selection, 7, 100, 1000, 3, "a model") == 3
    assert room_to_write(read, selection, 7, 0, 1000, 500, "a model") == 500


def test_pictures_that_fill_the_window_are_refused():
    with pytest.raises(ValueError, match="No room is left to write: 120 tokens .120 of them pictures. fill the window"):
        room_to_write(roles(images=[60, 60]), "images and rewritten text", 0, 120, 1000, 10, "a model")


def test_pictures_that_overflow_the_encoder_are_refused():
    with pytest.raises(ValueError, match="more than the 100 this text encoder can hold"):
        room_to_write(roles(images=[60]), "images and rewritten text", 0, 0, 100, 30, "a model")


@pytest.mark.parametrize(
    "settings,words",
    [
        (dict(max_length=0), "Set max_length"),
        (dict(max_length=-1), "Set max_length"),
        (dict(min_length=9, max_length=8), "minimum length"),
        (dict(min_length=-1), "minimum length"),
        (dict(top_p=1.5), "top_p"),
        (dict(min_p=float("nan")), "min_p"),
        (dict(top_k=-1), "top_k"),
        (dict(temperature=-0.1), "temperature"),
        (dict(repetition_penalty=0.0), "repetition_penalty"),
    ],
)
def test_decoding_settings_out_of_range_are_refused_in_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        Decoding(**settings)


def test_every_profile_names_a_system_prompt_of_the_table():
    assert all(profile.rewrite_system in SYSTEM_PROMPTS for profile in PROFILES.values())


def test_the_miniature_is_asked_as_it_was_trained():
    assert system_prompt_for(PROFILES["miniature"].rewrite_system, AS_PROFILE, "") == VERIFI_SYSTEM


def test_system_prompt_choices():
    assert system_prompt_for("faithful detail", "photograph", "mine") == SYSTEM_PROMPTS["photograph"]
    assert system_prompt_for("faithful detail", CUSTOM, "  mine ") == "mine"
    with pytest.raises(ValueError, match="custom_system_prompt is empty"):
        system_prompt_for("faithful detail", CUSTOM, " ")
    with pytest.raises(ValueError, match="no system prompt 'poem'"):
        system_prompt_for("faithful detail", "poem", "")


def test_system_prompts_carry_no_control_tokens():
    assert not any("<|" in text for text in SYSTEM_PROMPTS.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a red circle " * 6, "repeats"),
        ("la la la la la la la la la la la la", "repeats 'la'"),
        ("ein rotes Herz und ein rotes Herz und ein rotes Herz und ein rotes Herz und", "repeats"),
        ("星星星星星星星星星星星星", "repeats"),
        ("The lake is calm and blue, the lake is calm and blue.", "twice"),
        ("A very, very, very big dog under a blue sky.", None),
        ("A red cup, a blue cup, a green cup, and a table under a lamp.", None),
        (
            "on a white background: a large red solid heart at the top left, a large red solid heart at the center.",
            None,
        ),
        ("", None),
    ],
)
def test_a_text_that_lost_its_way_is_noticed(text, problem):
    found = what_is_broken(text, ended=True)
    assert found is None if problem is None else problem in found


def test_a_cut_text_that_repeats_does_not_end():
    assert what_is_broken("go on and on and on and on and on and on and on", ended=False).endswith("does not end")
    assert what_is_broken("a calm lake at dawn, with", ended=False) is None
