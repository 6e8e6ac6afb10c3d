"""Krea 2 at its own sizes on a GPU that is not there (see ``fake_cuda``): 4.4 billion weights of text encoder, 12.8 of MODEL.

Run by the tests and the bench in a process of its own, since the GPU stays until the process ends.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch

from .fake_cuda import GIB, install

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def start(capacity: int = 48 * GIB):
    """The GPU, ComfyUI on it and the pack in ComfyUI; for the beginning of a process.

    Returns:
        (gpu, function that imports a module of the pack by its name)
    """
    gpu = install(capacity)
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.disable_async_offload = args.disable_pinned_memory = True  # they need the driver itself
    spec = importlib.util.spec_from_file_location(
        "unifusion_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["unifusion_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["unifusion_pack"])
    return gpu, lambda name: importlib.import_module(f"unifusion_pack.{name}")


def make_clip(gpu, weights: str = "bf16"):
    """Krea 2's own CLIP. Its vision tower stays bf16, as in the file that creators load."""
    import comfy.sd
    import comfy.text_encoders.krea2 as krea2

    class Target:
        params = {}
        clip = staticmethod(krea2.te())
        tokenizer = krea2.Krea2Tokenizer

    with gpu.models():
        clip = comfy.sd.CLIP(Target, model_options={"dtype": torch.bfloat16})
        if weights == "fp8":
            for module in clip.cond_stage_model.qwen3vl_4b.transformer.model.layers.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight = torch.nn.Parameter(module.weight.to(WEIGHTS[weights]), requires_grad=False)
    return clip


def make_model(gpu, weights: str = "bf16"):
    """Krea 2's own MODEL, as the stock loader makes it."""
    import comfy.ldm.krea2.model
    import comfy.ops
    import comfy.sd

    with gpu.models():
        network = comfy.ldm.krea2.model.SingleStreamDiT(dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init)
        state = network.state_dict()
        return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": WEIGHTS[weights]})


def words(clip, tokens: int) -> str:
    """A prompt of about ``tokens`` tokens."""
    return " ".join("fox snow red cat blue house tree lake stone bird".split()[i % 10] for i in range(tokens))


def pictures(count: int, side: int = 1024) -> dict:
    """Pictures as a node gets them."""
    return {f"image{i}": torch.full((1, side, side, 3), 0.1 * (i + 1)) for i in range(count)}


def latent(side: int = 1024) -> dict:
    return {"samples": torch.zeros(1, 16, side // 8, side // 8)}
