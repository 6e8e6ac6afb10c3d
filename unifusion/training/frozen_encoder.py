"""The frozen vision-language model (VLM) that training reads: a folder in transformers' form, without ComfyUI.

How a prompt becomes tokens, roles and a selection is the nodes' own code (:mod:`unifusion.conditions`); here is what is
left: ids and pictures to the inputs of the tapped layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..conditions import dropped_tokens, encode_segments, label_texts, selected_tokens
from ..folder_words import FolderWords
from ..hidden_states import SYSTEM, TEMPLATE, HiddenStates, make_hidden_states
from ..messages import Segment, Tokens, tokenize
from ..profiles import PROFILES, Profile, taps_for
from ..references import PreparedReference, Reference, prepare_as
from ..transformers_vlm import Chat, TransformersVLM, tapped

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
QWEN3_VL, KREA2_ENCODER = "Qwen3-VL", (36, 2560)  # Krea 2 reads Qwen3-VL-4B: (layers, width)
_PIECE = 2**16  # bytes; files are told apart by 64 such pieces and their size


class FrozenEncoder(Protocol):
    """What the trainer asks of a VLM.

    Attributes:
        name: kept with hidden states.
        identity: the same for the same weights and words; part of the cache's keys.
        layers, width: of the decoder.
        profile: how a drawing model asks it.
        side: pixels of both sides of every view where one size alone was learned; 0 = any.
        token: pixels along one side of a token of a picture.
        tokenizer: knows its control tokens.
    """

    name: str
    identity: str
    layers: int
    width: int
    profile: Profile
    side: int
    token: int
    tokenizer: object

    def tokenize(self, segments: Sequence[Segment], opener: str) -> Tokens:
        """Ids and roles of a chat; ``opener`` is the text that opens the assistant's turn."""

    def states(
        self, tokens: Tokens, views: Sequence[Sequence[Tensor]], taps: Sequence[int]
    ) -> tuple[HiddenStates, int]:
        """Hidden states of every token of one chat, and where the assistant's turn opens.

        Args:
            views: of each picture, each (1, H, W, 3) in 0..1.
        """

    def write(self, system: str, prompt: str, references: Sequence[PreparedReference]) -> str:
        """What the VLM writes about a prompt and its pictures (VERIFI), most likely words first."""

    def release(self) -> None:
        """Let go of the weights' memory; they are read again when they are needed."""


class FolderEncoder:
    """A folder of ``transformers_vlm`` as a :class:`FrozenEncoder`; its weights are read when they are first needed.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        device: where it computes.
        precision: ``fp32``, as the nodes encode, or ``bf16``: half the memory, states about 1% off.

    Raises:
        ValueError: naming the folder and what is wrong with it.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", precision: str = "fp32") -> None:
        self.folder, self.device, self.precision = Path(folder), torch.device(device), precision
        about = TransformersVLM.from_folder(self.folder, weights=False)
        self.layers, self.width, self.tokenizer = about.layers, about.width, about.words
        self.side, self.token = about.picture_side, about.token_side
        self.own_taps = about.taps if about.taps_named else None
        self.profile, kind = about.profile, "unifusion_folder"
        if hasattr(self.tokenizer, "spelled"):
            self.profile, kind = PROFILES["miniature"], "unifusion_miniature"
        elif about.kind.title == QWEN3_VL and (self.layers, self.width) == KREA2_ENCODER:
            self.profile, kind = PROFILES["krea2"], "qwen3vl_4b"
        self.name = f"{kind} ({self.layers} layers, width {self.width})"
        self.identity = folder_identity(self.folder, precision)

    @cached_property
    def vlm(self) -> TransformersVLM:
        """The model with its weights."""
        return TransformersVLM.from_folder(self.folder, PRECISIONS[self.precision], self.device)

    def release(self) -> None:
        """See :class:`FrozenEncoder`."""
        self.__dict__.pop("vlm", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def tokenize(self, segments: Sequence[Segment], opener: str) -> Tokens:
        """See :class:`FrozenEncoder`."""
        if isinstance(self.tokenizer, FolderWords):
            return self.tokenizer.tokens_of(segments, opener)
        return tokenize(segments, self.tokenizer, opener)

    @torch.no_grad()
    def states(
        self, tokens: Tokens, views: Sequence[Sequence[Tensor]], taps: Sequence[int]
    ) -> tuple[HiddenStates, int]:
        """See :class:`FrozenEncoder`."""
        vlm = self.vlm
        read = vlm.embed([(tokens, [[vlm.features(view) for view in picture] for picture in views])])
        with tapped(vlm.decoder, taps, stop=True) as caught:
            vlm.forward(read)
        states = torch.stack([caught[tap] for tap in taps], dim=2).float().cpu()
        hidden = make_hidden_states(
            states, read.roles[0].tolist(), read.pieces[0], taps, self.name, grids=read.grids[0]
        )
        return hidden, read.openers[0]

    def write(self, system: str, prompt: str, references: Sequence[PreparedReference]) -> str:
        """See :class:`FrozenEncoder`."""
        views = [reference.views for reference in references]
        said = Chat(instruction=prompt, system=system, views=views, labels=label_texts(references))
        return self.vlm.write(said).text.strip()


def file_identity(path: Path) -> str:
    """Hash of a file's size and of 64 pieces spread evenly over it; all of it where it is small."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for index in range(64):
            if size > 64 * _PIECE:
                file.seek(index * (size - _PIECE) // 63)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def folder_identity(folder: Path, *more: str) -> str:
    """Hash of a model's folder: its weights, config and words."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".txt"))
    parts = [*more, *(f"{path.name} {file_identity(path)}" for path in paths)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def layers_read(encoder: FrozenEncoder, taps: Sequence[int] = ()) -> tuple[int, ...]:
    """The layers that are tapped: those given, those the folder names, or the profile's.

    Raises:
        ValueError: if one is not there.
    """
    chosen = tuple(taps) or getattr(encoder, "own_taps", None)
    if not chosen:
        profile = encoder.profile
        chosen = taps_for(profile, encoder.layers) if profile.taps or encoder.layers > 2 else (encoder.layers - 1,)
    if list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < encoder.layers:
        raise ValueError(
            f"The taps {', '.join(map(str, chosen))} are not rising layers from 0 to {encoder.layers - 1}, which "
            f"{encoder.name} has."
        )
    return chosen


def prepare(encoder: FrozenEncoder, profile: Profile, pictures: Sequence[Tensor], labels: Sequence[str] = ()):
    """Pictures (1, H, W, 3) in 0..1 as the nodes give them to this encoder, in the profile's size."""
    return [
        prepare_as(
            Reference(picture, labels[index] if index < len(labels) else ""),
            profile,
            index + 1,
            encoder.token,
            encoder.side,
        )
        for index, picture in enumerate(pictures)
    ]


def condition(
    encoder: FrozenEncoder,
    profile: Profile,
    taps: Sequence[int],
    prompt: str,
    references: Sequence[PreparedReference] = (),
    *,
    system: str = "",
    answer: str = "",
    selection: str = "",
) -> HiddenStates:
    """Selected hidden states of one condition, as VLM Encode gives them.

    Args:
        prompt: the words, without control tokens.
        references: from :func:`prepare`.
        system: another system prompt than the profile's.
        answer: what the VLM wrote; then the selection is the rewrite's.
        selection: another selection than the profile's.
    """
    system = system or profile.system_for(prompt, bool(references))
    opener = profile.writing_chat.opener if answer else profile.chat.opener
    tokens = encoder.tokenize(encode_segments(profile, system, prompt, references, answer), opener)
    drop = 0 if answer else dropped_tokens(profile, system, prompt, bool(references))
    if drop:
        roles = [TEMPLATE if role == SYSTEM else role for role in tokens.roles]
        tokens = tokens._replace(roles=[SYSTEM] * drop + roles[drop:])
    everything, first = encoder.states(tokens, [reference.views for reference in references], taps)
    chosen = selection or (profile.rewrite_selection if answer else profile.encode_selection)
    return selected_tokens(everything, chosen, first)._replace(prompt=prompt, text=answer)
