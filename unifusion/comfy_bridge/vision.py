"""Features of the vision tower, kept while the picture and the encoder stay the same.

They do not depend on the prompt, the seed or the system prompt. The stores live on the encoder's module and go with
it; features are in main memory, so they never hold GPU memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch

FEATURE_LIMIT = 512 * 2**20  # bytes of features kept per encoder
NEGATIVE_LIMIT = 256 * 2**20  # bytes of hidden states of empty prompts kept per encoder


class Store:
    """The most recently used results, at most ``limit`` bytes; a single larger result is not kept.

    Attributes:
        hits, misses: how often :meth:`get` found something, and did not.
        nbytes: bytes kept now.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.hits = self.misses = self.nbytes = 0
        self._kept: OrderedDict[object, tuple[object, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key, make: Callable[[], object], size: Callable[[object], int]):
        """What is kept under ``key``, or what ``make`` returns, whose bytes ``size`` counts."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][0]
        self.misses += 1
        value = make()
        if (count := size(value)) <= self.limit:
            self._kept[key] = (value, count)
            self.nbytes += count
            while self.nbytes > self.limit:
                self.nbytes -= self._kept.popitem(last=False)[1][1]
        return value


def _store(vlm, name: str, limit: int) -> Store:
    module = vlm.clip.cond_stage_model
    if not hasattr(module, name):
        setattr(module, name, Store(limit))
    return getattr(module, name)


def feature_store(vlm) -> Store:
    """Features of views, of this encoder."""
    return _store(vlm, "unifusion_features", FEATURE_LIMIT)


def negative_store(vlm) -> Store:
    """Hidden states of empty prompts, of this encoder."""
    return _store(vlm, "unifusion_negatives", NEGATIVE_LIMIT)


def fingerprint(view: torch.Tensor) -> str:
    """The same for views with the same pixels, whichever tensor holds them."""
    data = view.detach().cpu().contiguous()
    return f"{hashlib.blake2b(data.view(torch.uint8).numpy(), digest_size=16).hexdigest()} {tuple(data.shape)}"


def image_features(vlm, view: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Merged tokens and DeepStack features of one view.

    Args:
        vlm: a :class:`~unifusion.comfy_bridge.vlm.VLM`, loaded.
        view: ``(1, height, width, 3)`` in 0..1.

    Returns:
        ``(tokens, width)`` and ``{"grid": (1, 3), "deepstack": [...]}`` on the encoder's device.
    """
    def compute():
        merged, extra = vlm.transformer.preprocess_embed({"type": "image", "data": view}, device=vlm.device)
        return merged.cpu(), extra["grid"].cpu(), [features.cpu() for features in extra["deepstack"]]

    def size(kept) -> int:
        return sum(features.numel() * features.element_size() for features in (kept[0], *kept[2]))

    # patches_uuid: a LoRA on the text encoder makes other features.
    merged, grid, deepstack = feature_store(vlm).get((fingerprint(view), vlm.clip.patcher.patches_uuid), compute, size)
    return merged.to(vlm.device), {"grid": grid.to(vlm.device),
                                   "deepstack": [features.to(vlm.device) for features in deepstack]}
