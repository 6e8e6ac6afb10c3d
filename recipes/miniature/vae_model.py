"""The miniature's VAE for its training: :mod:`unifusion.still_vae`, written as a file in Wan 2.1's layout.

The file loads in ComfyUI's stock VAELoader, which takes the width from ``decoder.head.0.gamma``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unifusion.still_vae import (
    LATENT_CHANNELS,
    WAN_MEAN,
    WAN_STD,
    Resample,
    ResidualBlock,
    StillConv,
    StillVAE,
    from_wan,
)

__all__ = ["WAN_MEAN", "WAN_STD", "StillVAE", "from_wan", "to_wan"]

TEMPORAL = (False, True, True)  # which downsamplings of Wan 2.1 also halve time


@torch.no_grad()
def to_wan(model: StillVAE) -> dict[str, Tensor]:
    """A Wan 2.1 state dict, float32, equal to ``model`` on single frames.

    Latents of the file are ``normalised * WAN_STD + WAN_MEAN``. The variance half of ``conv1`` is a
    constant 1e-6: hosts take the mean. Temporal convolutions copy the newest frame, so a video is
    handled frame by frame.
    """
    mean, std = torch.tensor(WAN_MEAN), torch.tensor(WAN_STD)
    state = {name: value.detach().float().cpu().clone() for name, value in model.state_dict().items()}
    centre = state.pop("statistics.running_mean")
    scale = std / state.pop("statistics.running_var").sqrt()
    del state["statistics.num_batches_tracked"]

    weight, bias = state["conv1.weight"], state["conv1.bias"]
    half = LATENT_CHANNELS
    weight[:half] *= scale[:, None, None, None]
    bias[:half] = (bias[:half] - centre) * scale + mean
    weight[half:], bias[half:] = 0.0, -13.8
    state["conv2.weight"] = state["conv2.weight"] / std[None, :, None, None]
    state["conv2.bias"] -= state["conv2.weight"].flatten(1) @ mean

    for name, module in model.named_modules():
        if isinstance(module, StillConv):
            kernel = state[f"{name}.weight"]
            frames = 3 if kernel.shape[-1] == 3 else 1
            volume = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
            volume[:, :, -1] = kernel
            state[f"{name}.weight"] = volume
        elif isinstance(module, ResidualBlock) or name.endswith("head"):
            for index in (0, 3):
                gamma = (
                    f"{name}.residual.{index}.gamma" if isinstance(module, ResidualBlock) else f"{name}.{index}.gamma"
                )
                if gamma in state:
                    state[gamma] = state[gamma][:, None]

    widths = [module.resample[1].in_channels for module in model.encoder.downsamples if isinstance(module, Resample)]
    for level, width in enumerate(widths):
        if TEMPORAL[level]:
            state[f"encoder.downsamples.{3 * level + 2}.time_conv.weight"] = _newest_frame(width, 1)
            state[f"encoder.downsamples.{3 * level + 2}.time_conv.bias"] = torch.zeros(width)
    widths = [module.resample[1].in_channels for module in model.decoder.upsamples if isinstance(module, Resample)]
    for level, width in enumerate(widths):
        if TEMPORAL[::-1][level]:
            state[f"decoder.upsamples.{4 * level + 3}.time_conv.weight"] = _newest_frame(width, 2)
            state[f"decoder.upsamples.{4 * level + 3}.time_conv.bias"] = torch.zeros(2 * width)
    return state


def _newest_frame(width: int, copies: int) -> Tensor:
    """A temporal kernel (copies * width, width, 3, 1, 1) that passes the newest frame through."""
    kernel = torch.zeros(copies * width, width, 3, 1, 1)
    kernel[:, :, -1, 0, 0] = torch.eye(width).repeat(copies, 1)
    return kernel
