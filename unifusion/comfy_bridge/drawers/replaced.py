"""Names what another pack has put into a drawing model in place of ComfyUI's own."""

from __future__ import annotations

import torch


def _foreign(module: torch.nn.Module) -> str | None:
    for name in ("_forward", "forward"):
        function = vars(module).get(name) or vars(type(module)).get(name)
        home = getattr(function, "__module__", None) or ""
        if function is not None and not home.startswith(("comfy.", "torch.")):
            return f"'{home}' replaced {type(module).__name__}.{name}"
    if not type(module).__module__.startswith(("comfy.", "torch.")):
        return f"'{type(module).__module__}' put its own {type(module).__name__} into the model"
    return None


def replaced_by(network: torch.nn.Module) -> str | None:
    """Who replaced a forward or an attention of the network or its blocks, as the rest of a sentence; None if nobody."""
    blocks = list(getattr(network, "blocks", ()))
    for module in (network, *blocks, *(getattr(block, "attn", block) for block in blocks)):
        found = _foreign(module)
        if found is not None:
            return found
    return None
