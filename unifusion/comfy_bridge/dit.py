"""A ComfyUI ``MODEL`` whose diffusion transformer carries Layerwise Attention Pooling (Krea 2's layout)."""

from __future__ import annotations

import inspect
from functools import cache

import comfy.model_management
import comfy.patcher_extension
import comfyui_version
import torch
import torch.nn.functional as F

from ..hidden_states import HiddenStates
from ..layer_gains import apply_gains

WRAPPER = "unifusion_pooled_context"
# Work memory of pooling, as multiples of the layer stack: block input, q, k, v, gate, and the SwiGLU's two halves.
_WORK = 12


@cache
def _asks_patches(attention: type) -> bool:
    return "attn1_patch" in inspect.getsource(attention.forward)


def takes_weights(network: torch.nn.Module) -> bool:
    """Whether this ComfyUI's Krea 2 asks attention patches about its keys, as 0.30 does and 0.27 does not."""
    return _asks_patches(type(network.blocks[0].attn))


def check_takes_weights(network: torch.nn.Module) -> None:
    """Refuse weights where they would be ignored without a word.

    Raises:
        ValueError: if this ComfyUI is too old for them.
    """
    if not takes_weights(network):
        raise ValueError(f"Strengths and word weights other than 1 need ComfyUI 0.30 or newer; in this one "
                         f"({comfyui_version.__version__}) Krea 2's attention has no place for them. Update ComfyUI, or "
                         f"set every strength and weight to 1 (0 removes as well).")


def check_takes_reference_latents(network: torch.nn.Module) -> None:
    """Refuse reference latents where they would be ignored without a word.

    Raises:
        ValueError: if the Krea 2 of this ComfyUI is too old for them.
    """
    if hasattr(network, "txtfusion") and not hasattr(network, "default_ref_method"):
        raise ValueError(f"Reference latents need ComfyUI 0.30 or newer; in this one ({comfyui_version.__version__}) "
                         f"Krea 2 ignores them. Update ComfyUI, or take the 'Set Reference Latent' node out.")


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
            raise ValueError(f"This MODEL ({found}) has no Layerwise Attention Pooling inside. Load a Krea 2 "
                             f"checkpoint with the stock Load Diffusion Model node, or the UniFusion miniature.")

    @property
    def taps(self) -> int:
        return self.network.txtlayers

    @property
    def width(self) -> int:
        return self.network.txtdim

    def check(self, hidden: HiddenStates, which: str) -> None:
        """Refuse hidden states this model was not trained with, and values that would turn the picture black."""
        if hidden.width != self.width or len(hidden.taps) != self.taps:
            raise ValueError(
                f"The {which} hidden states have {len(hidden.taps)} taps of width {hidden.width} (from {hidden.vlm}), "
                f"but this MODEL pools {self.taps} taps of width {self.width}. Load the text encoder that belongs to "
                f"the MODEL: Qwen3-VL-4B with CLIPLoader type 'krea2' for Krea 2, or the miniature's own CLIP.")
        if not torch.isfinite(hidden.states).all():
            raise ValueError(f"The {which} hidden states contain NaN or infinite values. Encode again with precision "
                             f"'fp32', and without LoRAs on the text encoder.")

    def pool(self, hidden: HiddenStates, gains: list[float], keep_rms: bool) -> torch.Tensor:
        """Layerwise pooling and refiner with the model's own weights and LoRAs, exactly as the model would do it.

        Token weights w enter the refiner as a bias log(w) on the token's key.

        Returns:
            ``(1, tokens, width)``, or ``(1, tokens, width + 1)`` with log(w) in the last column when a weight is
            not 1; in the model's compute dtype, on ComfyUI's intermediate device.
        """
        bias = None
        if (hidden.weights != 1).any():
            check_takes_weights(self.network)
            bias = hidden.weights.log()[None]
        return self._fuse(apply_gains(hidden.states, gains, keep_rms), bias)

    def pool_pair(self, negative: HiddenStates, positive: HiddenStates, gains: list[float],
                  keep_rms: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool two unweighted sequences of one length as one batch, in the order in which ComfyUI batches them.

        Its sampler evaluates a positive and a negative of one length together; matrix products round differently at
        another batch size, so only the same batch gives the same bits.
        """
        states = torch.cat([negative.states, positive.states])
        below, above = self._fuse(apply_gains(states, gains, keep_rms), None).split(1)
        return below.clone(), above.clone()

    def _fuse(self, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        dtype, device = self.patcher.model.get_dtype_inference(), self.patcher.load_device
        need = states.numel() * dtype.itemsize * _WORK + 8 * states.shape[0] * states.shape[1] ** 2 * 4
        comfy.model_management.load_models_gpu([self.patcher], memory_required=need)
        if bias is not None:
            bias = bias.to(device=device, dtype=dtype)
        with comfy.model_management.cuda_device_context(device):
            pooled = self.network.txtfusion(states.to(device=device, dtype=dtype),
                                            mask=None if bias is None else bias[:, None, None, :])
        if bias is not None:
            pooled = torch.cat([pooled, bias[..., None]], dim=-1)
        return pooled.to(comfy.model_management.intermediate_device())


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
            args, kwargs = _with_key_bias(args, kwargs, bias)
    network._unpack_context = lambda pooled: pooled
    network.txtfusion.forward = lambda pooled, **_: pooled
    try:
        return executor(x, timesteps, context, *args, **kwargs)
    finally:
        del network._unpack_context, network.txtfusion.forward


def _with_key_bias(args: tuple, kwargs: dict, bias: torch.Tensor) -> tuple[tuple, dict]:
    """Add ``bias`` (batch, text tokens) to the logits of the text keys in every block of the DiT."""

    def patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
        mask = F.pad(bias, (0, k.shape[2] - bias.shape[1])).to(q.dtype)[:, None, None, :]
        return {"q": q, "k": k, "v": v, "pe": pe, "attn_mask": mask if attn_mask is None else attn_mask + mask}

    # transformer_options is the third argument behind the context in ComfyUI's forward, given by name by BaseModel.
    options = kwargs.get("transformer_options") or args[2]
    patches = {**options.get("patches", {})}
    patches["attn1_patch"] = [*patches.get("attn1_patch", []), patch]
    options = {**options, "patches": patches}
    if "transformer_options" in kwargs:
        return args, {**kwargs, "transformer_options": options}
    return (*args[:2], options, *args[3:]), kwargs
