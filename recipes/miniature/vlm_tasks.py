"""What the miniature VLM is trained on: chats drawn at random, with the truth about every token that matters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

from .captions import CAPTION_SYSTEM, PromptSpec, caption
from .chats import Chat
from .render import render, sample_jitter
from .scene import Scene, sample_composition, sample_edit, sample_gathering, sample_scene
from .vocabulary import OTHER_SYSTEMS
from .wordings import (
    caption_request,
    described_edit,
    edit_instruction,
    pick,
    three_picture_instruction,
    two_picture_instruction,
    user_prompt,
)

# Hard edits are drawn more often; remove and add were learned last in a first try.
EDIT_SHARES = {"recolour": 0.15, "replace": 0.17, "add": 0.23, "remove": 0.18, "move": 0.19, "background": 0.08}
NUMBER_LABELS = ("Image {}: ", "Picture {}: ")


@dataclass
class Example:
    """A chat with its truth.

    Attributes:
        scene: what the answer describes.
        views: for each view in the chat, the (scene, jitter) it shows, or None for a crop.
        kind: task name for reports; spec: what a rewriting must keep.
    """

    chat: Chat
    scene: Scene
    kind: str
    views: list[tuple[Scene, np.ndarray] | None] = field(default_factory=list)
    spec: PromptSpec | None = None


def _system(rng, split: str, usual: str = VERIFI_SYSTEM) -> str:
    if split == "test" or rng.random() < 0.85:
        return usual
    return pick(rng, (VERIFI_SYSTEM, CAPTION_SYSTEM, "", *OTHER_SYSTEMS))


def _spoil(picture: np.ndarray, rng) -> np.ndarray:
    """Noise and blur now and then: pictures that were generated and decoded must be read too."""
    if rng.random() > 0.35:
        return picture
    x = picture.astype(np.float32)
    if rng.random() < 0.4:
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
        x = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] + 2 * x) / 6
    x += rng.normal(0, rng.uniform(0, 10), x.shape).astype(np.float32)
    return np.clip(x, 0, 255).astype(np.uint8)


def _draw(scene: Scene, rng, split: str) -> tuple[np.ndarray, tuple[Scene, np.ndarray]]:
    jitter = sample_jitter(rng)
    picture = render(scene, jitter=jitter)
    return (_spoil(picture, rng) if split == "train" else picture), (scene, jitter)


def _disturb(text: str, rng, split: str) -> str:
    """A foreign word in a few training prompts, so that unknown words are passed over."""
    if split == "test" or rng.random() > 0.04:
        return text
    word = "".join(chr(97 + int(letter)) for letter in rng.integers(0, 26, int(rng.integers(2, 7))))
    words = text.split(" ")
    words.insert(int(rng.integers(len(words) + 1)), word)
    return " ".join(words)


def crops(picture: np.ndarray, side: int = 2) -> list[np.ndarray]:
    """The picture cut into ``side`` x ``side`` parts, each enlarged to the picture's size, in reading order."""
    size = picture.shape[0]
    edges = np.linspace(0, size, side + 1).round().astype(int)
    out = []
    for top, bottom in zip(edges, edges[1:]):
        for left, right in zip(edges, edges[1:]):
            rows = (top + (np.arange(size) + 0.5) * (bottom - top) / size).astype(int)
            columns = (left + (np.arange(size) + 0.5) * (right - left) / size).astype(int)
            out.append(picture[rows[:, None], columns])
    return out


def _labels(rng, count: int) -> tuple[str, ...]:
    if rng.random() < 0.5:
        return ()
    word = pick(rng, NUMBER_LABELS)
    return tuple(word.format(index + 1) for index in range(count))


def caption_example(rng, split: str = "train") -> Example:
    scene = sample_scene(rng, held_out=split == "test")
    picture, view = _draw(scene, rng, split)
    labels = _labels(rng, 1) if rng.random() < 0.2 else ()
    chat = Chat(
        caption_request(rng, split),
        [[picture]],
        caption(scene),
        _system(rng, split, pick(rng, (VERIFI_SYSTEM, CAPTION_SYSTEM)) if split == "train" else VERIFI_SYSTEM),
        labels,
    )
    return Example(chat, scene, "caption", [view])


def tiles_example(rng, split: str = "train") -> Example:
    scene = sample_scene(rng, held_out=split == "test")
    picture, view = _draw(scene, rng, split)
    tiles = crops(picture)
    chat = Chat(caption_request(rng, split), [[*tiles, picture]], caption(scene), _system(rng, split))
    return Example(chat, scene, "tiles", [None] * len(tiles) + [view])


def rewrite_example(rng, split: str = "train", detail: float | None = None) -> Example:
    scene = sample_scene(rng, held_out=split == "test")
    prompt, spec = user_prompt(scene, rng, split, detail)
    if split == "train" and rng.random() < 0.01:
        prompt, spec = "", None
    chat = Chat(_disturb(prompt, rng, split), [], caption(scene), _system(rng, split))
    return Example(chat, scene, "rewrite", spec=spec)


def _edited(rng, split: str, kind: str | None):
    while True:
        scene = sample_scene(rng, held_out=split == "test")
        wanted = kind or str(rng.choice(list(EDIT_SHARES), p=list(EDIT_SHARES.values())))
        if (wanted == "add" and len(scene.things) == 3) or (wanted == "remove" and len(scene.things) == 1):
            continue
        return scene, sample_edit(rng, scene, wanted, held_out=None if split == "test" else False)


def edit_example(rng, split: str = "train", kind: str | None = None) -> Example:
    scene, edit = _edited(rng, split, kind)
    result = edit.apply(scene)
    picture, view = _draw(scene, rng, split)
    terse = split == "train" and rng.random() < 0.15
    instruction = _disturb(edit_instruction(scene, edit, rng, split, terse), rng, split)
    labels = _labels(rng, 1) if rng.random() < 0.3 else ()
    return Example(
        Chat(instruction, [[picture]], caption(result), _system(rng, split), labels),
        result,
        f"edit {edit.kind}",
        [view],
    )


def described_edit_example(rng, split: str = "train", kind: str | None = None) -> Example:
    scene, edit = _edited(rng, split, kind)
    result = edit.apply(scene)
    text = described_edit(scene, edit_instruction(scene, edit, rng, split), rng)
    return Example(Chat(text, [], caption(result), _system(rng, split)), result, f"text {edit.kind}")


def two_pictures_example(rng, split: str = "train") -> Example:
    first, second = (sample_scene(rng, held_out=split == "test") for _ in range(2))
    composition = sample_composition(rng, first, second)
    (one, view_one), (two, view_two) = _draw(first, rng, split), _draw(second, rng, split)
    chat = Chat(
        two_picture_instruction(first, second, composition, rng, split),
        [[one], [two]],
        caption(composition.apply(first, second)),
        _system(rng, split),
        _labels(rng, 2),
    )
    return Example(chat, composition.apply(first, second), "two pictures", [view_one, view_two])


def three_pictures_example(rng, split: str = "train") -> Example:
    scenes = [sample_scene(rng, held_out=split == "test") for _ in range(3)]
    composition = sample_gathering(rng, scenes)
    drawn = [_draw(scene, rng, split) for scene in scenes]
    chat = Chat(
        three_picture_instruction(scenes, composition, rng, split),
        [[picture] for picture, _ in drawn],
        caption(composition.apply(*scenes)),
        _system(rng, split),
        _labels(rng, 3),
    )
    return Example(chat, composition.apply(*scenes), "three pictures", [view for _, view in drawn])
