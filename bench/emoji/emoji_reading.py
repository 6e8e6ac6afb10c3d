"""What is read from states and from pictures: ridge probes, the colour of a thing, its category."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.emoji.emoji_words import TRAINING, VALIDATION
from recipes.emoji.icon_sets import STYLES
from unifusion.training.trainer import generator_for

from .emoji_set import EmojiSet

COLOURS = {
    "red": (215, 50, 50), "orange": (245, 145, 45), "yellow": (250, 205, 70), "green": (90, 165, 70), "blue": (70, 140, 220),
    "purple": (140, 90, 190), "pink": (240, 130, 175), "brown": (130, 85, 60), "grey": (150, 155, 160), "black": (45, 45, 50),
}  # fmt: skip
NOT_WHITE = 30  # of 255, farthest channel
RIDGE = (1e2, 1e3, 1e4, 1e5)


def foreground(pictures: np.ndarray) -> np.ndarray:
    """Pixels that are not the white behind a thing: (B, H, W, 3) uint8 -> (B, H, W) bool."""
    return (255 - pictures.astype(int)).max(-1) > NOT_WHITE


def mean_colours(pictures: np.ndarray) -> np.ndarray:
    """Mean colour of the things (B, 3), 0 to 255; white where nothing is drawn."""
    mask = foreground(pictures)[..., None]
    count = mask.sum((1, 2))
    return np.where(count > 0, (pictures * mask).sum((1, 2)) / np.maximum(count, 1), 255.0)


def main_colours(pictures: np.ndarray) -> np.ndarray:
    """The name's place in :data:`COLOURS` that most of a thing's pixels are nearest to (B,); -1 where nothing is drawn."""
    palette = np.array(list(COLOURS.values()))
    nearest = ((pictures[..., None, :].astype(int) - palette) ** 2).sum(-1).argmin(-1)
    mask = foreground(pictures)
    counts = np.stack([((nearest == index) & mask).sum((1, 2)) for index in range(len(palette))], 1)
    return np.where(counts.sum(1) > 0, counts.argmax(1), -1)


def mean_states(emoji: EmojiSet, things: list[int]) -> Tensor:
    """Mean over the tokens of each thing's captions (things * styles, N, W)."""
    pairs = [(thing, style) for thing in things for style in range(len(STYLES))]
    rows = []
    for start in range(0, len(pairs), 256):
        own, styles = zip(*pairs[start : start + 256])
        states, bias = emoji.states_of(list(own), list(styles))
        weight = (bias == 0).float()[..., None, None]
        rows.append((states * weight).sum(1) / weight.sum(1))
    return torch.cat(rows)


def small_pictures(emoji: EmojiSet, things: list[int]) -> Tensor:
    """Pictures of all styles at 6 x 6 pixels, flat (things * styles, 108): what a linear probe may predict."""
    pairs = [(thing, style) for thing in things for style in range(len(STYLES))]
    own, styles = zip(*pairs)
    return F.adaptive_avg_pool2d(emoji.latents(list(own), list(styles)), 6).flatten(1)


def ridge_r2(x: Tensor, y: Tensor, x_other: Tensor, y_other: Tensor, penalty: float) -> float:
    """R2 of a ridge regression fitted on one part, on another."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = (x - mean_x).double()
    solved = torch.linalg.solve(a.T @ a + penalty * torch.eye(a.shape[1], dtype=a.dtype), a.T @ (y - mean_y).double())
    guess = (x_other - mean_x).double() @ solved + mean_y
    return float(1 - (y_other - guess).square().sum() / (y_other - y_other.mean(0)).square().sum())


def layer_probes(emoji: EmojiSet) -> dict[str, float]:
    """How much of the pictures of validation's words a linear probe reads: from each layer, their mean, and all side by side."""
    parts = [emoji.of(TRAINING), emoji.of(VALIDATION)]
    (x, other_x), (y, other_y) = ([f(emoji, p) for p in parts] for f in (mean_states, small_pictures))
    forms = {f"layer {layer}": (lambda s, i=i: s[:, i]) for i, layer in enumerate(emoji.taps)}
    forms |= {"mean": lambda s: s.mean(1), "side by side": lambda s: s.flatten(1)}
    return {
        name: max(ridge_r2(form(x), y, form(other_x), other_y, penalty) for penalty in RIDGE)
        for name, form in forms.items()
    }


def best_tap(probes: dict[str, float], taps: tuple[int, ...]) -> int:
    """Place of the layer that :func:`layer_probes` read most from."""
    return max(range(len(taps)), key=lambda index: probes[f"layer {taps[index]}"])


class CategoryReader(nn.Module):
    """A small convolutional network that says the category of a picture (B, 3, side, side)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.layers = nn.Sequential(
            *(
                part
                for before, after in zip(widths[:-1], widths[1:])
                for part in (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
            )
        )
        self.last = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).mean((2, 3)))


def fit_reader(emoji: EmojiSet, classes: list[str], epochs: int = 12) -> CategoryReader:
    """Fitted on the real pictures of training; shifted, mirrored and blurred, since what it reads later is blurred too."""
    generator = generator_for(11)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        reader = CategoryReader(len(classes))
    things = [thing for thing in emoji.of(TRAINING) if emoji.groups[thing] in classes]
    pairs = torch.tensor([(thing, style) for thing in things for style in range(len(STYLES))])
    labels = torch.tensor([classes.index(emoji.groups[thing]) for thing, _ in pairs.tolist()])
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.05)
    steps, batch = epochs * (len(pairs) // 64), 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pairs), (batch,), generator=generator)
        x = emoji.latents(*(column.tolist() for column in pairs[rows].unbind(1)))
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        x = torch.roll(x, shift, (2, 3))
        if torch.rand((), generator=generator) < 0.5:
            x = x.flip(3)
        if torch.rand((), generator=generator) < 0.5:
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        loss = F.cross_entropy(reader(x), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()
