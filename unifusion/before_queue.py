"""What can be known of a node's values before the graph is queued, so that the creator reads it at once.

A value of None comes through a link and is checked when the node runs.
"""

from __future__ import annotations

import math

from .layer_gains import CUSTOM, PRESETS, parse_gains
from .profiles import SAMPLER_PRESETS, parse_taps
from .quoting import quoted
from .system_prompts import SYSTEM_PROMPTS, system_prompt_for

NOT_CONNECTED = ""  # default of a socket; one that is linked is None here
MOST_GUIDANCE = 30.0
MOST = 1000  # layers or taps; how many there are is known when the encoder is


def check_taps(taps: str | None) -> None:
    """Raises ValueError unless the text may be a list of layers; empty means the profile's."""
    if taps is None or not taps.strip():
        return
    try:
        parse_taps(taps, MOST)
    except ValueError:
        raise ValueError(
            f"Taps must be rising layer numbers separated by commas such as '2, 5, 8', found {quoted(taps)}."
        ) from None


def check_gains(preset: str | None, gains: str | None) -> None:
    """Raises ValueError for an unknown preset, or for 'custom' with a text that no encoder could read as gains."""
    if preset is not None and preset not in (*PRESETS, CUSTOM):
        raise ValueError(f"There is no gain preset {quoted(preset)}; choose one of: {', '.join((*PRESETS, CUSTOM))}.")
    if preset != CUSTOM or gains is None:
        return
    plain = [part for part in gains.replace(";", ",").split(",") if part.strip()]
    parse_gains(gains, tuple(range(MOST if "=" in gains else len(plain))))


def cfg_of(preset: dict | None) -> float | None:
    """CFG of a sampler preset's widget; None where it is not known yet.

    ``auto`` goes by the MODEL, and ComfyUI hands the settings of ``custom`` to a running node alone.
    """
    if not isinstance(preset, dict):
        return None
    known = SAMPLER_PRESETS.get(preset.get("preset", ""))
    return known.cfg if known else preset.get("cfg")


def check_guidance(cfg: float | None, image_guidance: float | None, *, negative: bool, images_only: bool) -> None:
    """Raises ValueError for scales out of range, or for a branch that they need and that is not connected."""
    for name, value, least in (("CFG", cfg, 0.0), ("Image guidance", image_guidance, -1.0)):
        if value is not None and not least <= value <= MOST_GUIDANCE:
            raise ValueError(f"{name} must be from {least:g} to {MOST_GUIDANCE:g}, found {value:g}.")
    if image_guidance is None:
        return
    image = cfg if image_guidance < 0 else image_guidance
    if image is not None and not math.isclose(image, 1.0) and not negative:
        raise ValueError(
            f"{'CFG' if image_guidance < 0 else 'Image guidance'} {image:g} needs a negative, but none is connected. "
            f"Connect the 'negative' output of the encode node through Layerwise Attention Pool, or set CFG to 1."
        )
    if cfg is not None and image_guidance >= 0 and not math.isclose(image_guidance, cfg) and not images_only:
        raise ValueError(
            f"Image guidance {image_guidance:g} needs the 'images only' conditioning, but none is connected. "
            f"Connect it from Layerwise Attention Pool, or set image guidance to -1."
        )


def check_rewrite(
    *,
    prompt: str | None,
    edited_text: str | None,
    system_prompt: str | None,
    custom_system_prompt: str | None,
    taps: str | None,
    pictures: bool,
) -> None:
    """Raises ValueError if there is nothing to rewrite, the own system prompt is missing, or taps are no layers."""
    if prompt is not None and edited_text is not None and not (prompt.strip() or edited_text.strip() or pictures):
        raise ValueError(
            "There is nothing to rewrite: the prompt is empty and no picture is connected. Write a prompt "
            "or connect a picture."
        )
    if system_prompt is not None and custom_system_prompt is not None:
        system_prompt_for(next(iter(SYSTEM_PROMPTS)), system_prompt, custom_system_prompt)
    check_taps(taps)
