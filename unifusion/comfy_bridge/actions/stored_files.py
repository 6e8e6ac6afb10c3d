"""Hidden states and conditioning in ComfyUI's folders: what Save and Load Conditioning do."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker

from ...file_names import check_name, fill_in
from ...quoting import quoted, whole_letters
from ...stored import (
    CONDITIONING,
    FIRST_LOOK,
    HEADER_LIMIT,
    HIDDEN_STATES,
    Stored,
    branches,
    encode,
    looks_stored,
    read,
    write,
)
from ..drawers import token_features
from ..drawers.conditioning import ABOUT, STOCK_ABOUT, no_negative
from ..drawers.conditioning import about as about_states
from ..drawers.door import accepting, drawer_for
from ..drawers.fusion_model import FusionModel
from ..drawers.pooled_context import accepting_pooled
from ..drawers.token_bias import check_takes_weights
from ..drawers.weighed_tokens import WeighedTokens, from_columns

LISTING_SECONDS = 2.0  # files that are not looked at in this time are listed the next time
PREFIX_LIMIT = 4096  # characters, as long as a path may be
LISTING_BYTES = 256 * 2**20
_WORK = 1.5  # memory of loading, as a multiple of the file
_ABOUTS = (ABOUT, STOCK_ABOUT)
_COLUMNS = "unifusion_columns"  # in files: weights and schedule stand behind the numbers of every token
_PLAIN = {HIDDEN_STATES: "hidden states", CONDITIONING: "conditioning"}


def save(positive, negative, prefix: str, prompt: dict | None, extra: dict | None) -> tuple[str, str]:
    """Save into ComfyUI's output folder under the next free number.

    Everything is checked before anything is written.

    Args:
        positive, negative: :class:`HiddenStates` or a conditioning; ``negative`` may be None.
        prefix: folder and beginning of the name, as in the stock save nodes.
        prompt, extra: the graph, kept in the file unless ComfyUI runs with ``--disable-metadata``.

    Returns:
        (name as the load node lists it, report)

    Raises:
        ValueError: if the two are of different kinds or could not be loaded again, or the file cannot be written
            inside the output folder.
    """
    if positive is None:
        raise ValueError("Save Conditioning got no positive (None); connect conditioning or hidden states to it.")
    kinds = {
        HIDDEN_STATES if _is_hidden(value) else CONDITIONING for value in (positive, negative) if value is not None
    }
    if len(kinds) > 1:
        raise ValueError(
            "Positive and negative must be of one kind: connect hidden states to both, or conditioning to both."
        )
    stored = Stored(kinds.pop(), positive, negative)
    root = folder_paths.get_output_directory()
    name, notes = _name(prefix, root, prompt, extra)
    graph: dict[str, str] = {}
    if args.disable_metadata:
        stored = _without_texts(stored)
        notes.append("left out for --disable-metadata: the graph, the prompt, the written text and every token's text")
    else:
        graph, odd = _graph(prompt, extra)
        notes += odd
    encoded = encode(_with_columns(stored), graph)
    if damaged := _damaged_about(stored):
        raise ValueError(
            f"The {damaged} conditioning cannot be saved: another node has changed what it says of itself."
        )
    if stored.kind == HIDDEN_STATES and (odd := _odd_masks(stored)):
        raise ValueError(f"These hidden states cannot be saved: {odd}. Make regions with the Region node.")
    if encoded.graph_left_out:
        notes.append(f"the graph is not in the file: {encoded.graph_left_out}")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(name, root)
    except OSError as error:
        raise ValueError(
            f"The folder of {quoted(name)} cannot be used: {error.strerror}. Choose another file name prefix."
        ) from None
    file = f"{name}_{counter:05}_.safetensors"
    write(Path(folder) / file, encoded)
    listed = f"{Path(subfolder, file).as_posix()} [output]"
    lines = [f"saved: {listed}, {encoded.nbytes / 2**20:.2f} MB", *notes, *_describe(stored)]
    return listed, whole_letters("\n".join(lines))


def _name(prefix: object, root: str, prompt: dict | None, extra: dict | None) -> tuple[str, list[str]]:
    """Checked name below the output folder, and notes on what in it was not filled in.

    Raises:
        ValueError: if Load Conditioning would not list or take such a file.
    """
    if not isinstance(prefix, str):
        raise ValueError(f"The file name prefix must be text, found {type(prefix).__name__}.")
    if len(prefix) > PREFIX_LIMIT:
        raise ValueError(f"The file name prefix has {len(prefix)} characters, more than the {PREFIX_LIMIT} allowed.")
    filled, notes = fill_in(prefix, prompt, extra, datetime.now())
    if os.path.isabs(filled) and _inside(root, os.path.dirname(filled)):  # as the stock save nodes take it
        filled = os.path.relpath(filled, root)
    name = check_name(filled)
    folder = os.path.join(os.path.realpath(root), *name.split("/")[:-1])
    if os.path.normcase(os.path.realpath(folder)) != os.path.normcase(folder):
        raise ValueError(
            f"A folder in {quoted(name)} is a link, which ComfyUI does not follow when it loads; use another folder."
        )
    return name, notes


def _graph(prompt: object, extra: object) -> tuple[dict[str, str], list[str]]:
    """The graph as metadata, and a note on each part that is no JSON."""
    parts = {"prompt": prompt} if prompt is not None else {}
    parts |= {str(key): value for key, value in extra.items()} if isinstance(extra, dict) else {}
    graph, notes = {}, []
    for key, value in parts.items():
        try:
            graph[key] = json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            notes.append(f"{quoted(key)} of the graph is not in the file: it cannot be written as JSON")
    return graph, notes


def _with_columns(stored: Stored) -> Stored:
    """The same content with what travels beside a tensor as columns of it."""
    if stored.kind == HIDDEN_STATES:
        return stored

    def plain(entry):
        match entry:
            case [WeighedTokens() as tensor, {**options}]:
                return [tensor.columns(), {**options, _COLUMNS: True}]
        return entry

    return stored._replace(
        **{
            branch: [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
            for branch, value in branches(stored)
        }
    )


def _without_texts(stored: Stored) -> Stored:
    """The same content without a word of the creator or of the model."""

    def bare(value):
        if stored.kind == HIDDEN_STATES:
            return value._replace(prompt="", text="", pieces=("",) * len(value.pieces))
        if not isinstance(value, (list, tuple)):
            return value
        return [bare_entry(entry) for entry in value]

    def bare_entry(entry):
        match entry:
            case [tensor, {**options}]:
                told = {key: options[key] for key in _ABOUTS if isinstance(options.get(key), dict)}
                return [tensor, {**options, **{key: {**told[key], "prompt": "", "text": ""} for key in told}}]
        return entry

    return stored._replace(**{branch: bare(value) for branch, value in branches(stored)})


def _is_hidden(value) -> bool:
    return hasattr(value, "states") and hasattr(value, "roles")  # not isinstance: the library may be imported twice


def _inside(root: str, path: str | Path) -> bool:
    """Whether a path, with its links followed, stays in a folder, as ComfyUI asks from 0.30 on."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return False


_known: dict[tuple[str, int, int, int], bool] = {}  # path, size, time of change, inode -> whether it is listed


def listing() -> list[str]:
    """Files that can be loaded, from the input and the output folder, newest first.

    Raises nothing, whatever the folders hold, and takes bounded time: a file is looked at once for each change of it.
    """
    until, left = time.monotonic() + LISTING_SECONDS, LISTING_BYTES
    files = []
    for root, suffix in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        for path, info in _safetensors_files(root, until):
            files.append((info.st_mtime, os.path.relpath(path, root).replace(os.sep, "/") + suffix, path, info))
    files.sort(key=lambda file: file[:2], reverse=True)
    keys = {name: (path, info.st_size, info.st_mtime_ns, info.st_ino) for _, name, path, info in files}
    looked: dict[tuple, bool] = {key: _known[key] for key in keys.values() if key in _known}
    for most in (FIRST_LOOK, HEADER_LIMIT):  # a long look at one file keeps no other out of the list
        for key in keys.values():
            if key in looked:
                continue
            if left <= 0 or time.monotonic() > until:
                break
            own, used = looks_stored(Path(key[0]), most)
            left -= used
            if own is not None:
                looked[key] = own
    _known.clear()
    _known.update(looked)
    return [name for name, key in keys.items() if looked.get(key)]


def _safetensors_files(root: str, until: float) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below a folder that :func:`path_of` takes, with what the system knows of them."""
    folders = [root]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if time.monotonic() > until:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.endswith(".safetensors") and not entry.name.startswith("."):
                        info = _listed_info(entry, root)
                        if info is not None:
                            yield entry.path, info
        except OSError:
            continue  # unreadable, or removed meanwhile


def _listed_info(entry: os.DirEntry, root: str) -> os.stat_result | None:
    try:
        entry.path.encode()  # a name that is no text reaches no browser
        info = entry.stat()
    except (OSError, UnicodeEncodeError):
        return None
    if not stat.S_ISREG(info.st_mode) or (entry.is_symlink() and not _inside(root, entry.path)):
        return None
    return info


def path_of(name: object) -> Path:
    """Path of a listed name.

    Raises:
        ValueError: if it is not there or leaves ComfyUI's folders.
    """
    if not isinstance(name, str):
        raise ValueError(f"The file must be a name from the list, found {type(name).__name__}.")
    relative, base = folder_paths.annotated_filepath(name)
    root = base if base is not None else folder_paths.get_input_directory()
    path = Path(os.path.abspath(os.path.join(root, relative))) if "\0" not in name else None
    if path is None or not _inside(root, path):
        raise ValueError(f"{quoted(name)} leaves ComfyUI's input and output folders.")
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise ValueError(
            f"{quoted(name)} is not in ComfyUI's input or output folder. Run Save Conditioning first, or put "
            f"the file into the input folder."
        )
    return path


def load(name: str, model):
    """Returns (MODEL, positive, negative, hidden states, negative hidden states, report).

    What the file does not hold is replaced by a block that stops only the nodes that use it, and says why.

    Raises:
        ValueError: if the file is refused or does not fit the model.
    """
    path = path_of(name)
    _check_memory(path)
    stored = read(path)
    if damaged := _damaged_about(stored):
        branch, key = damaged
        raise ValueError(f"{quoted(path.name)} cannot be loaded: what it says of its {branch} ('{key}') is damaged.")
    report = whole_letters("\n".join([name, *_describe(stored)]))
    nothing = ExecutionBlocker(f"{quoted(name)} holds {_PLAIN[stored.kind]}; use those outputs of Load Conditioning.")
    if stored.kind == HIDDEN_STATES:
        if odd := _odd_masks(stored):
            raise ValueError(f"{quoted(path.name)} cannot be loaded: {odd}.")
        negative = stored.negative
        if negative is None:
            negative = ExecutionBlocker(f"{quoted(name)} holds no negative; connect one to Save Conditioning.")
        passed = model if model is not None else _no_model()
        if model is not None:
            for branch, value in branches(stored):
                drawer_for(model).check(value, f"loaded {branch}")
        return passed, nothing, nothing, stored.positive, negative, report
    positive = [upgrade(entry) for entry in stored.positive]
    negative = no_negative(positive) if stored.negative is None else [upgrade(entry) for entry in stored.negative]
    passed = _no_model() if model is None else _prepared(model, [*positive, *negative], name)
    return passed, positive, negative, nothing, nothing, report


def _check_memory(path: Path) -> None:
    """Refuse a file that would fill the memory (a sparse one takes no room on a disk)."""
    need = path.stat().st_size * _WORK
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if need > free:
        raise ValueError(
            f"{quoted(path.name)} takes {need / 2**30:.1f} GB of memory to load, but {free / 2**30:.1f} GB are free. "
            f"Close other programs, or save conditioning instead of hidden states."
        )


def upgrade(entry: list) -> list:
    """An entry as earlier versions of the pack saved it, in today's form; today's as it is.

    0.1.0 kept the weights of pooled tokens as logarithms in one further column, or none, and tuples as lists.
    """
    tensor, options = entry
    if options.get(_COLUMNS) is True:
        tensor = from_columns(tensor)
        options = {key: value for key, value in options.items() if key != _COLUMNS}
    if ABOUT in options:
        tensor = token_features.upgraded(tensor, options[ABOUT]["width"])
    if isinstance(options.get("area"), list):
        options = {**options, "area": tuple(options["area"])}
    return [tensor, options]


def _prepared(model, entries: list, name: str):
    """The MODEL as its sampler needs it for these entries, pooled by this pack or not, in any mixture.

    Raises:
        ValueError: if an entry was pooled for another model.
    """
    if any(ABOUT in options for _, options in entries):
        fusion = FusionModel(model)
    elif hasattr(getattr(model.model, "diffusion_model", None), "txtfusion"):
        fusion = FusionModel(model)  # an entry may be pooled without saying so, as the missing negative's zeros are
    else:
        return accepting(model)
    needed = False
    for tensor, options in entries:
        width = tensor.shape[-1]
        pooled = width in (fusion.width, fusion.width + token_features.FEATURES)
        if ABOUT in options and options[ABOUT]["width"] != fusion.width:
            raise ValueError(
                f"{quoted(name)} was pooled for a model of text width {options[ABOUT]['width']}, but this "
                f"MODEL has {fusion.width}. Connect the MODEL it was saved with."
            )
        if ABOUT in options and not pooled:
            raise ValueError(
                f"{quoted(name)} holds pooled conditioning of {width} numbers a token, where this MODEL expects "
                f"{fusion.width + token_features.FEATURES}. Save it before the node that changed it."
            )
        needed |= pooled
        if width == fusion.width + token_features.FEATURES:
            try:
                carried = token_features.split(tensor, fusion.width)
            except ValueError as error:
                raise ValueError(f"{quoted(name)} cannot be drawn: {error}") from None
            if carried.weighted or carried.regions.any():
                check_takes_weights(fusion.network)
    return accepting_pooled(model) if needed else model


def _odd_masks(stored: Stored) -> str:
    """What is wrong with the masks of regions, or ``""``."""
    side = token_features.MASK_SIDE
    found = [mask for _, hidden in branches(stored) for mask in hidden.masks if mask.shape != (side, side)]
    return f"the masks of its regions must be {side} x {side}, found {tuple(found[0].shape)}" if found else ""


def _no_model():
    return ExecutionBlocker("Load Conditioning has no MODEL to hand on; connect the drawing model to it.")


def _damaged_about(stored: Stored) -> tuple[str, str] | None:
    """Branch and name of a description that is not as :func:`drawers.conditioning.about` makes it, or None."""
    if stored.kind == HIDDEN_STATES:
        return None
    for branch, entries in branches(stored):
        for _, options in entries:
            for key in _ABOUTS:
                if key in options and not _is_about(options[key]):
                    return branch, key
    return None


def _is_about(about: object) -> bool:
    if not isinstance(about, dict):
        return False
    taps, roles = about.get("taps"), about.get("roles")
    return (
        all(isinstance(about.get(key), str) for key in ("vlm", "prompt", "text"))
        and type(about.get("width")) is int
        and isinstance(taps, list)
        and all(type(tap) is int for tap in taps)
        and isinstance(roles, dict)
        and all(isinstance(role, str) and type(count) is int for role, count in roles.items())
    )


def _describe(stored: Stored) -> list[str]:
    """What a creator wants to know about a file: every prompt in it, once for each branch."""
    lines: list[str] = []
    for branch, value in branches(stored):
        if stored.kind == HIDDEN_STATES:
            abouts: list[dict | None] = [about_states(value)]
        else:
            abouts = [options.get(ABOUT) or options.get(STOCK_ABOUT) for _, options in value]
        told = []
        for number, about in enumerate(abouts):
            if about is None:
                own = [f"{branch}: conditioning {tuple(value[number][0].shape)}"]
            else:
                own = _describe_about(branch, _PLAIN[stored.kind], about)
            if own not in told:
                told.append(own)
        lines += [line for own in told for line in own]
    return lines


def _describe_about(branch: str, kind: str, about: dict) -> list[str]:
    roles = ", ".join(f"{count} {role}" for role, count in about["roles"].items())
    layers = ", ".join(map(str, about["taps"]))
    words = (("prompt", about["prompt"]), ("rewritten", about["text"]))
    return [
        f"{branch}: {kind} of {about['vlm']}, layers {layers}; {roles}",
        *(f"  {label}: {text}" for label, text in words if text),
    ]
