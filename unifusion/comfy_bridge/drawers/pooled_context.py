"""Pooled conditioning in any sampler: wrappers on the MODEL.

Three places, each where ComfyUI has what is needed: the whole run (what was pooled belongs to this MODEL), one call of
the model (weights and schedule, in full precision and with the noise level at hand), its network (the pooling inside is
skipped).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP

from . import token_features
from .pooling_weights import check_same_weights
from .regions import RegionBias
from .token_bias import Placed, Watch, check_takes_weights, with_token_weights

WRAPPER = "unifusion_pooled_context"
# A step exactly on the edge of two parts belongs to the later one; edges are moved by less than the distance of steps.
_BEFORE_EDGE = 1e-5


class _Ready(NamedTuple):
    """Context of one call: tokens that count at this step, their weights ``(batch, tokens)`` or None if all are 1, the
    numbers of their regions ``(batch, tokens)`` or None if all count everywhere, and which tokens of all they are
    ``(all tokens,)`` or None if none was dropped."""

    tokens: torch.Tensor
    weights: torch.Tensor | None
    regions: torch.Tensor | None = None
    kept: torch.Tensor | None = None


def has_pooling(model) -> bool:
    """Whether a MODEL carries Layerwise Attention Pooling inside."""
    return hasattr(getattr(model.model, "diffusion_model", None), "txtfusion")


def accepting_pooled(model):
    """A clone of a MODEL that takes pooled conditioning in any sampler; a stock layer stack still works.

    A MODEL that takes it already, or that has no pooling inside, is returned as it is.
    """
    if not has_pooling(model) or model.get_wrappers(WrappersMP.DIFFUSION_MODEL, WRAPPER):
        return model
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, check_run)
    weighed = WeighedContext()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.watch.new_run)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, weighed.placed.run)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, weighed)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, WRAPPER, pooled_context)
    return clone


def check_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: refuse what would be drawn wrongly, before the first step.

    Raises:
        ValueError: if conditioning holds NaN, mixed schedules, or was pooled with other weights than this MODEL has.
    """
    guider = executor.class_obj
    width = guider.model_patcher.model.diffusion_model.txtdim
    for conds in guider.conds.values():
        for cond in conds or ():
            context = cond.get("cross_attn")
            if context is not None and context.shape[-1] == width + token_features.FEATURES:
                check_finite(context)
                token_features.split(context, width)
                check_same_weights(guider.model_patcher, cond)
    return executor(*args, **kwargs)


def check_finite(context: torch.Tensor) -> None:
    """Raises ValueError for conditioning that would turn the picture black."""
    if not torch.isfinite(context).all():
        raise ValueError(
            "The conditioning holds NaN or infinite values, so the picture would be black. Encode again with precision "
            "'fp32', and look at the node between Layerwise Attention Pool and the sampler."
        )


class WeighedContext:
    """APPLY_MODEL wrapper: takes weights and schedule out of the context and gives them to the attention."""

    def __init__(self):
        self.watch = Watch()
        self.placed = Placed()

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options or {}
        base = executor.class_obj
        network = base.diffusion_model
        pooled = hasattr(network, "txtdim") and c_crossattn is not None
        if not pooled or c_crossattn.shape[-1] != network.txtdim + token_features.FEATURES:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        carried = token_features.split(c_crossattn, network.txtdim)
        tokens, weights, regions, _ = at_this_step(carried, t, base.model_sampling)
        if weights is None and regions is None:
            return executor(x, t, c_concat, tokens, control, options, **kwargs)
        check_takes_weights(network)  # a file saved by a newer ComfyUI may hold weights
        weights = torch.ones(tokens.shape[:2]) if weights is None else weights
        places = None
        if regions is None:
            placed = self.placed.of(weights)
        else:
            grid = tuple(-(-side // network.patch) for side in x.shape[-2:])
            placed = self.placed.of(weights, regions, *carried.masks, grid=grid)
            places = placed.setdefault("places", RegionBias(regions, carried.masks, grid))
        options, carrier = with_token_weights(options, weights, places, placed)
        out = executor(x, t, c_concat, tokens, control, options, **kwargs)
        self.watch.look(carrier, len(network.blocks), network)
        return out


def at_this_step(carried: token_features.Carried, sigma: torch.Tensor, model_sampling) -> _Ready:
    """The tokens that count at a noise level.

    Args:
        carried: tokens, weights and spans of a batch.
        sigma: ``(batch,)``.
        model_sampling: the MODEL's, which knows the noise level of a part of the schedule.

    Raises:
        ValueError: if none counts.
    """
    tokens, weights, regions, kept = carried.tokens, carried.weights, carried.regions, None
    if carried.scheduled or carried.is_mask.any():
        active = ~carried.is_mask
        if carried.scheduled:  # on a GPU the noise level has to be waited for
            active &= _active(carried.spans, float(sigma.max()), model_sampling)
        if not active.any(dim=1).all():
            raise ValueError(
                "No token of the conditioning counts at this step: the references' parts of the schedule leave a gap. "
                "Widen a start or an end."
            )
        if (active == active[:1]).all():  # every row drops the same tokens: they are as if they had never been there
            index = active[0].nonzero().squeeze(1)
            kept = None if active.all() else active[0]
            tokens, weights, regions = tokens[:, index.to(tokens.device)], weights[:, index], regions[:, index]
        else:
            weights = weights.masked_fill(~active, 0.0)
    return _Ready(tokens, weights if (weights != 1).any() else None, regions if regions.any() else None, kept)


def _active(spans: torch.Tensor, sigma: float, model_sampling) -> torch.Tensor:
    """``(batch, tokens)`` bool: whether each token's part of the schedule holds the noise level."""
    active = torch.ones(spans.shape[:2], dtype=torch.bool)
    for start, end in {tuple(pair) for pair in spans.flatten(0, 1).tolist()}:
        begun = start == 0 or sigma <= float(model_sampling.percent_to_sigma(start - _BEFORE_EDGE))
        ended = end < 1 and sigma <= float(model_sampling.percent_to_sigma(end - _BEFORE_EDGE))
        if not begun or ended:
            active &= ~((spans[..., 0] == start) & (spans[..., 1] == end))
    return active


def pooled_context(executor, x, timesteps, context, *args, **kwargs):
    """DIFFUSION_MODEL wrapper: skip the pooling inside the model when the context is pooled already.

    Object patches would bind one module and unet function wrappers never see the context, so the two functions are
    made the identity for this call only.
    """
    network = executor.class_obj
    if context is None or context.shape[-1] != network.txtdim or network.txtlayers == 1:
        return executor(x, timesteps, context, *args, **kwargs)
    network._unpack_context = lambda pooled: pooled
    network.txtfusion.forward = lambda pooled, **_: pooled
    try:
        return executor(x, timesteps, context, *args, **kwargs)
    finally:
        del network._unpack_context, network.txtfusion.forward
