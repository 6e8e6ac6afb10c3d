"""One example to train on, and pictures that are files, columns or members of an archive."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...quoting import printable, quoted

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class BrokenPicture(ValueError):
    """A picture that cannot be read; the example is left out and counted."""


@dataclass(frozen=True)
class Picture:
    """A picture that is read when it is needed.

    Attributes:
        name: for messages.
        read: its bytes.
        stamp: the same while the file is; lets its hash be remembered. Empty: read it to know.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False)
    stamp: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Picture:
        about = path.stat()
        return cls(str(path), path.read_bytes, f"{path.resolve()}|{about.st_size}|{about.st_mtime_ns}")

    def digest(self) -> str:
        """Hash of the bytes.

        Raises:
            BrokenPicture: if they cannot be read.
        """
        try:
            return hashlib.blake2b(self.read(), digest_size=16).hexdigest()
        except OSError as error:
            raise BrokenPicture(f"{self.name} ({printable(error)})") from None

    def _open(self) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self.read()))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BrokenPicture(f"{self.name} ({_reason(error)})") from None

    def size(self) -> tuple[int, int]:
        """(height, width) as it is looked at; reads the header alone.

        Raises:
            BrokenPicture: if it is no picture.
        """
        image = self._open()
        width, height = image.size
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception:  # a damaged note of the camera is no reason to lose the picture
            turned = False
        return (width, height) if turned else (height, width)

    def pixels(self) -> Tensor:
        """(1, H, W, 3) float32 in 0..1, upright, transparency on white.

        Raises:
            BrokenPicture: if it cannot be decoded.
        """
        image = self._open()
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode in ("I", "I;16", "F"):
                values = np.asarray(image, dtype=np.float32)
                values = values / (65535.0 if values.max(initial=0.0) > 255.0 else 255.0)
                return torch.from_numpy(np.repeat(values[None, :, :, None].clip(0, 1), 3, axis=3).copy())
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy())[None].float() / 255.0
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BrokenPicture(f"{self.name} ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no picture"
    return printable(error)[:120]


@dataclass(frozen=True)
class Sample:
    """An example.

    Attributes:
        name: for messages.
        target: the finished picture.
        references: pictures that the VLM is shown.
        caption: what the finished picture shows; empty if only an instruction is known.
        instruction: what is to be done with the references; empty without references.
        answer: what the VLM wrote about it (VERIFI); empty for none.
        labels: words in front of each reference.
        source: number of its source in the configuration.
        repeats: how often it comes in an epoch.
    """

    name: str
    target: Picture
    references: tuple[Picture, ...] = ()
    caption: str = ""
    instruction: str = ""
    answer: str = ""
    labels: tuple[str, ...] = ()
    source: int = 0
    repeats: float = 1.0


class Notes:
    """What was left out, by reason: named up to five times, always counted."""

    NAMED = 5

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        names = self.found.setdefault(reason, [])
        if name not in names[-2:]:  # a picture may be met as finished one and as reference
            names.append(name)

    def extend(self, other: Notes) -> None:
        for reason, names in other.found.items():
            self.found.setdefault(reason, []).extend(names)

    def lines(self) -> list[str]:
        """One sentence a reason."""
        out = []
        for reason, names in self.found.items():
            more = f" and {len(names) - self.NAMED:,} more" if len(names) > self.NAMED else ""
            out.append(f"{len(names):,} {reason}: {', '.join(printable(n) for n in names[: self.NAMED])}{more}.")
        return out


def pictures_in(folder: Path) -> dict[str, Path]:
    """Picture files below a folder by their path without ending, in order of names.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {quoted(folder, 120)}; correct the path in the configuration.")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(found)}


def words_of(path: Path) -> str:
    """Text of a caption's file; empty if there is none. Half-written UTF-8 becomes the replacement character."""
    if not path.is_file():
        return ""
    return path.read_bytes().decode("utf-8-sig", "replace").strip()
