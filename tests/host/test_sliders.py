"""Settings that change nothing the encoder computes cost it no forward pass (trials 26), and those that do are not missed."""

import gc
import time
import weakref
from contextlib import contextmanager

import pytest
import torch


@pytest.fixture
def miniature(pack):
    """A fresh one: its stores are empty."""
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    return load(BUNDLED)


@contextmanager
def forwards(clip):
    """Counts what the encoder computes: calls of its first decoder layer and of its vision tower."""
    transformer = getattr(clip.cond_stage_model, clip.cond_stage_model.clip).transformer
    calls = []
    hooks = [
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        for module in (transformer.model.layers[0], transformer.visual)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def picture(seed=0, side=128):
    return torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(seed))


def references(node, strength=1.0, start=0.0, end=1.0, seed=0, label="the dog"):
    one = node("UniFusionReference").execute(picture(seed), label, strength, "default", start, end)[0]
    return node("UniFusionMultiReferenceCombine").execute(0, "one view", "own labels", one)[0]


PROMPT = "a red circle on a blue background"
SAMPLING = {
    "greedy": {"sampling": "greedy"},
    "sample": dict(sampling="sample", temperature=0.7, top_p=0.9, top_k=40, min_p=0.0, repetition_penalty=1.0),
}


@pytest.fixture(params=["encode", "rewrite", "rewrite given"])
def run(request, bridge):
    """An encode node's deed with few arguments, and hidden states of positive and negative."""

    def act(clip, prompt=PROMPT, pictures=None, sampling="greedy", **how):
        if request.param == "encode":
            how = {key: value for key, value in how.items() if key != "seed"}
            selected, negative, report = bridge("actions.encode").run(clip, prompt, references=pictures, **how)
        else:
            given = {"edited_text": "a red circle at the center"} if request.param == "rewrite given" else {}
            how = dict(sampling=SAMPLING[sampling], references=pictures, max_length=96) | given | how
            selected, negative, _, report = bridge("actions.rewrite").run(clip, prompt, **how)
        return selected, negative, report

    act.kind = request.param
    return act


def equal(a, b):
    return torch.equal(a.states, b.states) and torch.equal(a.weights, b.weights) and torch.equal(a.spans, b.spans)


def test_sliders_cost_no_forward_and_give_what_a_fresh_encoder_gives(bridge, node, miniature, run):
    clip = miniature[1]
    run(clip, pictures=references(node))
    moved = [
        dict(pictures=references(node, strength=2.5)),
        dict(pictures=references(node, strength=0.0)),
        dict(pictures=references(node, start=0.25, end=0.5)),
        dict(prompt="a (red:1.6) circle on a (blue:-0.5) background", pictures=references(node)),
        dict(selection="rewritten text only" if run.kind != "encode" else "everything", pictures=references(node)),
        dict(selection="everything after the system prompt", pictures=references(node, strength=0.5)),
    ]
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    with forwards(clip) as calls:
        kept = [run(clip, **setting) for setting in moved]
    assert calls == []
    assert "work: 0 of 2 sequences computed, 2 kept from before" in kept[0][2]
    for setting, (positive, negative, _) in zip(moved, kept):
        fresh = run(load(BUNDLED)[1], **setting)
        assert equal(positive, fresh[0]) and equal(negative, fresh[1]), setting


def test_gains_cost_no_forward(bridge, miniature, run):
    model, clip, _ = miniature
    with forwards(clip) as calls:
        for gains in ("1, 1, 1, 1", "1, 2, 1, 1"):
            positive, negative, _ = run(clip)
            bridge("actions.pool").run(model, positive, gain_preset="custom", gains=gains, negative=negative)
            if gains == "1, 1, 1, 1":
                calls.clear()
    assert calls == []


def test_what_the_encoder_computes_is_computed(bridge, node, miniature, run):
    clip = miniature[1]
    base = run(clip, pictures=references(node))[0]
    changes = [
        dict(prompt="a red square on a blue background", pictures=references(node)),
        dict(pictures=references(node, seed=1)),  # another picture of the same size
        dict(pictures=references(node, label="the cat")),
        dict(pictures=references(node), taps="1, 2, 3, 5"),
        dict(pictures=references(node), precision="bf16"),
        dict(pictures=None),
    ]
    for change in changes:
        with forwards(clip) as calls:
            states = run(clip, **change)[0].states
        assert calls, change
        assert states.shape != base.states.shape or not torch.equal(states, base.states), change
    with forwards(clip) as calls:
        assert equal(run(clip, pictures=references(node))[0], base)
    assert calls == []


@pytest.mark.parametrize("sampling", ["greedy", "sample"])
def test_a_seed_is_another_text_only_where_it_is_drawn(bridge, miniature, sampling):
    clip = miniature[1]
    rewrite = bridge("actions.rewrite").run
    rewrite(clip, PROMPT, sampling=SAMPLING[sampling], seed=1, max_length=24)
    with forwards(clip) as calls:
        rewrite(clip, PROMPT, sampling=SAMPLING[sampling], seed=2, max_length=24)
    assert bool(calls) == (sampling == "sample")
    with forwards(clip) as calls:
        rewrite(clip, PROMPT, sampling=SAMPLING[sampling], seed=1, max_length=24)
    assert calls == []


def test_a_text_cut_at_its_limit_is_written_again_with_another_limit(bridge, miniature):
    clip = miniature[1]
    rewrite = bridge("actions.rewrite").run
    long = rewrite(clip, PROMPT, sampling=SAMPLING["greedy"], max_length=64)
    assert "ended by itself" in long[3]
    count = int((long[0].roles == 3).sum())
    with forwards(clip) as calls:
        assert rewrite(clip, PROMPT, sampling=SAMPLING["greedy"], max_length=count + 1)[2] == long[2]
    assert calls == []
    with forwards(clip) as calls:
        short = rewrite(clip, PROMPT, sampling=SAMPLING["greedy"], max_length=count - 1)
    assert calls and int((short[0].roles == 3).sum()) < count


def test_a_lora_a_hook_and_a_patched_part_are_other_encoders(bridge, miniature, run):
    clip = miniature[1]
    plain = run(clip)[0]
    name = f"{clip.cond_stage_model.clip}.transformer.model.layers.0.mlp.up_proj.weight"
    shape = clip.cond_stage_model.get_parameter(name).shape
    change = {name: ("diff", (torch.randn(shape, generator=torch.Generator().manual_seed(0)),))}
    for strength in (1.0, 0.5):
        patched = clip.clone()
        assert patched.add_patches(change, strength)
        with forwards(clip) as calls:
            assert not torch.equal(run(patched)[0].states, plain.states)
        assert calls
    hooked = clip.clone()
    part = clip.cond_stage_model.get_submodule(f"{clip.cond_stage_model.clip}.transformer.model.layers.1.mlp")
    hooked.patcher.add_object_patch(f"{clip.cond_stage_model.clip}.transformer.model.layers.1.mlp", part)
    with forwards(clip) as calls:
        run(hooked)
    assert calls
    with forwards(clip) as calls:
        assert torch.equal(run(clip)[0].states, plain.states)
    assert calls == [], "the plain encoder's states were forgotten"


def test_clip_skip_and_tokenizer_options_give_what_a_fresh_encoder_gives(bridge, miniature, run):
    clip = miniature[1]
    plain = run(clip)[0]
    skipped = clip.clone()
    skipped.clip_layer(-2)  # Set CLIP Last Layer: the layers are named by the taps here
    with forwards(clip) as calls:
        assert equal(run(skipped)[0], plain)
    assert calls == []
    optioned = clip.clone()
    optioned.tokenizer_options = {"min_length": 40}
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    fresh = load(BUNDLED)[1].clone()
    fresh.tokenizer_options = {"min_length": 40}
    assert equal(run(optioned)[0], run(fresh)[0])


def test_kept_states_are_not_changed_by_those_who_use_them(bridge, miniature, run):
    clip = miniature[1]
    first = run(clip)
    copies = [part.states.clone() for part in first[:2]]
    for part in first[:2]:
        part.states.mul_(0)
        part.weights.mul_(0)
    for part, copy in zip(run(clip)[:2], copies):
        assert torch.equal(part.states, copy) and (part.weights == 1).all()


def test_stores_of_states_are_bounded_in_bytes_and_number(bridge, miniature, run):
    clip = miniature[1]
    kept = bridge("encoders.kept")
    vlm = bridge("encoders.text_encoder").VLM(clip)
    run(clip, prompt="number one")
    store = kept.states_store(vlm)
    for number in range(kept.MOST_SEQUENCES + 4):
        run(clip, prompt=f"number {number}")
        assert len(store) <= kept.MOST_SEQUENCES and store.nbytes <= store.limit
    assert store.nbytes == sum(value.nbytes for value, _ in store._kept.values())
    store.limit = store.nbytes // 2
    report = run(clip, prompt="one more")[2]
    assert 0 < store.nbytes <= store.limit and f"{store.nbytes / 2**20:.1f} of at most" in report


def test_states_are_in_main_memory_and_go_with_the_encoder(bridge, pack):
    import comfy.model_management
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    clip = load(BUNDLED)[1]
    bridge("actions.encode").run(clip, PROMPT)
    store = bridge("encoders.kept").states_store(bridge("encoders.text_encoder").VLM(clip))
    states = [weakref.ref(value.states) for value, _ in store._kept.values()]
    assert len(states) == 2 and all(state().device.type == "cpu" for state in states)
    del store, clip
    gc.collect()
    comfy.model_management.cleanup_models()
    assert [state() for state in states] == [None, None]


def test_free_releases_kept_states(server):
    from harness.krea2_graphs import node

    def report(strength):
        graph = {
            "load": node("UniFusionLoadModel", model="bundled miniature"),
            "encode": node("UniFusionVLMEncode", clip=["load", 1], prompt=f"a (red:{strength}) circle"),
            "show": node("PreviewAny", source=["encode", 2]),
        }
        graph["encode"]["inputs"] |= dict(
            profile="auto", selection="as the profile", system_prompt="", taps="", precision="fp32"
        )
        done = server.finished(server.submit(graph))
        assert server.errors(done) == []
        return done["outputs"]["show"]["text"][0]

    server.raw("/free", {"unload_models": True, "free_memory": True})  # of what other tests read on this server
    time.sleep(3)
    assert "work: 1 of 1 sequences computed" in report(1.5)
    assert "work: 0 of 1 sequences computed" in report(2.5)
    server.raw("/free", {"unload_models": True, "free_memory": True})
    time.sleep(3)  # the prompt worker frees when it wakes
    assert "work: 1 of 1 sequences computed" in report(3.5)
