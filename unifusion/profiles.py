"""What each known model expects: one table that widgets, nodes, tests and help read."""

from __future__ import annotations

from dataclasses import dataclass

from .quoting import quoted
from .system_prompts import MINIATURE_SYSTEM

KREA2_SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:"
)


@dataclass(frozen=True)
class Profile:
    """How a DiT wants its VLM to be asked.

    Attributes:
        key: value of the widget, stored in graphs.
        title: name in reports.
        taps: tapped layers; empty means every third layer from the second on.
        system: system prompt of a plain encode.
        rewrite_system: key of the system prompt that VERIFI uses by default (see ``system_prompts``).
        encode_selection: tokens that condition the picture after a plain encode.
        rewrite_selection: the same after VERIFI.
        window: tokens the DiT was trained with, 0 if unknown.
        image_pixels: picture area given to the VLM by default, in pixels.
        min_side: smallest side a picture may have for the VLM, in pixels.
        negative_pictures: whether the usual negative, the empty prompt, holds the pictures of the positive too.
    """

    key: str
    title: str
    taps: tuple[int, ...]
    system: str
    rewrite_system: str
    encode_selection: str
    rewrite_selection: str
    window: int
    image_pixels: int
    min_side: int = 32
    negative_pictures: bool = True


PROFILES: dict[str, Profile] = {
    p.key: p
    for p in (
        # Krea 2: taps, template and window from its reference code; the user prompt is injected, unlike in the paper.
        Profile(
            "krea2",
            "Krea 2",
            (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35),
            KREA2_SYSTEM,
            "faithful detail",
            "everything after the system prompt",
            "everything after the system prompt",
            512,
            384 * 384,
        ),
        Profile(
            "miniature",
            "UniFusion miniature",
            (1, 3, 5, 7),
            MINIATURE_SYSTEM,
            "miniature",
            "images and prompt",
            "images and rewritten text",
            160,
            128 * 128,
            # Its unconditional training had no picture. Pictures alone mean "draw this again" to it; guidance away from
            # that overdoes every change: half of the recoloured things lost their texture or shape.
            negative_pictures=False,
        ),
        Profile(
            "qwen3vl",
            "Qwen3-VL",
            (),
            KREA2_SYSTEM,
            "faithful detail",
            "everything after the system prompt",
            "images and rewritten text",
            0,
            384 * 384,
        ),
    )
}


def taps_for(profile: Profile, layers: int) -> tuple[int, ...]:
    """Tapped layers of a VLM of ``layers`` decoder layers (paper: every third).

    Raises:
        ValueError: if the profile taps deeper than the model is.
    """
    taps = profile.taps or tuple(range(2, layers, 3))
    if max(taps) >= layers:
        raise ValueError(
            f"The profile '{profile.key}' taps layer {max(taps)}, but this text encoder has only {layers} "
            f"layers. Choose another profile, or load the text encoder that belongs to {profile.title}."
        )
    return taps


def parse_taps(text: str, layers: int) -> tuple[int, ...]:
    """Taps from a creator's list such as ``"2, 5, 8"``.

    Raises:
        ValueError: if it is no ascending list of layers of the model.
    """
    try:
        taps = tuple(int(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"Taps must be layer numbers separated by commas such as '2, 5, 8', found {quoted(text)}."
        ) from None
    if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= layers:
        raise ValueError(
            f"Taps must be rising layer numbers from 0 to {layers - 1} (this text encoder has {layers} "
            f"layers), found {quoted(text)}."
        )
    return taps


@dataclass(frozen=True)
class SamplerPreset:
    """Sampling settings that belong to a model.

    Attributes:
        steps: number of steps.
        cfg: classifier-free guidance in ComfyUI's counting, 1 = off (Krea's own g is ``cfg - 1``).
        sampler: name of a ComfyUI sampler.
        scheduler: name of a ComfyUI scheduler.
        shift: ``"fixed"`` or ``"by resolution"``.
        mu: log shift when fixed.
    """

    key: str
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    shift: str
    mu: float


SAMPLER_PRESETS: dict[str, SamplerPreset] = {
    p.key: p
    for p in (
        SamplerPreset("UniFusion miniature", 16, 2.0, "euler", "simple", "fixed", 0.5),
        SamplerPreset("Krea 2 Turbo", 8, 1.0, "euler", "simple", "fixed", 1.15),
        SamplerPreset("Krea 2 Raw", 28, 4.5, "euler", "simple", "by resolution", 1.15),
    )
}
