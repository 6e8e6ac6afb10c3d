"""Linear heads at the taps that make the VLM keep what it has said; training only, thrown away afterwards.

A diffusion transformer reads the states of the caption's tokens at the taps.  A causal model that has just said "a
large red striped circle at the top left" keeps there only what it needs for the next word: linear probes on a
miniature trained by next words alone read the colour at chance.  So each tapped state of a thing's phrase must give,
through one linear layer, every attribute of that thing said so far, the background's phrase the background, and
each picture token the contents of the grid cells it overlaps.  This stands in for the richness that a large
pretrained VLM brings along.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unifusion.miniature import VLMConfig

from .render import JITTER
from .scene import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene

UNKNOWN = -100
TEXT_CLASSES = {
    "size": SIZES,
    "color": COLORS,
    "texture": TEXTURES,
    "shape": SHAPES,
    "cell": POSITIONS,
    "background": BACKGROUNDS,
}
CELL_CLASSES = {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES}  # one more class each: empty
SLOTS = 4  # a 32-pixel token overlaps up to two rows and two columns of cells
_OVERLAP = ((0,), (0, 1), (1, 2), (2,))


def text_labels(scene: Scene) -> np.ndarray:
    """(tokens, 6) classes in the order of TEXT_CLASSES for the canonical caption's tokens, UNKNOWN where unsaid."""
    fields = list(TEXT_CLASSES)
    rows = [[UNKNOWN] * 6 for _ in range(5)]  # on a white background :
    for row in rows[2:]:
        row[fields.index("background")] = BACKGROUNDS.index(scene.background)
    for thing in scene.things:
        said = [UNKNOWN] * 6
        rows.append(list(said))  # a
        for name in ("size", "color", "texture", "shape"):
            said[fields.index(name)] = TEXT_CLASSES[name].index(getattr(thing, name))
            rows.append(list(said))
        rows += [list(said)] * (2 + len(POSITIONS[thing.cell].split()) - 1)  # at the (first word of two)
        said[fields.index("cell")] = thing.cell
        rows += [list(said)] * 2  # last word of the position, comma or full stop
    return np.array(rows)


def picture_labels(scene: Scene, jitter: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth for the 16 tokens of a view.

    Returns:
        classes (16, SLOTS, 4), the last class of each attribute meaning an empty cell and UNKNOWN an unused slot;
        offsets (16, SLOTS, 2) in -1..1, NaN where no thing is; the background's class.
    """
    classes = np.full((16, SLOTS, len(CELL_CLASSES)), UNKNOWN)
    offsets = np.full((16, SLOTS, 2), np.nan, dtype=np.float32)
    at_cell = {thing.cell: thing for thing in scene.things}
    for token in range(16):
        for i, row in enumerate(_OVERLAP[token // 4]):
            for j, column in enumerate(_OVERLAP[token % 4]):
                thing = at_cell.get(3 * row + column)
                for k, (name, names) in enumerate(CELL_CLASSES.items()):
                    classes[token, 2 * i + j, k] = names.index(getattr(thing, name)) if thing else len(names)
                if thing:
                    offsets[token, 2 * i + j] = jitter[thing.cell] / JITTER
    return classes, offsets, BACKGROUNDS.index(scene.background)


class TextHead(nn.Module):
    """One linear layer from a state to the attributes of the phrase it stands in."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, sum(map(len, TEXT_CLASSES.values())))

    def forward(self, states: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """states (n, width), labels (n, 6): mean loss and, by attribute, which labelled states are right."""
        logits = self.linear(F.rms_norm(states.float(), states.shape[-1:]))
        loss, right = 0.0, {}
        for part, column, name in zip(
            logits.split([len(c) for c in TEXT_CLASSES.values()], -1), labels.unbind(1), TEXT_CLASSES
        ):
            known = column != UNKNOWN
            summed = F.cross_entropy(part, column, ignore_index=UNKNOWN, reduction="sum")
            loss = loss + summed / known.sum().clamp(min=1)
            right[name] = (part.argmax(-1) == column)[known]
        return loss / len(TEXT_CLASSES), right


class PictureHead(nn.Module):
    """One linear layer from a picture token's state to what is in the cells it overlaps."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [len(names) + 1 for names in CELL_CLASSES.values()]
        self.linear = nn.Linear(width, SLOTS * (sum(self.sizes) + 2) + len(BACKGROUNDS))

    def forward(
        self, states: Tensor, classes: Tensor, offsets: Tensor, background: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """states (views, 16, width) and :func:`picture_labels` stacked over views."""
        out = self.linear(F.rms_norm(states.float(), states.shape[-1:]))
        cells, ground = out.split([out.shape[-1] - len(BACKGROUNDS), len(BACKGROUNDS)], -1)
        *parts, place = cells.unflatten(-1, (SLOTS, -1)).split([*self.sizes, 2], -1)
        ground_loss = F.cross_entropy(ground.flatten(0, 1), background.repeat_interleave(states.shape[1]))
        loss, right = ground_loss, {"background": ground.argmax(-1) == background[:, None]}
        for part, target, name, size in zip(parts, classes.unbind(-1), CELL_CLASSES, self.sizes):
            weight = torch.ones(size, device=part.device)
            weight[-1] = 0.2  # most cells are empty
            loss = loss + F.cross_entropy(part.flatten(0, 2), target.flatten(), weight, ignore_index=UNKNOWN)
            filled = (target != UNKNOWN) & (target != size - 1)
            right[name] = (part.argmax(-1) == target)[filled]
        filled = offsets.isfinite()
        loss = loss + (place[filled] - offsets[filled]).square().mean()
        right["offset"] = (place[filled] - offsets[filled]).abs() < 0.5
        return loss / (len(CELL_CLASSES) + 2), right


class Heads(nn.Module):
    """Text and picture heads at every tap, and a picture head on the vision tower's own output."""

    def __init__(self, config: VLMConfig):
        super().__init__()
        self.text = nn.ModuleList(TextHead(config.hidden_size) for _ in config.taps)
        self.picture = nn.ModuleList(PictureHead(config.hidden_size) for _ in config.taps)
        self.tower = PictureHead(config.hidden_size)
