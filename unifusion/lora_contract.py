"""What the file of a LoRA or a model says it was trained with, compared with what it is used with."""

from __future__ import annotations

from collections.abc import Mapping

from .hidden_states import GENERATED, IMAGE, INSTRUCTION, TEMPLATE, HiddenStates
from .quoting import quoted
from .selection import SELECTIONS, selection_mask

PREFIX = "unifusion."
ROUNDED = 1.15  # views of other shapes have a few tokens more or less
CONTRACT = "unifusion_contract"  # where a MODEL of Load UniFusion Model keeps what its file says


def contract_lines(metadata: Mapping[str, str] | None, hidden: HiddenStates, name: str) -> list[str]:
    """Warnings where hidden states are not what a file was trained with; none for files of other trainers.

    Args:
        metadata: of the file, as it is kept with a MODEL.
        hidden: what conditions the picture.
        name: of what was trained, ``LoRA`` or ``model``.
    """
    told = {key.removeprefix(PREFIX): str(value) for key, value in (metadata or {}).items() if key.startswith(PREFIX)}
    if "vlm" not in told:
        return []
    lines = []

    def warn(what: str, found: str, wanted: str, advice: str) -> None:
        lines.append(f"Warning: the {name} was trained with {what} {quoted(wanted)}, this is {quoted(found)}. {advice}")

    if _sizes(told["vlm"]) != _sizes(hidden.vlm):
        warn("the VLM", hidden.vlm, told["vlm"], "Encode with the VLM it was trained with.")
    taps = ", ".join(map(str, hidden.taps))
    if told.get("taps", taps) != taps:
        warn("the layers", taps, told["taps"], "Leave the widget taps empty, or write these layers there.")
    lines += [
        f"Warning: the {name} was trained with {text}" for text in _selection_lines(told.get("selection", ""), hidden)
    ]
    lines += [f"Warning: the {name} was trained with {text}" for text in _picture_lines(told, hidden)]
    return lines


def _sizes(vlm: str) -> str:
    """``36 layers, width 2560)`` of a name: one model has other names as stock encoder and as folder."""
    return vlm.rpartition("(")[2]  # a folder's name may have spaces


def _selection_lines(selection: str, hidden: HiddenStates) -> list[str]:
    """Whether there are tokens that the selection of the training would have left out."""
    if selection not in SELECTIONS or (hidden.roles == GENERATED).any():  # what was written has a selection of its own
        return []
    known = (hidden.roles == INSTRUCTION) | (hidden.roles >= IMAGE)
    left = ~selection_mask(hidden.roles, selection)
    if bool((left & known).any()) or (selection == "images and prompt" and bool(((~known) & left).sum() > 3)):
        return [f"the selection {quoted(selection)}, and these are other tokens. Choose it on VLM Encode."]
    return []


def _picture_lines(told: Mapping[str, str], hidden: HiddenStates) -> list[str]:
    lines = []
    largest = max((rows * columns for picture in hidden.grids for rows, columns in picture), default=0)
    tokens = told.get("picture_tokens", "")
    if tokens.isdecimal() and int(tokens) and largest > ROUNDED * int(tokens):
        lines.append(
            f"pictures of about {tokens} tokens a view, and one here has {largest}. Set the token budget to 0."
        )
    labels = [label.strip() for label in told.get("labels", "").split(",") if label.strip()]
    text = "".join(hidden.pieces)
    for label in labels[: len(hidden.grids)]:
        if label.format(1) not in text and (hidden.roles == TEMPLATE).any():
            lines.append(f"{quoted(label)} in front of a picture. Write it as the label of the Reference.")
    return lines
