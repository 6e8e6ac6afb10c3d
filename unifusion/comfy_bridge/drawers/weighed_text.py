"""Weights and schedules of tokens in drawing models without pooling inside: a wrapper on the MODEL takes them off the
conditioning, drops what does not count at a step, and gives the weights to every attention over the text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from comfy.conds import CONDConstant
from comfy.patcher_extension import WrappersMP

from ...profiles import TEXT_LAST, TEXT_REFINED_FIRST, Profile
from .pooled_context import at_this_step, check_finite
from .token_bias import OVERRIDE, Placed, TokenWeights, Watch
from .weighed_tokens import WeighedTokens

WRAPPER = "unifusion_weighed_text"
APART = "unifusion_schedule"  # conditionings in which it differs are not drawn in one batch


class TextLastWeights(TokenWeights):
    """The text stands behind the picture (JoyImage)."""

    def __init__(self, weights: torch.Tensor, earlier: Callable | None = None, placed: dict | None = None):
        super().__init__(weights, earlier, placed=placed)
        self._own = (self.bias, self.signs)

    def __call__(self, backend: Callable, q, k, v, heads, mask=None, **kwargs):
        bias, signs = self._own
        before = k.shape[-2] - bias.shape[1]
        if before >= 0:
            self.bias = F.pad(bias, (before, 0))
            self.signs = None if signs is None else F.pad(signs, (before, 0), value=1.0)
        return super().__call__(backend, q, k, v, heads, mask=mask, **kwargs)


class RefinedFirstWeights(TokenWeights):
    """The text is refined by itself, then the picture by itself, then both together (Lumina 2, Z-Image)."""

    def __init__(
        self,
        weights: torch.Tensor,
        earlier: Callable | None = None,
        placed: dict | None = None,
        *,
        text_layers: int,
        picture_layers: int,
    ):
        super().__init__(weights, earlier, placed=placed)
        self._pictures = range(text_layers, text_layers + picture_layers)
        self._seen = 0

    def _is_over_text(self, q: torch.Tensor, k: torch.Tensor) -> bool:
        number, self._seen = self._seen, self._seen + 1
        return number not in self._pictures and super()._is_over_text(q, k)


def _carrier(
    row: Profile, network: torch.nn.Module, weights: torch.Tensor, earlier: Callable | None, placed: dict
) -> TokenWeights:
    if row.text_place == TEXT_LAST:
        return TextLastWeights(weights, earlier, placed)
    if row.text_place == TEXT_REFINED_FIRST:
        layers = len(network.context_refiner), len(network.noise_refiner)
        return RefinedFirstWeights(weights, earlier, placed, text_layers=layers[0], picture_layers=layers[1])
    return TokenWeights(weights, earlier, placed=placed)


class WeighedText:
    """APPLY_MODEL wrapper: takes weights and schedule off the conditioning and gives them to the drawing model.

    Attributes:
        row: of the MODEL.
    """

    def __init__(self, row: Profile):
        self.row = row
        self.watch = Watch()
        self.placed = Placed()

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options or {}
        kwargs.pop(APART, None)
        if not isinstance(c_crossattn, WeighedTokens):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        base = executor.class_obj
        ready = at_this_step(c_crossattn.read(), t, base.model_sampling)
        tokens, weights = ready.tokens, ready.weights
        if ready.kept is not None:
            kwargs = _shortened(kwargs, ready.kept)
            missing = max(0, self.row.left_padding - tokens.shape[1])
            tokens = F.pad(tokens, (0, 0, missing, 0))
            weights = None if weights is None else F.pad(weights, (missing, 0), value=1.0)
        if weights is None:
            return executor(x, t, c_concat, tokens, control, options, **kwargs)
        network = base.diffusion_model
        carrier = _carrier(self.row, network, weights, options.get(OVERRIDE), self.placed.of(weights))
        out = executor(x, t, c_concat, tokens, control, {**options, OVERRIDE: carrier}, **kwargs)
        self.watch.look(carrier, 1, network)
        return out


def _shortened(kwargs: dict, kept: torch.Tensor) -> dict:
    """What ComfyUI's models are told of the text's length, for the tokens that count at a step."""
    mask, count = kwargs.get("attention_mask"), kwargs.get("num_tokens")
    known = {}
    if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] == len(kept):
        known["attention_mask"] = mask[:, kept.to(mask.device)]
    if isinstance(count, int):
        known["num_tokens"] = max(1, count - int((~kept).sum()))
    return {**kwargs, **known}


def check_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: refuse what would be drawn wrongly before the first step, and keep schedules apart.

    ComfyUI draws two conditionings in one batch where their shapes agree; rows in which other tokens count at a step have
    other lengths then.

    Raises:
        ValueError: if conditioning holds NaN or mixed schedules.
    """
    guider = executor.class_obj
    guider.conds = {name: [_apart(cond) for cond in conds or ()] for name, conds in guider.conds.items()}
    return executor(*args, **kwargs)


def _apart(cond: dict) -> dict:
    context = cond.get("cross_attn")
    if not isinstance(context, WeighedTokens):
        return cond
    check_finite(context)
    carried = context.read()
    if not carried.scheduled:
        return cond
    schedule = CONDConstant(carried.spans.tolist())
    return {**cond, "model_conds": {**cond.get("model_conds", {}), APART: schedule}}


def accepting_weights(model, row: Profile):
    """A clone of a MODEL that takes weights and schedules in any sampler; the same if it does already."""
    if model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER):
        return model
    clone = model.clone()
    weighed = WeighedText(row)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, check_run)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.watch.new_run)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.placed.run)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, weighed)
    return clone
