"""A ComfyUI ``MODEL`` whose diffusion transformer carries Layerwise Attention Pooling (Krea 2's layout)."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.ops
import torch

from ...hidden_states import HiddenStates
from ...layer_gains import apply_gains
from .token_bias import check_takes_weights

INPUT = "input"  # name of the projection in front of the pooling, in the file: txtfusion.input.weight
# Work memory of pooling, as multiples of the layer stack: block input, q, k, v, gate, and the SwiGLU's two halves.
_WORK = 12


def refiner_bias(hidden: HiddenStates) -> torch.Tensor | None:
    """``(1, tokens)`` float32, log(w) on each token's key in the refiner, -inf at and below 0; None if all weights are 1."""
    return hidden.weights.clamp_min(0).log()[None] if (hidden.weights != 1).any() else None


def input_projection(pooling: torch.nn.Module) -> torch.nn.Linear | None:
    """The layer in front of the pooling, of models whose encoder has a width that the pooling's heads do not divide."""
    return getattr(pooling, INPUT, None)


def attach_input_projection(model, weight: torch.Tensor) -> None:
    """Put the layer that stock loaders do not know in front of a MODEL's pooling, under the same patcher.

    Args:
        model: a MODEL as the stock loader made it.
        weight: ``(width of the pooling, width of the hidden states)``.
    """
    layer = comfy.ops.manual_cast.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    known = model.model.diffusion_model.txtfusion.projector.weight
    layer.weight = torch.nn.Parameter(weight.to(known.dtype), requires_grad=False)
    layer.weight_comfy_model_dtype = known.dtype
    layer.bias = None
    model.model.diffusion_model.txtfusion.add_module(INPUT, layer)
    model.size = 0
    model.model_size()  # counted again, with it


class FusionModel:
    """The parts of a MODEL that pooling needs.

    Raises:
        ValueError: if the model has no Layerwise Attention Pooling inside.
    """

    def __init__(self, model):
        self.patcher = model
        self.network = getattr(model.model, "diffusion_model", None)
        if not hasattr(self.network, "txtfusion") or not hasattr(self.network, "txtlayers"):
            found = type(self.network).__name__ if self.network is not None else type(model.model).__name__
            raise ValueError(
                f"This MODEL ({found}) has no Layerwise Attention Pooling inside. Load a Krea 2 "
                f"checkpoint with the stock Load Diffusion Model node, or the UniFusion miniature."
            )

    @property
    def taps(self) -> int:
        return self.network.txtlayers

    @property
    def width(self) -> int:
        """Width of one pooled token."""
        return self.network.txtdim

    @property
    def states_width(self) -> int:
        """Width of the hidden states: of the pooling, or of the projection in front of it."""
        projection = input_projection(self.network.txtfusion)
        return self.width if projection is None else projection.in_features

    def check(self, hidden: HiddenStates, which: str) -> None:
        """Refuse hidden states this model was not trained with, and values that would turn the picture black."""
        if hidden.width != self.states_width or len(hidden.taps) != self.taps:
            raise ValueError(
                f"The {which} hidden states have {len(hidden.taps)} taps of width {hidden.width} (from {hidden.vlm}), "
                f"but this MODEL pools {self.taps} taps of width {self.states_width}. Load the text encoder that belongs "
                f"to the MODEL: Qwen3-VL-4B with CLIPLoader type 'krea2' for Krea 2, or the CLIP that Load UniFusion "
                f"Model hands out beside it."
            )
        if not torch.isfinite(hidden.states).all():
            raise ValueError(
                f"The {which} hidden states contain NaN or infinite values. Encode again with precision "
                f"'fp32', and without LoRAs on the text encoder."
            )

    def pool(self, hidden: HiddenStates, gains: list[float], keep_rms: bool) -> torch.Tensor:
        """Layerwise pooling and refiner with the model's own weights and LoRAs, exactly as the model would do it.

        Token weights w enter the refiner as a bias log(w) on the token's key. A token of negative weight is no key there:
        what it means is subtracted in the drawing model (``token_bias``), and must not reach other tokens before.

        Returns:
            ``(1, tokens, width)`` in the model's compute dtype, on ComfyUI's intermediate device.

        Raises:
            ValueError: if every weight is negative: nothing is left to subtract from.
        """
        if (hidden.weights != 1).any():
            check_takes_weights(self.network)
            if not (hidden.weights > 0).any():
                raise ValueError(
                    "Every token has a negative weight, so there is nothing to subtract from. Leave some words or a "
                    "reference at a weight above 0."
                )
        return self._fuse(apply_gains(hidden.states, gains, keep_rms), refiner_bias(hidden))

    def pool_pair(
        self, negative: HiddenStates, positive: HiddenStates, gains: list[float], keep_rms: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool two unweighted sequences of one length as one batch, in the order in which ComfyUI batches them.

        Its sampler evaluates a positive and a negative of one length together; matrix products round differently at
        another batch size, so only the same batch gives the same bits.
        """
        states = torch.cat([negative.states, positive.states])
        below, above = self._fuse(apply_gains(states, gains, keep_rms), None).split(1)
        return below.clone(), above.clone()

    def _fuse(self, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        pooled = self.through_pooling(
            states, bias, lambda pooling, x, bias: pooling(x, mask=None if bias is None else bias[:, None, None, :])
        )
        return pooled.to(comfy.model_management.intermediate_device())

    def through_pooling(self, states: torch.Tensor, bias: torch.Tensor | None, read: Callable):
        """Bring the MODEL to its device and let ``read(pooling, states, bias)`` work with its pooling.

        Args:
            states: ``(batch, tokens, taps, width)``; given to ``read`` in the model's compute dtype, on its device, behind
                the input projection where there is one.
            bias: ``(batch, tokens)`` on each token's key in the refiner, or None.
            read: what to do with the pooling; its result is returned.
        """
        dtype, device = self.patcher.model.get_dtype_inference(), self.patcher.load_device
        need = states.numel() * dtype.itemsize * _WORK + 8 * states.shape[0] * states.shape[1] ** 2 * 4
        comfy.model_management.load_models_gpu([self.patcher], memory_required=need)
        if bias is not None:
            bias = bias.to(device=device, dtype=dtype)
        with comfy.model_management.cuda_device_context(device):
            states = states.to(device=device, dtype=dtype)
            projection = input_projection(self.network.txtfusion)
            return read(self.network.txtfusion, states if projection is None else projection(states), bias)
