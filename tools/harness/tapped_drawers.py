"""Drawing models of the table, small and random, in ComfyUI's own classes; each fits the encoder of ``tapped_models``."""

from __future__ import annotations

import torch

from .random_krea2 import LANGUAGE, make_model, randomise

# Shape of one sample of each family's latent.
LATENTS = {
    "krea2": (1, 16, 1, 8, 12),
    "flux2-klein-4b": (1, 128, 4, 6),
    "flux2-klein-9b": (1, 128, 4, 6),
    "flux2-dev": (1, 128, 4, 6),
    "z-image": (1, 16, 8, 12),
    "lumina2": (1, 16, 8, 12),
    "qwen-image": (1, 16, 1, 8, 12),
    "ideogram4": (1, 128, 4, 6),
    "ideogram4-lm": (1, 128, 4, 6),
    "mage-flow": (1, 128, 4, 6),
    "joyimage": (1, 16, 1, 8, 12),
    "boogu": (1, 16, 8, 12),
    "ernie-image": (1, 128, 4, 6),
    "omnigen2": (1, 16, 8, 12),
    "ovis-image": (1, 16, 8, 12),
}


def patcher_of(config, sizes: dict, seed: int):
    """A MODEL of one of the host's configurations in other sizes, with random weights."""
    import comfy.model_patcher

    made = config({"image_model": None, **sizes})
    made.unet_config = {**made.unet_config, **sizes}
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, "")
    randomise(model.diffusion_model, seed)
    model.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def make_drawer(key: str, seed: int = 1, *, width: int = 64):
    """The MODEL of a row.

    Args:
        key: of the row.
        width: of one layer of the encoder, where it is not the one of ``tapped_models``.
    """
    import comfy.supported_models as stock

    if key == "krea2":
        return make_model()
    if key.startswith("flux2"):
        sizes = dict(
            axes_dim=[8, 8, 8, 8],
            num_heads=2,
            mlp_ratio=3.0,
            theta=2000,
            in_channels=128,
            out_channels=128,
            global_modulation=True,
            mlp_silu_act=True,
            qkv_bias=False,
            ops_bias=False,
            default_ref_method="index",
            ref_index_scale=10.0,
            txt_ids_dims=[3],
            patch_size=1,
            hidden_size=64,
            context_in_dim=3 * width,
            vec_in_dim=None,
            depth=1,
            depth_single_blocks=2,
            guidance_embed=key == "flux2-dev",
            yak_mlp=False,
            txt_norm=False,
        )
        return patcher_of(stock.Flux2, sizes, seed)
    if key in ("z-image", "lumina2"):
        sizes = dict(
            patch_size=2,
            in_channels=16,
            dim=256 if key == "z-image" else 64,  # Z-Image's modulation takes 256 numbers
            cap_feat_dim=width,
            n_layers=2,
            qk_norm=True,
            n_heads=8 if key == "z-image" else 2,
            n_kv_heads=8 if key == "z-image" else 1,
            axes_dims=[8, 12, 12],
            axes_lens=[1536, 512, 512],
            rope_theta=256.0,
            multiple_of=32,
            z_image_modulation=key == "z-image",
            time_scale=1000.0 if key == "z-image" else 1.0,
            pad_tokens_multiple=32 if key == "z-image" else None,
        )
        return patcher_of(stock.ZImage if key == "z-image" else stock.Lumina2, sizes, seed)
    if key in ("qwen-image", "mage-flow"):
        wide = 128 if key == "qwen-image" else LANGUAGE["hidden_size"]
        sizes = dict(
            in_channels=64 if key == "qwen-image" else 128,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=wide,
            axes_dims_rope=(8, 12, 12),
        )
        return patcher_of(stock.QwenImage if key == "qwen-image" else stock.MageFlow, sizes, seed)
    if key.startswith("ideogram4"):
        sizes = dict(
            in_channels=128,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=32,
            intermediate_size=96,
            adaln_dim=32,
            llm_features_dim=13 * LANGUAGE["hidden_size"],
            mrope_section=(4, 6, 6),
        )
        return patcher_of(stock.Ideogram4, sizes, seed)
    if key == "joyimage":
        sizes = dict(
            hidden_size=64,
            num_attention_heads=2,
            text_dim=LANGUAGE["hidden_size"],
            num_layers=2,
            rope_dim_list=[8, 12, 12],
        )
        return patcher_of(stock.JoyImage, sizes, seed)
    if key == "boogu":
        sizes = dict(
            hidden_size=64,
            num_layers=1,
            num_double_stream_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=32,
            axes_dim_rope=(8, 12, 12),
            instruction_feat_dim=LANGUAGE["hidden_size"],
        )
        return patcher_of(stock.Boogu, sizes, seed)
    if key == "ernie-image":
        sizes = dict(
            hidden_size=96,
            num_attention_heads=3,
            num_layers=2,
            ffn_hidden_size=128,
            text_in_dim=width,
            rope_axes_dim=(8, 12, 12),
        )
        return patcher_of(stock.ErnieImage, sizes, seed)
    if key == "omnigen2":
        sizes = dict(
            hidden_size=64,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=32,
            axes_dim_rope=(8, 12, 12),
            text_feat_dim=width,
        )
        return patcher_of(stock.Omnigen2, sizes, seed)
    if key == "ovis-image":
        return patcher_of(stock.Flux, flux_sizes(width, yak_mlp=True, txt_norm=True), seed)
    raise KeyError(key)


def flux_sizes(context: int, **other) -> dict:
    """A small network of FLUX.1's class; Ovis-Image, LongCat-Image and others are of it too."""
    return dict(
        axes_dim=[8, 12, 12],
        num_heads=2,
        mlp_ratio=3.0,
        theta=10000,
        in_channels=16,
        out_channels=16,
        qkv_bias=True,
        patch_size=2,
        hidden_size=64,
        context_in_dim=context,
        vec_in_dim=None,
        depth=1,
        depth_single_blocks=2,
        guidance_embed=False,
        txt_ids_dims=[1, 2],
        **other,
    )
