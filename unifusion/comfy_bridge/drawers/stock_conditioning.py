"""Drawing models without pooling inside: hidden states become exactly what ComfyUI's own text encoding hands them."""

from __future__ import annotations

from functools import reduce

import comfy.model_management
import torch

from ...combination import combine
from ...hidden_states import PADDING, HiddenStates, take
from ...layer_gains import apply_gains
from ...profiles import EXACT, MASK_ALWAYS, MASK_NEVER, Profile, profiles_of_model
from .conditioning import MISSING_NEGATIVE, STOCK_ABOUT, about, check_some_left, schedule_pieces
from .weighed_text import accepting_weights
from .weighed_tokens import with_features

_NEAR = "near: 2 is not quite the word given twice, which would also move the words behind it"


class StockDrawer:
    """A MODEL that takes hidden states of its encoder without pooling, by its row of ``profiles``.

    Raises:
        ValueError: if no row knows the MODEL.
    """

    def __init__(self, model):
        self.patcher = model
        self.features = features_of(model)
        kind = kind_of(model)
        self.rows = profiles_of_model(kind, features_of(model)) if kind else []
        if not self.rows:
            raise ValueError(
                f"This MODEL ({type(_network(model) or model.model).__name__}) has no Layerwise Attention Pooling inside, "
                f"and is none whose conditioning is known. Load Krea 2 or a model of docs/models.md with the stock "
                f"Load Diffusion Model node, or the UniFusion miniature; or use this MODEL's own text-encode node."
            )

    def row_for(self, hidden: HiddenStates, which: str) -> Profile:
        """The row that hidden states and MODEL share.

        Raises:
            ValueError: if they come from another encoder, other layers, or hold values that would turn the picture black.
        """
        own = [row for row in self.rows if any(hidden.vlm.split(" ")[0] == name for _, name in row.encoders)]
        wanted = [row for row in own if len(row.taps) == len(hidden.taps)]
        features = self.features
        found = len(hidden.taps) * hidden.width
        if not wanted or (features and found != features):
            row = self.rows[0]
            raise ValueError(
                f"The {which} hidden states have {len(hidden.taps)} taps of width {hidden.width} (from {hidden.vlm}), but "
                f"this MODEL ({row.title}) takes {len(row.taps)} of its own encoder"
                + (f", {features} numbers a token" if features else "")
                + ". Load the text encoder that belongs to the MODEL, with the CLIPLoader type of its name."
            )
        if not torch.isfinite(hidden.states).all():
            raise ValueError(
                f"The {which} hidden states contain NaN or infinite values. Encode again with precision "
                f"'fp32', and without LoRAs on the text encoder."
            )
        return wanted[0]

    def check(self, hidden: HiddenStates, which: str) -> None:
        """Refuse hidden states of another encoder, and values that would turn the picture black."""
        self.row_for(hidden, which)

    def to_conditioning(self, hidden: HiddenStates, which: str, gains: list[float], keep_rms: bool) -> list:
        """Hidden states as ComfyUI's conditioning: one entry, whatever its weights and schedule.

        Raises:
            ValueError: if the states do not belong to the model, or no token is left.
        """
        row = self.row_for(hidden, which)
        check_weights(row, hidden)
        for start, end, counts in schedule_pieces(hidden):
            check_some_left(counts, which, start, end)
        keep = hidden.weights != 0
        part = hidden if keep.all() else take(hidden, keep)
        tensor = combine(apply_gains(part.states, gains, keep_rms), row.combination)
        if row.zero_padding:
            tensor = torch.where((part.roles == PADDING)[None, :, None], 0.0, tensor)
        tensor = with_features(tensor.to(comfy.model_management.intermediate_device()), part.weights, part.spans)
        return [[tensor, {"pooled_output": None, **mask_options(row, part), STOCK_ABOUT: about(hidden)}]]

    def pair(
        self, positive: HiddenStates, negative: HiddenStates, gains: list[float], keep_rms: bool
    ) -> tuple[list, list]:
        """Positive and negative conditioning."""
        return (
            self.to_conditioning(positive, "positive", gains, keep_rms),
            self.to_conditioning(negative, "negative", gains, keep_rms),
        )

    def no_negative(self, positive: list) -> list:
        """Zeros in the shape of the positive, marked as not given."""
        tensor, options = positive[0]
        kept = {key: options[key] for key in ("pooled_output", "attention_mask") if key in options}
        return [[torch.zeros_like(tensor), {**kept, MISSING_NEGATIVE: True}]]

    def ready(self):
        """A MODEL that takes weights and schedules; without them it is stock conditioning."""
        return accepting_weights(self.patcher, self.rows[0])

    def note(self, hidden: HiddenStates) -> str:
        """What the report says of the combination."""
        row = self.row_for(hidden, "positive")
        how = "the layer as it is" if len(hidden.taps) == 1 else f"{len(hidden.taps)} layers, {row.combination}"
        if ((hidden.weights != 1) & (hidden.weights != 0)).any():
            how += "; weights are " + ("exact" if row.weights == EXACT else _NEAR)
        return how


def kind_of(model) -> str:
    """Class of a MODEL that a row names, or an empty string; the nearest class counts, as some build on others."""
    for parent in type(model.model).__mro__:
        rows = profiles_of_model(parent.__name__)
        if rows:
            return parent.__name__ if any(_has_sign(row, _network(model)) for row in rows) else ""
    return ""


def _has_sign(row: Profile, network) -> bool:
    return not row.sign or getattr(network, row.sign, None) is not None


def features_of(model) -> int:
    """Numbers a token that the text input of a MODEL takes; 0 if its row does not say where that stands."""
    if _network(model) is None:
        return 0
    for row in profiles_of_model(kind_of(model)):
        layer = reduce(lambda part, name: getattr(part, name, None), row.text_input.split("."), _network(model))
        if layer is not None and row.text_input:
            return int(getattr(layer, "in_features", 0))
    return 0


def _network(model):
    return getattr(getattr(model, "model", None), "diffusion_model", None)


def check_weights(row: Profile, hidden: HiddenStates) -> None:
    """Refuse weights and regions where nothing carries them; 0 always removes.

    Raises:
        ValueError: if a token has another weight than 0 or 1, every weight is negative, or a region is set.
    """
    if hidden.regions is not None and hidden.regions.any():
        raise ValueError(
            f"Regions need Layerwise Attention Pooling inside the MODEL, which {row.title} has not. Use ComfyUI's own "
            f"Conditioning (Set Mask) behind the pool, without regions in front of it."
        )
    if row.weights:
        if not (hidden.weights > 0).any() and (hidden.weights < 0).any():
            raise ValueError(
                "Every token has a negative weight, so there is nothing to subtract from. Leave some words or a "
                "reference at a weight above 0."
            )
        return
    if ((hidden.weights != 1) & (hidden.weights != 0)).any():
        raise ValueError(
            f"{row.title} has no place that carries a token's weight, so strengths and word weights other than 0 and 1 "
            f"would do nothing. Set them to 1; 0 removes."
        )


def mask_options(row: Profile, hidden: HiddenStates) -> dict:
    """The attention mask the row's own text encoding hands on, ``(1, tokens)`` int64."""
    mask = (hidden.roles != PADDING).long()[None]
    if row.mask == MASK_NEVER or (row.mask != MASK_ALWAYS and bool(mask.all())):
        return {}
    return {"attention_mask": mask.to(comfy.model_management.intermediate_device())}
