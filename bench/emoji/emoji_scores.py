"""Scores of a finished run on held-out words: loss at fixed noise, and what is read from pictures drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recipes.emoji.emoji_words import TEST
from recipes.emoji.icon_sets import STYLES
from unifusion.attribution import View, look
from unifusion.attribution_pages import layers_page
from unifusion.dit import SingleStreamDiT
from unifusion.hidden_states import INSTRUCTION, HiddenStates, make_hidden_states
from unifusion.pooling import LayerwiseAttentionPooling
from unifusion.training.euler import sample
from unifusion.training.trainer import generator_for

from .emoji_reading import CategoryReader, main_colours, mean_colours
from .emoji_runs import flow_losses
from .emoji_set import EmojiSet

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
STEPS, GUIDANCE = 10, 2.0
DRAWN_AT_ONCE = 49
SCORES, DRAWN = "scores.json", "drawn.npy"


def items(emoji: EmojiSet) -> tuple[list[int], list[int]]:
    """Things of the test part, each in one style."""
    things = emoji.of(TEST)
    return things, [index % len(STYLES) for index in range(len(things))]


@torch.no_grad()
def drawn(dit: SingleStreamDiT, emoji: EmojiSet, things: list[int], styles: list[int]) -> np.ndarray:
    """(items, side, side, 3) uint8; noise depends on thing and style alone."""
    side, empty = emoji.pictures.shape[2], emoji.states_of([-1], [0])[0]
    rows = []
    for start in range(0, len(things), DRAWN_AT_ONCE):
        own, style = things[start : start + DRAWN_AT_ONCE], styles[start : start + DRAWN_AT_ONCE]
        noise = torch.stack([torch.randn(3, side, side, generator=generator_for(8, t, s)) for t, s in zip(own, style)])
        rows.append(sample(dit, noise, *emoji.states_of(own, style), empty, STEPS, GUIDANCE, mu=0.0))
    return emoji.shown(torch.cat(rows))


class Silenced(EmojiSet):
    """The same set with one layer at the mean of its training tokens, which is zero here."""

    def __init__(self, emoji: EmojiSet, tap: int) -> None:
        self.__dict__ |= emoji.__dict__
        self.tap = tap

    def states_of(self, things: list[int], styles: list[int]) -> tuple[Tensor, Tensor]:
        states, bias = super().states_of(things, styles)
        states[:, :, self.tap] = 0.0
        return states, bias


class WithoutWords(EmojiSet):
    """The same set, every condition the one without a name."""

    def __init__(self, emoji: EmojiSet) -> None:
        self.__dict__ |= emoji.__dict__

    def states_of(self, things: list[int], styles: list[int]) -> tuple[Tensor, Tensor]:
        return super().states_of([-1] * len(things), styles)


@torch.no_grad()
def lap_view(pooling: LayerwiseAttentionPooling, emoji: EmojiSet) -> tuple[View, HiddenStates]:
    """What the inspector sees of LAP on the tokens of all items, and these tokens."""
    states, bias = emoji.states_of(*items(emoji))
    tokens = states[bias == 0][None]
    count = tokens.shape[1]
    hidden = make_hidden_states(tokens, [INSTRUCTION] * count, [""] * count, emoji.taps, "SmolLM2")
    return look(pooling, tokens), hidden


@torch.no_grad()
def score(dit: SingleStreamDiT, emoji: EmojiSet, scores_file: Path, drawn_file: Path) -> None:
    """Write what a run scores, what it draws, and for LAP the inspector's page of its layers beside that."""
    things, styles = items(emoji)
    losses = flow_losses(dit, emoji, things, styles, LEVELS)
    scores = {"levels": LEVELS, "losses": [[round(value, 6) for value in row] for row in losses.tolist()]}
    scores["without_words"] = flow_losses(dit, WithoutWords(emoji), things, styles, LEVELS).mean(1).tolist()
    if isinstance(dit.txtfusion, LayerwiseAttentionPooling):
        view, hidden = lap_view(dit.txtfusion, emoji)
        scores["layers_read"] = view.share.mean(0).tolist()
        page = (255 * layers_page(hidden, view)[0]).round().byte().numpy()
        Image.fromarray(page).save(drawn_file.with_suffix(".png"))
        silenced = {
            str(layer): flow_losses(dit, Silenced(emoji, index), things, styles, LEVELS).mean(1).tolist()
            for index, layer in enumerate(emoji.taps)
        }
        scores["silenced"] = silenced
    np.save(drawn_file, drawn(dit, emoji, things, styles))
    scores_file.write_text(json.dumps(scores) + "\n")


@torch.no_grad()
def read_pictures(
    pictures: np.ndarray, emoji: EmojiSet, reader: CategoryReader, classes: list[str]
) -> dict[str, np.ndarray]:
    """Per item of :func:`items`: colour error (0 to 255), main colour right, category right; NaN where there is none."""
    things, styles = items(emoji)
    real = emoji.pictures[things, styles].numpy()
    x = ((torch.from_numpy(pictures).float() / 255 - emoji.mean) / emoji.deviation).movedim(-1, 1)
    said = reader(x).argmax(1).numpy()
    groups = [emoji.groups[thing] for thing in things]
    right = np.array([said[i] == classes.index(g) if g in classes else np.nan for i, g in enumerate(groups)], float)
    return {
        "colour error": np.abs(mean_colours(pictures) - mean_colours(real)).mean(1),
        "main colour right": (main_colours(pictures) == main_colours(real)).astype(float),
        "category right": right,
    }
