"""The grammar of newcomers' prompts and edits, the hand-written tests, and the words that reports know."""

import json
import shutil
import time

import numpy as np
import pytest
import torch

from bench.newcomers.expectations import edits, prompts
from recipes.miniature import newcomers, vlm_words
from recipes.miniature.captions import PromptSpec, Stated, caption, keeps_attributes, parse_caption
from recipes.miniature.chats import Chat, ChatTokenizer
from recipes.miniature.frozen_vlm import FrozenVLM, load_vlm
from recipes.miniature.known_words import word_lists
from recipes.miniature.newcomer_edits import SHARES, newcomer_edit
from recipes.miniature.newcomers import KINDS, LANGUAGES, newcomer_prompt, typo
from recipes.miniature.scene import Scene, Thing, is_held_out, sample_scene
from recipes.miniature.vlm_model import Qwen3VL
from recipes.miniature.vocabulary import (
    build_tokenizer,
    extend_tokenizer,
    load_tokenizer,
    meaning_rows,
    write_word_lists,
)
from recipes.miniature.wordings import user_prompt
from unifusion.messages import remove_control_tokens
from unifusion.miniature import VLM_FOLDER, VLMConfig, broken_caption
from unifusion.miniature_words import as_meant, knows_any, normal_form, slips, unknown_words


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """The tokenizer of the first stage."""
    folder = tmp_path_factory.mktemp("english")
    build_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def extended(english, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended")
    extend_tokenizer(english, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", LANGUAGES)
def test_every_kind_of_prompt_has_a_scene_that_keeps_it_and_stays_in_the_training_split(kind, key):
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(20):
        text, scene, spec, name, language = newcomer_prompt(rng, kind, key)
        assert text.strip() and (name, language) == (kind, key)
        assert keeps_attributes(spec, scene) and not is_held_out(scene), (text, caption(scene))
        assert parse_caption(caption(scene)) == scene
        texts.add(text)
    assert len(texts) > 10


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("key", LANGUAGES)
def test_every_kind_of_edit_changes_the_scene_within_the_training_split(kind, key):
    rng = np.random.default_rng(1)
    for _ in range(10):
        change = newcomer_edit(rng, kind, key)
        assert change.text.strip() and change.before != change.after
        assert not is_held_out(change.before) and not is_held_out(change.after)
        assert change.edit is None or change.edit.apply(change.before) == change.after


def test_relations_and_what_may_not_be_there_are_checked():
    above = Scene("white", (Thing("star", "red", "large", "solid", 1), Thing("heart", "blue", "large", "solid", 7)))
    spec = PromptSpec((Stated("star"), Stated("heart")), relations=((0, "above", 1),))
    assert keeps_attributes(spec, above)
    assert not keeps_attributes(PromptSpec(spec.things, relations=((0, "below", 1),)), above)
    assert not keeps_attributes(PromptSpec(spec.things, absent=(Stated(color="red"),)), above)
    assert not keeps_attributes(PromptSpec(spec.things[:1]), above)
    assert keeps_attributes(PromptSpec(spec.things[:1], more=True), above)


def test_the_hand_written_tests_are_many_and_each_can_be_met():
    asked, changes = prompts(), edits()
    assert len(asked) >= 300 and len({one.kind for one in asked}) >= 18
    assert len(changes) >= 200 and len({one.kind for one in changes}) >= 10
    for edit in changes:
        assert not edit.is_right(edit.before), edit.text
    assert sum(bool(one.unknown) for one in asked) >= 25
    assert len({one.text for one in asked}) == len(asked)


def test_no_hand_written_prompt_decides_the_weights():
    """Development prompts come from the grammar; the few short ones that both hold are no secret to any newcomer."""
    rng = np.random.default_rng(2)
    drawn = {normal_form(newcomer_prompt(rng)[0]) for _ in range(3000)}
    long = [one.text for one in prompts() if len(one.text.split()) > 5]
    assert not [text for text in long if normal_form(text) in drawn]


def test_new_words_get_tokens_and_old_texts_keep_their_ids(english, extended):
    old, new = load_tokenizer(english), load_tokenizer(extended)
    rng = np.random.default_rng(3)
    for _ in range(200):
        text = user_prompt(sample_scene(rng), rng)[0]
        assert new(text)["input_ids"] == old(text)["input_ids"]
    control = "<|im_start|>user\n<|image_pad|><|im_end|>"
    assert new(control)["input_ids"] == old(control)["input_ids"]
    assert len(new) == len(new.get_vocab()) == max(new.get_vocab().values()) + 1
    for word in (" scarlet", " kreis", "赤い", "红色", " etoile", " circulo"):
        assert len(new(word)["input_ids"]) == 1, word
    red = new(" red")["input_ids"][0]
    assert meaning_rows(new)[new(" rot")["input_ids"][0]] == red


def test_a_tokenizer_that_has_the_words_stays_as_it_is(extended, tmp_path):
    extend_tokenizer(extended, tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(extended).get_vocab()
    assert load_tokenizer(VLM_FOLDER).get_vocab().keys() >= {"Ġkreis", "Ġscarlet"}


def test_case_accents_and_width_are_no_property_of_a_word():
    tokenizer = load_tokenizer(VLM_FOLDER)
    ids = tokenizer("a large red circle")["input_ids"]
    for text in ("A LARGE RED CIRCLE", "A Large Red Circle", "a large réd circle", "ａ ｌａｒｇｅ ｒｅｄ ｃｉｒｃｌｅ"):
        assert tokenizer(text)["input_ids"] == ids
    for text in ("a small heart, top left.", "ein grün: 'x'", "ガギグ", "weiß", "Ärger İ"):
        assert normal_form(normal_form(text)) == normal_form(text)
    assert normal_form("ガ、星。") == "ガ,星."


def test_what_becomes_a_control_token_when_read_is_removed():
    tokenizer = load_tokenizer(VLM_FOLDER)
    for text in ("a <|IM_END|> star", "a ＜｜im_end｜＞ star", "a <|Im_Start|> star"):
        clean, found = remove_control_tokens(text, tokenizer)
        assert found and not set(tokenizer(clean)["input_ids"]) & set(tokenizer.all_special_ids)
    assert remove_control_tokens("A Red Star", tokenizer) == ("A Red Star", [])


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a cat", ["cat"]),
        ("A Red Circle and a Zebra!", ["zebra"]),
        ("a red cirle, a bleu sqaure", []),
        ("a tree and three stars", ["tree"]),
        ("ein roter Kreis und eine Katze", ["katze"]),
        ("un cercle rouge et un chat", ["chat"]),
        ("un círculo rojo y un gato", ["gato"]),
        ("猫と赤い丸", ["猫"]),
        ("红色的圆和狗", ["狗"]),
        ("白い背景に緑のハートを描いてください", []),
        ("could you please draw 2 of them for me?", []),
    ],
)
def test_things_outside_the_world_are_named_in_six_languages(extended, text, unknown):
    assert unknown_words(text, extended) == unknown


def test_words_of_the_grammar_are_known(extended):
    rng = np.random.default_rng(4)
    named = {}
    for _ in range(600):
        text, _, _, kind, _ = newcomer_prompt(rng)
        if kind != "unknown" and (words := unknown_words(text, extended)):
            named[text] = words
    assert len(named) < 27, named  # two slips in one short word, or a slip that is a word of its own


def test_a_text_with_nothing_known_is_told_apart(extended):
    assert not knows_any("a cat", extended) and not knows_any("猫", extended)
    assert knows_any("a red cat", extended) and knows_any("赤い猫", extended) and knows_any("TWO HAERTS", extended)


def test_a_tokenizer_without_lists_of_words_still_names_words(tmp_path):
    config = json.loads((VLM_FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    bare = {name: value for name, value in config.items() if name not in word_lists()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(bare))
    assert unknown_words("a red zebra", tmp_path) == ["zebra"]
    shutil.copy(VLM_FOLDER / "tokenizer_config.json", tmp_path)
    write_word_lists(tmp_path, bare)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))["content_words"]


@pytest.mark.parametrize(
    ("text", "ended", "broken"),
    [
        ("on a white background: a large red solid circle at the center.", True, None),
        (
            "on a white background: a large red solid circle at the center, a small blue solid star at the center.",
            True,
            "two things",
        ),
        ("on a white background: a large red solid circle at the center, a", False, "does not end"),
        ("a red circle", True, "style"),
    ],
)
def test_a_caption_that_lost_its_form_is_noticed(text, ended, broken):
    problem = broken_caption(text, ended)
    assert problem is None if broken is None else broken in problem


def test_a_step_of_the_words_stage_keeps_the_tower_and_gives_a_loadable_folder(monkeypatch, tmp_path):
    mix = (((vlm_words.prompt_lesson, 2), (vlm_words.settled_rewrite, 1)), ((vlm_words.edit_lesson, 2),))
    monkeypatch.setattr(vlm_words, "MIX", mix)
    monkeypatch.setattr(vlm_words, "develop", lambda *_: {})
    monkeypatch.setattr(vlm_words, "held_out_examples", lambda _: [])
    vlm_words.main(["--out", str(tmp_path), "--steps", "1"])
    before, after = load_vlm(), load_vlm(tmp_path / "vlm")
    assert len(after.tokenizer.tokenizer) == after.model.config.vocab_size >= before.model.config.vocab_size
    for name, weight in before.model.state_dict().items():
        if name.startswith("visual."):
            assert torch.equal(weight, after.model.state_dict()[name])
    rows = before.model.config.vocab_size
    moved = (after.model.model.embed_tokens.weight[:rows] - before.model.model.embed_tokens.weight).abs().max()
    assert 0 < moved < 0.1


def test_the_frozen_states_anchor_the_same_answer_over_the_same_pictures():
    rng = np.random.default_rng(5)
    for make in (vlm_words.prompt_lesson, vlm_words.settled_rewrite, vlm_words.edit_lesson):
        for _ in range(20):
            lesson = make(rng)
            assert lesson.chat.answer == lesson.anchor.answer and lesson.chat.pictures == lesson.anchor.pictures
            assert parse_caption(lesson.chat.answer) is not None


def test_a_grown_model_reads_new_words_as_what_they_mean_and_old_texts_as_before(english, extended):
    old, new = load_tokenizer(english), load_tokenizer(extended)
    torch.manual_seed(0)
    model = Qwen3VL(VLMConfig(vocab_size=len(old)))
    model.initialise()
    made = vlm_words.grown(FrozenVLM(model, ChatTokenizer(old)), new).eval()
    rows = made.model.embed_tokens.weight
    ids = {word: new(word)["input_ids"][0] for word in (" red", " rot", " rouge", "红色", " kreis", " circle")}
    assert torch.equal(rows[ids[" rot"]], rows[ids[" red"]]) and torch.equal(rows[ids[" rouge"]], rows[ids[" red"]])
    assert torch.equal(rows[ids[" kreis"]], rows[ids[" circle"]])
    chats = [Chat("a red circle", [], "on a white background")]
    before, after = (
        FrozenVLM(one, ChatTokenizer(words)).encode(chats).states for one, words in ((model, old), (made, new))
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a rde cirlce", "a red circle"),
        ("two bleu sqaures and a tringle", "two bleu squares and a triangle"),  # "bleu" is French
        ("(grene:1.3) haert", "(green:1.3) heart"),
        ("ein grüner Krais", "ein grüner Kreis"),
        ("THREE STIRPED RINGS", "THREE striped RINGS"),
        ("a short tree in bad weather, read the file", "a short tree in bad weather, read the file"),
        ("a cat and a boat", "a cat and a boat"),
        ("the window was hacked, actuarial tables", "the window was hacked, actuarial tables"),
        ("赤い円", "赤い円"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_slips_of_the_fingers_are_read_as_meant(extended, typed, meant):
    assert as_meant(typed, extended).casefold() == meant.casefold()


def test_most_slips_in_known_words_are_undone(extended):
    rng = np.random.default_rng(8)
    words = [word for word in word_lists()["content_words"] if len(word) > 4 and word.isascii()]
    slipped = [(word, typo(word, rng)) for word in words]
    slipped = [(word, wrong) for word, wrong in slipped if as_meant(wrong, extended) != word or wrong != word]
    undone = sum(as_meant(wrong, extended) == word for word, wrong in slipped)
    assert undone / len(slipped) > 0.85, undone / len(slipped)


def test_what_the_grammar_says_is_never_taken_for_slips(extended, monkeypatch):
    monkeypatch.setattr(newcomers, "with_typos", lambda text, rng, count: text)
    rng = np.random.default_rng(6)
    texts = [newcomer_prompt(rng)[0] for _ in range(400)]
    wrong = [(text, found) for text in texts if (found := slips(text, extended))]
    assert not wrong, wrong[:5]


def test_a_book_of_unknown_words_costs_no_time(extended):
    rng = np.random.default_rng(2)
    book = " ".join("".join(chr(97 + letter) for letter in rng.integers(0, 26, 7)) for _ in range(20_000))
    started = time.process_time()
    as_meant(book, extended)
    assert time.process_time() - started < 5


def test_the_shipped_lists_of_words_are_the_recipes():
    shipped = json.loads((VLM_FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name, words in word_lists().items():
        assert shipped[name] == words, f"python -c: recipes.miniature.vocabulary.write_word_lists renews {name}"
    for word in shipped["common_words"]:  # no target of a slip
        for typed in (word + "q", word[:-1] + "q", word[:-1]):
            assert slips(typed).get(typed) != word, typed
    assert not slips("a short list of things to read, please") and as_meant("a gren haert") == "a green heart"
