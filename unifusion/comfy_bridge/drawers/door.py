"""The MODEL door: which way a MODEL takes hidden states, found by its class and shape."""

from __future__ import annotations

from ...profiles import LAP, PROFILES, Profile, profiles_of_model
from .lap import LapDrawer
from .pooled_context import accepting_pooled, has_pooling
from .stock_conditioning import StockDrawer, features_of, kind_of
from .weighed_text import accepting_weights


def drawer_for(model) -> LapDrawer | StockDrawer:
    """The way a MODEL takes hidden states.

    Raises:
        ValueError: naming the MODEL, if none is known.
    """
    if has_pooling(model):
        return LapDrawer(model)
    return StockDrawer(model)


def rows_of(model) -> list[Profile]:
    """Rows of ``profiles`` that a MODEL belongs to, the nearest first; empty if none is known."""
    if has_pooling(model):
        taps = model.model.diffusion_model.txtlayers
        return [row for row in PROFILES.values() if row.combination == LAP and len(row.taps) == taps]
    return profiles_of_model(kind_of(model), features_of(model)) if kind_of(model) else []


def accepting(model):
    """A MODEL that takes what the pool hands on, in any sampler; one that the pack does not know is returned as it is."""
    if has_pooling(model):
        return accepting_pooled(model)
    rows = rows_of(model)
    return accepting_weights(model, rows[0]) if rows else model
