"""What the frozen parts gave, on disk: one safetensors file an entry, named by the hash of content and settings.

Entries are written beside their place and moved there, so any number of processes may write and be killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

LATENTS, STATES = "latents", "states"


def key_of(*parts: object) -> str:
    """Hash of settings and contents."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class Cache:
    """A folder of entries.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        return self.path(kind, key).is_file()

    def write(self, kind: str, key: str, tensor: Tensor, about: dict[str, str] | None = None) -> None:
        """Put a tensor into the cache; another process may do the same at the same time."""
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        save_file({kind: tensor.contiguous()}, unfinished, metadata=about)
        os.replace(unfinished, path)

    def read(self, kind: str, key: str) -> Tensor:
        """A tensor from the cache.

        Raises:
            ValueError: if the entry is damaged or gone.
        """
        path = self.path(kind, key)
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor(kind)
        except (OSError, SafetensorError):
            raise ValueError(
                f"The entry {path.name} of the cache in {self.folder.name} is damaged or gone; delete it if it is there, "
                "and encode again."
            ) from None

    def shape(self, kind: str, key: str) -> tuple[int, ...]:
        """Shape of an entry, from its header; a damaged entry is deleted and has none.

        Raises:
            FileNotFoundError: if there is no such entry.
        """
        path = self.path(kind, key)
        try:
            with safe_open(path, "pt") as file:
                return tuple(file.get_slice(kind).get_shape())
        except SafetensorError:
            path.unlink(missing_ok=True)
            raise FileNotFoundError(path) from None

    def nbytes(self, keys: Iterable[tuple[str, str]]) -> int:
        """Bytes of entries that are there."""
        return sum(self.path(*key).stat().st_size for key in keys if self.has(*key))


class Digests:
    """Hashes of files, remembered by path, size and time, so that a second start does not read them all."""

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.known: dict[str, str] = {}
        self.own = folder / f"digests_{process}.json"
        for path in sorted(folder.glob("digests_*.json")):
            try:
                self.known |= json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # half written by a process that was killed: the files are read again
        self.new = False

    def of(self, picture) -> str:
        """Hash of a :class:`~.data.sample.Picture`."""
        found = self.known.get(picture.stamp) if picture.stamp else None
        if found is None:
            found = picture.digest()
            if picture.stamp:
                self.known[picture.stamp] = found
                self.new = True
        return found

    def save(self) -> None:
        if self.new:
            unfinished = self.own.with_suffix(f".{os.getpid()}.part")
            unfinished.write_text(json.dumps(self.known), encoding="utf-8")
            os.replace(unfinished, self.own)
            self.new = False
