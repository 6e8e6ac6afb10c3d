"""Where models of this pack's own form lie: the bundled miniature, and folders under ComfyUI's ``models/unifusion``."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.sd
import folder_paths
from safetensors import safe_open

from ...miniature import MINIATURE, read_config
from ...quoting import quoted
from ..encoders.miniature_clip import load_clip
from ..read_files import check_files, read_safetensors

BUNDLED = "bundled miniature"
KIND = "unifusion"
TAPS = "unifusion.taps"  # metadata of a DiT: layers it was trained with, as in "1, 3, 5, 7"


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
        raise ValueError(
            f"There is no UniFusion model {quoted(name)} under models/{KIND}; choose one of: {', '.join(listing())}."
        )
    return load_folder(folder)


def load_folder(folder: str | Path):
    """(MODEL, CLIP, VAE) of a UniFusion folder, loaded as the stock loaders do.

    Args:
        folder: holds dit.safetensors, vae.safetensors and vlm/.

    Raises:
        ValueError: if a file is missing, is of another model, or the DiT does not fit the VLM.
    """
    folder = Path(folder)
    check_files(folder, ("dit.safetensors", "vae.safetensors", "vlm/config.json"))
    clip = load_clip(folder / "vlm")
    path = str(folder / "dit.safetensors")
    weights = read_safetensors(Path(path))
    fused = weights.get("txtfusion.projector.weight")
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights)) if fused is not None else None
    if model is None:
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} is not a diffusion transformer in Krea 2's layout "
            f"(txtfusion.projector.weight is what it is known by). Put a trained UniFusion DiT there."
        )
    config = read_config(folder / "vlm")
    if fused.shape[-1] != len(config.taps):
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} pools {fused.shape[-1]} layers, but its VLM has "
            f"{len(config.taps)} taps. Take DiT and VLM from the same training."
        )
    trained = taps_of(Path(path))
    if trained is not None and trained != config.taps:
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} was trained with layers {', '.join(map(str, trained))}, but the "
            f"config.json of its VLM names {', '.join(map(str, config.taps))}. Take both from the same training."
        )
    model.cached_patcher_init = (comfy.sd.load_diffusion_model, (path, {}))
    vae = comfy.sd.VAE(sd=read_safetensors(folder / "vae.safetensors"))
    vae.throw_exception_if_invalid()
    return model, clip, vae


def taps_of(path: Path) -> tuple[int, ...] | None:
    """Layers that a file of a DiT says it was trained with, or None if it does not say."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(TAPS, "")
    found = [part.strip() for part in text.split(",")]
    return tuple(map(int, found)) if all(part.isdecimal() for part in found) else None
