"""Weights of tokens inside the drawing model: log|w| on the logits of a token's key, in every attention.

The place is ``optimized_attention_override``, which ComfyUI asks in every attention of every model that hands its
options on. Attention patches would be skipped by packs that replace a block's forward and forget ``block_index``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import comfyui_version
import torch
import torch.nn.functional as F
from comfy.ldm.modules import attention as host_attention

from .regions import RegionBias
from .replaced import replaced_by

OVERRIDE = "optimized_attention_override"
_UNKNOWN = "another node replaced the attention without handing ComfyUI's options on"
# Backends of ComfyUI that add a float mask to the logits. Others (flash, sage) drop it or give up with a warning a call.
_TAKES_MASKS = {"attention_basic", "attention_sub_quad", "attention_split", "attention_pytorch", "attention_xformers"}


@cache
def _asks_patches(attention: Any) -> bool:
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


class TokenWeights:
    """An attention override that weighs the first keys of every attention, and counts where it did.

    With p the attention over all keys, the logit of a token of weight w raised by log|w|:

    * w > 0: ``sum p_k v_k``; 2 is the token twice, 1 is identity, 0 removes it.
    * w < 0: its value is subtracted, ``sum_others p_k v_k - p_j v_j``. So for one token, with out(w) what the attention
      gives and Z its normaliser, ``out(-w) = 2 (Z_others / Z) out(0) - out(w)``.

    Attributes:
        applied: attentions that were weighed.
        bypassed: names of other overrides or backends that would have dropped the weights and were bypassed.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        earlier: Callable | None = None,
        regions: RegionBias | None = None,
        placed: dict | None = None,
    ):
        """
        Args:
            weights: ``(batch, text tokens)`` float32.
            earlier: an override that was there before; it is asked first.
            regions: where tokens count, if not everywhere.
            placed: what was made of the same weights and regions before, see :class:`Placed`.
        """
        self._placed = {} if placed is None else placed
        self.bias = weights.abs().log()
        self.signs = torch.where(weights < 0, -1.0, 1.0) if (weights < 0).any() else None
        self.earlier, self.regions = earlier, regions
        self.applied = 0
        self.bypassed: set[str] = set()

    def _is_over_text(self, q: torch.Tensor, k: torch.Tensor) -> bool:
        return k.shape[-2] >= self.bias.shape[1] and q.shape[0] % self.bias.shape[0] == 0

    def _once(self, key: tuple, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The same for every block and step: made and brought to the device once."""
        if key not in self._placed:
            self._placed[key] = make()
        return self._placed[key]

    def _bias(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """``(batch, 1, 1 or queries, keys)`` in dtype and on the device of the queries."""
        bias = F.pad(self.bias.to(device=q.device), (0, k.shape[-2] - self.bias.shape[1])).to(q.dtype)
        repeats = q.shape[0] // self.bias.shape[0]
        bias = bias.repeat(repeats, 1)[:, None, None, :]
        if self.regions is None:
            return bias
        places = self.regions.matrix(q.shape[-2], q).repeat(repeats, 1, 1, 1)
        return bias + F.pad(places, (0, k.shape[-2] - places.shape[-1]))

    def _mask(self, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        queries = 1 if self.regions is None else q.shape[-2]
        bias = self._once(("bias", q.shape[0], queries, k.shape[-2], q.dtype, q.device), lambda: self._bias(q, k))
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
        while mask.ndim < 4:
            mask = mask.unsqueeze(1 if mask.ndim == 3 else 0)
        return mask + bias

    def _signs(self, v: torch.Tensor) -> torch.Tensor:
        signs = F.pad(self.signs.to(v), (0, v.shape[-2] - self.signs.shape[1]), value=1.0)
        return signs.repeat(v.shape[0] // signs.shape[0], 1)[..., None]

    def _values(self, v: torch.Tensor) -> torch.Tensor:
        if self.signs is None:
            return v
        signs = self._once(("signs", v.shape[0], v.shape[-2], v.dtype, v.device), lambda: self._signs(v))
        return v * (signs if v.ndim == 3 else signs[:, None])

    def __call__(self, backend: Callable, q, k, v, heads, mask=None, **kwargs):
        if not self._is_over_text(q, k):  # another attention of this model
            if self.earlier is None:
                return backend(q, k, v, heads, mask=mask, **kwargs)
            return self.earlier(backend, q, k, v, heads, mask=mask, **kwargs)
        reached = False

        def plain(q, k, v, heads, mask=None, **more):
            nonlocal reached
            reached = True
            more["_inside_attn_wrapper"] = True
            name = getattr(backend, "__name__", type(backend).__name__)
            able = backend if name in _TAKES_MASKS else host_attention.attention_pytorch
            if able is not backend:
                self.bypassed.add(name)
            return able(q, k, self._values(v), heads, mask=self._mask(q, k, mask), **more)

        out = None
        if self.earlier is not None:
            out = self.earlier(plain, q, k, v, heads, mask=mask, **kwargs)
            if not reached:  # it computed by itself, without the weights
                self.bypassed.add(getattr(self.earlier, "__name__", type(self.earlier).__name__))
        if not reached:
            out = plain(q, k, v, heads, mask=mask, **kwargs)
        self.applied += 1
        return out


def with_token_weights(
    transformer_options: dict, weights: torch.Tensor, regions: RegionBias | None = None, placed: dict | None = None
) -> tuple[dict, TokenWeights]:
    """A copy of ComfyUI's options in which the first keys of every attention are weighed.

    Args:
        transformer_options: ComfyUI's.
        weights: ``(batch, text tokens)`` float32.
        regions: where tokens count, if not everywhere.
        placed: from :class:`Placed`.

    Returns:
        (options, the carrier, which counts)
    """
    carrier = TokenWeights(weights, transformer_options.get(OVERRIDE), regions, placed)
    return {**transformer_options, OVERRIDE: carrier}, carrier


class Placed:
    """Weights and regions as the attention takes them, on its device: made at the first step of a run, kept to its end.

    Without it every block of every step would bring the same numbers to the device again.
    """

    def __init__(self):
        self._made: dict[tuple, dict] = {}

    def of(self, *tensors: torch.Tensor, grid: tuple[int, ...] = ()) -> dict:
        """What was made of equal tensors of main memory, to be filled."""
        key = tuple((tuple(tensor.shape), tensor.cpu().contiguous().numpy().tobytes()) for tensor in tensors)
        return self._made.setdefault((key, grid), {})

    def run(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper: nothing stays on the device behind a run."""
        try:
            return executor(*args, **kwargs)
        finally:
            self._made.clear()


class Watch:
    """Says once a run, by name, where weights did not arrive or another node had to be bypassed for them."""

    def __init__(self):
        self.said: set[str] = set()

    def new_run(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper: the next run may say again what the last one did."""
        self.said.clear()
        return executor(*args, **kwargs)

    def look(self, carrier: TokenWeights, layers: int, network: torch.nn.Module) -> None:
        if carrier.applied < layers:
            self.say(
                f"UniFusion: the weights reached {carrier.applied} of {layers} attention layers of the drawing model, "
                f"because {replaced_by(network) or _UNKNOWN}. Weighted words and strengths act too weakly or not at "
                f"all; take that node or pack out, or set every weight to 1."
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
