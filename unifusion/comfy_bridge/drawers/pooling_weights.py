"""Which weights pooled a conditioning: noticed when the MODEL was changed behind the pool."""

from __future__ import annotations

import hashlib

import torch

ABOUT = "unifusion_about"
POOLED_BY = "pooled_by"
_PART = "txtfusion."
_SAMPLES = 64  # numbers of each patch that are looked at


def _numbers(value, found: list[str]) -> None:
    """A few numbers of every tensor in a patch, whatever nests it (LoRA adapters, merges, differences)."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().flatten()
        step = max(1, flat.numel() // _SAMPLES)
        sample = flat[::step][:_SAMPLES].float().cpu()
        found.append(f"{tuple(value.shape)} {[f'{number:.6g}' for number in sample.tolist()]}")
    elif isinstance(value, (list, tuple)):
        for part in value:
            _numbers(part, found)
    elif isinstance(value, (int, float, str)):
        found.append(str(value))
    elif hasattr(value, "weights"):
        _numbers(value.weights, found)


def fingerprint(patcher) -> str:
    """The same for every clone whose pooling has the same patches (LoRAs, merges) with the same strengths."""
    found: list[str] = []
    for key in sorted(key for key in patcher.patches if _PART in str(key)):
        found.append(str(key))
        _numbers([patch[:3] for patch in patcher.patches[key]], found)
    return hashlib.blake2b("\n".join(found).encode(), digest_size=8).hexdigest()


def check_same_weights(patcher, cond: dict) -> None:
    """Refuse conditioning whose pooling has other weights than the MODEL that draws.

    Raises:
        ValueError: if LoRAs or merges on the pooling were added or taken away behind the pool, or a hook brings some.
    """
    about = cond.get(ABOUT) or {}
    known = about.get(POOLED_BY)
    if known is not None and known != fingerprint(patcher):
        raise ValueError(
            "The MODEL was changed after Layerwise Attention Pool: a LoRA or a merge on its pooling came or went, and the "
            "conditioning was pooled with the weights of before. Put the LoRA or merge node in front of Layerwise "
            "Attention Pool, and draw with the MODEL the pool hands out."
        )
    hooks = cond.get("hooks")
    if hooks is not None and _hooks_on_pooling(patcher, hooks):
        raise ValueError(
            "A hook on this conditioning changes the model's pooling, but the conditioning was pooled without it. Load "
            "that LoRA with a Load LoRA node in front of Layerwise Attention Pool instead of a hook."
        )


def _hooks_on_pooling(patcher, hooks) -> bool:
    """Whether a hook holds weights of the pooling; those it registered, or still has in its file's names."""
    for hook in hooks.hooks:
        registered = getattr(patcher, "hook_patches", {}).get(getattr(hook, "hook_ref", None), {})
        names = [*map(str, registered), *map(str, getattr(hook, "weights", None) or ())]
        if any(_PART in name or "text_fusion" in name for name in names):
            return True
    return False
