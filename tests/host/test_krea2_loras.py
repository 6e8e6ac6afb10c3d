"""LoRAs count: on the MODEL for pooling, on the CLIP for encoding, exactly as in the stock graph."""

import pytest
import torch


def lora(names, rank=4, seed=5, prefix=""):
    """A LoRA in the usual names over some weight matrices."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in names.items():
        weights[f"{prefix}{name}.lora_down.weight"] = torch.randn(rank, shape[1], generator=generator) * 0.1
        weights[f"{prefix}{name}.lora_up.weight"] = torch.randn(shape[0], rank, generator=generator) * 0.1
        weights[f"{prefix}{name}.alpha"] = torch.tensor(float(rank))
    return weights


def matrices(module, part):
    return {
        name.removesuffix(".weight"): tuple(p.shape)
        for name, p in module.named_parameters()
        if part in name and p.ndim == 2 and name.endswith(".weight")
    }


@pytest.fixture(scope="module")
def patched(krea2_clip, krea2_model):
    """(CLIP, MODEL) with a LoRA on the text encoder, the pooling inside the MODEL, and its blocks."""
    import comfy.sd

    names = {
        k: v
        for part in ("txtfusion", "blocks.0.attn")
        for k, v in matrices(krea2_model.model.diffusion_model, part).items()
    }
    encoder = matrices(krea2_clip.cond_stage_model.qwen3vl_4b.transformer, "model.layers.3.")
    model, _ = comfy.sd.load_lora_for_models(krea2_model, None, lora(names, prefix="diffusion_model."), 1.0, 1.0)
    _, clip = comfy.sd.load_lora_for_models(
        None, krea2_clip, lora(encoder, prefix="text_encoders.qwen3vl_4b.transformer."), 1.0, 1.0
    )
    assert any("txtfusion" in key for key in model.patches) and clip.patcher.patches
    return clip, model


def states(clip, bridge, prompt="a red fox in the snow"):
    return bridge("actions.encode").run(clip, prompt)[0]


def stock(clip, prompt="a red fox in the snow"):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def pooled(model, hidden, bridge):
    return bridge("actions.pool").run(model, hidden)[:2]


def draw(model, positive):
    import nodes

    return nodes.common_ksampler(
        model, 3, 3, 1.0, "euler", "simple", positive, positive, {"samples": torch.zeros(1, 16, 1, 8, 8)}
    )[0]["samples"]


def test_a_lora_on_the_text_encoder_reaches_the_states(krea2_clip, patched, bridge):
    clip, _ = patched
    plain, changed = states(krea2_clip, bridge), states(clip, bridge)
    assert torch.equal(changed.states.flatten(2), stock(clip)[0][0])
    assert (changed.states - plain.states).abs().max() > 0.1
    assert torch.equal(states(krea2_clip, bridge).states, plain.states)  # and leaves with its clone


def test_a_lora_on_the_pooling_reaches_the_picture_as_in_the_stock_graph(krea2_clip, krea2_model, patched, bridge):
    _, model = patched
    hidden, cond = states(krea2_clip, bridge), stock(krea2_clip)
    with_lora = draw(*pooled(model, hidden, bridge))
    assert torch.equal(with_lora, draw(model, cond))
    without = draw(*pooled(krea2_model, hidden, bridge))
    assert torch.equal(without, draw(krea2_model, cond))
    assert (with_lora - without).abs().max() > 1e-3


def test_pooling_alone_changes_with_the_lora_and_comes_back_without_it(krea2_clip, krea2_model, patched, bridge):
    _, model = patched
    hidden = states(krea2_clip, bridge)
    plain = pooled(krea2_model, hidden, bridge)[1][0][0]
    changed = pooled(model, hidden, bridge)[1][0][0]
    assert (plain - changed).abs().max() > 1e-3
    assert torch.equal(pooled(krea2_model, hidden, bridge)[1][0][0], plain)
