"""From samples to what is encoded: for every example a latent, and a condition for each of its tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..hidden_states import HiddenStates
from ..messages import remove_control_tokens, spelled_as_meant
from ..profiles import PROFILES, Profile
from ..quoting import quoted
from ..references import checked_label
from ..system_prompts import SYSTEM_PROMPTS
from .cache import LATENTS, STATES, Digests, key_of
from .config import AUTO, VLM, Config
from .data.buckets import bucket, lost
from .data.sample import BrokenPicture, Notes, Picture, Sample
from .frozen_encoder import FrozenEncoder, condition, layers_read, prepare

TEXT, EDIT, RECONSTRUCT, EMPTY, EMPTY_PICTURES = "text", "edit", "reconstruct", "empty", "empty with pictures"
VERSION = 1  # of what stands in the cache; raise it when the same key would mean something else
CROPPED = 0.1


@dataclass(frozen=True)
class Contract:
    """How conditions are made; what a trained file needs to be drawn with.

    Attributes:
        vlm: name; identity: hash of its files.
        taps, width, profile, system, selection: what is read of it.
        picture_tokens: of a view of a square picture; 0 where the model reads none.
        pooled: hash of the model whose pooling was applied to what is in the cache; empty for none.
    """

    vlm: str
    identity: str
    taps: tuple[int, ...]
    width: int
    profile: Profile
    system: str
    selection: str
    picture_tokens: int = 0
    pooled: str = ""

    @classmethod
    def of(cls, encoder: FrozenEncoder, settings: VLM) -> Contract:
        """The contract that a configuration asks of an encoder.

        Raises:
            ValueError: if a tap is not there, or the profile cannot be trained with.
        """
        profile = encoder.profile if settings.profile == AUTO else PROFILES[settings.profile]
        system, removed = remove_control_tokens(settings.system.strip(), encoder.tokenizer)
        if removed:
            raise ValueError(f"vlm.system holds the control token {quoted(removed[0])}; leave it out.")
        taps = layers_read(encoder, settings.taps)
        seen = prepare(encoder, profile, [torch.zeros(1, 64, 64, 3)])[0].tokens if profile.pictures else 0
        return cls(encoder.name, encoder.identity, taps, encoder.width, profile, system, settings.selection, seen)

    def metadata(self, labels: Sequence[str] = ()) -> dict[str, str]:
        """For the head of a safetensors file."""
        return {
            "unifusion.vlm": self.vlm,
            "unifusion.taps": ", ".join(map(str, self.taps)),
            "unifusion.width": str(self.width),
            "unifusion.profile": self.profile.key,
            "unifusion.template": hashlib.blake2b(repr(self.profile.chat).encode(), digest_size=8).hexdigest(),
            "unifusion.system": self.system or self.profile.system,
            "unifusion.selection": self.selection or self.profile.encode_selection,
            "unifusion.labels": ", ".join(labels) or self.profile.label,
            "unifusion.picture_pixels": str(self.profile.image_pixels),
            "unifusion.picture_tokens": str(self.picture_tokens),
        }


@dataclass(frozen=True)
class Condition:
    """One thing that the VLM is asked.

    Attributes:
        key: of its states in the cache.
        prompt, pictures, labels, answer: see :func:`~.frozen_encoder.condition`.
        rewrite: whether the VLM writes the answer.
    """

    key: str
    prompt: str = ""
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()
    answer: str = ""
    rewrite: bool = False

    def encode(self, encoder: FrozenEncoder, contract: Contract) -> HiddenStates:
        """Its selected hidden states.

        Raises:
            BrokenPicture: if a picture cannot be decoded.
        """
        references = prepare(encoder, contract.profile, [p.pixels() for p in self.pictures], self.labels)
        system, answer = contract.system, self.answer
        if (answer or self.rewrite) and not system:
            system = SYSTEM_PROMPTS[contract.profile.rewrite_system]
        if self.rewrite:
            answer = remove_control_tokens(encoder.write(system, self.prompt, references), encoder.tokenizer)[0]
        return condition(
            encoder,
            contract.profile,
            contract.taps,
            self.prompt,
            references,
            system=system,
            answer=answer,
            selection="" if answer else contract.selection,
        )


@dataclass(frozen=True)
class Example:
    """A finished picture with all that may condition it.

    Attributes:
        name: for messages; source, repeats: see :class:`~.data.sample.Sample`.
        target: the picture, drawn at ``size`` (height, width).
        latent: key in the cache.
        conditions: by task.
    """

    name: str
    source: int
    repeats: float
    target: Picture = field(repr=False)
    size: tuple[int, int]
    latent: str
    conditions: dict[str, Condition] = field(repr=False)

    def keys(self) -> list[tuple[str, str]]:
        return [(LATENTS, self.latent), *((STATES, c.key) for c in self.conditions.values())]


class ExampleMaker:
    """Turns samples into examples.

    Args:
        config: of the run.
        contract: how conditions are made.
        tokenizer: whose control tokens must not stand in a caption.
        vae: identity of the autoencoder.
        digests: of the pictures.
    """

    def __init__(self, config: Config, contract: Contract, tokenizer, vae: str, digests: Digests) -> None:
        self.config, self.contract, self.tokenizer, self.vae, self.digests = config, contract, tokenizer, vae, digests

    def condition(
        self, prompt: str, pictures: Sequence[Picture] = (), labels: Sequence[str] = (), answer: str = ""
    ) -> Condition:
        """A condition with its key in the cache; a prompt without an answer is rewritten where that is asked for."""
        c = self.contract
        about = (c.identity, c.taps, c.profile.key, repr(c.profile), c.system, c.selection)
        labels = tuple(checked_label(label) for label in labels[: len(pictures)])
        shown = [self.digests.of(picture) for picture in pictures]
        rewrite = bool(self.config.data.rewrite and prompt and not answer)
        more = (["rewritten"] if rewrite else []) + ([c.pooled] if c.pooled else [])
        key = key_of(VERSION, STATES, about, prompt, shown, labels, answer, *more)
        return Condition(key, prompt, tuple(pictures), labels, answer, rewrite)

    def make(self, samples: Sequence[Sample]) -> tuple[list[Example], Notes]:
        """Examples, and what was left out or changed.

        Raises:
            ValueError: if no example is left, or the model knows no pictures and there are some to edit.
        """
        notes, examples = Notes(), []
        for sample in samples:
            try:
                examples.append(self._example(sample, notes))
            except BrokenPicture as error:
                notes.add("pictures that cannot be read, their examples left out", str(error))
        self.digests.save()
        if not examples:
            raise ValueError(f"No example is left to train on. {' '.join(notes.lines())}".strip())
        return examples, notes

    def clean_text(self, text: str) -> str:
        """A text as the nodes read it: without control tokens, slips of the fingers read as meant where the VLM does."""
        clean = remove_control_tokens(text, self.tokenizer)[0].strip()
        return spelled_as_meant(clean, self.tokenizer)

    def _clean(self, text: str, name: str, notes: Notes) -> str:
        if remove_control_tokens(text, self.tokenizer)[1]:
            notes.add("texts with control tokens, which were taken out", name)
        return self.clean_text(text)

    def _example(self, sample: Sample, notes: Notes) -> Example:
        data, profile = self.config.data, self.contract.profile
        if sample.references and not profile.pictures:
            raise ValueError(
                f"{sample.name} has pictures to edit, and {profile.title} was not made for pictures in its encoder; "
                "choose another vlm.profile or leave these examples out."
            )
        height, width = sample.target.size()
        size = bucket(height, width, data.pixels, data.bucket_step)
        if lost(height, width, size) > CROPPED:
            notes.add(f"pictures that lose more than {CROPPED:.0%} at their edges", sample.name)
        if height * width < size[0] * size[1] // 2:
            notes.add("pictures that were enlarged, which adds no detail", sample.name)
        caption, instruction, answer = (
            self._clean(text, sample.name, notes) for text in (sample.caption, sample.instruction, sample.answer)
        )
        conditions = {EMPTY: self.condition("")}
        if caption:
            conditions[TEXT] = self.condition(caption, answer="" if sample.references else answer)
        if sample.references:
            conditions[EDIT] = self.condition(instruction, sample.references, sample.labels, answer)
            if profile.negative_pictures:
                conditions[EMPTY_PICTURES] = self.condition("", sample.references, sample.labels)
        if profile.pictures and data.reconstruct:
            conditions[RECONSTRUCT] = self.condition("", [sample.target], sample.labels[:1])
        latent = key_of(VERSION, LATENTS, self.vae, size, self.digests.of(sample.target))
        return Example(sample.name, sample.source, sample.repeats, sample.target, size, latent, conditions)


def split(examples: Sequence[Example], heldout: int) -> tuple[list[Example], list[Example]]:
    """(to train on, held out): chosen by content, so that the same data gives the same split.

    Raises:
        ValueError: if nothing would be left to train on.
    """
    distinct = {example.latent for example in examples}
    if heldout and heldout >= len(distinct):
        raise ValueError(
            f"data.heldout is {heldout} and there are {len(distinct)} different pictures; keep fewer away from training."
        )
    away = set(sorted(distinct)[:heldout])
    kept, out, seen = [], [], set()
    for example in examples:
        if example.latent not in away:
            kept.append(example)
        elif example.latent not in seen:
            seen.add(example.latent)
            out.append(example)
    return kept, out


def without_long(examples: Sequence[Example], lengths: dict[str, int], longest: int, notes: Notes) -> list[Example]:
    """Examples without conditions of more than ``longest`` tokens; those with no task left go."""
    if not longest:
        return list(examples)
    out = []
    for example in examples:
        short = {task: c for task, c in example.conditions.items() if lengths[c.key] <= longest}
        if {TEXT, EDIT} & short.keys() and EMPTY in short:
            out.append(replace(example, conditions=short))
        else:
            notes.add(f"examples with more than {longest} tokens, left out", example.name)
    return out
