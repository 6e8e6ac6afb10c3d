"""Prompts and edits drawn while a model trains, as one grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..dit import SingleStreamDiT
from ..still_vae import StillVAE
from .cache import STATES, Cache
from .cached_source import collate
from .config import Config
from .data.buckets import bucket, cover
from .data.sample import Picture
from .euler import sample
from .examples import Condition, ExampleMaker
from .trainer import generator_for


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) about in -1..1 -> uint8 (B, H, W, 3)."""
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def framed(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (h, w, 3) in the middle of a white one."""
    out = np.full((height, width, 3), 255, dtype=np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return out


class Previews:
    """A :data:`~.trainer.Scorer` that scores nothing and draws.

    Args:
        config: prompts, edits, steps and guidance.
        maker: makes their conditions.
        cache: holds their states, once :attr:`conditions` were encoded.
        load_vae: called when a grid is drawn.
    """

    COLUMNS = 8

    def __init__(self, config: Config, maker: ExampleMaker, cache: Cache, load_vae: Callable[[], StillVAE]) -> None:
        self.config, self.cache, self.load_vae = config, cache, load_vae
        self.empty = maker.condition("")
        self.prompts = [maker.condition(maker.clean_text(text)) for text in config.watch.prompts]
        self.edits: list[tuple[Condition, list[Picture]]] = []
        for edit in config.watch.edits:
            paths = [config.resolve(name) for name in edit.pictures]
            for path in paths:
                if not path.is_file():
                    raise ValueError(f"{config.path.name}: watch.edits names {path.name}, and there is no such file.")
            pictures = list(map(Picture.of_file, paths))
            condition = maker.condition(maker.clean_text(edit.instruction), pictures, config.data.labels)
            self.edits.append((condition, pictures))

    @property
    def conditions(self) -> list[Condition]:
        return [self.empty, *self.prompts, *(condition for condition, _ in self.edits)]

    def __bool__(self) -> bool:
        return bool(self.prompts or self.edits)

    def _draw(
        self, dit: SingleStreamDiT, vae: StillVAE, conditions: Sequence[Condition], size: tuple[int, int], seed: int
    ):
        device = next(vae.parameters()).device
        states = [self.cache.read(STATES, condition.key) for condition in conditions]
        shape = (dit.config.channels, size[0] // 8, size[1] // 8)
        batch = collate([torch.zeros(shape)] * len(states), states).to(device)
        noise = torch.randn(len(states), *shape, generator=generator_for(self.config.seed, 8, seed)).to(device)
        empty = self.cache.read(STATES, self.empty.key)[None].float().to(device)
        watch = self.config.watch
        latents = sample(
            dit, noise, batch.states, batch.key_bias, empty, steps=watch.preview_steps, guidance=watch.guidance
        )
        with torch.autocast(device.type, enabled=False):
            return to_bytes(vae.decode(latents.float()))

    def __call__(self, dit: SingleStreamDiT, step: int) -> tuple[dict[str, float], list[np.ndarray]]:
        """No scores; rows of prompts, then a row for each edit: its pictures and the result."""
        data, vae = self.config.data, self.load_vae()
        square = bucket(1, 1, data.pixels, data.bucket_step)
        rows: list[list[np.ndarray]] = []
        for start in range(0, len(self.prompts), self.COLUMNS):
            chosen = self.prompts[start : start + self.COLUMNS]
            rows.append(list(self._draw(dit, vae, chosen, square, start)))
        for number, (condition, pictures) in enumerate(self.edits):
            pixels = [picture.pixels() for picture in pictures]
            size = bucket(*pixels[0].shape[1:3], data.pixels, data.bucket_step)
            shown = [(cover(one, size)[0] * 255).round().byte().numpy() for one in pixels]
            rows.append([*shown, self._draw(dit, vae, [condition], size, 1000 + number)[0]])
        height, width = (max(p.shape[axis] for row in rows for p in row) for axis in (0, 1))
        blank = np.full((1, 1, 3), 255, dtype=np.uint8)
        columns = max(map(len, rows))
        return {}, [np.stack([framed(p, height, width) for p in row + [blank] * (columns - len(row))]) for row in rows]
