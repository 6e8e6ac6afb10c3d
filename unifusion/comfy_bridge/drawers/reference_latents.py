"""Reference latents of stock nodes beside pooled conditioning."""

from __future__ import annotations

import comfyui_version
import torch


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
