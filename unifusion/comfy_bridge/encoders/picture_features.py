"""Features of the vision tower, kept while the picture and the encoder stay the same.

They do not depend on the prompt, the seed or the system prompt. They are kept in main memory, so they never hold GPU
memory.
"""

from __future__ import annotations

import torch

from .clip_hooks import weights_key
from .kept import feature_store
from .picture_fingerprint import fingerprint


def image_features(vlm, view: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Merged tokens and DeepStack features of one view.

    Args:
        vlm: a :class:`~unifusion.comfy_bridge.encoders.text_encoder.VLM`, loaded.
        view: ``(1, height, width, 3)`` in 0..1.

    Returns:
        ``(tokens, width)`` and ``{"grid": (1, 3), "deepstack": [...]}``; the grid alone for encoders without DeepStack.
        Features are on the encoder's device, the grid in main memory, where its numbers are read.
    """
    seen = None

    def compute():
        nonlocal seen
        merged, extra = vlm.transformer.preprocess_embed({"type": "image", "data": view}, device=vlm.device)
        if isinstance(extra, dict):
            grid, deepstack = extra["grid"].cpu(), extra["deepstack"]
        else:
            grid, deepstack = extra.cpu(), None
        seen = merged, grid, deepstack  # what was just made need not come back from main memory
        return merged.cpu(), grid, None if deepstack is None else [features.cpu() for features in deepstack]

    def size(kept) -> int:
        return sum(features.numel() * features.element_size() for features in (kept[0], *(kept[2] or ())))

    # A LoRA or a hook on the text encoder makes other features.
    kept = feature_store(vlm).get((fingerprint(view), weights_key(vlm.clip)), compute, size)
    merged, grid, deepstack = seen or kept
    if deepstack is None:
        return merged.to(vlm.device), grid
    return merged.to(vlm.device), {"grid": grid, "deepstack": [features.to(vlm.device) for features in deepstack]}
