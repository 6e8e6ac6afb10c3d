"""Pictures that condition a picture."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Reference(NamedTuple):
    """One picture as the VLM will see it.

    Attributes:
        views: each ``(1, height, width, 3)`` float32 in 0..1; tiles first, thumbnail last.
        label: words the prompt may use for it, e.g. ``"Image 1"``; empty for none.
        strength: weight of its tokens; 1 = neutral, 2 = as if given twice, 0 = removed.
        start, end: part of the schedule in which it counts, 0..1.
    """

    views: tuple[torch.Tensor, ...]
    label: str = ""
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


def fit(picture: torch.Tensor, pixels: int, multiple: int = 32) -> torch.Tensor:
    """Resize to about ``pixels`` with the aspect kept and both sides multiples of ``multiple``; never enlarges past it.

    Args:
        picture: ``(1, height, width, 3)`` float in 0..1.
        pixels: area wanted.
        multiple: one VLM token covers ``multiple`` x ``multiple`` pixels.

    Returns:
        ``(1, height', width', 3)`` float32.
    """
    height, width = picture.shape[1:3]
    scale = (pixels / (height * width)) ** 0.5
    size = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
    if size == [height, width]:
        return picture.float()
    resized = torch.nn.functional.interpolate(picture.float().movedim(-1, 1), size=size, mode="bicubic",
                                              antialias=True, align_corners=False)
    return resized.clamp(0, 1).movedim(1, -1)


def from_images(images: dict[str, torch.Tensor], pixels: int) -> list[Reference]:
    """References at strength 1 from ComfyUI image batches; every picture of a batch is one reference.

    Args:
        images: name of the socket -> ``(batch, height, width, channels)``.
        pixels: area per picture for the VLM.
    """
    return [Reference((fit(check_picture(batch[i:i + 1], name), pixels),))
            for name, batch in images.items() for i in range(batch.shape[0])]


def check_picture(picture: torch.Tensor, name: str) -> torch.Tensor:
    """RGB of one picture; transparency is put on white.

    Raises:
        ValueError: if it is not a picture or contains NaN.
    """
    if picture.ndim != 4 or picture.shape[-1] not in (1, 3, 4) or 0 in picture.shape:
        raise ValueError(f"{name} is not a picture: its shape is {tuple(picture.shape)}, expected (1, height, width, "
                         f"3 or 4).")
    if not torch.isfinite(picture).all():
        raise ValueError(f"{name} contains NaN or infinite pixels; check the node it comes from.")
    if picture.shape[-1] == 4:
        rgb, alpha = picture[..., :3], picture[..., 3:]
        picture = rgb * alpha + (1 - alpha)
    return picture.expand(*picture.shape[:3], 3)
