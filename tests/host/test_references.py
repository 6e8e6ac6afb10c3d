"""Reference, Multi-Reference Combine and what the encoder makes of them; features of a picture are computed once."""

import gc
import weakref
from functools import partial

import pytest
import torch


def picture(height, width, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encode(bridge, krea2_clip):
    def run(prompt="x", references=None, images=None, clip=None, profile="miniature", selection="images and prompt"):
        taps = "" if profile == "krea2" else "2, 5"
        return bridge("actions.encode").run(
            clip or krea2_clip,
            prompt,
            profile=profile,
            selection=selection,
            taps=taps,
            references=references,
            images=images,
        )

    return run


@pytest.fixture
def vlm(bridge, krea2_clip):
    return bridge("encoders.text_encoder").VLM(krea2_clip)


def reference(node, image, label="", strength=1.0, detail="default", start=0.0, end=1.0, references=None):
    return node("UniFusionReference").execute(image, label, strength, detail, start, end, references)[0]


def combine(node, budget=0, detail="one view", labels="own labels", references=None, images=None):
    return node("UniFusionMultiReferenceCombine").execute(budget, detail, labels, references, images)


# Nodes


def test_references_and_images_come_together_in_order_with_a_sheet_and_a_report(node, encode):
    chained = reference(node, picture(64, 96), "the dog", 2.0)
    chained = reference(node, picture(96, 64, 1), strength=0.5, start=0.25, end=0.75, references=chained)
    references, sheet, report = combine(
        node, 40, labels="Image 1:", references=chained, images={"image0": picture(64, 64, 2).repeat(2, 1, 1, 1)}
    ).args
    assert [one.label for one in references] == ["the dog", "Image 2", "Image 3", "Image 4"]
    assert sheet.shape[0] == 1 and "'the dog'" in report and "strength 2" in report and "of 40 tokens" in report

    hidden, negative, report = encode("the dog beside Image 2", references)
    negative = encode("x", references, profile="qwen3vl")[1]  # the profile in use has a negative without pictures
    assert (negative.roles == 16).any()
    weights = {one: set(hidden.weights[hidden.roles == 16 + one].tolist()) for one in range(4)}
    assert weights == {0: {2.0}, 1: {0.5}, 2: {1.0}, 3: {1.0}}
    assert hidden.spans[hidden.roles == 17].unique(dim=0).tolist() == [[0.25, 0.75]]
    assert (hidden.spans[hidden.roles != 17] == torch.tensor([0.0, 1.0])).all()
    assert (negative.weights[negative.roles == 16] == 2).all()  # the same pictures, as strong
    used = sum(rows * columns for grid in hidden.grids for rows, columns in grid)
    assert used <= 40 and f"= {sum(r * c for r, c in hidden.grids[0])} tokens" in report
    assert "Warning" not in report


def test_labels_stand_in_front_of_their_pictures(bridge, encode, krea2_clip, node):
    references = combine(
        node, 8, labels="Picture 1:", images={"image0": picture(64, 64), "image1": picture(64, 64, 1)}
    )[0]
    hidden = encode("y", references, selection="everything")[0]
    text = "".join("<img>" if piece == "" else piece for piece in hidden.pieces).replace("<img>" * 4, "<img>")
    block = "<|vision_start|><img><|vision_end|>"
    assert f"user\nPicture 1: {block}Picture 2: {block}y<|im_end|>" in text


def test_nothing_connected_is_refused(node):
    with pytest.raises(ValueError, match="There is no picture"):
        combine(node, images={})


def test_a_label_that_no_picture_has_is_reported(encode, node):
    labelled = combine(node, 8, labels="Image 1:", images={"image0": picture(64, 64), "image1": picture(64, 64, 1)})[0]
    report = encode("the hat of Image 3 on Image 1", labelled)[2]
    assert "Warning: the prompt names 'Image 3', but the pictures are labelled 'Image 1', 'Image 2'." in report
    unlabelled = encode("the hat of Image 1 on Image 2", None, {"image0": picture(64, 64)})[2]
    assert "names 'Image 2', but no picture carries a label" in unlabelled and "'Image 1'" not in unlabelled


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(1, 1), "enlarged from 1 x 1"),
        (torch.rand(1, 70, 70, 4), "transparency put on white"),
        (picture(3, 3000), "does not fit"),
    ],
)
def test_odd_pictures_are_read_and_reported(encode, image, message):
    hidden, _, report = encode("x", None, {"image0": image})
    assert message in report
    assert 4 <= hidden.count_by_role()["image 1"] <= 16


def test_a_batch_of_twenty_is_twenty_images(encode):
    hidden = encode("x", None, {"image0": torch.rand(20, 64, 64, 3)})[0]
    assert hidden.count_by_role() == {"instruction": 1} | {f"image {k}": 16 for k in range(1, 21)} | {"instruction": 1}


def test_nan_pixels_stop_at_the_encode_by_name(encode):
    with pytest.raises(ValueError, match="image0 contains NaN"):
        encode("x", None, {"image0": torch.full((1, 64, 64, 3), float("nan"))})


def test_a_profile_sizes_pictures_that_have_no_budget(bridge, encode, node):
    from unifusion_pack.unifusion.profiles import PROFILES

    references = combine(node, images={"image0": picture(256, 256)})[0]
    assert encode("x", references)[0].count_by_role()["image 1"] == 16
    krea2 = bridge("actions.encode").gather(references, None, PROFILES["krea2"])[0]
    assert krea2.grids == [(12, 12)]


# From the nodes to the latent


@pytest.mark.needs("weights")
def test_strength_two_at_the_reference_node_equals_its_states_twice_in_the_latent(
    bridge, krea2_clip, krea2_model, node
):
    from unifusion_pack.unifusion.hidden_states import IMAGE

    import nodes

    drawn = []
    for strength in (2.0, 1.0, 1.0):
        references = reference(node, picture(64, 96, 1), strength=strength, references=reference(node, picture(64, 64)))
        references = combine(node, 12, references=references)[0]
        hidden = bridge("actions.encode").run(krea2_clip, "x", profile="krea2", references=references)[0]
        if len(drawn) == 1:  # the second picture's states once more
            again = (hidden.roles == IMAGE + 1).nonzero()[:, 0]
            order = torch.cat([torch.arange(hidden.tokens), again])
            hidden = hidden._replace(
                states=hidden.states[:, order],
                roles=hidden.roles[order],
                pieces=hidden.pieces + ("",) * len(again),
                weights=hidden.weights[order],
                spans=hidden.spans[order],
            )
        model, positive, negative, *_ = bridge("actions.pool").run(krea2_model, hidden)
        drawn.append(
            nodes.common_ksampler(
                model, 3, 2, 1.0, "euler", "simple", positive, negative, {"samples": torch.zeros(1, 16, 1, 8, 8)}
            )[0]["samples"]
        )
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=2e-5)
    assert (drawn[0] - drawn[2]).abs().max() > 1e-4


# Reuse


def fresh_clip():
    from harness.random_krea2 import LANGUAGE, make_clip

    return make_clip(language=LANGUAGE | {"num_hidden_layers": 6})


def test_an_unchanged_picture_is_seen_once_whatever_the_prompt(bridge, encode, vlm):
    encode = partial(encode, profile="qwen3vl")  # a negative with pictures
    features = bridge("encoders.kept").feature_store(vlm)
    images = {"image0": picture(64, 96, 11), "image1": picture(96, 64, 12)}
    calls = []
    hook = vlm.transformer.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        before = features.hits, features.misses
        first = encode("a dog", None, images)
        assert len(calls) == 2 and features.misses == before[1] + 2
        # The same pixels in other tensors, another prompt: no vision pass, and the negative's states are the kept ones.
        second = encode("a cat", None, {name: image.clone() for name, image in images.items()})
        assert len(calls) == 2 and torch.equal(second[1].states, first[1].states)
        assert "1 of 2 sequences computed, 1 kept from before" in second[2]
        encode("a dog", None, {**images, "image1": picture(96, 64, 13)})
        assert len(calls) == 3
    finally:
        hook.remove()


def test_reused_features_give_the_same_states_bit_for_bit(bridge, encode, vlm, krea2_clip):
    images = {"image0": picture(64, 96, 21)}
    first = encode("a dog", None, images)[0]
    again = encode("a dog", None, images)[0]
    del krea2_clip.cond_stage_model.unifusion_features, krea2_clip.cond_stage_model.unifusion_states
    afresh = encode("a dog", None, images)[0]
    assert torch.equal(first.states, again.states) and torch.equal(first.states, afresh.states)


def test_a_lora_on_the_text_encoder_makes_new_features_and_a_new_negative(bridge, encode, krea2_clip, vlm):
    encode = partial(encode, profile="qwen3vl")  # a negative with pictures
    images = {"image0": picture(64, 64, 31)}
    plain, plain_negative, _ = encode("a dog", None, images)
    patched = krea2_clip.clone()
    name = "qwen3vl_4b.transformer.visual.merger.linear_fc2.weight"
    shape = krea2_clip.cond_stage_model.get_parameter(name).shape
    assert patched.add_patches({name: ("diff", (torch.randn(shape, generator=torch.Generator().manual_seed(0)),))}, 1.0)
    other, other_negative, _ = encode("a dog", None, images, clip=patched)
    seen = plain.roles >= 16
    assert (plain.states[:, seen] - other.states[:, seen]).abs().max() > 0.1
    assert (plain_negative.states - other_negative.states).abs().max() > 0.1
    back = encode("a dog", None, images)[0]
    assert torch.equal(back.states, plain.states)


def test_stores_are_bounded_and_forget_the_oldest(bridge):
    store = bridge("encoders.kept").Store(limit=100)
    made = []

    def get(key, size):
        return store.get(key, lambda: made.append(key) or key, lambda _: size)

    for key in "abc":
        get(key, 40)
    assert len(store) == 2 and store.nbytes == 80
    get("b", 40)
    get("d", 40)  # forgets c, the least recently used
    get("b", 40)
    assert made == ["a", "b", "c", "d"] and (store.hits, store.misses) == (2, 4)
    get("larger than all", 101)
    assert len(store) == 2 and store.nbytes == 80


def test_stores_go_with_the_encoder(bridge, encode):
    import comfy.model_management

    clip = fresh_clip()
    encode("a dog", None, {"image0": picture(64, 64, 41)}, clip=clip)
    module = weakref.ref(clip.cond_stage_model)
    kept = weakref.ref(clip.cond_stage_model.unifusion_features)
    assert len(kept()) == 1 and kept().nbytes > 0
    del clip
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert module() is None and kept() is None
