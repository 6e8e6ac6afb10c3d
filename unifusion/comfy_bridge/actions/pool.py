"""Hidden states to conditioning: what the Layerwise Attention Pool node does."""

from __future__ import annotations

from collections.abc import Sequence

from ...hidden_states import HiddenStates, join
from ...layer_gains import CUSTOM, OFF, parse_gains, preset_gains
from ...lora_contract import CONTRACT, contract_lines
from ...quoting import quoted
from ..drawers.door import drawer_for


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
    drawer = drawer_for(model)
    positive = join([positive, *(part for part in more if part is not None)])
    values = (
        parse_gains(gains, positive.taps) if gain_preset == CUSTOM else preset_gains(gain_preset, len(positive.taps))
    )
    unused = len(values) == 1 and values != [1.0] and (keep_rms or gain_preset != CUSTOM)
    if unused:
        values = [1.0]
    if negative is None:
        pooled = drawer.to_conditioning(positive, "positive", values, keep_rms)
        below = drawer.no_negative(pooled)
        lines = [
            _describe("positive", positive, pooled, drawer),
            "negative: none is connected, which is right at CFG 1 only (zeros are handed on)",
        ]
    else:
        pooled, below = drawer.pair(positive, negative, values, keep_rms)
        lines = [_describe("positive", positive, pooled, drawer), _describe("negative", negative, below, drawer)]
    if images_only is None:
        images = below
    else:
        images = drawer.to_conditioning(images_only, "images-only", values, keep_rms)
        lines.append(_describe("images only", images_only, images, drawer))
    lines += contract_lines(model.get_attachment("lora_metadata"), positive, "LoRA")
    lines += contract_lines(model.get_attachment(CONTRACT), positive, "model")
    if gain_preset != CUSTOM and gains.strip():
        lines.append(f"gains {quoted(gains.strip())} are not used: set gain_preset to '{CUSTOM}' to use them.")
    if unused:
        lines.append("layer gains are not used: this model takes one layer alone, which has nothing to be set against.")
    if any(value != 1 for value in values):
        lines.append(
            "layer gains: "
            + ", ".join(f"L{tap} x{value:g}" for tap, value in zip(positive.taps, values) if value != 1)
            + (" (RMS kept)" if keep_rms else "")
        )
    return drawer.ready(), pooled, below, images, "\n".join(lines)


def _describe(which: str, hidden: HiddenStates, entries: list, drawer) -> str:
    counts = ", ".join(f"{count} {role}" for role, count in hidden.count_by_role().items())
    size = sum(entry[0].numel() * entry[0].element_size() for entry in entries)
    timed = int(((hidden.spans != hidden.spans.new_tensor([0.0, 1.0])).any(dim=1) & (hidden.weights != 0)).sum())
    weighted = int(((hidden.weights != 1) & (hidden.weights > 0)).sum())
    subtracted = int((hidden.weights < 0).sum())
    removed = int((hidden.weights == 0).sum())
    notes = (f"; {weighted} weighted" if weighted else "") + (f"; {removed} removed by weight 0" if removed else "")
    notes += f"; {subtracted} subtracted" if subtracted else ""
    notes += f"; {timed} for a part of the schedule" if timed else ""
    return (
        f"{which}: {hidden.in_words()}{notes}; {drawer.note(hidden)} ({hidden.tokens} tokens: {counts}; "
        f"{hidden.nbytes / 2**20:.1f} MB to {size / 2**20:.2f} MB)"
    )
