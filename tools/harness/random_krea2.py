"""Krea 2 in miniature sizes with random weights, in ComfyUI's own classes: for comparing numbers, not for pictures."""

from unittest import mock

import torch

VISION = dict(hidden_size=64, intermediate_size=128, depth=4, deepstack_visual_indexes=[0, 1, 2], num_heads=4)
LANGUAGE = dict(hidden_size=160, intermediate_size=320, num_attention_heads=4, num_key_value_heads=2)


def randomise(module: torch.nn.Module, seed: int, norm_names=("norm",)) -> None:
    """Weights that keep activations of order one, so that differences are meaningful."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)


def make_clip(seed: int = 0, vision: dict = VISION, language: dict = LANGUAGE):
    """A stock Krea 2 CLIP: 36 layers, the real tokenizer, small widths."""
    import comfy.sd
    import comfy.text_encoders.krea2 as krea2
    import comfy.text_encoders.qwen3vl as qwen3vl

    class Target:
        params = {}
        clip = staticmethod(krea2.te())
        tokenizer = krea2.Krea2Tokenizer

    with mock.patch.dict(qwen3vl.QWEN3VL_VISION, {"qwen3vl_4b": vision}):
        clip = comfy.sd.CLIP(Target, model_options={"qwen3vl_4b_model_config": language, "dtype": torch.float32})
    randomise(clip.cond_stage_model, seed)
    return clip


def state_dict(features=256, layers=2, width=LANGUAGE["hidden_size"], taps=12, seed=1) -> dict:
    """Weights in Krea 2's layout."""
    import comfy.ldm.krea2.model
    import comfy.ops

    network = comfy.ldm.krea2.model.SingleStreamDiT(
        features=features,
        txtdim=width,
        heads=features // 128,
        kvheads=1,
        layers=layers,
        txtlayers=taps,
        operations=comfy.ops.disable_weight_init,
    )
    randomise(network, seed)
    return network.state_dict()


def make_model(**sizes):
    """A stock MODEL, loaded the way the stock loader does."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(state_dict(**sizes), model_options={"dtype": torch.float32})


def make_vae_weights(width: int = 8, seed: int = 2) -> dict:
    """Weights of a narrow VAE in Wan 2.1's layout."""
    import comfy.ldm.wan.vae

    network = comfy.ldm.wan.vae.WanVAE(
        dim=width,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        dropout=0.0,
    )
    randomise(network, seed)
    return network.state_dict()


def vae_from(weights: dict):
    """A stock VAE, loaded the way the stock loader does."""
    import comfy.sd

    return comfy.sd.VAE(sd=dict(weights), dtype=torch.float32)
