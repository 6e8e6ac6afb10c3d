"""Which tokens of a sequence condition the picture (paper, VERIFI: image tokens and what was written)."""

from __future__ import annotations

import torch

from .hidden_states import GENERATED, IMAGE, INSTRUCTION, SYSTEM
from .quoting import quoted

# What of a sequence conditions the picture. Keys are shown to creators and stored in graphs.
SELECTIONS = (
    "images and rewritten text",
    "rewritten text only",
    "images and prompt",
    "everything after the system prompt",
    "everything",
)

# After VERIFI; the last is no selection of the pass that wrote, but a second pass.
ENCODE_AGAIN = "encode the rewritten text as a prompt"
REWRITE_SELECTIONS = (
    "images and rewritten text",
    "rewritten text only",
    "everything after the system prompt",
    ENCODE_AGAIN,
)


def selection_mask(roles: torch.Tensor, selection: str, opener: int | None = None) -> torch.Tensor:
    """Which tokens condition the picture.

    Args:
        roles: ``(tokens,)``.
        selection: one of :data:`SELECTIONS`.
        opener: first token of the assistant's turn. From there to the end is used when the selection is empty or
            names text and there is none: an unconditional branch needs at least one token, and the miniature is
            trained with these.

    Returns:
        ``(tokens,)`` bool.
    """
    images = roles >= IMAGE
    if selection == "images and rewritten text":
        text, mask = roles == GENERATED, images | (roles == GENERATED)
    elif selection == "rewritten text only":
        text = mask = roles == GENERATED
    elif selection == "images and prompt":
        text = (roles == INSTRUCTION) | (roles == GENERATED)
        mask = images | text
    elif selection == "everything after the system prompt":
        return roles != SYSTEM
    elif selection == "everything":
        return torch.ones_like(roles, dtype=torch.bool)
    else:
        raise ValueError(f"Unknown token selection {quoted(selection)}; use one of: {', '.join(SELECTIONS)}.")
    if opener is not None and not text.any():
        mask = mask.clone()
        mask[opener:] = True
    return mask
