"""Pooled conditioning in ComfyUI's form: a list of [tensor, options]."""

from __future__ import annotations

import torch

from ..hidden_states import HiddenStates, take
from .dit import FusionModel

MISSING_NEGATIVE = "unifusion_missing_negative"


def schedule_pieces(spans: torch.Tensor) -> list[tuple[float, float]]:
    """Parts of the schedule in which the same tokens count, from the tokens' ``(tokens, 2)`` spans."""
    edges = sorted({0.0, 1.0, *spans.flatten().tolist()})
    return list(zip(edges[:-1], edges[1:]))


def to_conditioning(model: FusionModel, hidden: HiddenStates, which: str, gains: list[float], keep_rms: bool) -> list:
    """Pool hidden states; one entry for each part of the schedule in which other tokens count.

    Raises:
        ValueError: if the states do not belong to the model or no token is left.
    """
    model.check(hidden, which)
    entries = []
    for start, end in schedule_pieces(hidden.spans):
        keep = (hidden.weights > 0) & (hidden.spans[:, 0] <= start) & (hidden.spans[:, 1] >= end)
        if not keep.any():
            raise ValueError(f"No token of the {which} hidden states is left between {start:.0%} and {end:.0%} of the "
                             f"schedule: every weight is 0 or outside its range. Raise a weight or widen a range.")
        part = hidden if keep.all() else take(hidden, keep)
        options = {"pooled_output": None}
        if (start, end) != (0.0, 1.0):
            options |= {"start_percent": start, "end_percent": end}
        entries.append([model.pool(part, gains, keep_rms), options])
    return entries


def no_negative(positive: list) -> list:
    """Zeros in the shape of the positive, as Krea 2 Turbo's own graphs use at CFG 1, marked as not given."""
    tensor = positive[0][0]
    return [[torch.zeros_like(tensor), {"pooled_output": None, MISSING_NEGATIVE: True}]]
