"""Hidden states to conditioning: what the Layerwise Attention Pool node does."""

from __future__ import annotations

from collections.abc import Sequence

from ...hidden_states import HiddenStates, join
from ...layer_gains import CUSTOM, OFF, PRESETS, parse_gains, with_gains
from ..drawers.conditioning import no_negative, pair_to_conditioning, to_conditioning
from ..drawers.fusion_model import FusionModel
from ..drawers.pooled_context import accepting_pooled


def run(
    model,
    positive: HiddenStates,
    *,
    gain_preset: str = OFF,
    gains: str = "",
    keep_rms: bool = True,
    negative: HiddenStates | None = None,
    images_only: HiddenStates | None = None,
    more: Sequence[HiddenStates] = (),
):
    """Returns (MODEL, positive, negative, images only, report)."""
    fusion = FusionModel(model)
    positive = join([positive, *(part for part in more if part is not None)])
    values = (
        parse_gains(gains, positive.taps)
        if gain_preset == CUSTOM
        else with_gains([1.0] * len(positive.taps), PRESETS[gain_preset])
    )
    if negative is None:
        pooled = to_conditioning(fusion, positive, "positive", values, keep_rms)
        below = no_negative(pooled)
        lines = [
            _describe("positive", positive, pooled),
            "negative: none given; zeros are handed on, which is right at CFG 1 only",
        ]
    else:
        pooled, below = pair_to_conditioning(fusion, positive, negative, values, keep_rms)
        lines = [_describe("positive", positive, pooled), _describe("negative", negative, below)]
    if images_only is None:
        images = below
    else:
        images = to_conditioning(fusion, images_only, "images-only", values, keep_rms)
        lines.append(_describe("images only", images_only, images))
    if any(value != 1 for value in values):
        lines.append(
            "layer gains: "
            + ", ".join(f"L{tap} x{value:g}" for tap, value in zip(positive.taps, values) if value != 1)
            + (" (RMS kept)" if keep_rms else "")
        )
    return accepting_pooled(model), pooled, below, images, "\n".join(lines)


def _describe(which: str, hidden: HiddenStates, entries: list) -> str:
    counts = ", ".join(f"{count} {role}" for role, count in hidden.count_by_role().items())
    size = sum(entry[0].numel() * entry[0].element_size() for entry in entries)
    parts = f" in {len(entries)} parts of the schedule" if len(entries) > 1 else ""
    weighted = int(((hidden.weights != 1) & (hidden.weights > 0)).sum())
    removed = int((hidden.weights == 0).sum())
    notes = (f"; {weighted} weighted" if weighted else "") + (f"; {removed} removed by weight 0" if removed else "")
    return (
        f"{which}: {hidden.tokens} tokens ({counts}){notes}, {len(hidden.taps)} layers pooled to 1{parts}: "
        f"{hidden.nbytes / 2**20:.1f} MB to {size / 2**20:.2f} MB"
    )
