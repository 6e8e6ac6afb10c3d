"""Where models of this pack's own form lie: the bundled miniature, and folders under ComfyUI's ``models/unifusion``.

A folder has a drawing model, a VAE and a language model in ``vlm/``: the miniature's own form or any that transformers
saves. A folder of a language model alone is listed too; it reads and writes, and draws nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import comfy.sd
import folder_paths
from comfy_execution.graph_utils import ExecutionBlocker
from safetensors import safe_open

from ...lora_contract import CONTRACT
from ...miniature import MINIATURE, ROOTS, part_of, read_config
from ...quoting import quoted
from ..drawers.fusion_model import INPUT, FusionModel, attach_input_projection
from ..encoders import folder_clip, miniature_clip
from ..read_files import check_files, read_safetensors

BUNDLED = "bundled miniature"
KIND = "unifusion"
POOLING = "txtfusion."
TAPS = "unifusion.taps"  # metadata of a DiT: layers it was trained with, as in "1, 3, 5, 7"


def register() -> None:
    """Tell ComfyUI of ``models/unifusion``, and each stock loader of the miniature's part that it can load.

    They are listed as ``unifusion_miniature/dit.safetensors`` and ``unifusion_miniature/vae.safetensors``. The pack's
    folders come last, so a file of the same name in a creator's folder is never hidden.
    """
    paths, _ = folder_paths.folder_names_and_paths.get(KIND, ([], set()))  # extra_model_paths.yaml may name it too
    own = os.path.join(folder_paths.models_dir, KIND)
    folder_paths.folder_names_and_paths[KIND] = ([*paths, *([] if own in paths else [own])], {".safetensors"})
    for kind, root in ROOTS.items():
        folder_paths.add_model_folder_path(kind, str(root))


def _folders() -> dict[str, Path]:
    found = {}
    for root in map(Path, folder_paths.folder_names_and_paths.get(KIND, ([],))[0]):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if _draws(folder) or _reads_alone(folder):
                found.setdefault(folder.name, folder)
    return found


def _draws(folder: Path) -> bool:
    return (folder / "dit.safetensors").is_file() and (folder / "vlm").is_dir()


def _reads_alone(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()


def listing() -> list[str]:
    """What can be chosen; the bundled miniature first."""
    return [BUNDLED, *_folders()]


def load(name: str):
    """Returns (MODEL, CLIP, VAE); of a language model alone, what is not there stops the nodes that it is wired to.

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
        folder: holds dit.safetensors, vae.safetensors and vlm/, or a language model alone.

    Raises:
        ValueError: if a file is missing, is of another model, or the DiT does not fit the VLM.
    """
    folder = Path(folder)
    if _reads_alone(folder) and not (folder / "dit.safetensors").is_file():
        nothing = ExecutionBlocker(
            f"{quoted(folder.name)} is a language model alone: it reads and writes, and has no drawing model. Take a folder "
            f"with dit.safetensors, vae.safetensors and vlm/, or a MODEL that was trained with this encoder."
        )
        return nothing, folder_clip.load_clip(folder), nothing
    check_files(folder, ("dit.safetensors", "vae.safetensors", "vlm/config.json"))
    path = part_of(folder, "dit.safetensors")
    weights = read_safetensors(path)
    fused = weights.get(f"{POOLING}projector.weight")
    if fused is None or fused.ndim != 2:
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} is not a diffusion transformer in Krea 2's layout "
            f"(txtfusion.projector.weight is what it is known by). Put a trained UniFusion DiT there."
        )
    trained = taps_of(path)
    clip, taps, width = _load_encoder(folder, trained)
    if fused.shape[-1] != len(taps):
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} pools {fused.shape[-1]} layers, but its VLM has "
            f"{len(taps)} taps. Take DiT and VLM from the same training."
        )
    if trained is not None and trained != taps:
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} was trained with layers {', '.join(map(str, trained))}, but the "
            f"config.json of its VLM names {', '.join(map(str, taps))}. Take both from the same training."
        )
    model = _load_model(path, weights)
    takes = FusionModel(model).states_width
    if takes != width:
        raise ValueError(
            f"dit.safetensors in {quoted(folder.name)} takes hidden states of width {takes}, but its VLM has {width}. Take DiT "
            f"and VLM from the same training."
        )
    vae = comfy.sd.VAE(sd=read_safetensors(part_of(folder, "vae.safetensors")))
    vae.throw_exception_if_invalid()
    return model, clip, vae


def _load_encoder(folder: Path, trained: tuple[int, ...] | None):
    """(CLIP, taps, width) of ``vlm/``: the miniature's own form, or a transformers folder."""
    vlm = folder / "vlm"
    if (vlm / "tokenizer.json").is_file() or not (vlm / "vocab.json").is_file():
        clip = folder_clip.load_clip(vlm, trained or ())
        model = clip.cond_stage_model
        return clip, model.unifusion_row.taps, model.unifusion_width
    config = read_config(vlm)
    return miniature_clip.load_clip(vlm), config.taps, config.hidden_size


def _load_model(path: Path, weights: dict | None = None, **patching):
    """The MODEL of a file, with the input projection that stock loaders do not know; ``patching``: ``disable_dynamic``."""
    weights = dict(read_safetensors(path) if weights is None else weights)
    projection = weights.pop(f"{POOLING}{INPUT}.weight", None)
    model = comfy.sd.load_diffusion_model_state_dict(weights, **patching)
    if model is None:
        raise ValueError(
            f"{quoted(path.name)} in {quoted(path.parent.name)} is no diffusion transformer that this ComfyUI knows. Put a "
            f"trained UniFusion DiT there."
        )
    if projection is not None:
        if projection.ndim != 2 or projection.shape[0] != model.model.diffusion_model.txtdim:
            raise ValueError(
                f"{POOLING}{INPUT}.weight in {quoted(path.name)} has the shape {list(projection.shape)}, but the pooling has the "
                f"width {model.model.diffusion_model.txtdim}. Take the file from its training."
            )
        attach_input_projection(model, projection)
    with safe_open(path, "pt") as file:
        model.set_attachments(CONTRACT, dict(file.metadata() or {}))
    model.cached_patcher_init = (_load_model, (path,))
    return model


def taps_of(path: Path) -> tuple[int, ...] | None:
    """Layers that a file of a DiT says it was trained with, or None if it does not say."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(TAPS, "")
    found = [part.strip() for part in text.split(",")]
    return tuple(map(int, found)) if all(part.isdecimal() for part in found) else None
