"""The safetensors files of hidden states and of conditioning: what is in them, and which files are refused.

Nothing is unpickled: a file is its header, checked here before anything else reads it, and plain tensors.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch

from .hidden_states import HiddenStates, from_tensors, to_tensors

HIDDEN_STATES, CONDITIONING = "hidden_states", "conditioning"
KIND = "unifusion.kind"
HEADER_LIMIT = 32 * 2**20  # bytes; a header with its graph is below 1 MB, a damaged length field is not
BRANCHES = ("positive", "negative")


class Stored(NamedTuple):
    """Content of a file.

    Attributes:
        kind: :data:`HIDDEN_STATES` or :data:`CONDITIONING`.
        positive, negative: :class:`HiddenStates`, or ComfyUI's conditioning list; ``negative`` may be None.
    """

    kind: str
    positive: HiddenStates | list
    negative: HiddenStates | list | None


def pack(stored: Stored) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        ValueError: if a conditioning carries what a file cannot hold, such as a ControlNet.
    """
    tensors, metadata = {}, {KIND: stored.kind, "unifusion.version": "1"}
    for branch in BRANCHES:
        value = getattr(stored, branch)
        if value is None:
            continue
        if stored.kind == HIDDEN_STATES:
            own, about = to_tensors(value)
            metadata[f"unifusion.{branch}"] = about["unifusion.about"]
        else:
            own, description = _pack_conditioning(value)
            metadata[f"unifusion.{branch}"] = json.dumps(description)
        tensors |= {f"{branch}.{name}": tensor for name, tensor in own.items()}
    return tensors, metadata


def unpack(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Stored:
    """Inverse of :func:`pack`.

    Raises:
        ValueError: if the content is not what :func:`pack` wrote.
    """
    kind = metadata.get(KIND)
    if kind not in (HIDDEN_STATES, CONDITIONING) or "unifusion.positive" not in metadata:
        raise ValueError("it is a safetensors file, but not one that Save Conditioning wrote")
    branches = []
    for branch in BRANCHES:
        about = metadata.get(f"unifusion.{branch}")
        if about is None:
            branches.append(None)
            continue
        own = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items() if name.startswith(f"{branch}.")}
        if kind == HIDDEN_STATES:
            floats = [own.get(name) for name in ("states", "weights", "spans")]
            if any(tensor is not None and not tensor.is_floating_point() for tensor in floats):
                raise ValueError("its states, weights and spans must be floating-point numbers")
            branches.append(from_tensors(own, {KIND: kind, "unifusion.about": about}))
        else:
            branches.append(_unpack_conditioning(own, about))
    return Stored(kind, *branches)


def _pack_conditioning(entries: list) -> tuple[dict[str, torch.Tensor], list[dict]]:
    tensors, description = {}, []
    for number, (tensor, options) in enumerate(entries):
        tensors[f"{number}.tensor"] = tensor.contiguous().cpu()
        plain = {}
        for key, value in options.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.option.{key}"] = value.contiguous().cpu()
                continue
            try:
                plain[key] = json.loads(json.dumps(value))
            except TypeError:
                raise ValueError(
                    f"This conditioning carries '{key}' ({type(value).__name__}), which a file cannot "
                    f"hold; save it before the node that adds '{key}'."
                ) from None
        description.append(plain)
    return tensors, description


def _unpack_conditioning(tensors: dict[str, torch.Tensor], about: str) -> list:
    try:
        description = json.loads(about)
        plain = [dict(options) for options in description]
    except (TypeError, ValueError):
        raise ValueError("the description inside it is damaged") from None
    entries = []
    for number, options in enumerate(plain):
        tensor = tensors.get(f"{number}.tensor")
        if tensor is None or tensor.ndim != 3 or not tensor.is_floating_point() or 0 in tensor.shape:
            found = "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"its conditioning must be a floating-point tensor (batch, tokens, width), found {found}")
        if not torch.isfinite(tensor).all():
            raise ValueError("its conditioning contains NaN or infinite values")
        prefix = f"{number}.option."
        entries.append(
            [
                tensor,
                options
                | {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
            ]
        )
    if not entries:
        raise ValueError("it holds no conditioning")
    return entries


def write(path: Path, stored: Stored, more_metadata: dict[str, str] | None = None) -> int:
    """Write a file so that under its final name there is either nothing or the whole file.

    Returns:
        its size in bytes.

    Raises:
        ValueError: if the content cannot be stored or the disk refuses it.
    """
    tensors, metadata = pack(stored)
    data = safetensors.torch.save(tensors, {**(more_metadata or {}), **metadata})
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise ValueError(
            f"'{path.name}' could not be saved: {error.strerror}. Free some space or choose another folder."
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)
    return len(data)


def header(path: Path) -> dict:
    """The header of a safetensors file.

    Raises:
        ValueError: if the file is none.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(start, "little")
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise ValueError("it is a pickle or an archive, not a safetensors file")
        if len(start) < 8 or length < 2 or length > HEADER_LIMIT:
            raise ValueError(
                "it is not a safetensors file"
                if length < HEADER_LIMIT
                else f"its header claims {length} bytes, more than the {HEADER_LIMIT} allowed"
            )
        if length > size - 8:
            raise ValueError("it is cut off inside its header")
        try:
            found = json.loads(file.read(length))
        except ValueError:
            raise ValueError("its header is damaged") from None
    if not isinstance(found, dict):
        raise ValueError("its header is damaged")
    return found


def is_stored(path: Path) -> bool:
    """Whether :func:`write` made this file, by its header alone."""
    try:
        return KIND in header(path).get("__metadata__", {})
    except (OSError, ValueError):
        return False


def read(path: Path) -> Stored:
    """Read a file.

    Raises:
        ValueError: naming the file and why it is refused.
    """
    try:
        if path.suffix != ".safetensors":
            raise ValueError(f"only .safetensors files are loaded, not '{path.suffix}'")
        metadata = header(path).get("__metadata__", {})
        if KIND not in metadata:
            raise ValueError("it is a safetensors file, but not one that Save Conditioning wrote")
        return unpack(safetensors.torch.load_file(path), metadata)
    except OSError as error:
        raise ValueError(f"'{path.name}' cannot be read: {error.strerror}.") from None
    except (ValueError, safetensors.SafetensorError) as error:
        reason = str(error).rstrip(".")
        if isinstance(error, safetensors.SafetensorError):
            reason = f"it is damaged or cut off ({reason})"
        raise ValueError(f"'{path.name}' cannot be loaded: {reason}.") from None
