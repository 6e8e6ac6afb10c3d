"""Conditioning to latent: what the DiT Sampler and the Guider do."""

from __future__ import annotations

import math

from ..profiles import SAMPLER_PRESETS, SamplerPreset
from .conditioning import MISSING_NEGATIVE
from .sampling import UniFusionGuider, sample, shifted


def settings(preset: dict) -> SamplerPreset:
    """Sampling settings from the node's preset widget.

    Raises:
        ValueError: if there is no such preset.
    """
    key = preset.get("preset")
    if key in SAMPLER_PRESETS:
        return SAMPLER_PRESETS[key]
    if key != "custom":
        raise ValueError(f"There is no sampler preset '{key}'; choose one of: {', '.join(SAMPLER_PRESETS)}, custom.")
    return SamplerPreset("custom", preset["steps"], preset["cfg"], preset["sampler"], preset["scheduler"],
                         preset["shift"], preset["mu"])


def guider(model, positive, negative, images_only, cfg: float, image_guidance: float) -> UniFusionGuider:
    """A guider with both scales.

    Raises:
        ValueError: if a branch is missing that a scale needs.
    """
    image = cfg if image_guidance < 0 else image_guidance
    split = images_only is not None and not math.isclose(cfg, image)
    if image_guidance >= 0 and images_only is None and not math.isclose(cfg, image):
        raise ValueError(f"Image guidance {image:g} needs the 'images only' conditioning, but none is connected. Connect "
                         f"it from Layerwise Attention Pool, or set image guidance to -1.")
    needs_negative = not math.isclose(image if split else cfg, 1.0)
    if needs_negative and (negative is None or any(MISSING_NEGATIVE in entry[1] for entry in negative)):
        raise ValueError(f"CFG {cfg:g} needs a negative, but none is connected. Connect the 'negative' output of the "
                         f"encode node through Layerwise Attention Pool, or set CFG to 1.")
    made = UniFusionGuider(model)
    made.set_branches(positive, negative if negative is not None else positive, images_only if split else None)
    made.set_scales(cfg, image)
    return made


def run(model, positive, negative, images_only, latent: dict, seed: int, preset: dict, denoise: float,
        image_guidance: float) -> dict:
    """Returns the drawn latent.

    Raises:
        ValueError: for a latent of other channels, a missing negative, or a model of another kind.
    """
    chosen = settings(preset)
    start = latent["samples"]
    channels = model.get_model_object("latent_format").latent_channels
    if start.count_nonzero() and start.shape[1] != channels:
        raise ValueError(f"The latent has {start.shape[1]} channels, but this MODEL draws in {channels}. Encode the picture "
                         f"with the VAE that belongs to the MODEL.")
    if denoise == 0:
        return latent
    model = shifted(model, start, chosen.shift, chosen.mu)
    return sample(guider(model, positive, negative, images_only, chosen.cfg, image_guidance), latent, seed, chosen.steps,
                  chosen.sampler, chosen.scheduler, denoise)
