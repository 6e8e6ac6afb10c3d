"""Several rewrites of one prompt in one batch: each is what its seed writes alone, and goes to a picture of its own."""

import json
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.graphs import TEXT
from harness.tapped_models import make_encoder
from PIL import Image

from unifusion.miniature import VLM_FOLDER

PACK = Path(__file__).resolve().parents[2]
VAGUE = "some things somewhere on a picture"  # how many and where is the text's own choice
SAMPLE = {"sampling": "sample", "temperature": 1.0, "top_p": 0.95, "top_k": 64, "min_p": 0.0, "repetition_penalty": 1.1}
bundled = pytest.mark.skipif(not (VLM_FOLDER / "model.safetensors").is_file(), reason="the bundled VLM is not here")
WRITERS = ("krea2", "z-image", "boogu", "ernie-image", "lumina2", "joyimage")


@cache
def encoder(bridge, key):
    if key == "miniature":
        return bridge("encoders.miniature_clip").load_clip(VLM_FOLDER)
    if key == "krea2":
        from harness.random_krea2 import make_clip

        return make_clip()
    return make_encoder(key)


def rewrites(bridge, key, *, variations, seed=0, prompt="a red fox and a blue star", **more):
    vlm = bridge("encoders.text_encoder").VLM(encoder(bridge, key))
    bridge("encoders.kept").states_store(vlm).forget(lambda one: one.written)  # every call writes anew
    asked = {"sampling": SAMPLE, "max_length": 12, "precision": "fp32", **more}
    return bridge("actions.rewrite").run_variations(
        encoder(bridge, key), prompt, seed=seed, variations=variations, **asked
    )


@contextmanager
def fed(bridge, key):
    """(rows, tokens) of every pass of the decoder."""
    seen = []
    layer = bridge("encoders.text_encoder").VLM(encoder(bridge, key)).decoder.layers[0]
    handle = layer.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(tuple((kwargs["x"] if "x" in kwargs else args[0]).shape[:2])),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        handle.remove()


def same(one, other):
    assert one.text == other.text
    assert one.hidden_states.pieces == other.hidden_states.pieces
    assert torch.equal(one.hidden_states.roles, other.hidden_states.roles)
    expected = other.hidden_states.states
    assert (one.hidden_states.states - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("key", [*WRITERS, pytest.param("miniature", marks=bundled)])
def test_every_text_is_what_its_seed_writes_alone(bridge, key):
    several = rewrites(bridge, key, variations=4, seed=5)
    assert len(several) == 4 and len({one.text for one in several}) > 1
    for number, one in enumerate(several):
        same(one, rewrites(bridge, key, variations=1, seed=5 + number)[0])


def test_with_a_picture_and_the_text_encoded_again(bridge):
    images = {"image0": torch.rand(1, 96, 64, 3, generator=torch.Generator().manual_seed(0))}
    for more in ({"images": images}, {"selection": "encode the rewritten text as a prompt"}, {"prefill": "A photo of"}):
        for number, one in enumerate(rewrites(bridge, "krea2", variations=3, seed=2, **more)):
            same(one, rewrites(bridge, "krea2", variations=1, seed=2 + number, **more)[0])


@bundled
def test_one_prefill_and_a_row_that_ended_costs_nothing_more(bridge):
    hot = {"prompt": VAGUE, "sampling": SAMPLE | {"temperature": 2.0}, "max_length": 200}
    rewrites(bridge, "miniature", variations=1)  # the negative is kept from here on
    lengths = []
    for seed in range(30, 36):
        with fed(bridge, "miniature") as alone:
            rewrites(bridge, "miniature", variations=1, seed=seed, **hot)
        if sum(tokens > 1 for _, tokens in alone) != 1:
            pytest.skip("a text of these seeds broke and was written again")
        lengths.append(len(alone) - 1)
    with fed(bridge, "miniature") as seen:
        rewrites(bridge, "miniature", variations=6, seed=30, **hot)
    assert seen[0][0] == 1 and seen[0][1] > 1
    assert len(set(lengths)) > 1
    assert [rows for rows, _ in seen[1:]] == [
        sum(length >= step for length in lengths) for step in range(1, max(lengths) + 1)
    ]


@bundled
def test_of_four_of_which_two_are_known_two_are_written(bridge):
    known = rewrites(bridge, "miniature", variations=2, seed=40, max_length=200)
    run = bridge("actions.rewrite").run_variations
    asked = {"sampling": SAMPLE, "max_length": 200, "precision": "fp32"}
    with fed(bridge, "miniature") as seen:
        four = run(encoder(bridge, "miniature"), "a red fox and a blue star", seed=40, variations=4, **asked)
    assert max(rows for rows, _ in seen) == 2
    assert [one.text for one in four[:2]] == [one.text for one in known]
    for number, one in enumerate(four):
        same(one, rewrites(bridge, "miniature", variations=1, seed=40 + number, max_length=200)[0])


@bundled
def test_a_text_that_broke_is_written_again_with_its_own_seed(bridge, monkeypatch):
    """About half are made to break; what replaces them is what each seed would get alone."""
    action = bridge("actions.rewrite")
    real = action._broken

    def broken(profile, request, written):
        bad = sum(map(ord, written.text)) % 2 == 0
        return "was disturbed" if bad else real(profile, request, written)

    monkeypatch.setattr(action, "_broken", broken)
    hot = {"prompt": VAGUE, "sampling": SAMPLE | {"temperature": 2.0}, "max_length": 200}
    several = rewrites(bridge, "miniature", variations=8, seed=11, **hot)
    assert len({one.text for one in several}) > 2
    assert 0 < sum("once more" in one.report or "Warning" in one.report for one in several)
    for number, one in enumerate(several):
        same(one, rewrites(bridge, "miniature", variations=1, seed=11 + number, **hot)[0])


def test_the_last_seed_is_followed_by_the_first(bridge):
    last, first = rewrites(bridge, "krea2", variations=2, seed=2**64 - 1)
    same(last, rewrites(bridge, "krea2", variations=1, seed=2**64 - 1)[0])
    same(first, rewrites(bridge, "krea2", variations=1, seed=0)[0])


def test_what_makes_no_sense_is_refused_before_the_queue(bridge, node):
    with pytest.raises(ValueError, match="4 variations need sampling"):
        rewrites(bridge, "krea2", variations=4, sampling={"sampling": "greedy"})
    with pytest.raises(ValueError, match="from 1 to 8, found 9"):
        rewrites(bridge, "krea2", variations=9)
    check = node("UniFusionVerifiRewrite").validate_inputs
    given = {
        "prompt": "x",
        "edited_text": "",
        "system_prompt": "as the profile",
        "custom_system_prompt": "",
        "taps": "",
    }
    assert check(**given, variations=4, sampling={"sampling": "sample"}) is True
    assert check(**given, variations=4, sampling={"sampling": "greedy"}, as_written=True) is True
    for variations, sampling in ((4, "greedy"), (0, "sample"), (9, "sample")):
        with pytest.raises(ValueError, match="variations"):
            check(**given, variations=variations, sampling={"sampling": sampling})


def test_a_locked_text_is_drawn_once_and_says_so(bridge):
    (one,) = rewrites(bridge, "krea2", variations=4, edited_text="a fox", sampling={"sampling": "greedy"})
    assert one.text == "a fox" and "unlock the text for variations" in one.report


def saved_text(server, about):
    """(the text of the workflow in a saved picture, its seed, the texts of its history)"""
    path = server.base / about["type"] / about["subfolder"] / about["filename"]
    workflow = json.loads(Image.open(path).info["workflow"])
    (node,) = [node for node in workflow["nodes"] if node["type"] == "UniFusionVerifiRewrite"]
    state = node["properties"]["verifi"]
    return state["text"], state["seed"], [entry["text"] for entry in state["history"]], state


@bundled
def test_four_pictures_each_with_its_text_also_from_the_cache(server):
    ids = TEXT.ids()
    rewrite, save = str(ids["rewrite"]), str(ids["save"])
    graph = TEXT.api()
    drawn = {f"sampling.{name}": value for name, value in SAMPLE.items() if name != "sampling"}
    graph[rewrite]["inputs"] |= {"sampling": "sample", **drawn, "seed": 3, "variations": 4}
    workflow = json.loads((PACK / "workflows" / f"{TEXT.name}.json").read_text(encoding="utf-8"))
    history = server.queue(graph, extra={"workflow": workflow})
    assert server.errors(history) == []
    texts, seeds = history["outputs"][rewrite]["text"], history["outputs"][rewrite]["seed"]
    assert seeds == [3, 4, 5, 6] and len(set(texts)) > 1 and len(history["outputs"][rewrite]["report"]) == 4
    pictures = history["outputs"][save]["images"]
    assert len(pictures) == 4
    for about, text, seed in zip(pictures, texts, seeds):
        own, its_seed, known, state = saved_text(server, about)
        assert (own, its_seed) == (text, seed) and set(known) == set(texts)
    assert workflow["nodes"]  # what was sent is not what the server changed

    # The frontend keeps the state; another noise seed leaves the texts in the cache.
    (node,) = [node for node in workflow["nodes"] if node["type"] == "UniFusionVerifiRewrite"]
    node["properties"]["verifi"] = state
    (sampler,) = [one for one in graph.values() if one["class_type"] == "UniFusionDiTSampler"]
    sampler["inputs"]["seed"] += 1
    history = server.queue(graph, extra={"workflow": workflow})
    assert server.errors(history) == []
    pictures = history["outputs"][save]["images"]
    assert [saved_text(server, about)[:2] for about in pictures] == list(zip(texts, seeds))

    alone = json.loads(json.dumps(graph))
    alone[rewrite]["inputs"] |= {"variations": 1, "seed": 5}
    history = server.queue(alone, extra={"workflow": workflow})
    assert history["outputs"][rewrite]["text"] == [texts[2]]
    (about,) = history["outputs"][save]["images"]
    assert saved_text(server, about)[0] == texts[2] and saved_text(server, about)[3]["variations"] == []
    one, third = (Image.open(server.base / a["type"] / a["subfolder"] / a["filename"]) for a in (about, pictures[2]))
    off = np.abs(np.asarray(one, np.int16) - np.asarray(third, np.int16)).max()
    assert off <= 2  # of 255: the same picture but for rounding


def test_a_strange_request_to_the_queue_is_left_as_it_is(bridge):
    tell = bridge("actions.studio").tell_pictures_apart
    for request in (
        {},
        {"extra_data": None},
        {"extra_data": {"extra_pnginfo": {"workflow": []}}},
        {"extra_data": {"extra_pnginfo": {"workflow": {"nodes": [None, {"properties": []}], "definitions": 3}}}},
        {
            "extra_data": {
                "extra_pnginfo": {"workflow": {"nodes": [{"properties": {"verifi": {"variations": [1, 2]}}}]}}
            }
        },
    ):
        assert tell(request) == request
