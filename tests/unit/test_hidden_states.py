"""Hidden states keep every token's role through selecting, joining, weighting, saving and loading."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unifusion.hidden_states import (
    GENERATED,
    IMAGE,
    INSTRUCTION,
    SYSTEM,
    TEMPLATE,
    drop_taps,
    from_tensors,
    image_role,
    join,
    make_hidden_states,
    role_name,
    take,
    to_tensors,
    with_weight,
)
from unifusion.selection import SELECTIONS, selection_mask

TAPS = (1, 3, 5)


def test_tokens_are_called_what_a_creator_calls_them():
    assert hidden([SYSTEM, TEMPLATE, IMAGE, IMAGE + 1, INSTRUCTION, TEMPLATE]).in_words() == (
        "the system prompt, image 1, image 2 and the prompt"
    )
    assert hidden([GENERATED, GENERATED]).in_words() == "the written text"
    assert hidden([TEMPLATE]).in_words() == "the frame of the chat"  # of a negative without words


def hidden(roles, seed=0, vlm="vlm", taps=TAPS, width=4):
    generator = torch.Generator().manual_seed(seed)
    count = max([role - IMAGE + 1 for role in roles if role >= IMAGE], default=0)
    return make_hidden_states(
        torch.randn(1, len(roles), len(taps), width, generator=generator),
        roles,
        [f"t{i}" for i in range(len(roles))],
        taps,
        vlm,
        prompt="a fox",
        text="a red fox",
        weights=torch.rand(len(roles), generator=generator),
        grids=(((2, 2),),) * count,
    )


role = st.sampled_from([SYSTEM, TEMPLATE, INSTRUCTION, GENERATED, image_role(0), image_role(1), image_role(2)])
sequences = st.lists(role, min_size=1, max_size=20).map(hidden)


def same(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


@given(sequences)
@settings(max_examples=30, deadline=None)
def test_a_file_gives_back_the_same_states(tmp_path_factory, states):
    path = tmp_path_factory.mktemp("states") / "s.safetensors"
    tensors, metadata = to_tensors(states)
    save_file(tensors, path, metadata)
    with safe_open(path, "pt") as file:
        assert same(from_tensors(load_file(path), file.metadata()), states)


@given(sequences, st.data())
def test_taking_tokens_keeps_every_token_beside_its_role_weight_and_text(states, data):
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=states.tokens, max_size=states.tokens)))
    taken = take(states, keep)
    index = [i for i in range(states.tokens) if keep[i]]
    assert torch.equal(taken.states, states.states[:, index]) and torch.equal(taken.roles, states.roles[index])
    assert taken.pieces == tuple(states.pieces[i] for i in index) and torch.equal(taken.weights, states.weights[index])


@given(sequences)
def test_role_counts_add_up(states):
    counts = states.count_by_role()
    assert sum(counts.values()) == states.tokens
    assert set(counts) == {role_name(r) for r in states.roles.tolist()}


@given(sequences, st.sampled_from(SELECTIONS))
def test_a_selection_takes_the_roles_it_names_and_no_others(states, selection):
    named = {
        "images and rewritten text": lambda r: r >= IMAGE or r == GENERATED,
        "rewritten text only": lambda r: r == GENERATED,
        "images and prompt": lambda r: r >= IMAGE or r in (INSTRUCTION, GENERATED),
        "everything after the system prompt": lambda r: r != SYSTEM,
        "everything": lambda r: True,
    }[selection]
    assert selection_mask(states.roles, selection).tolist() == [named(r) for r in states.roles.tolist()]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_an_unconditional_branch_is_never_empty(selection):
    """An empty prompt without pictures: the assistant's opener stands in, which the miniature is trained with."""
    roles = torch.tensor([SYSTEM, SYSTEM, TEMPLATE, TEMPLATE, TEMPLATE])
    assert selection_mask(roles, selection, opener=3)[3:].all()


def test_an_unknown_selection_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'nonsense'.*images and prompt"):
        selection_mask(torch.tensor([SYSTEM]), "nonsense")


@given(st.lists(sequences, min_size=1, max_size=4))
def test_join_keeps_all_tokens_and_gives_every_picture_its_own_role(parts):
    joined = join(parts)
    assert torch.equal(joined.states, torch.cat([p.states for p in parts], dim=1))
    pictures = sum(len(p.grids) for p in parts)
    assert len(joined.grids) == pictures and len(joined.pieces) == joined.tokens
    at = offset = 0
    for part in parts:
        there = joined.roles[at : at + part.tokens]
        expected = part.roles + torch.where(part.roles >= IMAGE, offset, 0)
        assert torch.equal(there, expected.to(there.dtype))
        at, offset = at + part.tokens, offset + len(part.grids)


@pytest.mark.parametrize(
    "other, what",
    [(hidden([0], vlm="another"), "model"), (hidden([0], taps=(1, 3, 7)), "taps"), (hidden([0], width=8), "width")],
)
def test_states_of_different_encoders_are_not_joined(other, what):
    with pytest.raises(ValueError, match=f"{what}.*same CLIP and profile"):
        join([hidden([0]), other])


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_weights_multiply(a, b):
    states = hidden([INSTRUCTION, GENERATED])._replace(weights=torch.ones(2))
    mask = states.roles == GENERATED
    torch.testing.assert_close(with_weight(with_weight(states, mask, a), mask, b).weights, torch.tensor([1.0, a * b]))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_weights_without_a_meaning_are_refused(weight):
    with pytest.raises(ValueError, match="A weight must be a number"):
        with_weight(hidden([0]), torch.tensor([True]), weight)


def test_dropped_layers_are_zero_and_the_others_untouched():
    states = hidden([INSTRUCTION] * 3)
    dropped = drop_taps(states, [3])
    assert not dropped.states[:, :, 1].any()
    assert torch.equal(dropped.states[:, :, [0, 2]], states.states[:, :, [0, 2]])
    with pytest.raises(ValueError, match=r"Layers \[4\] are not tapped.*\[1, 3, 5\]"):
        drop_taps(states, [4])


def damaged(change):
    tensors, metadata = to_tensors(hidden([SYSTEM, INSTRUCTION, image_role(0)]))
    change(tensors, metadata)
    return tensors, metadata


def about(**changes):
    def change(_tensors, metadata):
        metadata["unifusion.about"] = json.dumps({**json.loads(metadata["unifusion.about"]), **changes})

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: t.pop("states"),
        lambda t, m: t.pop("weights"),
        lambda t, m: m.pop("unifusion.kind"),
        lambda t, m: m.pop("unifusion.about"),
        lambda t, m: m.update({"unifusion.about": "{"}),
        lambda t, m: m.update({"unifusion.about": "[]"}),
        about(taps=[1]),
        about(taps=["x", 3, 5]),
        about(taps=5),
        about(pieces=None),
        about(pieces=["a"]),
        about(grids=[[3]]),
        lambda t, m: t.update(states=t["states"][0]),
        lambda t, m: t.update(states=t["states"].repeat(2, 1, 1, 1)),
        lambda t, m: t.update(states=t["states"].int()),
        lambda t, m: t.update({n: x[:, :0] if n == "states" else x[:0] for n, x in t.items()}),
        lambda t, m: t.update(roles=t["roles"][:2]),
        lambda t, m: t.update(roles=torch.full((3,), float("nan"))),
        lambda t, m: t.update(roles=torch.tensor([0, 2, 70000])),
        lambda t, m: t.update(roles=torch.tensor([0, 2, -5])),
        lambda t, m: t.update(weights=torch.tensor([1.0, float("nan"), 1.0])),
        lambda t, m: t.update(weights=torch.tensor([1.0, float("inf"), 1.0])),
        lambda t, m: t.update(weights=t["weights"].to(torch.complex64)),
        lambda t, m: t.update(spans=t["spans"][:, :1]),
        lambda t, m: t.update(spans=torch.full((3, 2), float("nan"))),
        lambda t, m: t.update(spans=torch.tensor([[0.0, 2.0]] * 3)),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(change):
    with pytest.raises(ValueError, match="[Hh]idden states") as error:
        from_tensors(*damaged(change))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
