"""Pooled conditioning in ComfyUI's form: a list of [tensor, options]."""

from __future__ import annotations

import torch

from ...hidden_states import HiddenStates, take
from . import token_features
from .fusion_model import FusionModel
from .pooling_weights import ABOUT, POOLED_BY, fingerprint

MISSING_NEGATIVE = "unifusion_missing_negative"
STOCK_ABOUT = "unifusion_encoded"  # what conditioning remembers of its hidden states; not pooled, so not ``ABOUT``


def about(hidden: HiddenStates) -> dict:
    """What pooled conditioning remembers of its hidden states; plain values, so that it can be saved."""
    return {
        "vlm": hidden.vlm,
        "taps": list(hidden.taps),
        "width": hidden.width,
        "prompt": hidden.prompt,
        "text": hidden.text,
        "roles": hidden.count_by_role(),
    }


def _entry(model: FusionModel, hidden: HiddenStates, tensor: torch.Tensor) -> list:
    known = {**about(hidden), "width": model.width, POOLED_BY: fingerprint(model.patcher)}
    return [tensor, {"pooled_output": None, ABOUT: known}]


def schedule_pieces(hidden: HiddenStates) -> list[tuple[float, float, torch.Tensor]]:
    """Parts of the schedule in which the same tokens count: (start, end, ``(tokens,)`` bool), start included."""
    edges = sorted({0.0, 1.0, *hidden.spans.flatten().tolist()})
    pieces: list[tuple[float, float, torch.Tensor]] = []
    for start, end in zip(edges[:-1], edges[1:]):
        keep = (hidden.weights != 0) & (hidden.spans[:, 0] <= start) & (hidden.spans[:, 1] >= end)
        if pieces and torch.equal(keep, pieces[-1][2]):
            pieces[-1] = (pieces[-1][0], end, keep)
        else:
            pieces.append((start, end, keep))
    return pieces


def check_some_left(keep: torch.Tensor, which: str, start: float, end: float) -> None:
    """Refuse a part of the schedule without a token.

    Raises:
        ValueError: naming the part.
    """
    if not keep.any():
        raise ValueError(
            f"No token of the {which} hidden states is left between {start:.0%} and {end:.0%} of the "
            f"schedule: every weight is 0 or outside its range. Raise a weight or widen a range."
        )


def groups(hidden: HiddenStates, keep: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Tokens that are pooled together: (region, ``(tokens,)`` bool); regions stay apart, as in the drawing model."""
    if hidden.regions is None:
        return [(0, keep)]
    numbers = sorted(set(hidden.regions[keep].tolist()))
    return [(number, keep & (hidden.regions == number)) for number in numbers]


def to_conditioning(model: FusionModel, hidden: HiddenStates, which: str, gains: list[float], keep_rms: bool) -> list:
    """Pool hidden states to one entry, whatever its weights and schedule.

    Each part of the schedule in which other tokens count is pooled by itself (the refiner mixes tokens) and all stand
    behind one another; at a step only the tokens of its part are used.

    Returns:
        One entry; its tensor is ``(1, tokens of all parts, width + token_features.FEATURES)``.

    Raises:
        ValueError: if the states do not belong to the model or no token is left.
    """
    model.check(hidden, which)
    parts = []
    for start, end, keep in schedule_pieces(hidden):
        check_some_left(keep, which, start, end)
        for number, here in groups(hidden, keep):
            part = hidden if here.all() else take(hidden, here)
            mask = hidden.masks[number - 1] if number else None
            pooled = model.pool(part, gains, keep_rms)
            parts.append(token_features.attach(pooled, part.weights, span=(start, end), mask=mask))
    return [_entry(model, hidden, torch.cat(parts, dim=1))]


def pair_to_conditioning(
    model: FusionModel, positive: HiddenStates, negative: HiddenStates, gains: list[float], keep_rms: bool
) -> tuple[list, list]:
    """Positive and negative, pooled together where the stock sampler would evaluate them together.

    Raises:
        ValueError: as :func:`to_conditioning`.
    """
    plain = all(
        (hidden.weights == 1).all() and hidden.regions is None and len(schedule_pieces(hidden)) == 1
        for hidden in (positive, negative)
    )
    if not plain or positive.tokens != negative.tokens:
        return (
            to_conditioning(model, positive, "positive", gains, keep_rms),
            to_conditioning(model, negative, "negative", gains, keep_rms),
        )
    model.check(positive, "positive")
    model.check(negative, "negative")
    below, above = model.pool_pair(negative, positive, gains, keep_rms)
    return (
        [_entry(model, positive, token_features.attach(above, positive.weights))],
        [_entry(model, negative, token_features.attach(below, negative.weights))],
    )


def no_negative(positive: list) -> list:
    """Zeros in the shape of the positive, as Krea 2 Turbo's own graphs use at CFG 1, marked as not given."""
    tensor = positive[0][0]
    return [[torch.zeros_like(tensor), {"pooled_output": None, MISSING_NEGATIVE: True}]]
