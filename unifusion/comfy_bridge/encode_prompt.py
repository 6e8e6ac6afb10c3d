"""Prompt and pictures to hidden states: what the VLM Encode node does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hidden_states import INSTRUCTION, HiddenStates, image_role, selection_mask, take
from ..messages import chat, remove_control_tokens
from ..profiles import PROFILES, Profile, parse_taps, taps_for
from ..references import Reference, from_images
from .vision import feature_store
from .vlm import VLM, encode


def choose_profile(vlm: VLM, key: str) -> Profile:
    return vlm.profile if key == "auto" else PROFILES[key]


def gather(references: Sequence[Reference] | None, images: dict | None, profile: Profile) -> list[Reference]:
    """References and plain images as one list, references first."""
    present = {name: image for name, image in (images or {}).items() if image is not None}
    return [*(references or ()), *from_images(present, profile.image_pixels)]


def with_spans(hidden: HiddenStates, references: Sequence[Reference]) -> HiddenStates:
    """Give every image token the part of the schedule in which its reference counts."""
    spans = hidden.spans.clone()
    for index, reference in enumerate(references):
        spans[hidden.roles == image_role(index)] = torch.tensor([reference.start, reference.end])
    return hidden._replace(spans=spans)


def label_texts(references: Sequence[Reference]) -> list[str]:
    """What stands in front of each picture in the prompt."""
    return [f"{reference.label}: " if reference.label else "" for reference in references]


def encode_selected(vlm: VLM, profile: Profile, system: str, prompt: str, references: Sequence[Reference],
                    taps: tuple[int, ...], selection: str, precision: str) -> tuple[HiddenStates, HiddenStates]:
    """Returns (all tokens, selected tokens)."""
    segments = chat(system, prompt, [len(reference.views) for reference in references], label_texts(references),
                    strengths=[reference.strength for reference in references])
    everything, opener = encode(vlm, segments, taps, [reference.views for reference in references], precision,
                                prompt=prompt)
    everything = with_spans(everything, references)
    return everything, take(everything, selection_mask(everything.roles, selection, opener))


def empty_prompt(vlm: VLM, profile: Profile, system: str, references: Sequence[Reference], taps: tuple[int, ...],
                 selection: str, precision: str) -> HiddenStates:
    """The usual negative: the empty prompt with the same pictures; kept, since it does not depend on the prompt."""
    store = feature_store(vlm)
    pictures = tuple((tuple(id(view) for view in r.views), r.label, r.strength, r.start, r.end) for r in references)
    key = (system, pictures, taps, selection, precision, vlm.clip.patcher.patches_uuid)
    kept = store.negative
    if kept is None or kept[0] != key:
        selected = encode_selected(vlm, profile, system, "", references, taps, selection, precision)[1]
        store.negative = kept = (key, selected, [r.views for r in references])  # views held: their ids stay theirs
    return kept[1]


def run(clip, prompt: str, profile_key: str, selection: str, system_prompt: str, taps_text: str, precision: str,
        references: Sequence[Reference] | None, images: dict | None) -> tuple[HiddenStates, HiddenStates, str]:
    """Returns (hidden states, negative, report)."""
    vlm = VLM(clip)
    profile = choose_profile(vlm, profile_key)
    taps = parse_taps(taps_text, vlm.layers) if taps_text.strip() else taps_for(profile, vlm.layers)
    prompt, removed = remove_control_tokens(prompt, vlm.tokenizer)
    system, removed_too = remove_control_tokens(system_prompt.strip() or profile.system, vlm.tokenizer)
    pictures = gather(references, images, profile)
    chosen = profile.encode_selection if selection == "as the profile" else selection
    everything, selected = encode_selected(vlm, profile, system, prompt, pictures, taps, chosen, precision)
    negative = empty_prompt(vlm, profile, system, pictures, taps, chosen, precision)
    lines = budget_lines(everything, selected, chosen, profile, precision)
    if not prompt.strip() and not pictures:
        lines.append("The prompt is empty and there is no picture: this is an unconditional encode, useful as a negative.")
    if removed or removed_too:
        lines.append(f"Removed control tokens from the text: {', '.join(sorted({*removed, *removed_too}))}.")
    return selected, negative, "\n".join(lines)


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
            lines.append(f"Warning: {selected.tokens} tokens are more than the {profile.window} that {profile.title} was "
                         f"trained with ({words} of them prompt); the picture may turn black or noisy. Shorten the "
                         f"prompt, give pictures a smaller budget, or select fewer tokens.")
    if precision == "bf16":
        lines.append("precision bf16: faster on a GPU; states differ from ComfyUI's fp32 encoding by a few percent.")
    return lines
