"""What the miniature's DiT learns from: drawn pictures, the chats that ask for them, the VLM's states.

Every batch mixes all tasks. The token rule is the paper's: image tokens and generated text condition
the picture, system prompt and instruction are masked; a small share shows the raw prompt instead.
The VLM and the VAE are frozen. Held-out combinations never appear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unifusion.training.objective import Batch

from . import scene as world
from .captions import caption
from .chats import CONDITIONS, Chat
from .frozen_vlm import FrozenVLM
from .newcomer_edits import newcomer_edit
from .newcomers import MOST_THINGS
from .render import foreground, render, sample_jitter
from .scene import Scene
from .vae_model import StillVAE
from .vlm_tasks import EDIT_SHARES
from .wordings import caption_request, edit_instruction, user_prompt

WITH_INSTRUCTION = "images and prompt"  # what conditions where the raw prompt is shown
NEUTRAL = 0.2  # share of white and black things
MANY = 0.2  # share of captions with four or five things
PATCH = 16  # pixels of a DiT token: f8 latents in patches of 2
ATTRIBUTES = (world.SHAPES, world.PAINTS, world.SIZES, world.TEXTURES)
TOKEN_CLASSES = tuple(len(values) + 1 for values in ATTRIBUTES) + (len(world.BACKGROUNDS),)
"""Classes of the heads of :class:`unifusion.training.objective.FlowMatching`: each attribute of the thing in a
patch, the last class for none, and the background."""


@dataclass(frozen=True)
class Mix:
    """Shares of the tasks in every batch; they are normalised.

    Attributes:
        caption: text to image from the caption the VLM would write (generated tokens alone).
        prompt: text to image from the raw prompt (instruction tokens, nothing generated).
        empty: no condition, for classifier-free guidance (the three tokens that open the answer).
        reconstruct: a picture by its own image tokens, half of them with its caption.
        edit: one picture, an instruction, the caption of the result; the result is the target.
    """

    caption: float = 0.62
    prompt: float = 0.10
    empty: float = 0.08
    reconstruct: float = 0.20
    edit: float = 0.0


TEXT_STAGE = Mix()
EDIT_STAGE = Mix(caption=0.45, prompt=0.10, empty=0.08, reconstruct=0.07, edit=0.30)


@dataclass
class Example:
    """A target picture and the chat that asks for it.

    ``instruction``: whether the instruction's tokens condition the picture.
    """

    chat: Chat
    target: Scene
    jitter: np.ndarray
    instruction: bool = False


def draw_example(rng: np.random.Generator, task: str) -> Example:
    """A random training example of a task of :class:`Mix`."""
    count = int(rng.integers(4, MOST_THINGS + 1)) if task == "caption" and rng.random() < MANY else None
    scene = world.with_neutral_things(rng, world.sample_scene(rng, count=count), NEUTRAL)
    jitter = sample_jitter(rng)
    if count:
        return Example(Chat(caption(scene), answer=caption(scene)), scene, jitter)
    if task == "caption":
        return Example(Chat(user_prompt(scene, rng)[0], answer=caption(scene)), scene, jitter)
    if task == "prompt":
        detail = 1.0 if rng.random() < 0.7 else None
        return Example(Chat(user_prompt(scene, rng, detail=detail)[0]), scene, jitter, instruction=True)
    if task == "empty":
        return Example(Chat(""), scene, jitter)
    if task == "edit" and rng.random() < 0.5:
        return _newcomers_edit(rng, jitter)
    picture = render(scene, jitter=jitter)
    if task == "reconstruct":
        if rng.random() < 0.5:
            return Example(Chat("", [[picture]]), scene, jitter)
        return Example(Chat(caption_request(rng), [[picture]], caption(scene)), scene, jitter)
    kinds = [
        k
        for k in EDIT_SHARES
        if not (k == "add" and len(scene.things) == 3 or k == "remove" and len(scene.things) == 1)
    ]
    share = np.array([EDIT_SHARES[k] for k in kinds])
    edit = world.sample_edit(rng, scene, str(rng.choice(kinds, p=share / share.sum())))
    result = edit.apply(scene)
    return Example(Chat(edit_instruction(scene, edit, rng), [[picture]], caption(result)), result, jitter)


def _newcomers_edit(rng: np.random.Generator, jitter: np.ndarray) -> Example:
    """Also size, texture, swap, "all"; the picture's tokens leave room for the caption of three things."""
    while True:
        change = newcomer_edit(rng)
        if len(change.after.things) <= world.MAX_THINGS:
            picture = render(change.before, jitter=jitter)
            return Example(Chat(change.text, [[picture]], caption(change.after)), change.after, jitter)


@torch.no_grad()
def encode_chats(
    vlm: FrozenVLM, chats: list[Chat], instruction: list[bool], length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states of the tokens that condition a picture, one pass of the frozen VLM.

    Args:
        instruction: for each chat, whether its instruction conditions (raw prompt).
        length: padded number of tokens; None for the longest.

    Returns:
        states (B, T, taps, width) and key_bias (B, T), 0 or -inf, on the VLM's device.
    """
    selections = [WITH_INSTRUCTION if wanted else CONDITIONS for wanted in instruction]
    states, kept = vlm.encode(chats, autocast=True, selections=selections).compact(length)
    return states, torch.zeros(kept.shape, device=states.device).masked_fill(~kept, float("-inf"))


def patch_labels(scene: Scene, jitter: np.ndarray) -> np.ndarray:
    """(64, 5) int64: shape, colour, size, texture of the thing that covers a patch, and the background."""
    labels = np.empty((64, len(TOKEN_CLASSES)), dtype=np.int64)
    labels[:, :-1] = [len(values) for values in ATTRIBUTES]
    labels[:, -1] = world.BACKGROUNDS.index(scene.background)
    for thing in scene.things:
        alone = Scene(scene.background, (thing,))
        covered = foreground(alone, jitter).reshape(8, PATCH, 8, PATCH).mean((1, 3)).ravel() > 0.1
        words = (thing.shape, thing.color, thing.size, thing.texture)
        labels[covered, :-1] = [values.index(word) for values, word in zip(ATTRIBUTES, words)]
    return labels


def loss_weight(scene: Scene, jitter: np.ndarray, extra: float) -> np.ndarray:
    """(16, 16) float32: 1 on background, up to ``1 + extra`` on latent pixels with things and next to them."""
    covered = np.pad(foreground(scene, jitter).reshape(16, 8, 16, 8).mean((1, 3)), 1)
    near = np.max([covered[y : y + 16, x : x + 16] for y in range(3) for x in range(3)], axis=0)
    return (1.0 + extra * np.minimum(1.0, 2.0 * near)).astype(np.float32)


class MiniatureSource:
    """Encoded batches of the miniature world, a :data:`unifusion.training.trainer.Source`.

    Args:
        vlm: the frozen VLM; its device is used.
        vae: the frozen VAE, on the same device.
        batch: pictures in a part.
        stages: (first step, mix) in rising order.
        length: fixed number of condition tokens (for compiled shapes), or None.
        foreground_weight: extra loss weight of latent pixels with things.
        seed: of the pictures and the words.
    """

    def __init__(
        self,
        vlm: FrozenVLM,
        vae: StillVAE,
        batch: int,
        stages: tuple[tuple[int, Mix], ...] = ((0, TEXT_STAGE),),
        length: int | None = None,
        foreground_weight: float = 3.0,
        seed: int = 0,
    ) -> None:
        self.vlm, self.vae = vlm, vae
        self.batch, self.stages, self.length = batch, stages, length
        self.foreground_weight, self.seed = foreground_weight, seed

    def examples(self, step: int, part: int, process: int) -> list[Example]:
        """The examples of one part, drawn from its own random numbers."""
        rng = np.random.default_rng([self.seed, step, part, process])
        mix = vars([mix for first, mix in self.stages if step >= first][-1])
        share = np.array(list(mix.values()))
        return [draw_example(rng, str(rng.choice(list(mix), p=share / share.sum()))) for _ in range(self.batch)]

    @torch.no_grad()
    def __call__(self, step: int, part: int, process: int) -> Batch:
        examples = self.examples(step, part, process)
        device = next(self.vae.parameters()).device
        pictures = np.stack([render(e.target, jitter=e.jitter) for e in examples])
        states, bias = encode_chats(
            self.vlm, [e.chat for e in examples], [e.instruction for e in examples], self.length
        )
        with torch.autocast(device.type, torch.bfloat16):
            latents = self.vae.encode(torch.from_numpy(pictures).to(device).movedim(-1, 1).float() / 127.5 - 1.0)
        weight = np.stack([loss_weight(e.target, e.jitter, self.foreground_weight) for e in examples])
        labels = np.stack([patch_labels(e.target, e.jitter) for e in examples])
        return Batch(
            latents.float(),
            states,
            bias,
            torch.from_numpy(weight)[:, None].to(device),
            torch.from_numpy(labels).to(device),
        )
