"""``(words:1.4)`` is a weight; everything else in a prompt is text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unifusion.prompt_weights import parse_weights, plain_text, unread_weights


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a red fox", [("a red fox", 1.0)]),
        ("a (red fox:1.4) in snow", [("a ", 1.0), ("red fox", 1.4), (" in snow", 1.0)]),
        ("(fox:0)", [("fox", 0.0)]),
        ("(fox: .5 )", [("fox", 0.5)]),
        ("((red:2) fox:1.5)", [("red", 3.0), (" fox", 1.5)]),
        ("(a (big) dog:1.5)", [("a (big) dog", 1.5)]),
        ("(a:1.2)(b:1.2)", [("ab", 1.2)]),
        ("(note: a cat:1.5)", [("note: a cat", 1.5)]),
        ("(route 66:1.5)", [("route 66", 1.5)]),
    ],
)
def test_an_explicit_number_is_a_weight(prompt, pieces):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize(
    "prompt",
    [
        "emoji 🦊 and (brackets) and 3 numbers: 1,2,3",
        "(16:9)",
        "a clock (at 10:30)",
        "(scale 1:100)",
        "(episode:42)",
        "(:-)",
        ":)",
        "((",
        "))",
        "(cat:)",
        "(cat:1.4",
        "cat:1.4)",
        "(x:y)",
        "",
        "(a:1e3)",
        "[word]",
        "line\n(one)\n",
    ],
)
def test_sentences_stay_text(prompt):
    assert plain_text(parse_weights(prompt)) == prompt
    assert all(weight == 1 for _, weight in parse_weights(prompt))


def test_escaped_brackets_are_text():
    assert parse_weights(r"\(cat:1.4\)") == [("(cat:1.4)", 1.0)]
    assert parse_weights(r"(a \(b\):1.5) c\n") == [("a (b)", 1.5), (r" c\n", 1.0)]


@given(st.text(alphabet="ab (:).1\\", max_size=30))
def test_every_prompt_is_read_and_weights_are_never_negative(prompt):
    pieces = parse_weights(prompt)
    assert all(weight >= 0 and text for text, weight in pieces)
    assert all(a[1] != b[1] for a, b in zip(pieces, pieces[1:]))


@given(st.text(alphabet="ab c,.!é\n", min_size=1, max_size=20).filter(lambda text: text.strip()))
def test_a_weighted_sentence_joins_to_the_plain_one(words):
    assert plain_text(parse_weights(f"x ({words}:1.3) y")) == f"x {words} y"


@pytest.mark.parametrize(
    "prompt, pieces",
    [
        ("a (blurry:-1) fox", [("a ", 1.0), ("blurry", -1.0), (" fox", 1.0)]),
        ("((x:-0.5) y:2)", [("x", -1.0), (" y", 2.0)]),
        ("(a:+1.5)", [("a", 1.5)]),
    ],
)
def test_a_number_below_zero_subtracts(prompt, pieces):
    assert parse_weights(prompt) == pieces


def test_what_looks_like_a_weight_and_stays_text_is_found():
    assert unread_weights("(fox:99), (episode 7:42) (dog:-11) (16:9) (cat:1.2)") == ["(fox:99)", "(dog:-11)"]


def test_weights_that_multiply_without_end_are_refused():
    with pytest.raises(ValueError, match="multiply to more than 100"):
        parse_weights("(" * 60 + "x" + ":1.1)" * 60)


@pytest.mark.parametrize(
    "prompt", ["(" * 140_000, "((x:1.1) " * 15_000 + ")" * 15_000, "(" * 70_000 + "x" + ")" * 70_000, "(:" * 70_000]
)
def test_long_texts_take_linear_time(prompt):
    """140,000 characters once took 245 s; the bound is far above what is needed and far below that."""
    began = time.process_time()
    assert plain_text(parse_weights(prompt)).count("x") == prompt.count("x")
    assert time.process_time() - began < 20
