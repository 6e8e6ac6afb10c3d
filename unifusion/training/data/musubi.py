"""musubi-tuner's data sets: a TOML file over folders and JSONL files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...quoting import printable, quoted
from ..config import tomllib
from .folders import pair_up, read_captions
from .json_lines import read_lines
from .sample import Notes, Sample

READ = {"image_directory", "image_jsonl_file", "control_directory", "caption_extension", "num_repeats"}
INSTEAD = {
    "resolution": "data.pixels",
    "batch_size": "schedule.batch",
    "cache_directory": "data.cache",
    "enable_bucket": "always on",
    "bucket_no_upscale": "pictures are always brought to data.pixels",
}


def read_musubi(path: Path, notes: Notes) -> list[Sample]:
    """Examples of all its data sets.

    Raises:
        ValueError: naming what is wrong with the file.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        general, sets = values.get("general", {}), values["datasets"]
        sets = [{**general, **one} for one in sets]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "[[datasets]] is missing" if isinstance(error, KeyError) else printable(error).rstrip(".")
        raise ValueError(f"{quoted(path.name)} is no data set file of musubi-tuner: {reason}.") from None
    samples = []
    for one in sets:
        for name in one.keys() - READ:
            instead = f" ({INSTEAD[name]})" if name in INSTEAD else ""
            notes.add(f"keys of {path.name} that are not read", f"{name}{instead}")
        samples += _read_set(one, path, notes)
    return samples


def _read_set(one: dict, path: Path, notes: Notes) -> list[Sample]:
    ending = one.get("caption_extension", ".txt")
    if "image_jsonl_file" in one:
        found = read_lines(path.parent / one["image_jsonl_file"], notes)
    elif "image_directory" in one:
        folder = path.parent / one["image_directory"]
        if "control_directory" in one:
            found = pair_up(folder, [path.parent / one["control_directory"]], notes, ending)
        else:
            found = read_captions(folder, notes, ending)
    else:
        raise ValueError(
            f"A data set of {quoted(path.name)} has neither image_directory nor image_jsonl_file; only data sets of "
            "pictures can be trained on."
        )
    repeats = one.get("num_repeats", 1)
    if isinstance(repeats, bool) or not isinstance(repeats, (int, float)) or not repeats > 0:
        raise ValueError(f"num_repeats in {quoted(path.name)} is {quoted(repeats)}; allowed: a number above 0.")
    return [replace(sample, repeats=sample.repeats * repeats) for sample in found]
