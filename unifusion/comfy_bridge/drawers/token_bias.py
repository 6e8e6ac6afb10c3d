"""Weights of tokens inside the drawing model: log(w) on the logits of a token's key, in every attention.

The place is ``optimized_attention_override``, which ComfyUI asks in every attention of every model that hands its
options on. Attention patches would be skipped by packs that replace a block's forward and forget ``block_index``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache

import comfyui_version
import torch
import torch.nn.functional as F
from comfy.ldm.modules import attention as host_attention

OVERRIDE = "optimized_attention_override"
# Backends of ComfyUI that add a float mask to the logits. Others (flash, sage) drop it or give up with a warning a call.
_TAKES_MASKS = {"attention_basic", "attention_sub_quad", "attention_split", "attention_pytorch", "attention_xformers"}


@cache
def _asks_patches(attention: type) -> bool:
    return "attn1_patch" in inspect.getsource(attention.forward)


def takes_weights(network: torch.nn.Module) -> bool:
    """Whether this ComfyUI's Krea 2 hands its options to the attention, as 0.30 does and 0.27 does not."""
    attention = getattr(network.blocks[0], "attn", None)
    stock = type(attention).__module__.startswith("comfy.")
    return _asks_patches(type(attention)) if stock else True  # another pack's: whether it takes them shows when it runs


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


class KeyBias:
    """An attention override that adds a bias to the first keys of every attention, and counts where it did.

    Attributes:
        applied: attentions that took the bias since the last :meth:`restart`.
        bypassed: names of other overrides or backends that would have dropped it and were bypassed for weighted calls.
    """

    def __init__(self, bias: torch.Tensor, earlier: Callable | None = None):
        """
        Args:
            bias: ``(batch, text tokens)`` float32, log(w); -inf removes a token.
            earlier: an override that was there before; it is asked first.
        """
        self.bias, self.earlier = bias, earlier
        self.applied = 0
        self.bypassed: set[str] = set()

    def _mask(self, q: torch.Tensor, k: torch.Tensor, heads: int, skip_reshape: bool, mask):
        keys = k.shape[-2]
        if keys < self.bias.shape[1] or q.shape[0] % self.bias.shape[0]:
            return None  # another attention of this model, not over the text
        bias = F.pad(self.bias.to(device=q.device), (0, keys - self.bias.shape[1])).to(q.dtype)
        bias = bias.repeat(q.shape[0] // self.bias.shape[0], 1)[:, None, None, :]
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
        while mask.ndim < 4:
            mask = mask.unsqueeze(1 if mask.ndim == 3 else 0)
        return mask + bias

    def __call__(self, backend: Callable, q, k, v, heads, mask=None, **kwargs):
        biased = self._mask(q, k, heads, kwargs.get("skip_reshape", False), mask)
        if biased is None:
            return self._next(backend)(q, k, v, heads, mask=mask, **kwargs)
        reached = False

        def plain(q, k, v, heads, mask=None, **more):
            nonlocal reached
            reached = True
            more["_inside_attn_wrapper"] = True
            able = backend if getattr(backend, "__name__", "") in _TAKES_MASKS else host_attention.attention_pytorch
            if able is not backend:
                self.bypassed.add(getattr(backend, "__name__", type(backend).__name__))
            return able(q, k, v, heads, mask=self._mask(q, k, heads, more.get("skip_reshape", False), mask), **more)

        out = None
        if self.earlier is not None:
            out = self.earlier(plain, q, k, v, heads, mask=mask, **kwargs)
            if not reached:
                self.bypassed.add(getattr(self.earlier, "__name__", type(self.earlier).__name__))
        if not reached:  # it computed by itself, without the weights
            out = plain(q, k, v, heads, mask=mask, **kwargs)
        self.applied += 1
        return out

    def _next(self, backend: Callable) -> Callable:
        if self.earlier is None:
            return backend
        return lambda *args, **kwargs: self.earlier(backend, *args, **kwargs)


def with_key_bias(transformer_options: dict, bias: torch.Tensor) -> tuple[dict, KeyBias]:
    """A copy of ComfyUI's options in which ``bias`` (batch, text tokens) is added to the logits of the text keys.

    Returns:
        (options, the bias, which counts)
    """
    carrier = KeyBias(bias, transformer_options.get(OVERRIDE))
    return {**transformer_options, OVERRIDE: carrier}, carrier


class Watch:
    """Says once a run, by name, where weights did not arrive or another node had to be bypassed for them."""

    def __init__(self):
        self.said: set[str] = set()

    def look(self, carrier: KeyBias, layers: int, network: torch.nn.Module) -> None:
        if carrier.applied < layers:
            self.say(
                f"UniFusion: the weights reached {carrier.applied} of {layers} attention layers of the drawing model, "
                f"because {_who_replaced(network)}. Weighted words and strengths act too weakly or not at all; take that "
                f"node or pack out, or set every weight to 1."
            )
        for name in sorted(carrier.bypassed):
            self.say(
                f"UniFusion: '{name}' leaves out attention masks, so attention with weighted tokens uses ComfyUI's own "
                f"PyTorch attention instead."
            )

    def say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            logging.warning(sentence)


def _who_replaced(network: torch.nn.Module) -> str:
    """Names what is not ComfyUI's own in the blocks."""
    for module in (network, *network.blocks, *(getattr(block, "attn", block) for block in network.blocks)):
        for name in ("_forward", "forward"):
            function = vars(module).get(name) or vars(type(module)).get(name)
            home = getattr(function, "__module__", None) or ""
            if function is not None and not home.startswith(("comfy.", "torch.")):
                return f"'{home}' replaced {type(module).__name__}.{name}"
        if not type(module).__module__.startswith(("comfy.", "torch.")):
            return f"'{type(module).__module__}' put its own {type(module).__name__} into the blocks"
    return "another node replaced the attention without handing ComfyUI's options on"
