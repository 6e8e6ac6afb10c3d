"""Conditioning to latent: what the DiT Sampler and the Guider do."""

from __future__ import annotations

import logging
import math

import torch

from ...profiles import SAMPLER_PRESETS, SamplerPreset
from ...quoting import quoted
from ..drawers.conditioning import MISSING_NEGATIVE
from ..drawers.door import accepting, rows_of
from ..drawers.flow_sampling import UniFusionGuider, in_form, sample, shifted
from ..drawers.reference_latents import check_reference_latents

AUTO = "auto"


def settings(preset: dict, model=None) -> SamplerPreset:
    """Sampling settings from the node's preset widget.

    Args:
        preset: the widget's value.
        model: the MODEL, by which ``auto`` goes; a preset of another model is said in the log.

    Raises:
        ValueError: if there is no such preset, or ``auto`` knows none for the MODEL.
    """
    key = preset.get("preset")
    rows = rows_of(model) if model is not None else []
    if key == AUTO:
        if not rows or not rows[0].presets:
            raise ValueError(
                "There is no sampler preset for this MODEL, so 'auto' cannot choose one. Set preset to 'custom' and give "
                "steps, CFG and shift."
            )
        return SAMPLER_PRESETS[rows[0].presets[0]]
    if key in SAMPLER_PRESETS:
        for warning in notes(preset, model):
            logging.warning(f"UniFusion: {warning}")
        return SAMPLER_PRESETS[key]
    if key != "custom":
        raise ValueError(
            f"There is no sampler preset {quoted(key)}; choose one of: {', '.join(SAMPLER_PRESETS)}, custom, {AUTO}."
        )
    return SamplerPreset(
        "custom", preset["steps"], preset["cfg"], preset["sampler"], preset["scheduler"], preset["shift"], preset["mu"]
    )


def cfg_of(preset: dict, model) -> float | None:
    """The CFG of the node's preset widget, or None where the node is going to refuse it.

    Args:
        preset: each value by itself, or with its input's name behind it, as ComfyUI gives them while it asks for inputs.
        model: the MODEL, by which ``auto`` goes.
    """
    try:
        preset = {name: value[0] if isinstance(value, tuple) else value for name, value in preset.items()}
        return settings(preset, model if preset.get("preset") == AUTO else None).cfg
    except (ValueError, KeyError, AttributeError):
        return None


def still_needed(model, cfg: float | None, image_guidance: float, given: dict) -> list[str]:
    """Branches that are connected, not computed yet, and will count; ComfyUI computes the others only for other nodes.

    Args:
        given: the node's inputs; a connected one that is not computed yet is None.
    """
    if cfg is None:
        return [name for name in ("negative", "images_only") if name in given and given[name] is None]
    image = cfg if image_guidance < 0 else image_guidance
    counting = {"negative": not math.isclose(image, 1.0), "images_only": not math.isclose(cfg, image)}
    if getattr(model, "model_options", {}).get("disable_cfg1_optimization"):
        counting["negative"] = True
    return [name for name, counts in counting.items() if counts and name in given and given[name] is None]


def notes(preset: dict, model) -> list[str]:
    """What a creator should know of the chosen preset: that it is another model's, or that ``auto`` had a choice."""
    key = preset.get("preset")
    rows = rows_of(model) if model is not None else []
    fitting = list(dict.fromkeys(name for row in rows for name in row.presets))
    if key == AUTO and len(fitting) > 1:
        took = SAMPLER_PRESETS[fitting[0]]
        others = " or ".join(f"'{name}'" for name in fitting[1:])
        return [
            f"'auto' draws with '{took.key}': {took.steps} steps, CFG {took.cfg:g}. This MODEL may as well be one for "
            f"{others}; if it is, choose that preset."
        ]
    if key in SAMPLER_PRESETS and fitting and key not in fitting:
        return [
            f"The sampler preset '{key}' belongs to another model than this MODEL ({rows[0].title}). Set preset to 'auto', "
            f"or to '{fitting[0]}'."
        ]
    return []


def guider(model, positive, negative, *, cfg: float, images_only=None, image_guidance: float = -1.0) -> UniFusionGuider:
    """A guider with both scales.

    Takes the MODEL of the loader as well as the pool's: in any other sampler only the pool's knows pooled conditioning.

    Raises:
        ValueError: if a branch is missing that a scale needs, or reference latents would be ignored.
    """
    check_reference_latents(model, positive)
    image = cfg if image_guidance < 0 else image_guidance
    split = not math.isclose(cfg, image)
    if split and _missing(images_only):
        raise ValueError(
            f"Image guidance {image:g} needs the 'images only' conditioning, but none is connected. "
            f"Connect it from Layerwise Attention Pool, or set image guidance to -1."
        )
    needs_negative = not math.isclose(image, 1.0)
    if needs_negative and _missing(negative):
        raise ValueError(
            f"CFG {cfg:g} needs a negative, but none is connected. Connect the 'negative' output of the "
            f"encode node through Layerwise Attention Pool, or set CFG to 1."
        )
    if split and needs_negative and _equal(negative, images_only):
        raise ValueError(
            f"Image guidance {image:g} has nothing to act on: 'negative' and 'images only' are the same. "
            f"For the pool's negative encode an empty prompt without pictures, for its images_only an empty "
            f"prompt with them."
        )
    if split and "sampler_cfg_function" in model.model_options:
        raise ValueError(
            "This MODEL carries a CFG function of its own (such as RescaleCFG), which knows one scale "
            "only. Remove that node, or set image guidance to -1."
        )
    made = UniFusionGuider(accepting(model))
    made.set_branches(positive, negative if negative is not None else positive, images_only if split else None)
    made.set_scales(cfg, image)
    return made


def _missing(conditioning) -> bool:
    return conditioning is None or any(MISSING_NEGATIVE in entry[1] for entry in conditioning)


def _equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(torch.equal(a[0], b[0]) for a, b in zip(one, other))


def run(
    model,
    positive,
    negative=None,
    *,
    latent: dict,
    seed: int,
    preset: dict,
    images_only=None,
    denoise: float = 1.0,
    image_guidance: float = -1.0,
) -> dict:
    """Returns the drawn latent.

    Raises:
        ValueError: for a latent of other channels, a missing negative, reference latents that would be ignored, or a
            model of another kind.
    """
    chosen = settings(preset, model)
    start = latent["samples"]
    channels = model.get_model_object("latent_format").latent_channels
    if start.count_nonzero() and start.shape[1] != channels:
        raise ValueError(
            f"The latent has {start.shape[1]} channels, but this MODEL draws in {channels}. Encode the "
            f"picture with the VAE that belongs to the MODEL."
        )
    if denoise == 0:  # nothing is drawn; what comes behind still gets a latent of this MODEL's form
        return {**latent, "samples": in_form(model, latent)}
    model = shifted(model, start, chosen.shift, chosen.mu, chosen.steps)
    made = guider(model, positive, negative, cfg=chosen.cfg, images_only=images_only, image_guidance=image_guidance)
    return sample(made, latent, seed, chosen.steps, chosen.sampler, chosen.scheduler, denoise)
