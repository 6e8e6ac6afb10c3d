"""Modules of transformers made loadable in parts: ComfyUI casts and moves their weights as they are used."""

from __future__ import annotations

import torch
from torch import nn

_SWAPS = ("Linear", "Embedding", "LayerNorm", "Conv2d", "Conv3d")


def make_castable(module: nn.Module, operations) -> None:
    """Give every layer the class of ``operations`` (``comfy.ops.manual_cast``) in place; weights stay where they are.

    What has no such class (a few parameters beside other modules, rotary tables) follows its input to the device.
    """
    for part in module.modules():
        name = type(part).__name__
        if name in _SWAPS and type(part) is getattr(nn, name):
            part.__class__ = getattr(operations, name)
        elif name.endswith("RMSNorm") and hasattr(part, "variance_epsilon"):
            part.__class__ = operations.RMSNorm
            part.normalized_shape, part.eps = tuple(part.weight.shape), part.variance_epsilon
            part.elementwise_affine = True
        else:
            if any(True for _ in part.parameters(recurse=False)) or any(True for _ in part.buffers(recurse=False)):
                part.register_forward_pre_hook(_follow, with_kwargs=True)
            continue
        part.weight_function, part.bias_function = [], []
        if not hasattr(part, "bias"):
            part.bias = None


def _follow(module: nn.Module, args: tuple, kwargs: dict) -> None:
    given = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if given is None:
        return
    for name, weight in module._parameters.items():
        if weight is not None and weight.device != given.device:
            module._parameters[name] = nn.Parameter(weight.to(given.device), requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.device != given.device:
            module._buffers[name] = buffer.to(given.device)
