"""Prompt and pictures to hidden states: what the VLM Encode node does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hidden_states import IMAGE, INSTRUCTION, HiddenStates, image_role, selection_mask, take
from ..messages import chat, remove_control_tokens
from ..profiles import PROFILES, Profile, parse_taps, taps_for
from ..prompt_weights import parse_weights, plain_text
from ..references import TOKEN, PreparedReference, Reference, from_images, prepare, prepared_lines, unknown_labels
from ..tiny.tokenizer import unknown_words
from .vision import fingerprint, negative_store
from .vlm import VLM, encode


def choose_profile(vlm: VLM, key: str) -> Profile:
    return vlm.profile if key == "auto" else PROFILES[key]


def gather(references: Sequence[Reference] | None, images: dict | None, profile: Profile) -> list[PreparedReference]:
    """References and plain images as one list, references first, in the size the profile wants."""
    return [prepare(reference, profile.image_pixels // TOKEN**2)
            for reference in (*(references or ()), *from_images(images or {}))]


def read_prompt(prompt: str, tokenizer) -> tuple[list[tuple[str, float]], list[str]]:
    """Take weights and control tokens out of a creator's text.

    Returns:
        ((text, weight) pieces, control tokens that were removed)

    Raises:
        ValueError: if taking the weights out would leave a control token.
    """
    clean, removed = remove_control_tokens(prompt, tokenizer)
    pieces = parse_weights(clean)
    if hidden := remove_control_tokens(plain_text(pieces), tokenizer)[1]:
        raise ValueError(f"Without its weights the text would contain the control token '{hidden[0]}'. Remove it.")
    return pieces, removed


def with_spans(hidden: HiddenStates, references: Sequence[PreparedReference]) -> HiddenStates:
    """Give every image token the part of the schedule in which its reference counts."""
    spans = hidden.spans.clone()
    for index, reference in enumerate(references):
        spans[hidden.roles == image_role(index)] = torch.tensor([reference.start, reference.end])
    return hidden._replace(spans=spans)


def label_texts(references: Sequence[PreparedReference]) -> list[str]:
    """What stands in front of each picture in the prompt."""
    return [f"{reference.label}: " if reference.label else "" for reference in references]


def encode_selected(vlm: VLM, profile: Profile, system: str, prompt: str | Sequence[tuple[str, float]],
                    references: Sequence[PreparedReference], taps: tuple[int, ...], selection: str,
                    precision: str) -> tuple[HiddenStates, HiddenStates]:
    """Returns (all tokens, selected tokens); the prompt is text or (text, weight) pieces."""
    segments = chat(system, prompt, [len(reference.views) for reference in references], label_texts(references),
                    strengths=[reference.strength for reference in references])
    everything, opener = encode(vlm, segments, taps, [reference.views for reference in references], precision,
                                prompt=prompt if isinstance(prompt, str) else plain_text(prompt))
    everything = with_spans(everything, references)
    return everything, take(everything, selection_mask(everything.roles, selection, opener))


def empty_prompt(vlm: VLM, profile: Profile, system: str, references: Sequence[PreparedReference],
                 taps: tuple[int, ...], selection: str, precision: str) -> HiddenStates:
    """The usual negative: the empty prompt, with the same pictures where the profile says so.

    It is kept, since it does not depend on the prompt.
    """
    references = references if profile.negative_pictures else ()
    pictures = tuple((tuple(map(fingerprint, r.views)), r.label, r.strength, r.start, r.end) for r in references)
    return negative_store(vlm).get(
        (system, pictures, taps, selection, precision, vlm.clip.patcher.patches_uuid),
        lambda: encode_selected(vlm, profile, system, "", references, taps, selection, precision)[1],
        lambda hidden: hidden.nbytes)


def run(clip, prompt: str, profile_key: str, selection: str, system_prompt: str, taps_text: str, precision: str,
        references: Sequence[Reference] | None, images: dict | None) -> tuple[HiddenStates, HiddenStates, str]:
    """Returns (hidden states, negative, report)."""
    vlm = VLM(clip)
    profile = choose_profile(vlm, profile_key)
    taps = parse_taps(taps_text, vlm.layers) if taps_text.strip() else taps_for(profile, vlm.layers)
    pieces, removed = read_prompt(prompt, vlm.tokenizer)
    system, removed_too = remove_control_tokens(system_prompt.strip() or profile.system, vlm.tokenizer)
    pictures = gather(references, images, profile)
    chosen = profile.encode_selection if selection == "as the profile" else selection
    everything, selected = encode_selected(vlm, profile, system, pieces, pictures, taps, chosen, precision)
    negative = empty_prompt(vlm, profile, system, pictures, taps, chosen, precision)
    lines = [*budget_lines(everything, selected, chosen, profile, precision),
             *picture_lines(plain_text(pieces), pictures), *weight_lines(everything, selected, pieces),
             *foreign_word_lines(vlm, plain_text(pieces))]
    if not plain_text(pieces).strip() and not pictures:
        lines.append("The prompt is empty and there is no picture: this is an unconditional encode, useful as a "
                     "negative.")
    if removed or removed_too:
        lines.append(f"Removed control tokens from the text: {', '.join(sorted({*removed, *removed_too}))}.")
    return selected, negative, "\n".join(lines)


def picture_lines(prompt: str, pictures: Sequence[PreparedReference]) -> list[str]:
    """Report: how each picture is seen, and labels in the prompt that no picture carries."""
    lines = prepared_lines(pictures)
    for label in unknown_labels(prompt, pictures):
        labels = ", ".join(f"'{picture.label}'" for picture in pictures if picture.label)
        carried = f"the pictures are labelled {labels}" if labels else "no picture carries a label"
        lines.append(f"Warning: the prompt names '{label}', but {carried}. Set labels in Multi-Reference Combine, "
                     f"or name the picture otherwise.")
    return lines


def weight_lines(everything: HiddenStates, selected: HiddenStates, pieces: Sequence[tuple[str, float]]) -> list[str]:
    """Report: which words carry a weight, and weights that reach no token."""
    lines = [f"weight {weight:g} on '{text.strip()}'" + (" (removed)" if weight == 0 else "")
             for text, weight in pieces if weight != 1]
    if not lines:
        return []
    words = everything.roles < IMAGE
    reached = everything.weights[words]
    for text, weight in pieces:
        if weight != 1 and not torch.isclose(reached, torch.tensor(weight)).any():
            lines.append(f"Warning: the weight of '{text.strip()}' has no effect: it falls inside a token of the "
                         f"encoder, or its words are not read here. Weight whole words.")
    left = (selected.weights[selected.roles < IMAGE] != 1).sum()
    if left < (reached != 1).sum():
        lines.append("Warning: the selection of tokens leaves weighted words out, so their weights have no effect. "
                     "Choose a selection that contains the prompt.")
    return lines


def foreign_word_lines(vlm: VLM, prompt: str) -> list[str]:
    """Report: words that the miniature, which knows drawn shapes alone, has never seen."""
    if vlm.profile.key != "miniature":
        return []
    words = unknown_words(prompt, vlm.tokenizer.name_or_path)
    return [f"Words outside the miniature's world of drawn shapes: {', '.join(words)}."] if words else []


def budget_lines(everything: HiddenStates, selected: HiddenStates, selection: str, profile: Profile,
                 precision: str) -> list[str]:
    """Report: tokens of each role, the window, and the effect of the precision."""
    read = ", ".join(f"{count} {role}" for role, count in everything.count_by_role().items())
    used = ", ".join(f"{count} {role}" for role, count in selected.count_by_role().items())
    lines = [f"{profile.title}: {everything.vlm}, layers {', '.join(map(str, selected.taps))}",
             f"read: {everything.tokens} tokens ({read})",
             f"used ({selection}): {selected.tokens} tokens ({used}), {selected.nbytes / 2**20:.1f} MB"]
    if profile.window:
        lines.append(f"window: {selected.tokens} of {profile.window} tokens")
        if selected.tokens > profile.window:
            words = int((everything.roles == INSTRUCTION).sum())
            lines.append(f"Warning: {selected.tokens} tokens are more than the {profile.window} that {profile.title} "
                         f"was trained with ({words} of them prompt); the picture may turn black or noisy. Shorten the "
                         f"prompt, give pictures a smaller budget, or select fewer tokens.")
    if precision == "bf16":
        lines.append("precision bf16: faster on a GPU; states differ from ComfyUI's fp32 encoding by a few percent.")
    return lines
