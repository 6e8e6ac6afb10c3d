"""An interrupt at any stage, or a crash inside it, leaves nothing behind: the next run gives the same picture."""

import re
import time

import pytest
import torch
from harness.krea2_graphs import SMALL_TAPS, encode, loaders, node, pool, write_models

LATENT = {"samples": torch.zeros(1, 16, 1, 8, 8)}


def run(clip, model, bridge, picture=None):
    """Prompt and picture to latent, asking for an interruption between the nodes as ComfyUI's executor does."""
    import comfy.model_management as mm

    import nodes

    images = {"image0": picture} if picture is not None else None
    hidden, negative, _ = bridge("actions.encode").run(clip, "a red fox", images=images)
    mm.throw_exception_if_processing_interrupted()
    patched, positive, below, *_ = bridge("actions.pool").run(model, hidden, negative=negative)
    mm.throw_exception_if_processing_interrupted()
    return nodes.common_ksampler(patched, 1, 3, 3.0, "euler", "simple", positive, below, LATENT)[0]["samples"]


def stages(clip, model):
    """Modules whose forward marks a stage."""
    transformer = clip.cond_stage_model.qwen3vl_4b.transformer
    network = model.model.diffusion_model
    return {
        "vision tower": transformer.visual.blocks[1],
        "encoding": transformer.model.layers[7],
        "layerwise pooling": network.txtfusion.layerwise_blocks[1],
        "refiner": network.txtfusion.refiner_blocks[0],
        "drawing": network.blocks[1],
    }


def left_behind(clip, model):
    """Hooks, replaced functions and wrappers that should be gone."""
    layers = clip.cond_stage_model.qwen3vl_4b.transformer.model.layers
    network = model.model.diffusion_model
    return (
        [i for i, layer in enumerate(layers) if layer._forward_pre_hooks],
        [name for name in ("_unpack_context",) if name in vars(network)],
        [name for name in ("forward",) if name in vars(network.txtfusion)],
        model.wrappers,
    )


@pytest.mark.parametrize("stage", ["vision tower", "encoding", "layerwise pooling", "refiner", "drawing"])
@pytest.mark.parametrize("how", ["interrupt", "crash"])
def test_stopping_at_any_stage_leaves_nothing_behind(krea2_clip, krea2_model, bridge, stage, how):
    import comfy.model_management as mm

    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    before, clean = run(krea2_clip, krea2_model, bridge, picture), left_behind(krea2_clip, krea2_model)

    def stop(*_):
        if how == "crash":
            raise RuntimeError("out of memory, for instance")
        mm.interrupt_current_processing(True)

    handle = stages(krea2_clip, krea2_model)[stage].register_forward_pre_hook(stop)
    expected = mm.InterruptProcessingException if how == "interrupt" else RuntimeError
    # Another picture for every case: features of one that was seen are kept, so the tower would not run.
    other = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(len(stage) + 100 * len(how)))
    try:
        with pytest.raises(expected):
            run(krea2_clip, krea2_model, bridge, other)
            mm.throw_exception_if_processing_interrupted()
    finally:
        handle.remove()
        mm.interrupt_current_processing(False)
    assert left_behind(krea2_clip, krea2_model) == clean
    assert torch.equal(run(krea2_clip, krea2_model, bridge, picture), before)


def test_an_interrupt_while_writing_stops_within_a_token(krea2_clip, bridge):
    import comfy.model_management as mm

    written = []
    layer = krea2_clip.cond_stage_model.qwen3vl_4b.transformer.model.layers[0]

    def count(*_):
        written.append(1)
        if len(written) == 4:
            mm.interrupt_current_processing(True)

    handle = layer.register_forward_pre_hook(count)
    try:
        with pytest.raises(mm.InterruptProcessingException):
            bridge("actions.rewrite").run(
                krea2_clip,
                "a fox",
                selection="images and rewritten text",
                sampling={"sampling": "greedy"},
                seed=1,
                min_length=50,
                max_length=50,
                precision="fp32",
            )
    finally:
        handle.remove()
        mm.interrupt_current_processing(False)
    assert len(written) <= 5


def test_an_interrupt_while_a_book_is_encoded_stops_within_a_layer(krea2_clip, bridge):
    import comfy.model_management as mm

    entered = []
    layers = krea2_clip.cond_stage_model.qwen3vl_4b.transformer.model.layers

    def count(*_):
        entered.append(1)
        if len(entered) == 7:
            mm.interrupt_current_processing(True)

    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    run = bridge("actions.encode").run
    try:
        with pytest.raises(mm.InterruptProcessingException):
            run(krea2_clip, "a fox in the snow " * 50)
    finally:
        for handle in handles:
            handle.remove()
        mm.interrupt_current_processing(False)
    assert len(entered) <= 8
    assert not any(layer._forward_pre_hooks for layer in layers)
    assert (
        "1 of 2 sequences computed" not in run(krea2_clip, "a fox in the snow " * 50)[2]
    )  # nothing half-read was kept


def long_text(what, prompt):
    clip = node("TestRandomKrea2Clip", seed=0, **({} if what == "encode" else {"layers": 6}))
    if what == "encode":
        made = encode(" ".join([prompt] * 700), profile="qwen3vl", taps=SMALL_TAPS)
        made["inputs"]["taps"] = "1, 35"
    else:
        made = node(
            "UniFusionVerifiRewrite",
            clip=["clip", 0],
            prompt=prompt,
            profile="qwen3vl",
            system_prompt="as the profile",
            custom_system_prompt="",
            selection="as the profile",
            sampling="sample",
            seed=3,
            min_length=150,
            max_length=150,
            prefill="",
            edited_text="",
            precision="fp32",
            taps=SMALL_TAPS,
            **{"sampling.temperature": 1.0, "sampling.top_p": 1.0, "sampling.top_k": 64, "sampling.min_p": 0.0},
            **{"sampling.repetition_penalty": 1.0},
        )
    return {"clip": clip, "work": made, "show": node("PreviewAny", source=["work", 2])}


def lasted(history):
    """Seconds from the start of a graph to its end or interruption, by the server's own clock."""
    times = {kind: about["timestamp"] for kind, about in history["status"]["messages"]}
    ended = times.get("execution_interrupted") or times["execution_success"]
    return (ended - times["execution_start"]) / 1000


@pytest.mark.parametrize("what", ["encode", "write"])
def test_cancel_on_a_live_server_ends_a_long_text_early(server, what):
    """Beside the same work left alone: the bound is its time, since a machine may be as busy as it likes."""
    write_models(server.base)
    whole = server.queue(long_text(what, "a red fox"), 600)
    assert server.errors(whole) == []
    number = server.submit(long_text(what, "a blue hare"))
    time.sleep(lasted(whole) / 4)
    server.raw("/interrupt", {})
    asked = time.time()
    stopped = server.finished(number, 600)
    assert any(kind == "execution_interrupted" for kind, _ in stopped["status"]["messages"])
    ended = next(about["timestamp"] for kind, about in stopped["status"]["messages"] if kind == "execution_interrupted")
    assert ended / 1000 - asked < max(2.0, lasted(whole) / 4)
    assert server.errors(server.queue({**graph(1, seed=11)})) == []


def graph(steps, seed=1):
    return {
        **loaders(small=True),
        "states": encode("a red fox", profile="qwen3vl", taps=SMALL_TAPS),
        "pool": pool(["unet", 0], ["states", 0]),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "draw": node(
            "UniFusionDiTSampler",
            model=["pool", 0],
            positive=["pool", 1],
            latent_image=["latent", 0],
            seed=seed,
            denoise=1.0,
            image_guidance=-1.0,
            **{
                "preset": "custom",
                "preset.steps": steps,
                "preset.cfg": 1.0,
                "preset.sampler": "euler",
                "preset.scheduler": "simple",
                "preset.shift": "fixed",
                "preset.mu": 1.0,
            },
        ),
        "decode": node("VAEDecode", samples=["draw", 0], vae=["vae", 0]),
        "show": node("PreviewImage", images=["decode", 0]),
    }


def test_interrupting_a_real_server_while_it_draws_and_queueing_again(server):
    write_models(server.base)
    logged = len(server.log.read_bytes())  # earlier graphs have drawn too
    number = server.submit(graph(1000))
    start = time.monotonic()
    while not re.search(rb"\d(it/s|s/it)\]", server.log.read_bytes()[logged:]) and time.monotonic() < start + 120:
        time.sleep(0.2)
    server.raw("/interrupt", {})
    stopped = server.finished(number, 120)
    assert any(kind == "execution_interrupted" for kind, _ in stopped["status"]["messages"])
    again = server.queue(graph(2, seed=9))
    assert server.errors(again) == [] and again["outputs"]["show"]["images"]
