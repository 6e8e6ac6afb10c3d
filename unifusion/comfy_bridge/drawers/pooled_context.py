"""Pooled conditioning in any sampler: a wrapper on the MODEL that skips the pooling inside."""

from __future__ import annotations

import comfy.patcher_extension

from .token_bias import check_takes_weights, with_key_bias

WRAPPER = "unifusion_pooled_context"


def accepting_pooled(model):
    """A clone of a MODEL that takes pooled conditioning in any sampler; a stock layer stack still works.

    A MODEL that takes it already, or that has no pooling inside, is returned as it is.
    """
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    if not hasattr(model.model.diffusion_model, "txtfusion") or model.get_wrappers(kind, WRAPPER):
        return model
    clone = model.clone()
    clone.add_wrapper_with_key(kind, WRAPPER, pooled_context)
    return clone


def pooled_context(executor, x, timesteps, context, *args, **kwargs):
    """DIFFUSION_MODEL wrapper: skip the pooling inside the model when the context is pooled already.

    Object patches would bind one module and unet function wrappers never see the context, so the two functions are
    made the identity for this call only.
    """
    network = executor.class_obj
    if context is None or context.shape[-1] not in (network.txtdim, network.txtdim + 1) or network.txtlayers == 1:
        return executor(x, timesteps, context, *args, **kwargs)
    if context.shape[-1] == network.txtdim + 1:
        context, bias = context[..., :-1], context[..., -1]
        if bias.count_nonzero():
            check_takes_weights(network)  # a file saved by a newer ComfyUI may hold weights
            args, kwargs = with_key_bias(args, kwargs, bias)
    network._unpack_context = lambda pooled: pooled
    network.txtfusion.forward = lambda pooled, **_: pooled
    try:
        return executor(x, timesteps, context, *args, **kwargs)
    finally:
        del network._unpack_context, network.txtfusion.forward
