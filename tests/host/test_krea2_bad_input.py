"""Bad input ends in one clear sentence that says what was found, what was expected and what to change."""

import pytest
import torch

EMPTY = {"samples": torch.zeros(1, 16, 1, 8, 8)}


def encode(clip, bridge, prompt="a red fox", **changes):
    settings = (
        dict(
            profile="auto",
            selection="as the profile",
            system_prompt="",
            taps="",
            precision="fp32",
            references=None,
            images=None,
        )
        | changes
    )
    return bridge("actions.encode").run(clip, prompt, **settings)


def pool(model, hidden, bridge, negative=None):
    return bridge("actions.pool").run(model, hidden, negative=negative)


def sentence(error, *parts):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400, text
    for part in parts:
        assert part in text, f"{part!r} is missing in: {text}"


@pytest.fixture(scope="module")
def hidden(krea2_clip, bridge):
    with torch.inference_mode():
        return encode(krea2_clip, bridge)[0]


def test_wrong_text_encoder_says_both_widths_and_what_to_load(hidden, bridge):
    from harness.random_krea2 import make_model

    other = make_model(width=80)
    with pytest.raises(ValueError) as error:
        pool(other, hidden, bridge)
    sentence(error, "width 160", "width 80", "12 taps", "Load the text encoder that belongs to the MODEL", "krea2")


def test_wrong_number_of_taps_is_said(krea2_model, krea2_clip, bridge):
    with pytest.raises(ValueError) as error:
        pool(krea2_model, encode(krea2_clip, bridge, taps="2, 5, 8")[0], bridge)
    sentence(error, "3 taps", "12 taps")


@pytest.fixture(scope="module")
def sd15():
    """A MODEL of another architecture: a Stable Diffusion 1.5 UNet of small random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1],
            "channel_mult": [1],
            "transformer_depth": [1],
            "transformer_depth_output": [1, 1],
            "transformer_depth_middle": 1,
            "context_dim": 768,
            "num_heads": 4,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "legacy": False,
            "use_checkpoint": False,
            "adm_in_channels": None,
        }
    )
    model = comfy.model_base.BaseModel(config, device="cpu")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def test_a_model_without_layerwise_pooling_is_named(sd15, hidden, bridge):
    with pytest.raises(ValueError) as error:
        pool(sd15, hidden, bridge)
    sentence(error, "UNetModel", "no Layerwise Attention Pooling", "Krea 2", "Load Diffusion Model")


def test_a_clip_that_cannot_be_tapped_is_named(bridge):
    import comfy.sd
    import comfy.sd1_clip

    class Target:
        params = {}
        clip = comfy.sd1_clip.SD1ClipModel
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    clip = comfy.sd.CLIP(Target, model_options={"dtype": torch.float32})
    with pytest.raises(ValueError) as error:
        encode(clip, bridge)
    sentence(error, "SD1ClipModel", "Qwen3-VL", "krea2")


def test_an_empty_prompt_is_drawn_and_said(krea2_clip, krea2_model, bridge):
    """Empty is allowed, it is the usual negative; the report says what it is."""
    states, negative, report = encode(krea2_clip, bridge, "   ")
    assert "prompt is empty" in report and states.tokens > 0
    assert torch.isfinite(pool(krea2_model, states, bridge)[1][0][0]).all()


def test_a_prompt_beyond_the_window_is_warned_about_with_both_numbers(krea2_clip, bridge):
    states, _, report = encode(krea2_clip, bridge, "fox " * 600)
    assert states.tokens > 600
    line = next(line for line in report.splitlines() if line.startswith("Warning"))
    assert str(states.tokens) in line and "512" in line and "Shorten" in line


def test_control_tokens_are_removed_and_said(krea2_clip, bridge):
    dirty, _, report = encode(krea2_clip, bridge, "a red<|im_end|> fox<|endoftext|>")
    assert "Removed control tokens" in report and "<|im_end|>" in report and "<|endoftext|>" in report
    assert torch.equal(dirty.states, encode(krea2_clip, bridge, "a red fox")[0].states)


@pytest.mark.parametrize("guided", ["sampler", "guider"])
def test_a_missing_negative_above_cfg_1_is_said(hidden, krea2_model, bridge, guided):
    model, positive, negative, *_ = pool(krea2_model, hidden, bridge)
    preset = {
        "preset": "custom",
        "steps": 2,
        "cfg": 4.5,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "as the model",
        "mu": 0.0,
    }
    with pytest.raises(ValueError) as error:
        if guided == "guider":
            bridge("actions.draw").guider(model, positive, negative, cfg=4.5)
        else:
            bridge("actions.draw").run(model, positive, negative, latent=EMPTY, seed=1, preset=preset)
    sentence(error, "CFG 4.5", "negative", "CFG to 1")


def test_a_latent_of_other_channels_is_said(hidden, krea2_model, bridge):
    model, positive, *_ = pool(krea2_model, hidden, bridge)
    latent = {"samples": torch.rand(1, 4, 8, 8)}
    with pytest.raises(ValueError) as error:
        bridge("actions.draw").run(
            model, positive, None, latent=latent, seed=1, preset={"preset": "Krea 2 Turbo"}, denoise=0.5
        )
    sentence(error, "4 channels", "16", "VAE that belongs to the MODEL")


def test_an_empty_latent_of_other_channels_is_mended_as_the_stock_sampler_does(hidden, krea2_model, bridge):
    model, positive, *_ = pool(krea2_model, hidden, bridge)
    preset = {
        "preset": "custom",
        "steps": 1,
        "cfg": 1.0,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "as the model",
        "mu": 0.0,
    }
    out = bridge("actions.draw").run(
        model, positive, None, latent={"samples": torch.zeros(1, 4, 8, 8)}, seed=1, preset=preset
    )
    assert out["samples"].shape == (1, 16, 1, 8, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("branch", ["positive", "negative"])
def test_states_with_nan_or_infinity_are_refused_before_they_blacken_the_picture(
    hidden, krea2_model, bridge, value, branch
):
    states = hidden.states.clone()
    states[0, 2, 5, 7] = value
    broken = hidden._replace(states=states)
    both = (broken, hidden) if branch == "positive" else (hidden, broken)
    with pytest.raises(ValueError) as error:
        pool(krea2_model, both[0], bridge, both[1])
    sentence(error, branch, "NaN or infinite")


def test_a_picture_with_nan_is_refused(krea2_clip, bridge):
    picture = torch.rand(1, 64, 64, 3)
    picture[0, 3, 3, 1] = float("nan")
    with pytest.raises(ValueError) as error:
        encode(krea2_clip, bridge, images={"image0": picture})
    sentence(error, "NaN")


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (1, 64, 64, 2), (1, 1, 64, 64, 3), (1, 0, 64, 3)])
def test_what_is_no_picture_is_refused(krea2_clip, bridge, shape):
    with pytest.raises(ValueError) as error:
        encode(krea2_clip, bridge, images={"image0": torch.zeros(shape)})
    sentence(error, "image0", str(shape), "expected")


def test_weights_are_refused_by_name_where_the_host_has_no_place_for_them(hidden, krea2_model, bridge, monkeypatch):
    """ComfyUI 0.26 and 0.27: there this is real; in a newer host only the answer of the check is replaced."""
    dit = bridge("drawers.token_bias")
    if dit.takes_weights(krea2_model.model.diffusion_model):
        monkeypatch.setattr(dit, "takes_weights", lambda network: False)
    weights = hidden.weights.clone()
    weights[1] = 1.4
    with pytest.raises(ValueError) as error:
        pool(krea2_model, hidden._replace(weights=weights), bridge)
    sentence(error, "ComfyUI 0.30 or newer", "Update ComfyUI")
    weights[1] = 0.0  # removing needs no place in the attention
    assert pool(krea2_model, hidden._replace(weights=weights), bridge)[1][0][0].shape[1] == hidden.tokens - 1
