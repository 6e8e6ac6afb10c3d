"""Nothing is computed that does not count: a branch that the guidance leaves out is not asked for."""

import pytest
import torch
from harness.random_krea2 import make_model


def graph(cfg, image_guidance=-1.0, sampler="UniFusionDiTSampler"):
    """The negative and the images-only branch come from encodes of their own."""
    from harness.krea2_graphs import SMALL_TAPS, encode, loaders, node, pool

    made = {**loaders(small=True), "latent": node("EmptySD3LatentImage", width=32, height=32, batch_size=1)}
    for name, prompt in (
        ("positive", f"a fox {cfg} {image_guidance} {sampler}"),
        ("negative", "x"),
        ("images_only", "y"),
    ):
        made[name] = encode(f"{prompt} {cfg} {image_guidance} {sampler}", profile="qwen3vl", taps=SMALL_TAPS)
        made[f"pool {name}"] = pool(["unet", 0], [name, 0])
    branches = {name: [f"pool {name}", 1] for name in ("positive", "negative", "images_only")}
    if sampler == "UniFusionDiTSampler":
        preset = dict(steps=1, cfg=cfg, sampler="euler", scheduler="simple", shift="fixed", mu=1.15)
        made["draw"] = node(
            sampler,
            model=["pool positive", 0],
            latent_image=["latent", 0],
            seed=1,
            denoise=1.0,
            image_guidance=image_guidance,
            preset="custom",
            **{f"preset.{name}": value for name, value in preset.items()},
            **branches,
        )
        latent = ["draw", 0]
    else:
        made["guider"] = node(sampler, model=["pool positive", 0], cfg=cfg, image_guidance=image_guidance, **branches)
        made["noise"] = node("RandomNoise", noise_seed=1)
        made["euler"] = node("KSamplerSelect", sampler_name="euler")
        made["sigmas"] = node("BasicScheduler", model=["pool positive", 0], scheduler="simple", steps=1, denoise=1.0)
        made["draw"] = node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["euler", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        )
        latent = ["draw", 0]
    made["decode"] = node("VAEDecode", samples=latent, vae=["vae", 0])
    made["show"] = node("PreviewImage", images=["decode", 0])
    return made


@pytest.mark.parametrize("sampler", ["UniFusionDiTSampler", "UniFusionGuider"])
@pytest.mark.parametrize(
    "cfg, image_guidance, wanted",
    [
        (1.0, -1.0, set()),
        (4.0, -1.0, {"negative"}),
        (4.0, 1.0, {"images_only"}),
        (4.0, 2.0, {"negative", "images_only"}),
        (1.0, 1.0, set()),
        (1.0, 2.0, {"negative", "images_only"}),
    ],
)
def test_a_branch_is_asked_for_when_it_counts(node, sampler, cfg, image_guidance, wanted):
    asked = node(sampler).check_lazy_status(
        **(
            {
                "preset": {
                    "preset": "custom",
                    "steps": 1,
                    "cfg": cfg,
                    "sampler": "",
                    "scheduler": "",
                    "shift": "",
                    "mu": 0,
                }
            }
            if sampler == "UniFusionDiTSampler"
            else {"cfg": cfg}
        ),
        model=object(),
        image_guidance=image_guidance,
        positive=[],
        negative=None,
        images_only=None,
    )
    assert set(asked) == wanted


def test_what_is_not_connected_or_known_already_is_not_asked_for(node):
    ask = node("UniFusionGuider").check_lazy_status
    assert ask(model=object(), cfg=4.0, image_guidance=2.0) == []
    assert ask(model=object(), cfg=4.0, image_guidance=-1.0, negative=[1]) == []


def test_a_model_that_wants_every_branch_gets_the_negative(node):
    model = type("Model", (), {"model_options": {"disable_cfg1_optimization": True}})
    assert node("UniFusionGuider").check_lazy_status(model=model, cfg=1.0, image_guidance=-1.0, negative=None) == [
        "negative"
    ]


@pytest.mark.parametrize("preset", [None, {}, {"preset": "custom"}, {"preset": "auto"}, {"preset": "no such"}])
def test_a_wrong_preset_is_left_for_the_node_to_refuse(node, preset):
    assert node("UniFusionDiTSampler").check_lazy_status(model=None, preset=preset, negative=None) == ["negative"]


@pytest.mark.parametrize("sampler", ["UniFusionDiTSampler", "UniFusionGuider"])
def test_on_a_server_the_negative_is_not_encoded_at_cfg_1(server, sampler):
    from harness.krea2_graphs import write_models

    write_models(server.base)
    for cfg, expected in ((1.0, {"positive"}), (4.0, {"positive", "negative"})):
        history = server.queue(graph(cfg, sampler=sampler))
        assert server.errors(history) == []
        assert {name for name in ("positive", "negative", "images_only") if name in history["outputs"]} == expected


@pytest.fixture
def passes(krea2_clip):
    """Passes of the decoder over more than one token."""
    seen = []
    layer = krea2_clip.cond_stage_model.qwen3vl_4b.transformer.model.layers[0]

    def count(_layer, args, kwargs):
        x = kwargs["x"] if "x" in kwargs else args[0]
        if x.shape[1] > 1:
            seen.append(x.shape[1])

    handle = layer.register_forward_pre_hook(count, with_kwargs=True)
    yield seen
    handle.remove()


def outputs(node, clip, what, prompt):
    if what == "encode":
        return node("UniFusionVLMEncode").execute(clip, prompt, "auto", "as the profile").result
    settings = (prompt, "auto", "as the profile", "", "as the profile", {"sampling": "greedy"}, 0, 0, 3, "", "")
    return node("UniFusionVerifiRewrite").execute(clip, *settings, as_written=what == "as written").result


@pytest.mark.parametrize("what", ["encode", "rewrite", "as written"])
def test_a_negative_that_nothing_takes_costs_no_pass_and_is_the_same_when_it_is_taken(
    bridge, node, krea2_clip, passes, what
):
    import pickle

    bridge("encoders.kept").states_store(bridge("encoders.text_encoder").VLM(krea2_clip)).forget(lambda _kept: True)
    result = outputs(node, krea2_clip, what, f"a fox that nobody wants, {what}")
    assert len(passes) == 1 and "negative: read when a node takes it" in result[-1]
    positive = result[0][0] if isinstance(result[0], list) else result[0]
    region = node("UniFusionRegion").execute(hidden_states=positive, mask=torch.ones(1, 8, 8))
    assert len(passes) == 1 and region is not None

    model = make_model()
    pooled = (
        node("UniFusionLayerwiseAttentionPool").execute(model, positive, gain_preset="off", negative=result[1]).result
    )
    assert len(passes) == 2
    expected = result[1].value()
    run = bridge("actions.rewrite" if what == "rewrite" else "actions.encode").run
    more = {"sampling": {"sampling": "greedy"}, "max_length": 3} if what == "rewrite" else {}
    at_once = run(krea2_clip, f"a fox that nobody wants, {what}", **more)[1]
    assert torch.equal(at_once.states, expected.states) and at_once.roles.tolist() == expected.roles.tolist()
    again = bridge("actions.pool").run(model, positive, negative=at_once)
    assert torch.equal(again[2][0][0], pooled[2][0][0])
    assert len(passes) == 2 and torch.equal(pickle.loads(pickle.dumps(result[1])).states, expected.states)
    assert result[1].patcher is None  # the encoder is held no longer


def test_on_a_server_a_negative_linked_later_is_read_though_its_node_is_cached(server):
    """ComfyUI does not run a node again because an output of it was connected."""
    from harness.krea2_graphs import SMALL_TAPS, encode, loaders, node, pool, write_models

    write_models(server.base)
    made = {**loaders(small=True), "states": encode("a hare", profile="qwen3vl", taps=SMALL_TAPS)}
    made["pool"] = pool(["unet", 0], ["states", 0])
    made["report"] = node("PreviewAny", source=["pool", 4])
    made["said"] = node("PreviewAny", source=["states", 2])
    first = server.queue(made)
    assert server.errors(first) == []
    assert "1 of 1 sequences computed" in first["outputs"]["said"]["text"][0]
    linked = {**made, "pool": pool(["unet", 0], ["states", 0], negative=["states", 1])}
    second = server.queue(linked)
    assert server.errors(second) == []
    assert second["outputs"]["said"]["text"] == first["outputs"]["said"]["text"]
    assert "pool" in linked and second["outputs"]["report"]["text"] != first["outputs"]["report"]["text"]
