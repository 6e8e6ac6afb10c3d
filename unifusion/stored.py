"""The safetensors files of hidden states and of conditioning: what is in them, and which files are refused.

Nothing is unpickled: a file is its header, whose size is checked before anything reads it, and plain tensors.
Whatever :func:`encode` takes, :func:`read` takes back: both ask the same checks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch

from .hidden_states import HiddenStates, from_tensors, to_tensors
from .quoting import printable, quoted, whole_letters

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted
    fcntl = None  # type: ignore[assignment]

HIDDEN_STATES, CONDITIONING = "hidden_states", "conditioning"
KIND, VERSION = "unifusion.kind", "unifusion.version"
FORMAT = 2  # 1: UniFusion 0.1.0
HEADER_LIMIT = 32 * 2**20  # bytes; a header with its graph is below 1 MB, a damaged length field is not
DESCRIPTION_LIMIT = 4 * 2**20  # bytes of one branch's description; 4,000 tokens take 0.1 MB
TENSORS_LIMIT = 10_000  # per file
SIZE_LIMIT = 16 * 2**30  # bytes; hidden states of 32,000 tokens with a negative take 8 GB
DEPTH_LIMIT = 32  # of lists and dictionaries inside each other
FIRST_LOOK = 4096  # bytes that a list of files reads of each
BRANCHES = ("positive", "negative")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int16, torch.int32, torch.int64, torch.int8, torch.uint8)
_DTYPES = {
    getattr(torch, name): code
    for name, code in {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
        "complex64": "C64",
        "int64": "I64",
        "int32": "I32",
        "int16": "I16",
        "int8": "I8",
        "uint64": "U64",
        "uint32": "U32",
        "uint16": "U16",
        "uint8": "U8",
        "bool": "BOOL",
    }.items()
    if hasattr(torch, name)  # an older PyTorch lacks some
}
_SIGN = re.compile(rb'"unifusion\.kind"\s*:\s*"(?:hidden_states|conditioning)"')
_FIRST = re.compile(rb'\s*\{\s*"__metadata__"')
_UNFINISHED = re.compile(r"\.unifusion-[0-9a-f]{16}\.unfinished")
_UNFINISHED_1 = re.compile(r"\..+\.safetensors\.[0-9a-f]{8}\.unfinished")  # 0.1.0, which did not lock them
_STALE_1 = 600  # seconds


class Stored(NamedTuple):
    """Content of a file.

    Attributes:
        kind: :data:`HIDDEN_STATES` or :data:`CONDITIONING`.
        positive, negative: :class:`HiddenStates`, or ComfyUI's conditioning list; ``negative`` may be None.
    """

    kind: str
    positive: HiddenStates | list
    negative: HiddenStates | list | None


class Encoded(NamedTuple):
    """A file before it is written.

    Attributes:
        header: the first bytes, up to the tensors.
        tensors: in the order in which they follow; contiguous, on the CPU.
        graph_left_out: why the graph is not in it, or ``""``.
    """

    header: bytes
    tensors: list[torch.Tensor]
    graph_left_out: str

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


class _Tensors:
    """Tensors of a file by name; one that is used twice is kept once."""

    def __init__(self):
        self.named: dict[str, torch.Tensor] = {}
        self._names: dict[tuple, str] = {}

    def add(self, tensor: torch.Tensor, name: str) -> str:
        """Name under which the tensor is kept.

        Raises:
            ValueError: if a file cannot hold it, with the reason.
        """
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"a tensor of a kind that a file cannot hold ({type(tensor).__name__}, {tensor.layout})")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"a tensor of {tensor.dtype}, which a file cannot hold")
        storage = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        place = (*storage, tensor.is_conj(), tensor.is_neg())
        if place not in self._names:
            if len(self.named) == TENSORS_LIMIT:
                raise ValueError(f"more than the {TENSORS_LIMIT} tensors that a file may hold")
            self._names[place] = name
            self.named[name] = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        return self._names[place]


def encode(stored: Stored, graph: dict[str, str] | None = None) -> Encoded:
    """A file as :func:`read` will take it.

    Args:
        graph: more metadata, left out when it is too large.

    Raises:
        ValueError: if the content is empty or damaged, or carries what a file cannot hold, such as a ControlNet.
    """
    tensors = _Tensors()
    metadata = {KIND: stored.kind, VERSION: str(FORMAT)}
    for branch in BRANCHES:
        value = getattr(stored, branch)
        if value is None:
            continue
        try:
            describe = _describe_hidden_states if stored.kind == HIDDEN_STATES else _describe_conditioning
            text = json.dumps(describe(value, tensors, branch))
            if len(text) > DESCRIPTION_LIMIT:
                raise ValueError(f"its description takes {len(text)} bytes, more than the {DESCRIPTION_LIMIT} allowed")
        except ValueError as error:
            what = stored.kind.replace("_", " ")
            raise ValueError(f"The {branch} {what} cannot be saved: {str(error).rstrip('.')}.") from None
        metadata[f"unifusion.{branch}"] = text
    if (size := sum(tensor.nbytes for tensor in tensors.named.values())) > SIZE_LIMIT:
        raise ValueError(
            f"This would be a file of {size / 2**30:.1f} GB, more than the {SIZE_LIMIT >> 30} GB that are loaded again; "
            f"save fewer tokens, or conditioning instead of hidden states."
        )
    ordered = dict(sorted(tensors.named.items(), key=lambda item: -item[1].element_size()))  # keeps each one aligned
    plain = _header(metadata, ordered)
    if len(plain) > HEADER_LIMIT:
        raise ValueError(
            f"This conditioning needs a header of {len(plain)} bytes, more than the {HEADER_LIMIT} that are loaded "
            f"again; combine fewer entries."
        )
    left_out = ""
    if graph:
        whole = _header(
            {**metadata, **{whole_letters(str(key)): value for key, value in graph.items() if key not in metadata}},
            ordered,
        )
        if len(whole) <= HEADER_LIMIT:
            plain = whole
        else:
            left_out = f"it takes {len(whole) / 2**20:.0f} MB, more than the {HEADER_LIMIT >> 20} MB allowed"
    return Encoded(plain, list(ordered.values()), left_out)


def _header(metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> bytes:
    """First bytes of a safetensors file. The kind stands first, so that a list of files finds it at once."""
    header: dict = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _describe_hidden_states(hidden: HiddenStates, tensors: _Tensors, branch: str) -> dict:
    own, about = to_tensors(hidden)
    _check_hidden_states(own, json.loads(about["unifusion.about"]))
    from_tensors(own, about)
    given = {name: getattr(hidden, name) for name in own}  # the same tensor on both branches is kept once
    names = {
        name: tensors.add(value if isinstance(value, torch.Tensor) else own[name], f"{branch}.{name}")
        for name, value in given.items()
    }
    return {**json.loads(about["unifusion.about"]), "tensors": names}


def _check_hidden_states(tensors: dict[str, torch.Tensor], about: dict) -> None:
    """What :func:`from_tensors` takes for granted.

    Raises:
        ValueError: with the reason.
        KeyError, TypeError: if the description lacks a part.
    """
    texts = [about["vlm"], about["prompt"], about["text"], *about["pieces"]]
    views = [view for image in about["grids"] for view in image]
    sides = [side for view in views for side in view]
    whole = all(type(number) is int for number in [*about["taps"], *sides])
    if not whole or not all(isinstance(text, str) for text in texts) or any(len(view) != 2 for view in views):
        raise ValueError("the description inside it is damaged")
    if any(tap < 0 for tap in about["taps"]) or any(side < 1 for side in sides) or not all(about["grids"]):
        raise ValueError("its layers must be 0 or more, and every image needs views of 1 x 1 tokens or more")
    for name, tensor in tensors.items():
        kinds, expected = (_WHOLE, "whole") if name in ("roles", "regions") else (_FLOATS, "floating-point")
        if tensor.dtype not in kinds:
            raise ValueError(f"its {name} must be {expected} numbers, found {tensor.dtype}")
    if not torch.isfinite(tensors["states"]).all():
        raise ValueError("its states contain NaN or infinite values")


def check_conditioning_tensor(tensor: object) -> None:
    """Refuse what no sampler can use.

    Raises:
        ValueError: with the reason.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 3 or tensor.dtype not in _FLOATS or 0 in tensor.shape:
        found = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        found = "missing" if tensor is None else found
        raise ValueError(f"its conditioning must be a floating-point tensor (batch, tokens, width), found {found}")
    if not torch.isfinite(tensor).all():
        raise ValueError("its conditioning contains NaN or infinite values")


def _describe_conditioning(entries: list, tensors: _Tensors, branch: str) -> list[dict]:
    if not isinstance(entries, (list, tuple)):
        raise ValueError(f"it is no conditioning but {type(entries).__name__}; connect a text encode node or a pool")
    if not entries:
        raise ValueError("it holds no conditioning, an empty list; connect a text encode node or a pool")
    description = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], dict):
            raise ValueError(f"entry {number + 1} is not a tensor with its options")
        tensor, options = entry
        check_conditioning_tensor(tensor)
        name = tensors.add(tensor, f"{branch}.{number}.tensor")
        kept = {}
        for key, value in options.items():
            if not isinstance(key, str):
                raise ValueError(f"it carries an option named by {type(key).__name__}, which a file cannot hold")
            try:
                kept[key] = _plain(value, tensors, f"{branch}.{number}")
            except ValueError as error:
                raise ValueError(
                    f"it carries {quoted(key)} ({error}), which a file cannot hold; save it before the node that "
                    f"adds {quoted(key)}"
                ) from None
        description.append({"tensor": name, "options": _dictionary(list(kept.items()))})
    return description


# A JSON object whose only odd key is "" stands for what JSON has no word for.
def _plain(value: Any, tensors: _Tensors, place: str, depth: int = 0) -> object:
    """A value of an option as JSON; tensors in it go to the file under a name.

    Raises:
        ValueError: with the kind that a file cannot hold.
    """
    if depth > DEPTH_LIMIT:
        raise ValueError(f"lists inside each other more than {DEPTH_LIMIT} deep")
    if value is None or type(value) in (bool, str) or (type(value) is int and value.bit_length() <= 64):
        return value
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else {"": "float", "value": repr(value)}
    if isinstance(value, torch.Tensor):
        return {"": "tensor", "name": tensors.add(value, f"{place}.extra.{len(tensors.named)}")}
    if type(value) in (tuple, torch.Size):
        return {"": "tuple", "items": [_plain(item, tensors, place, depth + 1) for item in value]}
    if type(value) is list:
        return [_plain(item, tensors, place, depth + 1) for item in value]
    if type(value) is dict:
        items = [(key, _plain(item, tensors, place, depth + 1)) for key, item in value.items()]
        if not all(type(key) in (str, int, bool) or key is None for key in value):
            raise ValueError("a dictionary with keys that are no text")
        return _dictionary(items)
    raise ValueError(type(value).__name__)


def _dictionary(items: list[tuple]) -> dict:
    if all(type(key) is str and key for key, _ in items):
        return dict(items)
    return {"": "dict", "items": items}


def _value(plain: Any, tensors: dict[str, torch.Tensor], used: set[str], depth: int = 0) -> Any:
    """Inverse of :func:`_plain`."""
    if depth > DEPTH_LIMIT:
        raise ValueError("the description inside it is nested too deeply")
    if isinstance(plain, list):
        return [_value(item, tensors, used, depth + 1) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kind = plain.get("")
    if kind is None:
        return {key: _value(item, tensors, used, depth + 1) for key, item in plain.items()}
    if kind == "float" and plain["value"] in ("inf", "-inf", "nan"):
        return float(plain["value"])
    if kind == "tensor":
        used.add(plain["name"])
        return tensors[plain["name"]]
    if kind == "tuple":
        return tuple(_value(item, tensors, used, depth + 1) for item in plain["items"])
    if kind == "dict" and all(isinstance(item, list) and len(item) == 2 for item in plain["items"]):
        return {key: _value(item, tensors, used, depth + 1) for key, item in plain["items"]}
    raise ValueError("the description inside it is damaged")


def decode(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Stored:
    """Inverse of :func:`encode`, and of what 0.1.0 wrote.

    Raises:
        ValueError: with the reason, if the content is not what :func:`encode` writes.
    """
    kind = metadata.get(KIND)
    if kind not in (HIDDEN_STATES, CONDITIONING) or "unifusion.positive" not in metadata:
        raise ValueError("it is a safetensors file, but not one that Save Conditioning wrote")
    version = metadata.get(VERSION, "1")
    if version not in [str(number) for number in range(1, FORMAT + 1)]:
        raise ValueError(f"it has the format {quoted(version)}, this UniFusion reads 1 to {FORMAT}; update the pack")
    used: set[str] = set()
    branches: list[Any] = []  # one of each branch, None where the file has none
    for branch in BRANCHES:
        text = metadata.get(f"unifusion.{branch}")
        if text is None:
            branches.append(None)
            continue
        if len(text) > DESCRIPTION_LIMIT:
            raise ValueError(f"its description takes {len(text)} bytes, more than the {DESCRIPTION_LIMIT} allowed")
        read_branch = _read_hidden_states if kind == HIDDEN_STATES else _read_conditioning
        try:
            branches.append(read_branch(_parsed(text), tensors, branch, int(version), used))
        except (KeyError, TypeError, AttributeError, OverflowError):
            raise ValueError("the description inside it is damaged") from None
    if left := tensors.keys() - used:
        raise ValueError(f"it holds {len(left)} tensors that its description does not name")
    return Stored(kind, *branches)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the description inside it is damaged") from None


def _read_hidden_states(
    about: dict, tensors: dict[str, torch.Tensor], branch: str, version: int, used: set[str]
) -> HiddenStates:
    names = {name: f"{branch}.{name}" for name in (*_STATES, *_REGIONS)}
    if version > 1:
        names = {name: about["tensors"].get(name) for name in names}
    own = {name: tensors[key] for name, key in names.items() if key in tensors}
    if missing := [name for name in _STATES if name not in own]:
        raise ValueError(f"its {' and '.join(missing)} are missing")
    used |= {names[name] for name in own}
    _check_hidden_states(own, about)
    return from_tensors(own, {KIND: HIDDEN_STATES, "unifusion.about": json.dumps(about)})


_STATES, _REGIONS = ("states", "roles", "weights", "spans"), ("regions", "masks")


def _read_conditioning(
    description: list, tensors: dict[str, torch.Tensor], branch: str, version: int, used: set[str]
) -> list:
    if not isinstance(description, list) or not all(isinstance(entry, dict) for entry in description):
        raise ValueError("the description inside it is damaged")
    if not description:
        raise ValueError("it holds no conditioning")
    options_1: dict[str, dict[str, torch.Tensor]] = {}
    if version == 1:
        for name, tensor in tensors.items():
            if name.startswith(f"{branch}.") and ".option." in name:
                place, key = name.split(".option.", 1)
                options_1.setdefault(place, {})[key] = tensor
                used.add(name)
    entries = []
    for number, about in enumerate(description):
        place = f"{branch}.{number}"
        if version == 1:
            name, options = f"{place}.tensor", {**about, **options_1.get(place, {})}
        else:
            name, options = about["tensor"], _value(about["options"], tensors, used)
        tensor = tensors.get(name)
        check_conditioning_tensor(tensor)
        if not isinstance(options, dict):
            raise ValueError("the description inside it is damaged")
        used.add(name)
        entries.append([tensor, options])
    return entries


def write(path: Path, encoded: Encoded) -> None:
    """Write a file so that under its final name there is either nothing or the whole file.

    What a killed save has left in the folder is removed.

    Raises:
        ValueError: if the disk refuses it.
    """
    unfinished = None
    with contextlib.suppress(OSError):
        _remove_stale(path.parent)
    try:
        file, unfinished = _own_file(path.parent)
        with file:
            file.write(encoded.header)
            for tensor in encoded.tensors:
                file.write(tensor.reshape(-1).view(torch.uint8).numpy())
            file.flush()
            os.fsync(file.fileno())
            if fcntl:  # while the lock is held, so that no other save takes it for stale
                os.replace(unfinished, path)
        if not fcntl:
            os.replace(unfinished, path)
    except OSError as error:
        raise ValueError(
            f"{quoted(path.name)} could not be saved: {error.strerror}. Free some space or choose another name or folder."
        ) from None
    finally:
        if unfinished is not None:
            with contextlib.suppress(OSError):
                unfinished.unlink()


def _own_file(folder: Path):
    """A new file that is locked as long as it is open: (file, path)."""
    while True:
        path = folder / f".unifusion-{secrets.token_hex(8)}.unfinished"
        file = open(path, "xb")
        if not fcntl:
            return file, path
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else another save has removed it between the two lines above
            return file, path
        file.close()


def _remove_stale(folder: Path) -> None:
    """Remove what killed saves have left in a folder: files of their name that no process holds."""
    with os.scandir(folder) as found:
        names = [
            entry.name for entry in found if entry.name.endswith(".unfinished") and entry.is_file(follow_symlinks=False)
        ]
    for name in names:
        path = folder / name
        with contextlib.suppress(OSError):
            if _UNFINISHED_1.fullmatch(name) and time.time() - path.stat().st_mtime > _STALE_1:
                path.unlink()
            elif _UNFINISHED.fullmatch(name):
                if not fcntl:
                    path.unlink()
                    continue
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while a save holds it
                    path.unlink()


def _header_length(start: bytes, size: int) -> int:
    """Bytes of a file's header, from its first eight.

    Raises:
        ValueError: with the reason, if it cannot be a safetensors file.
    """
    length = int.from_bytes(start, "little")
    if len(start) == 8 and 2 <= length <= min(HEADER_LIMIT, size - 8):
        return length
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # a length may begin so too
        raise ValueError("it is a pickle or an archive, not a safetensors file")
    if len(start) < 8 or length < 2:
        raise ValueError("it is not a safetensors file")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header claims {length} bytes, more than the {HEADER_LIMIT} allowed")
    raise ValueError("it is cut off inside its header")


def looks_stored(path: Path, most: int = FIRST_LOOK) -> tuple[bool | None, int]:
    """Whether Save Conditioning wrote this file, by at most ``most`` bytes of it, which are searched and not parsed.

    Neither the size nor the depth of a foreign header costs more than that. 0.1.0 did not write the kind first, so a
    file with a large graph may need a second look at :data:`HEADER_LIMIT`.

    Returns:
        (yes, no or None if it takes a longer look, bytes read)
    """
    text = b""
    try:
        with open(path, "rb") as file:
            text = file.read(most)
            length = _header_length(text[:8], os.fstat(file.fileno()).st_size)
            header = text[8 : 8 + length]
            if not _FIRST.match(header):
                return False, len(text)
            if _SIGN.search(header):
                return True, len(text)
            return (None if length > len(header) else False), len(text)
    except (OSError, ValueError):
        return False, len(text)


def read(path: Path) -> Stored:
    """Read a file.

    Raises:
        ValueError: naming the file and why it is refused.
    """
    try:
        return decode(*_content(path))
    except OSError as error:
        raise ValueError(f"{quoted(path.name)} cannot be read: {error.strerror or 'no such file'}.") from None
    except ValueError as error:
        raise ValueError(f"{quoted(path.name)} cannot be loaded: {str(error).rstrip('.')}.") from None


def _content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file, its sizes checked before anything is made of it.

    Raises:
        ValueError: with the reason, if it is not whole.
        OSError: if it cannot be read.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"only .safetensors files are loaded, not {quoted(path.suffix)}")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = file.read(_header_length(file.read(8), size))
    if not _SIGN.search(text):
        raise ValueError("it is a safetensors file, but not one that Save Conditioning wrote")
    if text.count(b'"data_offsets"') > TENSORS_LIMIT:  # before safetensors makes an object of each
        raise ValueError(f"it holds more than the {TENSORS_LIMIT} tensors allowed")
    del text
    if size > SIZE_LIMIT + HEADER_LIMIT:
        raise ValueError(f"it has {size / 2**30:.0f} GB, more than the {SIZE_LIMIT >> 30} GB allowed")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if KIND not in metadata:
                raise ValueError("it is a safetensors file, but not one that Save Conditioning wrote")
            names = list(file.keys())
            if len(names) > TENSORS_LIMIT:
                raise ValueError(f"it holds {len(names)} tensors, more than the {TENSORS_LIMIT} allowed")
            return {name: file.get_tensor(name).clone() for name in names}, metadata  # no part of the file stays open
    except safetensors.SafetensorError as error:
        if "JSON" in str(error) or "UTF-8" in str(error):
            raise ValueError(f"its header is damaged ({printable(str(error)[:200])})") from None
        raise ValueError(f"it is damaged or cut off ({printable(str(error)[:200])})") from None
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"it holds numbers of a kind that PyTorch cannot read ({printable(str(error)[:200])})"
        ) from None


def branches(stored: Stored) -> Iterable[tuple[str, HiddenStates | list]]:
    """The branches that a file has, with their names."""
    return [(branch, value) for branch in BRANCHES if (value := getattr(stored, branch)) is not None]
