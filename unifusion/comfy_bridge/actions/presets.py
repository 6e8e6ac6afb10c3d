"""Presets of one's own beside the built-in ones: files in the user folder of this ComfyUI."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ... import own_presets
from ...jobs import JOBS, Job, named
from ...layer_gains import CUSTOM
from ...own_presets import GAINS, JOB, OWN, SYSTEM
from ...system_prompts import CUSTOM as CUSTOM_PROMPT

USER = "default"  # lists of a node are the same for every user of a ComfyUI


def folder() -> Path:
    """Where presets lie: ``user/default/unifusion/presets``."""
    return Path(folder_paths.get_user_directory(), USER, "unifusion", "presets")


def names(kind: str) -> list[str]:
    """Own presets of one kind as they stand in a list."""
    return [f"{OWN}{name}" for name in own_presets.listing(folder(), kind)]


def jobs() -> list[str]:
    """Jobs of a picture, the built-in ones first."""
    return [*JOBS, *names(JOB)]


def job(choice: str) -> Job:
    """A job by its name in the list.

    Raises:
        ValueError: if there is none, or its file is damaged.
    """
    if not choice.startswith(OWN):
        return named(choice)
    return own_presets.job_of(choice, own_presets.load(folder(), choice.removeprefix(OWN), JOB))


def gains(preset: str | None, text: str | None) -> tuple[str | None, str | None]:
    """Preset and text of layer gains, with the text of an own preset in the place of 'custom'.

    Raises:
        ValueError: if an own preset is not there or damaged.
    """
    if preset is None or not preset.startswith(OWN):
        return preset, text
    return CUSTOM, own_presets.load(folder(), preset.removeprefix(OWN), GAINS)["gains"]


def system_prompt(choice: str | None, text: str | None) -> tuple[str | None, str | None]:
    """Choice and own text of a system prompt, with the text of an own preset in the place of 'custom'.

    Raises:
        ValueError: as :func:`gains`.
    """
    if choice is None or not choice.startswith(OWN):
        return choice, text
    return CUSTOM_PROMPT, own_presets.load(folder(), choice.removeprefix(OWN), SYSTEM)["text"]


def save(name: str, kind: str, fields: dict, replace: bool) -> str:
    """Write a preset; returns the report.

    Raises:
        ValueError: for a bad name or value, or a preset of that name when it is not to be replaced.
    """
    path = own_presets.save(folder(), name, kind, fields, replace)
    place = Path(*path.parts[-5:])
    return (
        f"saved as {place}\nPress R to see '{OWN}{path.stem}' in lists of a {kind}. The file can be given to others; they put "
        f"it into the same folder."
    )
