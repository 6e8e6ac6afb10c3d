"""What the encode nodes say of what they did: lines for creators, apart from the deeds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from ...hidden_states import IMAGE, INSTRUCTION, HiddenStates
from ...miniature_words import knows_any, slips, unknown_words
from ...profiles import Profile
from ...prompt_weights import HIGHEST, unread_weights
from ...quoting import quoted
from ...references import PreparedReference, prepared_lines, unknown_labels
from ..encoders.kept import stores
from ..encoders.text_encoder import VLM


def picture_lines(prompt: str, pictures: Sequence[PreparedReference]) -> list[str]:
    """Report: how each picture is seen, and labels in the prompt that no picture carries."""
    lines = prepared_lines(pictures)
    for label in unknown_labels(prompt, pictures):
        labels = ", ".join(f"'{picture.label}'" for picture in pictures if picture.label)
        carried = f"the pictures are labelled {labels}" if labels else "no picture carries a label"
        lines.append(
            f"Warning: the prompt names {quoted(label)}, but {carried}. Set labels in Multi-Reference Combine, "
            f"or name the picture otherwise."
        )
    return lines


def weight_lines(everything: HiddenStates, selected: HiddenStates, pieces: Sequence[tuple[str, float]]) -> list[str]:
    """Report: which words carry a weight, and weights that reach no token."""
    lines = [
        f"weight {weight:g} on '{text.strip()}'"
        + (" (removed)" if weight == 0 else " (subtracted)" if weight < 0 else "")
        for text, weight in pieces
        if weight != 1
    ]
    if not lines:
        return []
    words = everything.roles < IMAGE
    reached = everything.weights[words]
    for text, weight in pieces:
        if weight != 1 and not torch.isclose(reached, torch.tensor(weight)).any():
            lines.append(
                f"Warning: the weight of '{text.strip()}' has no effect: it falls inside a token of the "
                f"encoder, or its words are not read here. Weight whole words."
            )
    left = (selected.weights[selected.roles < IMAGE] != 1).sum()
    if left < (reached != 1).sum():
        lines.append(
            "Warning: the selection of tokens leaves weighted words out, so their weights have no effect. "
            "Choose a selection that contains the prompt."
        )
    return lines


def foreign_word_lines(vlm: VLM, prompt: str) -> list[str]:
    """First lines of a report: words that the miniature, which knows drawn shapes alone, has never seen.

    Args:
        prompt: as the creator typed it.
    """
    if vlm.profile.key != "miniature":
        return []
    folder = vlm.tokenizer.name_or_path
    words = unknown_words(prompt, folder)
    meant = [f"'{word}' as '{other}'" for word, other in slips(prompt, folder).items()]
    more = f" and {len(meant) - _MOST_SHOWN} more words" if len(meant) > _MOST_SHOWN else ""
    read = [f"Read {', '.join(meant[:_MOST_SHOWN])}{more}."] if meant else []
    if not words:
        return read
    line = f"This model draws coloured shapes. Not known: {', '.join(words)}."
    if not knows_any(prompt, folder):
        line += " Nothing here is known to it, so what it draws is its own choice."
    return [line, *read]


def budget_lines(
    everything: HiddenStates, selected: HiddenStates, selection: str, profile: Profile, precision: str
) -> list[str]:
    """Report: tokens of each role, the window, and the effect of the precision."""
    read = ", ".join(f"{count} {role}" for role, count in everything.count_by_role().items())
    used = ", ".join(f"{count} {role}" for role, count in selected.count_by_role().items())
    lines = [
        f"read: {everything.in_words()} ({everything.tokens} tokens: {read})",
        f"draws from: {selected.in_words()} (selection '{selection}'; {selected.tokens} tokens: {used}; "
        f"{selected.nbytes / 2**20:.1f} MB)",
        f"encoder: {everything.vlm} for {profile.title}, layers {', '.join(map(str, selected.taps))}",
    ]
    if profile.window:
        lines.append(f"room: {selected.tokens} of the {profile.window} tokens that {profile.title} was trained with")
        if selected.tokens > profile.window:
            words = int((everything.roles == INSTRUCTION).sum())
            lines.append(
                f"Warning: {selected.tokens} tokens are more than the {profile.window} that {profile.title} "
                f"was trained with ({words} of them prompt); the picture may turn black or noisy. Shorten the "
                f"prompt, give pictures a smaller budget, or select fewer tokens."
            )
    if precision == "bf16":
        lines.append("precision bf16: faster on a GPU; states differ from ComfyUI's fp32 encoding by a few percent.")
    return lines


def kept_line(vlm: VLM) -> str:
    """Report: what the encoder had to compute in this run, and what it keeps for the next."""
    kept = stores(vlm)
    in_front = vlm.in_front_read + vlm.in_front_reused
    pictures = f"; pictures in front of the words read {vlm.in_front_read} of {in_front} times" if in_front else ""
    sizes = ", ".join(
        f"{store.nbytes / 2**20:.1f} of at most {store.limit / 2**20:.0f} MB {name}" for name, store in kept.items()
    )
    return (
        f"work: {vlm.computed} of {vlm.computed + vlm.reused} sequences computed, {vlm.reused} kept from before"
        f"{pictures}; kept: {sizes}"
    )


# Syntax of other packs and of ComfyUI's own text nodes: (what it looks like, what to use here).
_FOREIGN = (
    (r"(?:^|(?<=\s))embedding:\S+", "embeddings are looked up by CLIP Text Encode alone"),
    (r"<(?:lora|lyco|hypernet):[^<>]*>", "load it with a Load LoRA node in front of the pool"),
    (r"\bBREAK\b", "join several encodes in Layerwise Attention Pool"),
    (r"(?<=\s)AND(?=\s)", "combine conditionings, or join several encodes in Layerwise Attention Pool"),
    (r"\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]", "Conditioning (Set Timestep Range) changes the prompt on the way"),
    (r"\[[^\[\]|]+\|[^\[\]]+\]", "it does not alternate; use two encodes"),
    (r"\{[^{}|]+\|[^{}]+\}", "ComfyUI chooses one of such words before it queues a graph, not through the API"),
    (r"__[A-Za-z][\w/-]*__", "wildcards are filled in by other packs only"),
)
_MOST_SHOWN = 3


def syntax_lines(prompt: str) -> list[str]:
    """Report: what another pack or node would act on, and is read as words here."""
    lines = [
        f"Warning: {quoted(text)} stays text: a weight runs from -{HIGHEST:g} to {HIGHEST:g}, as in (word:1.4)."
        for text in unread_weights(prompt)[:_MOST_SHOWN]
    ]
    for pattern, instead in _FOREIGN:
        if found := re.search(pattern, prompt):
            lines.append(f"Warning: {quoted(found[0])} is read as words; {instead}.")
    return lines
