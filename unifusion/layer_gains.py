"""Gains of single layers before pooling."""

from __future__ import annotations

import torch

from .quoting import quoted

OFF = "off"
CUSTOM = "custom"
LARGEST = 1000.0  # far beyond use; keeps the scaled states finite in float32

# The first gain is the one Krea 2 users settled on: it strengthens prompt following and keeps known characters.
# Tap numbers are Krea 2's, of twelve; other encoders take the taps of the same depth (see preset_gains).
_TAPS = 12
PRESETS: dict[str, dict[int, float]] = {
    OFF: {},
    "1.45 on tap 11": {11: 1.45},
    "more layout (early taps 1.2)": {4: 1.2, 5: 1.2},
    "more detail (late taps 1.2)": {9: 1.2, 10: 1.2, 11: 1.2},
}


def preset_gains(preset: str, taps: int) -> list[float]:
    """Gain of every tap of a preset.

    Args:
        preset: a key of :data:`PRESETS`.
        taps: how many there are; a preset's tap k of twelve is the one at the same depth.

    Raises:
        ValueError: if there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(
            f"There is no preset of layer gains {quoted(preset)}; choose one of: {', '.join(PRESETS)}, {CUSTOM}."
        )
    return with_gains(
        [1.0] * taps, {max(1, round(number * taps / _TAPS)): gain for number, gain in PRESETS[preset].items()}
    )


def parse_gains(text: str, taps: tuple[int, ...]) -> list[float]:
    """Gain of every tap from a creator's text.

    Args:
        text: ``"11=1.45, 5=0.9"`` (tap numbers counted from 1), or as many plain numbers as there are taps.
        taps: the tapped layers.

    Raises:
        ValueError: if it cannot be read, a tap does not exist, or a gain is not a number within :data:`LARGEST`.
    """
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    gains = [1.0] * len(taps)
    plain = parts and all("=" not in part for part in parts)
    if plain and len(parts) != len(taps):
        raise ValueError(
            f"{len(parts)} layer gains were given ({quoted(text)}), but the encoder has {len(taps)} taps; write "
            f"one number per tap, or single taps as in '11=1.45'."
        )
    try:
        if plain:
            gains, changes = [float(part) for part in parts], {}
        else:
            changes = {int(number): float(gain) for number, gain in (part.split("=") for part in parts)}
    except ValueError:
        raise ValueError(
            f"Layer gains must look like '11=1.45, 5=0.9' or be one number per tap, found {quoted(text)}."
        ) from None
    gains = with_gains(gains, changes)
    if not all(abs(gain) <= LARGEST for gain in gains):
        raise ValueError(f"Layer gains must be numbers from -{LARGEST:g} to {LARGEST:g}, found {quoted(text)}.")
    return gains


def with_gains(gains: list[float], changes: dict[int, float]) -> list[float]:
    """Copy of ``gains`` with some taps (counted from 1) set.

    Raises:
        ValueError: if there is no such tap.
    """
    gains = list(gains)
    for number, gain in changes.items():
        if not 1 <= number <= len(gains):
            raise ValueError(
                f"Layer gains name tap {number}, but the encoder has only {len(gains)} taps (1 to {len(gains)})."
            )
        gains[number - 1] = gain
    return gains


def apply_gains(states: torch.Tensor, gains: list[float], keep_rms: bool = True) -> torch.Tensor:
    """Scale the taps.

    Args:
        states: ``(batch, tokens, taps, width)`` float32.
        gains: one per tap; all 1 returns ``states`` itself.
        keep_rms: rescale each token so that its RMS over taps and width stays what it was; without this, spiking
            one deep tap drowns the others and with them the identity of known subjects.

    Returns:
        the same shape and dtype.
    """
    if all(gain == 1.0 for gain in gains):
        return states
    scaled = states * torch.tensor(gains, dtype=states.dtype, device=states.device)[:, None]
    if keep_rms:
        before = states.float().square().mean(dim=(2, 3), keepdim=True)
        after = scaled.float().square().mean(dim=(2, 3), keepdim=True)
        scaled = scaled * (before / after.clamp_min(1e-20)).sqrt().to(states.dtype)
    return scaled
