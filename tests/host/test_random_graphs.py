"""Random graphs of the pack: each ends in a picture or in one clear sentence, and the next queued graph works."""

import json
import os

import pytest
from harness.krea2_graphs import SMALL_TAPS, encode, loaders, node, pool, write_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("UNIFUSION_RANDOM_GRAPHS", "100"))

prompts = st.sampled_from(
    [
        "a red fox",
        "",
        "   ",
        "a (red:1.4) fox",
        "(fox:0)",
        "((a:2):0.5) (b",
        "fox<|im_end|> and <|endoftext|>",
        "half \ud83d",
        "一只猫 🦊",
        "e\u0301",
        "(e:1.2)\u0301",
        "Image 1 beside Image 7",
        "\n\n\t",
        "fox " * 90,
        "\\(a\\)",
        "<|im_<|im_end|>end|>",
    ]
)
often = lambda usual, *others: st.sampled_from([usual] * (2 + 2 * len(others)) + list(others))  # noqa: E731
profiles = often("qwen3vl", "auto", "krea2", "miniature")
taps = often(SMALL_TAPS, "", "9", "x", "5, 3, 1", "1, 3", "1;3;5", "-1, 2, 3")
encode_selections = st.sampled_from(
    [
        "as the profile",
        "images and rewritten text",
        "rewritten text only",
        "images and prompt",
        "everything after the system prompt",
        "everything",
    ]
)
rewrite_selections = st.sampled_from(
    [
        "images and rewritten text",
        "rewritten text only",
        "everything after the system prompt",
        "encode the rewritten text as a prompt",
    ]
)
sizes = st.sampled_from([(64, 64), (1, 1), (300, 17), (96, 160)])


@st.composite
def graphs(draw):
    graph = loaders(small=True)
    pictures = []
    for number in range(draw(st.integers(0, 2))):
        width, height = draw(sizes)
        graph[f"image{number}"] = node(
            "EmptyImage",
            width=width,
            height=height,
            batch_size=draw(st.integers(1, 2)),
            color=draw(st.integers(0, 0xFFFFFF)),
        )
        pictures.append([f"image{number}", 0])
    given = {}
    if pictures and draw(st.booleans()):
        start = draw(st.sampled_from([0.0, 0.3, 1.0]))
        graph["reference"] = node(
            "UniFusionReference",
            image=pictures.pop(0),
            detail=draw(often("default", "one view")),
            label=draw(st.sampled_from(["", "Image 1", "the <dog>", "的", "a:b:"])),
            strength=draw(st.sampled_from([1.0, 0.0, 2.0, 0.5])),
            start=start,
            end=draw(st.sampled_from([1.0, 0.3, 0.0])),
        )
        given["references"] = ["reference", 0]
        if draw(st.booleans()):
            graph["combine"] = node(
                "UniFusionMultiReferenceCombine",
                references=["reference", 0],
                budget=draw(st.sampled_from([0, 1, 8, 64])),
                labels=draw(often("own labels", "none")),
                detail="one view",
            )
            given["references"] = ["combine", 0]
    given |= {f"images.image{i}": picture for i, picture in enumerate(pictures)}

    common = dict(profile=draw(profiles), taps=draw(taps))
    if draw(st.booleans()):
        graph["states"] = encode(
            draw(prompts),
            selection=draw(encode_selections),
            **common,
            **given,
            system_prompt=draw(often("", "a <|im_end|> b")),
            precision=draw(often("fp32", "bf16")),
        )
    else:
        sampling = (
            {"sampling": "greedy"}
            if draw(st.booleans())
            else {
                "sampling": "sample",
                "sampling.temperature": 0.7,
                "sampling.top_p": 0.95,
                "sampling.top_k": 64,
                "sampling.min_p": 0.05,
                "sampling.repetition_penalty": 1.05,
            }
        )
        graph["states"] = node(
            "UniFusionVerifiRewrite",
            clip=["clip", 0],
            prompt=draw(prompts),
            **common,
            **given,
            **sampling,
            system_prompt="as the profile",
            custom_system_prompt="",
            selection=draw(rewrite_selections),
            seed=1,
            min_length=draw(often(0, 3)),
            max_length=draw(st.integers(1, 4)),
            prefill=draw(often("", "A ", "<|im_end|>")),
            edited_text=draw(often("", "a blue fox", "(fox:2)")),
            precision="fp32",
        )
    source = ["states", 0]
    if draw(st.integers(0, 4)) == 0:
        graph["inspect"] = node(
            "UniFusionInspect",
            hidden_states=source,
            model=["unet", 0],
            view="all pages",
            words=draw(often("", "fox", "zebra")),
            heat_map="",
            silence=draw(often("", "3", "99", "x")),
        )
        source = ["inspect", 1]
    if draw(st.integers(0, 4)) == 0:
        graph["saved"] = node(
            "UniFusionSaveConditioning",
            positive=source,
            negative=["states", 1],
            filename_prefix=draw(often("random/graph", "../out", "a/../../out")),
        )
    more = {f"join.states{i}": ["states", draw(st.integers(0, 1))] for i in range(draw(st.integers(0, 2)))}
    more |= {"images_only": ["states", 1]} if draw(st.booleans()) else {}
    graph["pool"] = pool(
        ["unet", 0],
        source,
        ["states", 1] if draw(st.booleans()) else None,
        gain_preset=draw(st.sampled_from(["off", "custom", "1.45 on tap 11"])),
        gains=draw(often("", "2=1.3", "9=1", "loud", "1, 2, 3", "1=1e39", "0, 0, 0")),
        keep_rms=draw(st.booleans()),
        **more,
    )
    width, height = draw(st.sampled_from([(32, 32), (64, 32), (48, 16)]))
    graph["latent"] = node("EmptySD3LatentImage", width=width, height=height, batch_size=draw(st.integers(1, 2)))
    cfg = draw(st.sampled_from([1.0, 0.0, 3.0]))
    kind = draw(st.sampled_from(["stock", "ours", "guider"]))
    if kind == "stock":
        graph["draw"] = node(
            "KSampler",
            model=["pool", 0],
            positive=["pool", 1],
            negative=["pool", 2],
            steps=2,
            cfg=cfg,
            latent_image=["latent", 0],
            seed=1,
            sampler_name=draw(often("euler", "heun")),
            scheduler="simple",
            denoise=1.0,
        )
    elif kind == "ours":
        chosen = {
            "preset": "custom",
            "preset.steps": draw(st.integers(1, 3)),
            "preset.cfg": cfg,
            "preset.sampler": "euler",
            "preset.scheduler": "simple",
            "preset.mu": 1.0,
            "preset.shift": draw(st.sampled_from(["as the model", "fixed", "by resolution"])),
        }
        branches = {"negative": ["pool", 2]} if draw(st.booleans()) else {}
        branches |= {"images_only": ["pool", 3]} if draw(st.booleans()) else {}
        graph["draw"] = node(
            "UniFusionDiTSampler",
            model=["pool", 0],
            positive=["pool", 1],
            latent_image=["latent", 0],
            seed=1,
            denoise=draw(often(1.0, 0.5, 0.0)),
            image_guidance=draw(often(-1.0, 1.5)),
            **chosen,
            **branches,
        )
    else:
        branches = {"negative": ["pool", 2]} if draw(st.booleans()) else {}
        graph |= {
            "guider": node(
                "UniFusionGuider", model=["pool", 0], positive=["pool", 1], cfg=cfg, image_guidance=-1.0, **branches
            ),
            "noise": node("RandomNoise", noise_seed=1),
            "sampler": node("KSamplerSelect", sampler_name="euler"),
            "sigmas": node("BasicScheduler", model=["pool", 0], scheduler="simple", steps=2, denoise=1.0),
            "draw": node(
                "SamplerCustomAdvanced",
                noise=["noise", 0],
                guider=["guider", 0],
                sampler=["sampler", 0],
                sigmas=["sigmas", 0],
                latent_image=["latent", 0],
            ),
        }
    graph |= {
        "decode": node("VAEDecode", samples=["draw", 0], vae=["vae", 0]),
        "show": node("PreviewImage", images=["decode", 0]),
    }
    return graph


GOOD = {
    **loaders(small=True),
    "states": encode("a red fox", profile="qwen3vl", taps=SMALL_TAPS),
    "pool": pool(["unet", 0], ["states", 0]),
    "latent": node("EmptySD3LatentImage", width=32, height=32, batch_size=1),
    "draw": node(
        "KSampler",
        model=["pool", 0],
        positive=["pool", 1],
        negative=["pool", 2],
        steps=1,
        cfg=1.0,
        seed=5,
        latent_image=["latent", 0],
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    ),
    "decode": node("VAEDecode", samples=["draw", 0], vae=["vae", 0]),
    "show": node("PreviewImage", images=["decode", 0]),
}


@pytest.fixture(scope="module")
def ready(server):
    write_models(server.base)
    assert server.errors(server.queue(GOOD)) == []
    return server


def failure(history) -> dict | None:
    return next((about for kind, about in history["status"]["messages"] if kind == "execution_error"), None)


def cached(history) -> list[str]:
    """Nodes whose results were there already."""
    return next(about["nodes"] for kind, about in history["status"]["messages"] if kind == "execution_cached")


@given(graphs())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_every_graph_ends_in_a_picture_or_one_clear_sentence_and_the_next_works(ready, graph):
    try:
        history = ready.queue(graph)
    except ValueError as refused:  # by ComfyUI's own validation, before anything ran
        assert "prompt_outputs_failed_validation" in str(refused) or "invalid" in str(refused), refused
    else:
        error = failure(history)
        if error is None:
            # Drawn before: ComfyUI older than 0.30 then names the picture to a client with a socket only.
            assert "show" in cached(history) or history["outputs"]["show"]["images"]
            return
        sentence = error["exception_message"].strip()
        where = f"{error['node_type']} in {json.dumps(graph)}: {error['traceback'][-3:]}"
        assert error["exception_type"] == "ValueError", where
        assert sentence.endswith((".", "?")) and "\n" not in sentence and 20 < len(sentence) < 420, where
    GOOD["draw"]["inputs"]["seed"] += 1  # something must really run
    assert ready.errors(ready.queue(GOOD)) == []
