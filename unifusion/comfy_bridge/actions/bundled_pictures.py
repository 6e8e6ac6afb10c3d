"""Pictures that come with the pack: what the Sample Picture node does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[3] / "web" / "samples"


def listing() -> list[str]:
    """Names that can be chosen."""
    return sorted(path.stem for path in SAMPLES.glob("*.png"))


def load(name: str) -> torch.Tensor:
    """``(1, height, width, 3)`` float32 in 0..1."""
    with Image.open(SAMPLES / f"{name}.png") as opened:
        pixels = np.array(opened.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None]
