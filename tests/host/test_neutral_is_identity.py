"""Neutral settings give the stock result bit for bit."""

import pytest
import torch

PROMPTS = [
    "a red fox in the snow",
    "ein Haus am See, früh am Morgen",
    "一只戴眼镜的猫",
    "emoji 🦊, (brackets), numbers: 1,2,3",
    "line one\nline two\n\n  indented",
    "long " * 200,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_hidden_states_equal_stock_conditioning(krea2_clip, bridge, prompt):
    stock = krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize(prompt))[0][0]
    ours = bridge("actions.encode").run(krea2_clip, prompt)[0]
    assert torch.equal(ours.states.flatten(2), stock)


def conditionings(krea2_clip, krea2_model, bridge, prompt="a red fox in the snow", bad="blurry, dark"):
    stock = [krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize(text)) for text in (prompt, bad)]
    encode = bridge("actions.encode").run
    states = [encode(krea2_clip, text)[0] for text in (prompt, bad)]
    model, positive, negative, _, _ = bridge("actions.pool").run(krea2_model, states[0], negative=states[1])
    return stock, model, positive, negative


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "res_multistep", "euler_ancestral"])
@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_pooled_latent_equals_stock_latent(krea2_clip, krea2_model, bridge, sampler, cfg):
    import nodes

    (stock_positive, stock_negative), model, positive, negative = conditionings(krea2_clip, krea2_model, bridge)
    latent = {"samples": torch.zeros(1, 16, 1, 8, 12)}
    stock = nodes.common_ksampler(krea2_model, 7, 4, cfg, sampler, "simple", stock_positive, stock_negative, latent)[0]
    ours = nodes.common_ksampler(model, 7, 4, cfg, sampler, "simple", positive, negative, latent)[0]
    assert stock["samples"].std() > 0.05
    assert torch.equal(stock["samples"], ours["samples"])


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_dit_sampler_equals_ksampler(krea2_clip, krea2_model, bridge, cfg, denoise):
    import nodes

    _, model, positive, negative = conditionings(krea2_clip, krea2_model, bridge)
    latent = {"samples": torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3))}
    stock = nodes.common_ksampler(model, 5, 6, cfg, "euler", "simple", positive, negative, latent, denoise=denoise)[0]
    preset = {
        "preset": "custom",
        "steps": 6,
        "cfg": cfg,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "as the model",
        "mu": 0.0,
    }
    ours = bridge("actions.draw").run(model, positive, negative, latent=latent, seed=5, preset=preset, denoise=denoise)
    assert torch.equal(stock["samples"], ours["samples"])


def test_wrapper_leaves_nothing_behind_and_takes_stock_conditioning_too(krea2_clip, krea2_model, bridge):
    import nodes

    (stock_positive, stock_negative), model, positive, negative = conditionings(krea2_clip, krea2_model, bridge)
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    through_wrapper = nodes.common_ksampler(
        model, 1, 2, 2.0, "euler", "simple", stock_positive, stock_negative, latent
    )[0]
    stock = nodes.common_ksampler(krea2_model, 1, 2, 2.0, "euler", "simple", stock_positive, stock_negative, latent)[0]
    assert torch.equal(through_wrapper["samples"], stock["samples"])
    network = krea2_model.model.diffusion_model
    assert "_unpack_context" not in vars(network) and "forward" not in vars(network.txtfusion)
