"""Files of a model folder, read as safetensors and nothing else."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
import torch


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        raise ValueError(f"'{path.name}' is no safetensors file; UniFusion loads safetensors only.")
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def check_files(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise ValueError(
            f"'{folder.name}' is not a UniFusion folder: {', '.join(missing)} missing (found: "
            f"{found or 'nothing'}). Choose a folder with dit.safetensors, vae.safetensors and vlm/, such "
            f"as the bundled one."
        )
