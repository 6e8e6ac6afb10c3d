"""Data that outgrows a folder: Hugging Face data sets, and tar shards in WebDataset's form."""

from __future__ import annotations

import glob
import tarfile
from functools import partial
from pathlib import Path

from ...quoting import printable, quoted
from ..config import DataSource
from .sample import ENDINGS, Notes, Picture, Sample


def read_hugging_face(source: DataSource, folder: Path, notes: Notes) -> list[Sample]:
    """Rows of a data set on disk (``save_to_disk``), of a folder of its files, or of one in the local cache.

    Raises:
        ValueError: if the library, the data set or a column is missing.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "Sources of the kind datasets need the library datasets, which is not installed; run pip install datasets."
        ) from None
    local = folder / source.path
    try:
        if (local / "state.json").is_file():
            rows = datasets.load_from_disk(str(local))
        else:
            rows = datasets.load_dataset(str(local) if local.exists() else source.path, split=source.split)
        for column in (source.target, *source.references):
            if column not in rows.column_names:
                raise KeyError(column)
            rows = rows.cast_column(column, datasets.Image(decode=False))
    except KeyError as error:
        found = ", ".join(rows.column_names)
        raise ValueError(f"{quoted(source.path)} has no column {quoted(error.args[0])}; it has {found}.") from None
    except Exception as error:  # the library raises what its readers raise
        raise ValueError(f"{quoted(source.path)} cannot be loaded: {printable(error)[:200].rstrip('.')}.") from None

    def read(index: int, column: str) -> bytes:
        value = rows[index][column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    samples = []
    for index, words in enumerate(rows[source.caption] if source.caption in rows.column_names else [""] * len(rows)):
        where = f"{source.path} row {index}"
        pictures = [Picture(where, partial(read, index, name)) for name in (source.target, *source.references)]
        sample = _sample(where, pictures, str(words or "").strip(), notes)
        if sample is not None:
            samples.append(sample)
    return samples


def _sample(where: str, pictures: list[Picture], words: str, notes: Notes) -> Sample | None:
    if not words:
        notes.add("examples without words, left out", where)
        return None
    target, *references = pictures
    if references:
        return Sample(where, target, tuple(references), instruction=words)
    return Sample(where, target, caption=words)


def read_shards(source: DataSource, folder: Path, notes: Notes) -> list[Sample]:
    """Examples of tar files: members of one name and several endings belong together.

    Raises:
        ValueError: if no file fits the pattern, or one is damaged.
    """
    paths = sorted(glob.glob(str(folder / source.path)))
    if not paths:
        raise ValueError(f"No file fits {quoted(source.path)}; give a pattern such as 'shards/*.tar'.")
    ending = "txt" if source.caption == "caption" else source.caption.lstrip(".")
    samples = []
    for path in map(Path, paths):
        groups: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile():
                        head, _, name = member.name.rpartition("/")
                        stem, _, suffix = name.partition(".")
                        groups.setdefault(f"{head}/{stem}", {})[suffix.lower()] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise ValueError(f"{quoted(path.name)} is no tar file: {printable(error)[:120].rstrip('.')}.") from None
        for stem, members in groups.items():
            where = f"{path.name}/{stem.lstrip('/')}"
            sample = _from_members(source, path, where, members, ending, notes)
            if sample is not None:
                samples.append(sample)
    return samples


def _from_members(source, path: Path, where: str, members: dict, ending: str, notes: Notes) -> Sample | None:
    def find(name: str) -> str | None:
        name = name.lstrip(".")
        return name if name in members else None

    plain = next((e.lstrip(".") for e in ENDINGS if e.lstrip(".") in members), None)
    target = plain if source.target == "image" else find(source.target)
    if target is None:
        notes.add("examples without a picture, left out", where)
        return None
    names = [target, *(found for name in source.references if (found := find(name)))]
    if source.references and len(names) == 1:
        notes.add("examples without a picture to edit, left out", where)
        return None

    stamp = path.stat().st_mtime_ns
    pictures = [
        Picture(
            f"{where}.{name}", partial(_bytes_at, path, *members[name]), f"{path.resolve()}|{members[name]}|{stamp}"
        )
        for name in names
    ]
    words = _bytes_at(path, *members[ending]).decode("utf-8-sig", "replace").strip() if ending in members else ""
    return _sample(where, pictures, words, notes)


def _bytes_at(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
