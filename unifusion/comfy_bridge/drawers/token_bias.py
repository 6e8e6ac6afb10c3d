"""Weights of tokens inside the drawing model: log(w) on the logits of a token's key, in every attention."""

from __future__ import annotations

import inspect
from functools import cache

import comfyui_version
import torch
import torch.nn.functional as F


@cache
def _asks_patches(attention: type) -> bool:
    return "attn1_patch" in inspect.getsource(attention.forward)


def takes_weights(network: torch.nn.Module) -> bool:
    """Whether this ComfyUI's Krea 2 asks attention patches about its keys, as 0.30 does and 0.27 does not."""
    return _asks_patches(type(network.blocks[0].attn))


def check_takes_weights(network: torch.nn.Module) -> None:
    """Refuse weights where they would be ignored without a word.

    Raises:
        ValueError: if this ComfyUI is too old for them.
    """
    if not takes_weights(network):
        raise ValueError(
            f"Strengths and word weights other than 1 need ComfyUI 0.30 or newer; in this one "
            f"({comfyui_version.__version__}) Krea 2's attention has no place for them. Update ComfyUI, or "
            f"set every strength and weight to 1 (0 removes as well)."
        )


def with_key_bias(args: tuple, kwargs: dict, bias: torch.Tensor) -> tuple[tuple, dict]:
    """Add ``bias`` (batch, text tokens) to the logits of the text keys in every block of the DiT."""

    def patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
        mask = F.pad(bias, (0, k.shape[2] - bias.shape[1])).to(q.dtype)[:, None, None, :]
        return {"q": q, "k": k, "v": v, "pe": pe, "attn_mask": mask if attn_mask is None else attn_mask + mask}

    # transformer_options is the third argument behind the context in ComfyUI's forward, given by name by BaseModel.
    options = kwargs.get("transformer_options") or args[2]
    patches = {**options.get("patches", {})}
    patches["attn1_patch"] = [*patches.get("attn1_patch", []), patch]
    options = {**options, "patches": patches}
    if "transformer_options" in kwargs:
        return args, {**kwargs, "transformer_options": options}
    return (*args[:2], options, *args[3:]), kwargs
