"""Reference latents of stock nodes beside pooled conditioning."""

from __future__ import annotations

import comfyui_version
import torch

from .replaced import replaced_by


def check_takes_reference_latents(network: torch.nn.Module) -> None:
    """Refuse reference latents where they would be ignored without a word.

    Raises:
        ValueError: if the Krea 2 of this ComfyUI is too old for them.
    """
    if hasattr(network, "txtfusion") and not hasattr(network, "default_ref_method"):
        raise ValueError(
            f"Reference latents need ComfyUI 0.30 or newer; in this one ({comfyui_version.__version__}) "
            f"Krea 2 ignores them. Update ComfyUI, or take the 'Set Reference Latent' node out."
        )


def check_reference_latents(model, positive: list) -> None:
    """Refuse reference latents without a method, which ComfyUI drops without a word (``krea2/model.py``).

    A pack that replaced the model's forward may take them without one, so there nothing is said.

    Raises:
        ValueError: if they would be ignored.
    """
    network = model.model.diffusion_model
    carrying = [options for _, options in positive if "reference_latents" in options]
    if not carrying:
        return
    check_takes_reference_latents(network)
    default = getattr(network, "default_ref_method", "of another kind of model")
    nameless = any("reference_latents_method" not in options for options in carrying)
    if default is None and nameless and replaced_by(network) is None:
        raise ValueError(
            "The positive carries reference latents, but no method, so the MODEL would ignore them. Put "
            "an 'Edit Model Reference Method' node behind 'Set Reference Latent'; Krea 2's edit LoRAs use "
            "'index_timestep_zero'."
        )
