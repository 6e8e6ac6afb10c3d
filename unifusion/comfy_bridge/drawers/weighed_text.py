"""Weights of tokens in drawing models without pooling inside, carried as in Krea 2: columns of the conditioning's tensor,
which a wrapper on the MODEL takes off and gives to every attention over the text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP

from ...profiles import TEXT_LAST, TEXT_REFINED_FIRST, Profile
from . import token_features
from .token_bias import OVERRIDE, Placed, TokenWeights, Watch

WRAPPER = "unifusion_weighed_text"


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
    """APPLY_MODEL wrapper: takes weights out of the conditioning and gives them to the attention.

    Attributes:
        row: of the MODEL.
        features: numbers a token without the columns behind them; 0 = what the MODEL was given is never weighed.
    """

    def __init__(self, row: Profile, features: int):
        self.row, self.features = row, features
        self.watch = Watch()
        self.placed = Placed()

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options or {}
        if c_crossattn is None or c_crossattn.shape[-1] != self.features + token_features.FEATURES:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        carried = token_features.split(c_crossattn, self.features)
        if not carried.weighted:
            return executor(x, t, c_concat, carried.tokens, control, options, **kwargs)
        network = executor.class_obj.diffusion_model
        placed = self.placed.of(carried.weights)
        carrier = _carrier(self.row, network, carried.weights, options.get(OVERRIDE), placed)
        out = executor(x, t, c_concat, carried.tokens, control, {**options, OVERRIDE: carrier}, **kwargs)
        self.watch.look(carrier, 1, network)
        return out


def accepting_weights(model, row: Profile, features: int):
    """A clone of a MODEL that takes weighted conditioning in any sampler; the same if it does already."""
    if not row.weights or not features or model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER):
        return model
    clone = model.clone()
    weighed = WeighedText(row, features)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.watch.new_run)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.placed.run)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, weighed)
    return clone
