"""What can be known of a node's values before the graph is queued, so that the creator reads it at once.

A value of None comes through a link and is checked when the node runs.
"""

from __future__ import annotations

from .layer_gains import CUSTOM, PRESETS, parse_gains
from .profiles import parse_taps
from .quoting import quoted
from .system_prompts import SYSTEM_PROMPTS, system_prompt_for

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
