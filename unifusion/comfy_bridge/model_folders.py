"""Where models of this pack's own form lie: the bundled miniature, and folders under ComfyUI's ``models/unifusion``."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..tiny import MINIATURE
from . import miniature

BUNDLED = "bundled miniature"
KIND = "unifusion"


def register() -> None:
    """Tell ComfyUI of ``models/unifusion``, and the stock loaders of the miniature's parts.

    The parts are listed as ``unifusion_miniature/dit.safetensors`` and so on. The pack's folder comes last, so a file of
    the same name in a creator's folder is never hidden.
    """
    paths, _ = folder_paths.folder_names_and_paths.get(KIND, ([], set()))  # extra_model_paths.yaml may name it too
    own = os.path.join(folder_paths.models_dir, KIND)
    folder_paths.folder_names_and_paths[KIND] = ([*paths, *([] if own in paths else [own])], {".safetensors"})
    for kind in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(kind, str(MINIATURE.parent))


def _folders() -> dict[str, Path]:
    found = {}
    for root in map(Path, folder_paths.folder_names_and_paths.get(KIND, ([],))[0]):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "dit.safetensors").is_file() and (folder / "vlm").is_dir():
                found.setdefault(folder.name, folder)
    return found


def listing() -> list[str]:
    """What can be chosen; the bundled miniature first."""
    return [BUNDLED, *_folders()]


def load(name: str):
    """Returns (MODEL, CLIP, VAE).

    Raises:
        ValueError: if there is no such folder or a file is missing in it.
    """
    folder = MINIATURE if name == BUNDLED else _folders().get(name)
    if folder is None:
        raise ValueError(f"There is no UniFusion model '{name}' under models/{KIND}; choose one of: "
                         f"{', '.join(listing())}.")
    return miniature.load_folder(folder)
