"""Every token of a chat knows its role, whatever is written, and no control token comes in through a creator's text."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unifusion.hidden_states import GENERATED, IMAGE, INSTRUCTION, SYSTEM, TEMPLATE, image_role
from unifusion.messages import IMAGE_PAD, OPENER, VISION_BLOCK, chat, remove_control_tokens, token_bytes, tokenize

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
WORDS = "a red fox in the snow system user assistant describe the image Image 1: ein Haus am See 一只猫 😀 " * 20


def byte_level(normalizer=None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of Qwen's kind with merges of its own, some of them across words and brackets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer or normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"additional_special_tokens": CONTROL})
    return fast


TOKENIZER = byte_level()
texts = st.text(max_size=40)
weighted = st.lists(st.tuples(st.text(min_size=1, max_size=10), st.floats(0, 2)), min_size=1, max_size=4)


def text_of(tokens, role):
    """What the tokens of one role say."""
    ids = [token for token, own in zip(tokens.ids, tokens.roles) if own == role]
    return b"".join(token_bytes(TOKENIZER, ids)).decode("utf-8", "replace")


@given(texts, texts, st.lists(st.integers(1, 2), max_size=3))
@settings(deadline=None)
def test_ids_are_those_of_the_whole_string_and_all_tokens_have_roles(system, words, views):
    segments = chat(system, words, views, [f"Image {i + 1}: " for i in range(len(views))])
    tokens = tokenize(segments, TOKENIZER)
    assert tokens.ids == TOKENIZER("".join(segment.text for segment in segments))["input_ids"]
    assert len(tokens.ids) == len(tokens.roles) == len(tokens.weights) == len(tokens.pieces)


@given(texts, texts)
@settings(deadline=None)
@example("", "\u0301 begins with a combining accent")
def test_the_instruction_and_the_system_prompt_are_found_again_by_role(system, words):
    words, system = remove_control_tokens(words, TOKENIZER)[0], remove_control_tokens(system, TOKENIZER)[0]
    tokens = tokenize(chat(system, words), TOKENIZER)
    assert text_of(tokens, INSTRUCTION) == unicodedata.normalize("NFC", words)
    whole = text_of(tokens, SYSTEM)
    assert whole == unicodedata.normalize("NFC", f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n")
    assert text_of(tokens, TEMPLATE) == "<|im_end|>\n" + OPENER


def test_every_view_of_a_picture_is_one_place_with_the_pictures_role_and_strength():
    tokens = tokenize(chat("s", "mix them", [2, 1], ["Image 1: ", "Image 2: "], strengths=[0.5, 2.0]), TOKENIZER)
    places = [
        (role, weight) for role, weight, piece in zip(tokens.roles, tokens.weights, tokens.pieces) if piece == IMAGE_PAD
    ]
    assert places == [(image_role(0), 0.5), (image_role(0), 0.5), (image_role(1), 2.0)]
    assert all(weight == 1.0 for role, weight in zip(tokens.roles, tokens.weights) if role < IMAGE)
    text = "".join(segment.text for segment in chat("s", "mix them", [2, 1], ["Image 1: ", "Image 2: "]))
    block = VISION_BLOCK.format(IMAGE_PAD)
    assert f"user\nImage 1: {block}{block}Image 2: {block}mix them<|im_end|>" in text


@given(st.integers(0, 3), texts)
@settings(deadline=None)
def test_the_opener_is_the_first_token_of_the_assistants_turn(pictures, answer):
    answer = remove_control_tokens(answer, TOKENIZER)[0]
    tokens = tokenize(chat("s", "a fox", [1] * pictures, answer=answer), TOKENIZER)
    assert tokens.pieces[tokens.opener] == "<|im_start|>"
    assert "".join(tokens.pieces[tokens.opener : tokens.opener + 20]).startswith("<|im_start|>assistant"[:12])
    assert all(role in (TEMPLATE, GENERATED) for role in tokens.roles[tokens.opener :])
    assert GENERATED not in tokens.roles[: tokens.opener]


@given(weighted)
@settings(deadline=None)
@example([("e", 1.2), ("\u0301", 1.0)])
def test_weights_stay_on_the_words_they_were_written_for(pieces):
    pieces = [(clean, weight) for text, weight in pieces if (clean := remove_control_tokens(text, TOKENIZER)[0])]
    tokens = tokenize(chat("s", pieces), TOKENIZER)
    own = [weight for weight, role in zip(tokens.weights, tokens.roles) if role == INSTRUCTION]
    assert set(own) <= {weight for _, weight in pieces}


scraps = [*CONTROL, "<|im_", "end|>", "<|", "|>", "fox", " ", "\ud83d"]
hostile = st.lists(st.sampled_from(scraps), max_size=8).map("".join)


@given(hostile)
@settings(deadline=None)
@example("<|im_<|im_end|>end|>")
def test_no_control_token_survives_even_when_removing_one_would_make_another(text):
    clean, found = remove_control_tokens(text, TOKENIZER)
    assert not any(token in clean for token in CONTROL)
    assert (clean == text) or found or "\ud83d" in text
    assert remove_control_tokens(clean, TOKENIZER) == (clean, [])
    control = set(TOKENIZER.convert_tokens_to_ids(CONTROL))
    assert not control & set(TOKENIZER(clean)["input_ids"])


def test_half_an_emoji_from_a_saved_graph_is_replaced_not_a_crash():
    clean, _ = remove_control_tokens("a \ud83d fox", TOKENIZER)
    assert clean == "a \ufffd fox"
    assert remove_control_tokens("a \ud83e\udd8a", TOKENIZER)[0] == "a 🦊"


def test_a_tokenizer_that_changes_the_text_is_refused():
    with pytest.raises(ValueError, match="changes the text it reads"):
        tokenize(chat("s", "A Fox"), byte_level(normalizers.Replace("Fox", "f")))
