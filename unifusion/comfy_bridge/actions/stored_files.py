"""Hidden states and conditioning in ComfyUI's folders: what Save and Load Conditioning do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker

from ...stored import CONDITIONING, HIDDEN_STATES, Stored, is_stored, read, write
from ..drawers import token_features
from ..drawers.conditioning import ABOUT, no_negative
from ..drawers.conditioning import about as about_states
from ..drawers.fusion_model import FusionModel
from ..drawers.pooled_context import accepting_pooled
from ..drawers.token_bias import check_takes_weights


def save(positive, negative, prefix: str, prompt: dict | None, extra: dict | None) -> tuple[str, str]:
    """Save into ComfyUI's output folder under the next free number.

    Args:
        positive, negative: :class:`HiddenStates` or a conditioning; ``negative`` may be None.
        prefix: folder and beginning of the name, as in the stock save nodes.
        prompt, extra: the graph, kept in the file unless ComfyUI runs with ``--disable-metadata``.

    Returns:
        (name as the load node lists it, report)

    Raises:
        ValueError: if the two are of different kinds, or the file cannot be written inside the output folder.
    """
    kinds = {
        HIDDEN_STATES if _is_hidden(value) else CONDITIONING for value in (positive, negative) if value is not None
    }
    if len(kinds) > 1:
        raise ValueError(
            "Positive and negative must be of one kind: connect hidden states to both, or conditioning to both."
        )
    kind = kinds.pop()
    root = folder_paths.get_output_directory()
    if not _inside(root, os.path.join(root, prefix)):
        raise ValueError(
            f"The name '{prefix}' leaves ComfyUI's output folder; use a name such as 'conditioning/UniFusion'."
        )
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
    metadata = {}
    if not args.disable_metadata:
        if prompt is not None:
            metadata["prompt"] = json.dumps(prompt)
        metadata |= {key: json.dumps(value) for key, value in (extra or {}).items()}
    file = f"{name}_{counter:05}_.safetensors"
    size = write(Path(folder) / file, Stored(kind, positive, negative), metadata)
    listed = f"{Path(subfolder, file).as_posix()} [output]"
    return listed, f"saved: {listed}, {size / 2**20:.2f} MB\n{_describe(Stored(kind, positive, negative))}"


def _is_hidden(value) -> bool:
    return hasattr(value, "states") and hasattr(value, "roles")  # not isinstance: the library may be imported twice


def _inside(root: str, path: str | Path) -> bool:
    """Whether a path stays in a folder, by its name: folders that a creator has linked in count as inside.

    ComfyUI has its own check of this from 0.27 on only.
    """
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def listing() -> list[str]:
    """Files that can be loaded, from the input and the output folder, newest first."""
    found = []
    for root, suffix in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        for path in Path(root).rglob("*.safetensors"):
            if not path.name.startswith(".") and is_stored(path):
                found.append((path.stat().st_mtime, path.relative_to(root).as_posix() + suffix))
    return [name for _, name in sorted(found, reverse=True)]


def path_of(name: str) -> Path:
    """Path of a listed name.

    Raises:
        ValueError: if it is not there or leaves ComfyUI's folders.
    """
    try:
        path = Path(folder_paths.get_annotated_filepath(name))
    except ValueError:
        raise ValueError(f"'{name}' leaves ComfyUI's input and output folders.") from None
    if not any(
        _inside(root, path)
        for root in (
            folder_paths.get_input_directory(),
            folder_paths.get_output_directory(),
            folder_paths.get_temp_directory(),
        )
    ):
        raise ValueError(f"'{name}' leaves ComfyUI's input and output folders.")
    if not path.is_file():
        raise ValueError(
            f"'{name}' is not in ComfyUI's input or output folder. Run Save Conditioning first, or put "
            f"the file into the input folder."
        )
    return path


def load(name: str, model):
    """Returns (MODEL, positive, negative, hidden states, negative hidden states, report).

    What the file does not hold is replaced by a block that stops only the nodes that use it, and says why.

    Raises:
        ValueError: if the file is refused or does not fit the model.
    """
    stored = read(path_of(name))
    report = f"{name}\n{_describe(stored)}"
    nothing = ExecutionBlocker(f"'{name}' holds {_PLAIN[stored.kind]}; use those outputs of Load Conditioning.")
    if stored.kind == HIDDEN_STATES:
        negative = stored.negative
        if negative is None:
            negative = ExecutionBlocker(f"'{name}' holds no negative; connect one to Save Conditioning.")
        passed = model if model is not None else _no_model()
        if model is not None:
            FusionModel(model).check(stored.positive, "loaded")
        return passed, nothing, nothing, stored.positive, negative, report
    positive = _upgraded(stored.positive)
    negative = _upgraded(stored.negative) if stored.negative is not None else no_negative(positive)
    return _prepared(model, positive, name), positive, negative, nothing, nothing, report


def _upgraded(entries: list) -> list:
    """Pooled entries of version 0.1 in today's form; others as they are."""
    return [
        [token_features.upgraded(tensor, options[ABOUT]["width"]) if ABOUT in options else tensor, options]
        for tensor, options in entries
    ]


def _prepared(model, entries: list, name: str):
    if model is None:
        return _no_model()
    if not any(ABOUT in options for _, options in entries):
        return model  # not pooled by this pack: the model takes it as it is
    fusion = FusionModel(model)
    for tensor, _ in entries:
        if tensor.shape[-1] != fusion.width + token_features.FEATURES:
            raise ValueError(
                f"'{name}' was pooled for a model of text width {entries[0][1][ABOUT]['width']}, but this "
                f"MODEL has {fusion.width}. Connect the MODEL it was saved with."
            )
        if token_features.split(tensor, fusion.width).weighted:
            check_takes_weights(fusion.network)
    return accepting_pooled(model)


def _no_model():
    return ExecutionBlocker("Load Conditioning has no MODEL to hand on; connect the drawing model to it.")


_PLAIN = {HIDDEN_STATES: "hidden states", CONDITIONING: "conditioning"}


def _describe(stored: Stored) -> str:
    """What a creator wants to know about a file."""
    lines = []
    for branch, value in (("positive", stored.positive), ("negative", stored.negative)):
        if value is None:
            continue
        if stored.kind == HIDDEN_STATES:
            about = about_states(value)
        else:
            about = value[0][1].get(ABOUT)
            if about is None:
                lines.append(f"{branch}: conditioning {' and '.join(str(tuple(tensor.shape)) for tensor, _ in value)}")
                continue
        roles = ", ".join(f"{count} {role}" for role, count in about["roles"].items())
        layers = ", ".join(map(str, about["taps"]))
        lines.append(f"{branch}: {_PLAIN[stored.kind]} of {about['vlm']}, layers {layers}; {roles}")
        words = (("prompt", about["prompt"]), ("rewritten", about["text"]))
        lines += [f"  {label}: {text}" for label, text in words if text]
    return "\n".join(lines)
