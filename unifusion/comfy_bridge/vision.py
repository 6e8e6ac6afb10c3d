"""Features of the vision tower, kept while the picture and the encoder stay the same.

They do not depend on the prompt, the seed or the system prompt. The store lives on the encoder's module and goes
with it; its features are in main memory, so they never hold GPU memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch

LIMIT = 512 * 2**20  # bytes kept per encoder


class FeatureStore(OrderedDict):
    """Least recently used features, bounded by :data:`LIMIT` bytes; counts its hits and misses.

    ``negative`` holds the last encode of an empty prompt.
    """

    def __init__(self):
        super().__init__()
        self.hits = self.misses = 0
        self.negative = None

    def put(self, key: str, value) -> None:
        self[key] = value
        while len(self) > 1 and sum(_bytes(kept) for kept in self.values()) > LIMIT:
            self.popitem(last=False)


def _bytes(value) -> int:
    merged, extra = value
    return sum(t.numel() * t.element_size() for t in (merged, *extra["deepstack"]))


def feature_store(vlm) -> FeatureStore:
    """The store of this encoder."""
    module = vlm.clip.cond_stage_model
    if not hasattr(module, "unifusion_features"):
        module.unifusion_features = FeatureStore()
    return module.unifusion_features


def _fingerprint(view: torch.Tensor) -> str:
    data = view.detach().cpu().contiguous()
    return hashlib.blake2b(data.view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest() + str(tuple(data.shape))


def image_features(vlm, view: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Merged tokens and DeepStack features of one view.

    Args:
        vlm: a :class:`~unifusion.comfy_bridge.vlm.VLM`, loaded.
        view: ``(1, height, width, 3)`` in 0..1.

    Returns:
        ``(tokens, width)`` and ``{"grid": (1, 3), "deepstack": [...]}`` on the encoder's device.
    """
    store = feature_store(vlm)
    key = f"{_fingerprint(view)} {vlm.clip.patcher.patches_uuid}"
    if key in store:
        store.hits += 1
        store.move_to_end(key)
    else:
        store.misses += 1
        merged, extra = vlm.transformer.preprocess_embed({"type": "image", "data": view}, device=vlm.device)
        store.put(key, (merged.cpu(), {"grid": extra["grid"].cpu(), "deepstack": [d.cpu() for d in extra["deepstack"]]}))
    merged, extra = store[key]
    return merged.to(vlm.device), {"grid": extra["grid"].to(vlm.device),
                                   "deepstack": [d.to(vlm.device) for d in extra["deepstack"]]}
