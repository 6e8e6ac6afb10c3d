"""The models that are measured: Krea 2 with random weights, a sixteenth of its widths on a CPU, whole on a GPU.

All layers and taps are there in both, and all widths shrink alike, so that the parts keep their share of the work.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from .host import pack

CUDA = torch.cuda.is_available()
LANGUAGE = {} if CUDA else dict(hidden_size=160, intermediate_size=608, num_attention_heads=2, num_key_value_heads=1)
VISION = (
    dict(hidden_size=1024, intermediate_size=4096, depth=24, deepstack_visual_indexes=[5, 11, 17], num_heads=16)
    if CUDA
    else dict(hidden_size=64, intermediate_size=256, depth=24, deepstack_visual_indexes=[5, 11, 17], num_heads=4)
)
DIT = (
    dict(features=6144, heads=48, kvheads=12, txtdim=2560)
    if CUDA
    else dict(features=384, heads=3, kvheads=1, txtdim=160)
)
DTYPE = torch.bfloat16 if CUDA else torch.float32
SIZES = (
    "Krea 2 at its own sizes, bf16, random weights"
    if CUDA
    else "Krea 2 at a sixteenth of its widths (all 36 + 28 layers, 12 taps), fp32, random weights"
)


def _fill(module: torch.nn.Module) -> None:
    """Random weights from one block that is repeated: their values do not matter for time."""
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for name, weight in module.named_parameters():
        if weight.ndim < 2:
            weight.data.fill_(float("norm" in name and name.endswith("weight")))
            continue
        flat = noise.repeat(-(-weight.numel() // noise.numel()))[: weight.numel()].view(weight.shape)
        weight.data.copy_(flat * weight.shape[-1] ** -0.5)


def keep_no_states(clip):
    """The same CLIP; every encode on it is computed anew, so that what is timed is work and not a memory of it."""
    clip.cond_stage_model.unifusion_states = pack("unifusion.comfy_bridge.encoders.kept").Store(limit=0, most=0)
    return clip


@lru_cache(maxsize=1)
def clip():
    """A stock Krea 2 CLIP."""
    pack("unifusion.profiles")
    from unittest import mock  # ComfyUI takes the vision tower's sizes from a table, not from an argument

    import comfy.sd
    import comfy.text_encoders.krea2 as krea2
    import comfy.text_encoders.qwen3vl as qwen3vl

    class Target:
        params = {}
        clip = staticmethod(krea2.te())
        tokenizer = krea2.Krea2Tokenizer

    with mock.patch.dict(qwen3vl.QWEN3VL_VISION, {"qwen3vl_4b": VISION}):
        made = comfy.sd.CLIP(Target, model_options={"qwen3vl_4b_model_config": LANGUAGE, "dtype": DTYPE})
    _fill(made.cond_stage_model)
    return made


@lru_cache(maxsize=1)
def model():
    """A stock MODEL, as the stock loader makes it."""
    pack("unifusion.profiles")
    import comfy.ldm.krea2.model
    import comfy.ops
    import comfy.sd

    network = comfy.ldm.krea2.model.SingleStreamDiT(
        layers=28, txtlayers=12, dtype=DTYPE, operations=comfy.ops.disable_weight_init, **DIT
    )
    _fill(network)
    return comfy.sd.load_diffusion_model_state_dict(network.state_dict(), model_options={"dtype": DTYPE})


@lru_cache(maxsize=1)
def vae_weights() -> dict:
    """A VAE in Wan 2.1's layout, a twelfth of its width on a CPU."""
    pack("unifusion.profiles")
    from harness.random_krea2 import make_vae_weights

    return make_vae_weights(96 if CUDA else 8)


def loaded() -> None:
    """Bring both models to their device, so that a reference made now shares what is there."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([clip().patcher, model()], force_full_load=True)


@lru_cache(maxsize=1)
def pipeline():
    """diffusers' Krea2Pipeline with the same weights."""
    loaded()
    from harness.reference_krea2 import diffusers_vae
    from harness.reference_krea2 import pipeline as make

    vae = diffusers_vae(vae_weights(), 96 if CUDA else 8)
    made = make(clip(), model(), vae.to(clip().patcher.load_device), distilled=True)
    return made


def prompt_of(tokens: int) -> str:
    """A prompt whose conditioning has ``tokens`` tokens, the nine of Krea 2's template among them."""
    words = "fox snow red cat blue house tree lake stone bird".split()
    return " ".join(words[i % len(words)] for i in range(max(tokens - 9, 1)))
