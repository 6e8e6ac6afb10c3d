"""All sources of a configuration as one list of examples."""

from __future__ import annotations

from dataclasses import replace

from ...quoting import quoted
from ..config import Config
from .folders import read_captions, read_pairs
from .json_lines import read_lines
from .large_sets import read_hugging_face, read_shards
from .musubi import read_musubi
from .sample import Notes, Sample


def read_sources(config: Config) -> tuple[list[Sample], Notes]:
    """Examples of all sources, and what was left out.

    Raises:
        ValueError: naming the source that cannot be read or has nothing.
    """
    samples: list[Sample] = []
    notes = Notes()
    folder = config.path.parent
    for number, source in enumerate(config.data.sources):
        path = config.resolve(source.path)
        if source.kind == "captions":
            found = read_captions(path, notes)
        elif source.kind == "pairs":
            found = read_pairs(path, notes)
        elif source.kind == "jsonl":
            found = read_lines(path, notes)
        elif source.kind == "musubi":
            found = read_musubi(path, notes)
        elif source.kind == "datasets":
            found = read_hugging_face(source, folder, notes)
        else:
            found = read_shards(source, folder, notes)
        if not found:
            left = " ".join(notes.lines())
            raise ValueError(f"{quoted(source.path, 120)} has no example to train on. {left}".strip())
        samples += [
            replace(
                sample,
                source=number,
                repeats=sample.repeats * source.repeats,
                labels=sample.labels or tuple(config.data.labels),
            )
            for sample in found
        ]
    return samples, notes
