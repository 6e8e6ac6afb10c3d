"""Pictures and hidden states of the emoji in one file: what every run of the comparison reads."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.emoji.emoji_words import TEST, TRAINING, VALIDATION, Named, named
from recipes.emoji.icon_sets import STYLES, IconSet, annotations, categories, shared_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SET_FILE = "emoji.safetensors"
EMPTY = "an emoji"  # the condition without a name
SELECTION = "images and prompt"
ENCODE = 32  # captions at once


@dataclass(frozen=True)
class Comparison:
    """A file such as recipes/emoji/layers.toml.

    Attributes:
        runs: folder that holds ``archives`` (of npm pack), ``smollm2`` and, once prepared, ``layers`` (:attr:`out`).
        taps: layers; side: pixels of a picture; patch: pixels of a token; features, blocks: of the drawing model.
        rounds: steps after which runs are scored; conditions, levels: of a step.
        optimizer, rate, pooling_rates: of learning; rates_at: steps of the round that tries all pooling rates.
        seeds: of the runs; seeds_in_round: how many of them each round has.
    """

    runs: Path
    taps: tuple[int, ...]
    side: int
    patch: int
    features: int
    blocks: int
    rounds: tuple[int, ...]
    conditions: int
    levels: int
    optimizer: str
    rate: float
    pooling_rates: tuple[float, ...]
    rates_at: int
    seeds: tuple[int, ...]
    seeds_in_round: tuple[int, ...]

    @classmethod
    def read(cls, path: Path, runs: Path | None = None) -> Comparison:
        """
        Args:
            runs: in place of the one that the file names, which is relative to it.

        Raises:
            ValueError: for a key that is missing or unknown.
        """
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(cls)}
        if other := sorted(names ^ set(values)):
            what = "is unknown" if other[0] in values else "is missing"
            raise ValueError(f"{path.name}: the key {other[0]} {what}; the keys are {', '.join(sorted(names))}.")
        values["runs"] = (runs or path.parent / values["runs"]).resolve()
        for name in ("taps", "rounds", "pooling_rates", "seeds", "seeds_in_round"):
            values[name] = tuple(values[name])
        if len(values["rounds"]) != len(values["seeds_in_round"]) or values["rates_at"] not in values["rounds"]:
            raise ValueError(
                f"{path.name}: seeds_in_round must have a number for each of the rounds, and rates_at must be one of the rounds."
            )
        return cls(**values)

    @property
    def out(self) -> Path:
        return self.runs / "layers"


def caption(thing: Named, style: str) -> str:
    """What the language model reads: short, since a token more costs every run."""
    return f"{thing.label}, {STYLES[style].words} style"


def things_of(archives: Path) -> tuple[list[Named], dict[str, IconSet], list[str]]:
    """Things, sets by style, and the category of each thing."""
    sets = {style: IconSet(archives, style) for style in STYLES}
    known, groups = annotations(archives), categories(archives)
    names = shared_names(sets)
    things = [named(name, known.get(sets["noto"].codes.get(name, ""))) for name in names]
    return things, sets, [groups.get(name, "") for name in names]


@torch.no_grad()
def encode(folder: Path, texts: list[str], taps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Hidden states (tokens of all texts, N, W) bfloat16, and the first token of each text (texts + 1,)."""
    from unifusion.transformers_vlm import Chat, TransformersVLM

    vlm = TransformersVLM.from_folder(folder)
    rows, counts = [], []
    for start in range(0, len(texts), ENCODE):
        encoded = vlm.states([Chat(instruction=text) for text in texts[start : start + ENCODE]], taps)
        states, mask = encoded.compact(SELECTION)
        rows.append(states[mask].bfloat16())
        counts += mask.sum(1).tolist()
    return torch.cat(rows), torch.tensor([0, *np.cumsum(counts)])


def standardised(states: Tensor, training: Tensor) -> Tensor:
    """Every channel of every layer to mean 0 and deviation 1 over the tokens of training, so that no variant has to learn it.

    Deep layers of a language model are a hundred times as long as the first, and a few of their channels outweigh the rest.
    """
    seen = states[training].float()
    mean, deviation = seen.mean(0), seen.std(0)
    return torch.cat([((part.float() - mean) / (deviation + 1e-3)).bfloat16() for part in states.split(4096)])


def prepare(comparison: Comparison) -> Path:
    """Write the set, unless it is there."""
    path = comparison.out / SET_FILE
    if path.is_file():
        return path
    things, sets, groups = things_of(comparison.runs / "archives")
    pictures = np.stack(
        [np.stack([sets[style].draw(t.name, comparison.side, "#ffffff") for style in STYLES]) for t in things]
    )
    texts = [caption(thing, style) for thing in things for style in STYLES] + [EMPTY]
    states, first = encode(comparison.runs / "smollm2", texts, comparison.taps)
    of_training = torch.zeros(len(states), dtype=torch.bool)
    for index, thing in enumerate(things):
        if thing.part == TRAINING:
            of_training[first[index * len(STYLES)] : first[(index + 1) * len(STYLES)]] = True
    about = {
        "names": json.dumps([t.name for t in things]),
        "labels": json.dumps([t.label for t in things]),
        "parts": json.dumps([t.part for t in things]),
        "groups": json.dumps(groups),
        "taps": json.dumps(comparison.taps),
    }
    tensors = {"pictures": torch.from_numpy(pictures), "states": standardised(states, of_training), "first": first}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, metadata=about)
    unfinished.replace(path)
    return path


class EmojiSet:
    """What :func:`prepare` wrote.

    Attributes:
        names, labels, parts, groups: of every thing.
        pictures: (things, styles, side, side, 3) uint8.
        taps: layers of the states.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            about = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = load_file(path)
        self.names, self.labels = about["names"], about["labels"]
        self.parts, self.groups = about["parts"], about["groups"]
        self.taps = tuple(about["taps"])
        self.pictures = tensors["pictures"]
        self._states, self._first = tensors["states"], tensors["first"]
        flat = self.pictures[self.of(TRAINING)].float() / 255
        self.mean, self.deviation = float(flat.mean()), float(flat.std())

    @property
    def width(self) -> int:
        return self._states.shape[-1]

    def of(self, part: str) -> list[int]:
        """Things of a part: ``training``, ``validation`` or ``test``."""
        if part not in (TRAINING, VALIDATION, TEST):
            raise ValueError(f"There is no part {part!r}; parts are {TRAINING}, {VALIDATION} and {TEST}.")
        return [index for index, own in enumerate(self.parts) if own == part]

    def latents(self, things: list[int], styles: list[int]) -> Tensor:
        """Pictures as the drawing model sees them (B, 3, side, side) float32, deviation 1."""
        return ((self.pictures[things, styles].float() / 255 - self.mean) / self.deviation).movedim(-1, 1)

    def shown(self, latents: Tensor) -> np.ndarray:
        """:meth:`latents` back as (B, side, side, 3) uint8."""
        values = (latents.float() * self.deviation + self.mean).clamp(0, 1)
        return (255 * values).round().byte().movedim(1, -1).numpy()

    def states_of(self, things: list[int], styles: list[int]) -> tuple[Tensor, Tensor]:
        """Conditions, padded: (B, T, N, W) float32 and their key bias (B, T); a thing of -1 is :data:`EMPTY`."""
        count = len(STYLES)
        places = [len(self.names) * count if thing < 0 else thing * count + s for thing, s in zip(things, styles)]
        rows = [self._states[self._first[place] : self._first[place + 1]] for place in places]
        length = max(map(len, rows))
        states = torch.zeros(len(rows), length, *self._states.shape[1:])
        bias = torch.full((len(rows), length), -torch.inf)
        for index, row in enumerate(rows):
            states[index, : len(row)], bias[index, : len(row)] = row.float(), 0.0
        return states, bias
