"""System prompt and pictures are read once, and every other prompt behind them costs its own words alone."""

import gc
import time
import weakref
from contextlib import contextmanager
from functools import partial

import pytest
import torch

SIDE = 128  # pixels: 16 tokens a picture
GREEDY = {"sampling": "greedy"}


def picture(seed, height=SIDE, width=SIDE):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fresh_clip():
    from harness.random_krea2 import LANGUAGE, make_clip

    return partial(make_clip, language=LANGUAGE | {"num_hidden_layers": 6})


@pytest.fixture
def clip(fresh_clip):
    return fresh_clip()


@pytest.fixture
def encode(bridge):
    def run(clip, prompt, *seeds, **more):
        """Returns (hidden states, negative, report)."""
        images = more.pop("images", None) or {f"image{i}": picture(seed) for i, seed in enumerate(seeds)}
        return bridge("actions.encode").run(
            clip, prompt, **{"profile": "qwen3vl", "taps": "0,2,5", **more}, images=images
        )

    return run


@pytest.fixture
def rewrite(bridge):
    def run(clip, prompt, *seeds, **more):
        """Returns (hidden states, negative, text, report)."""
        images = {f"image{i}": picture(seed) for i, seed in enumerate(seeds)}
        settings = {"profile": "qwen3vl", "taps": "0,2,5", "sampling": GREEDY, "max_length": 6, "precision": "fp32"}
        return bridge("actions.rewrite").run(clip, prompt, **{**settings, **more}, images=images)

    return run


@contextmanager
def fed(clip):
    """Tokens of every pass through the decoder, and the number of pictures seen."""
    transformer = clip.cond_stage_model.qwen3vl_4b.transformer
    tokens, seen = [], []
    hooks = [
        transformer.model.layers[0].register_forward_pre_hook(
            lambda _m, args, kwargs: tokens.append((kwargs["x"] if "x" in kwargs else args[0]).shape[1]),
            with_kwargs=True,
        ),
        transformer.visual.register_forward_pre_hook(lambda *_: seen.append(1)),
    ]
    try:
        yield tokens, seen
    finally:
        for hook in hooks:
            hook.remove()


def forget(clip, *names):
    for name in names or ("unifusion_states", "unifusion_prefixes", "unifusion_features"):
        vars(clip.cond_stage_model).pop(name, None)


def whole(bridge, clip, hidden_of):
    """What a node gives when every chat is read in one pass."""
    prefix = bridge("encoders.prefix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "length_in_front", lambda *_: 0)
        forget(clip)
        return hidden_of()


def distance(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["1 picture", "3 pictures"])
@pytest.mark.parametrize("sizes", [(SIDE, SIDE), (96, 224)], ids=["square", "wide"])
def test_it_equals_one_pass_within_rounding(bridge, clip, encode, seeds, sizes):
    images = {f"image{i}": picture(seed, *sizes) for i, seed in enumerate(seeds)}
    run = partial(encode, clip, "a fox beside the second one", images=images)
    hidden, negative, _ = run()
    expected, expected_negative, _ = whole(bridge, clip, run)
    assert hidden.roles.equal(expected.roles) and hidden.grids == expected.grids and hidden.pieces == expected.pieces
    assert hidden.states.std() > 0.1
    assert distance(hidden.states, expected.states) < 1e-5
    assert distance(negative.states, expected_negative.states) < 1e-5


def test_what_was_encoded_before_does_not_change_a_bit(clip, encode):
    first = encode(clip, "a fox", 1, 2)[0]
    encode(clip, "a cat, quite another prompt", 1, 2)
    forget(clip, "unifusion_states")
    behind_kept = encode(clip, "a fox", 1, 2)[0]
    forget(clip)
    afresh = encode(clip, "a fox", 1, 2)[0]
    assert torch.equal(first.states, behind_kept.states) and torch.equal(first.states, afresh.states)


def test_another_prompt_feeds_its_own_words_alone(clip, encode):
    with fed(clip) as (tokens, seen):
        encode(clip, "a fox", 1, 2, 3)
        assert len(seen) == 3 and max(tokens) > 48 and len(tokens) == 3  # in front, words, words of the negative
        del tokens[:], seen[:]
        report = encode(clip, "a cat", 1, 2, 3)[2]
        assert not seen and len(tokens) == 1 and tokens[0] < 16
    assert "pictures in front of the words read 0 of 1 times" in report


def test_the_negative_reads_its_pictures_with_the_positive(clip, encode):
    report = encode(clip, "a fox", 1)[2]
    assert "2 of 2 sequences computed" in report and "read 1 of 2 times" in report


def test_writing_goes_on_behind_what_is_kept(bridge, clip, rewrite):
    with fed(clip) as (tokens, seen):
        rewrite(clip, "a dog", 1, 2)
        del tokens[:], seen[:]
        hidden, _, text, report = rewrite(clip, "a fox", 1, 2)
        # The words, a step for each token that was written, and the one of the limit.
        assert not seen and tokens[0] < 24 and tokens[1:] == [1] * 6
    expected, _, expected_text, _ = whole(bridge, clip, lambda: rewrite(clip, "a fox", 1, 2))
    assert text == expected_text and hidden.roles.equal(expected.roles)
    assert distance(hidden.states, expected.states) < 1e-5
    assert "pictures in front of the words read 0 of" in report


def test_text_that_is_encoded_again_needs_no_states_of_the_first_reading(clip, rewrite):
    hidden, _, text, _ = rewrite(clip, "a fox", 1, selection="encode the rewritten text as a prompt")
    assert text and hidden.tokens > 0


def test_bf16_is_kept_apart_and_near(bridge, clip, encode):
    whole_states = whole(bridge, clip, lambda: encode(clip, "a fox", 1)[0])
    exact, near = encode(clip, "a fox", 1)[0], encode(clip, "a fox", 1, precision="bf16")[0]
    assert distance(exact.states, whole_states.states) < 1e-5 < distance(near.states, exact.states) < 0.1


@pytest.mark.parametrize(
    "change",
    [
        dict(seeds=(1, 3)),
        dict(seeds=(2, 1)),
        dict(seeds=(1,)),
        dict(system_prompt="You see everything in red."),
        dict(taps="1,2,5"),
        dict(precision="bf16"),
    ],
    ids=lambda change: next(iter(change)) + str(next(iter(change.values()))),
)
def test_anything_else_in_front_of_the_words_is_read_anew(bridge, clip, encode, change):
    encode(clip, "a fox", 1, 2)
    seeds = change.pop("seeds", (1, 2))
    changed, _, report = encode(clip, "a fox", *seeds, **change)
    assert "read 1 of 2 times" in report
    expected = whole(bridge, clip, lambda: encode(clip, "a fox", *seeds, **change)[0])
    near = 0.05 if change.get("precision") == "bf16" else 1e-5
    assert distance(changed.states, expected.states) < near


def test_a_lora_reads_the_pictures_anew_and_the_old_ones_come_back(clip, encode):
    before = encode(clip, "a fox", 1)[0]
    patched = clip.clone()
    name = "qwen3vl_4b.transformer.model.layers.0.mlp.down_proj.weight"
    weight = clip.cond_stage_model.get_parameter(name)
    assert patched.add_patches({name: ("diff", (torch.ones_like(weight) * 0.05,))}, 1.0)
    other, _, report = encode(patched, "a cat", 1)
    assert "read 1 of 2 times" in report
    assert distance(encode(patched, "a fox", 1)[0].states, before.states) > 1e-3
    forget(clip, "unifusion_states")
    after, _, report = encode(clip, "a fox", 1)
    assert torch.equal(after.states, before.states) and "read 0 of 2 times" in report


def test_two_encoders_know_nothing_of_each_other(fresh_clip, encode):
    one, two = fresh_clip(seed=0), fresh_clip(seed=7)
    first = encode(one, "a fox", 1)[0]
    other, _, report = encode(two, "a fox", 1)
    assert "read 1 of 2 times" in report and distance(other.states, first.states) > 1e-2


def test_text_alone_and_models_with_an_edit_node_are_read_in_one_pass(bridge, clip, encode):
    report = encode(clip, "a fox")[2]
    store = bridge("encoders.kept").prefix_store(bridge("encoders.text_encoder").VLM(clip))
    assert "in front" not in report and len(store) == 0
    report = encode(clip, "a fox", 1, profile="qwen-image")[2]
    assert "in front" not in report and len(store) == 0


def test_memory_is_bounded_counted_and_said(bridge, clip, encode):
    kept = bridge("encoders.kept")
    store = kept.prefix_store(bridge("encoders.text_encoder").VLM(clip))
    encode(clip, "a fox", 1)
    one = store.nbytes
    assert one == sum(prefix.nbytes for prefix, _ in store._kept.values()) > 0
    layers, heads, size, tokens = 5, 2, 128, next(iter(store._kept.values()))[0].count
    assert one == tokens * (2 * layers * heads * size + 3 * 160) * 4
    store.limit = 3 * one
    for seed in range(2, 9):
        report = encode(clip, "a fox", seed)[2]
        assert store.nbytes <= store.limit
    assert len(store) == 3 and f"{store.nbytes / 2**20:.1f} of at most" in report
    store.limit = one - 1  # too large to be kept at all: still right
    store._kept.clear()
    store.nbytes = 0
    small = encode(clip, "a fox", 20)[0]
    expected = whole(bridge, clip, lambda: encode(clip, "a fox", 20)[0])
    assert store.nbytes == 0 and distance(small.states, expected.states) < 1e-5


def test_it_goes_with_the_encoder(fresh_clip, encode):
    import comfy.model_management

    clip = fresh_clip()
    encode(clip, "a fox", 1)
    kept = weakref.ref(clip.cond_stage_model.unifusion_prefixes)
    tensors = [weakref.ref(part) for prefix, _ in kept()._kept.values() for layer in prefix.layers for part in layer]
    assert tensors
    del clip
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert kept() is None and not any(tensor() is not None for tensor in tensors)


def test_free_on_a_live_server_lets_go_of_everything_that_is_kept(server):
    """States, features of pictures and what was read ahead: no byte of them is left, and a run afterwards reads anew."""
    from harness.krea2_graphs import SMALL_TAPS, encode, node

    def run(prompt):
        graph = {
            "clip": node("TestRandomKrea2Clip", seed=0, layers=6),
            "picture": node("EmptyImage", width=SIDE, height=SIDE, batch_size=1, color=0x3366AA),
            "encode": encode(prompt, profile="qwen3vl", taps=SMALL_TAPS),
            "report": node("PreviewAny", source=["encode", 2]),
        }
        graph["encode"]["inputs"] |= {"clip": ["clip", 0], "images.image0": ["picture", 0]}
        graph["look"] = node("TestMemory", after=["encode", 0], number=len(prompt))
        done = server.queue(graph)
        assert server.errors(done) == []
        return done["outputs"]["report"]["text"][0], done["outputs"]["look"]["kept"][0]

    def look(number):
        graph = {"one": node("PrimitiveInt", value=number)}
        return server.queue(graph | {"look": node("TestMemory", after=["one", 0], number=number)})["outputs"]["look"]

    report, kept = run("a fox")
    assert "read 1 of 1 times" in report and kept > 0
    assert "read 0 of 1 times" in run("a hare in the snow")[0]
    server.raw("/free", {"unload_models": True, "free_memory": True})
    end = time.monotonic() + 60  # the prompt worker frees when it wakes
    while (seen := look(int(time.monotonic() * 1000) % 10**6))["kept"] != [0] and time.monotonic() < end:
        time.sleep(0.5)
    assert seen["kept"] == [0] and seen["loaded"] == []
    assert "read 1 of 1 times" in run("a fox again")[0]
