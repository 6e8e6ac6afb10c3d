"""Prompt and pictures to hidden states: what the VLM Encode node does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from ...conditions import dropped_tokens, encode_segments, selected_tokens, words_of_prompt
from ...hidden_states import HiddenStates, image_role
from ...jobs import with_jobs
from ...messages import remove_control_tokens, spelled_as_meant
from ...profiles import PROFILES, WIDTH_MAJOR, Profile, parse_taps, taps_for
from ...prompt_weights import parse_weights, plain_text
from ...quoting import quoted
from ...references import TOKEN, PreparedReference, Reference, from_images, prepare_as
from ...system_prompts import AS_PROFILE
from ..encoders.text_encoder import VLM, encode
from .later import NOT_YET, Later
from .reports import budget_lines, foreign_word_lines, kept_line, picture_lines, syntax_lines, weight_lines


def choose_profile(vlm: VLM, key: str) -> Profile:
    """The row a widget names.

    Raises:
        ValueError: if there is none.
    """
    if key != "auto" and key not in PROFILES:
        raise ValueError(f"There is no profile {quoted(key)}; choose one of: auto, {', '.join(PROFILES)}.")
    if key == "auto":
        return vlm.profile
    vlm.check_profile(PROFILES[key])
    return PROFILES[key]


def gather(
    references: Sequence[Reference] | None,
    images: dict | None,
    profile: Profile,
    token: int = TOKEN,
    side: int = 0,
) -> list[PreparedReference]:
    """References and plain images as one list, references first, in the size the profile wants."""
    given = (*(references or ()), *from_images(images or {}))
    return [prepare_as(reference, profile, number, token, side) for number, reference in enumerate(given, 1)]


def read_prompt(prompt: str, tokenizer) -> tuple[list[tuple[str, float]], list[str]]:
    """Take weights and control tokens out of a creator's text.

    Returns:
        ((text, weight) pieces, control tokens that were removed)

    Raises:
        ValueError: if taking the weights out would leave a control token.
    """
    clean, removed = remove_control_tokens(prompt, tokenizer)
    pieces = parse_weights(spelled_as_meant(clean, tokenizer))
    if hidden := remove_control_tokens(plain_text(pieces), tokenizer)[1]:
        raise ValueError(f"Without its weights the text would contain the control token '{hidden[0]}'. Remove it.")
    return pieces, removed


def typed_text(text: str, tokenizer) -> str:
    """A creator's text without weights and control tokens, every word as it was typed."""
    return plain_text(parse_weights(remove_control_tokens(text, tokenizer)[0]))


def as_asked(hidden: HiddenStates, references: Sequence[PreparedReference]) -> HiddenStates:
    """Every picture's tokens do the job of their reference, in the part of the schedule in which it counts."""
    spans = hidden.spans.clone()
    for index, reference in enumerate(references):
        spans[hidden.roles == image_role(index)] = torch.tensor([reference.start, reference.end])
    return with_jobs(hidden._replace(spans=spans), [reference.job for reference in references])


class Reading(NamedTuple):
    """Who reads, and how: the same for every chat of a run.

    Attributes:
        vlm, profile: the encoder and its row.
        references: pictures in the size that the row wants.
        taps: layers whose inputs are kept.
        selection: which tokens condition the picture.
        precision: ``"fp32"`` or ``"bf16"``.
    """

    vlm: VLM
    profile: Profile
    references: Sequence[PreparedReference]
    taps: tuple[int, ...]
    selection: str
    precision: str


def encode_selected(
    reading: Reading, system: str, prompt: str | Sequence[tuple[str, float]]
) -> tuple[HiddenStates, HiddenStates]:
    """Returns (all tokens, selected tokens); the prompt is text or (text, weight) pieces."""
    profile, references = reading.profile, reading.references
    everything, opener = encode(
        reading.vlm,
        encode_segments(profile, system, prompt, references),
        reading.taps,
        [reference.views for reference in references],
        reading.precision,
        opener=profile.chat.opener,
        pad=True,
        drop=dropped_tokens(profile, system, prompt, bool(references)),
        # With a rule for pictures ComfyUI has an edit-encode node of its own, which is equalled bit for bit.
        in_parts=profile.picture_rule is None,
        prompt=words_of_prompt(prompt),
    )
    everything = as_asked(everything, references)
    return everything, selected_tokens(everything, reading.selection, opener)


def empty_prompt(reading: Reading, system: str = "") -> HiddenStates:
    """The usual negative: the empty prompt, with the same pictures where the profile says so.

    Pictures to draw away from are left out of it: they are subtracted in the positive alone, as words are.

    Args:
        system: a system prompt other than the profile's; empty for that.
    """
    profile = reading.profile
    shown = [r._replace(strength=max(0.0, r.strength)) for r in reading.references] if profile.negative_pictures else ()
    system = system or profile.system_for("", bool(shown))
    return encode_selected(reading._replace(references=shown), system, "")[1]


def put_off(later: bool, clip, make: Callable[[], HiddenStates]) -> HiddenStates | Later:
    """What ``make`` returns, or the same when a node takes it."""
    return Later(clip, make) if later else make()


def run(
    clip,
    prompt: str,
    *,
    profile: str = "auto",
    selection: str = AS_PROFILE,
    system_prompt: str = "",
    taps: str = "",
    precision: str = "fp32",
    references: Sequence[Reference] | None = None,
    images: dict | None = None,
    later: bool = False,
) -> tuple[HiddenStates, HiddenStates | Later, str]:
    """Returns (hidden states, negative, report).

    Args:
        later: whether the negative is put off until a node takes it.
    """
    vlm = VLM(clip)
    known = choose_profile(vlm, profile)
    layers = parse_taps(taps, vlm.layers) if taps.strip() else taps_for(known, vlm.layers)
    pieces, removed = read_prompt(prompt, vlm.tokenizer)
    own_system, removed_too = remove_control_tokens(system_prompt.strip(), vlm.tokenizer)
    pictures = gather(references, images, known, token=vlm.token_side, side=vlm.picture_side)
    system = own_system or known.system_for(plain_text(pieces), bool(pictures))
    chosen = known.encode_selection if selection == AS_PROFILE else selection
    reading = Reading(vlm, known, pictures, taps=layers, selection=chosen, precision=precision)
    everything, selected = encode_selected(reading, system, pieces)
    negative = put_off(later, clip, partial(empty_prompt, reading, own_system))
    lines = [
        *foreign_word_lines(vlm, prompt),
        *budget_lines(everything, selected, chosen, known, precision),
        *picture_lines(plain_text(pieces), pictures),
        *weight_lines(everything, selected, pieces),
        *syntax_lines(plain_text(pieces)),
        kept_line(vlm),
        *([NOT_YET] if later else ()),
    ]
    if not plain_text(pieces).strip() and not pictures:
        lines.append(
            "The prompt is empty and there is no picture: this is an unconditional encode, useful as a negative."
        )
    if vlm.layers in layers and known.final_norm and known.combination == WIDTH_MAJOR:
        behind = (
            "without a final norm, which this file has not" if vlm.decoder.norm is None else "behind the final norm"
        )
        lines.append(f"The last of the layers is taken {behind}: {known.title}'s two encoder files differ in it alone.")
    if own_system and not known.chat.system:
        lines.append(f"Warning: {known.title} is given no system prompt, so system_prompt is not used.")
    if removed or removed_too:
        lines.append(f"Removed control tokens from the text: {', '.join(sorted({*removed, *removed_too}))}.")
    return selected, negative, "\n".join(lines)
