"""How models other than the pack's own want a picture resized before their encoder sees it.

The same operations as ComfyUI's edit-encode nodes, so that states equal theirs bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

# JoyImage was trained on these (height, width) alone: every multiple of 64 whose area is about 1024 x 1024.
_JOYIMAGE_SIDES = {
    512: (1792, 1856, 1920, 1984, 2048),
    576: (1600, 1664, 1728, 1792),
    640: (1472, 1536, 1600),
    704: (1344, 1408, 1472),
    768: (1216, 1280, 1344),
    832: (1152, 1216),
    896: (1088, 1152),
    960: (1024, 1088),
    1024: (960, 1024),
    1088: (896, 960),
    1152: (832, 896),
    1216: (768, 832),
    1280: (768,),
    1344: (704, 768),
    1408: (704,),
    1472: (640, 704),
    1536: (640,),
    1600: (576, 640),
    1664: (576,),
    1728: (576,),
    1792: (512, 576),
    1856: (512,),
    1920: (512,),
    1984: (512,),
    2048: (512,),
}


def _to(picture: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    return F.interpolate(picture.movedim(-1, 1), size=(height, width), mode=mode).movedim(1, -1)


def area_of_384(picture: torch.Tensor) -> torch.Tensor:
    """``(1, height, width, 3)`` to an area of 384 x 384 in the picture's shape (Qwen-Image Edit, Boogu-Image)."""
    height, width = picture.shape[1:3]
    scale = (384 * 384 / (width * height)) ** 0.5
    return _to(picture, round(height * scale), round(width * scale), "area")


def longest_side_of_384(picture: torch.Tensor) -> torch.Tensor:
    """``(1, height, width, 3)`` with its longest side brought down to 384; smaller ones stay (Mage-Flow)."""
    height, width = picture.shape[1:3]
    longest = max(height, width)
    if longest <= 384:
        return picture
    scale = 384 / longest
    return _to(picture, max(1, round(height * scale)), max(1, round(width * scale)), "bicubic")


def nearest_joyimage_size(picture: torch.Tensor) -> torch.Tensor:
    """``(1, height, width, 3)`` cut to the nearest shape JoyImage knows, about 1024 x 1024 in area."""
    height, width = picture.shape[1:3]
    sizes = [(tall, wide) for tall, sides in _JOYIMAGE_SIDES.items() for wide in sides]
    tall, wide = min(sizes, key=lambda size: abs(size[0] / size[1] - height / width))
    if width / height > wide / tall:
        cut = round((width - width * ((wide / tall) / (width / height))) / 2)
        picture = picture[:, :, cut : width - cut]
    elif width / height < wide / tall:
        cut = round((height - height * ((width / height) / (wide / tall))) / 2)
        picture = picture[:, cut : height - cut]
    return _to(picture, tall, wide, "bilinear")


PictureRule = Callable[[torch.Tensor], torch.Tensor]
