"""Files of a model folder, read as safetensors and nothing else."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
import torch

from ..miniature import part_of
from ..quoting import printable, quoted


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file.

    Raises:
        ValueError: if it is no safetensors file, or damaged.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{quoted(path.name)} is no safetensors file; UniFusion loads safetensors only.")
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # the host wraps what safetensors raises, by version in another way
        reason = printable(error).splitlines()[0][:160].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"{quoted(path.name)} in {quoted(path.parent.name)} is damaged or cut off ({reason}). Copy or download it again."
        ) from None


def check_files(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not part_of(folder, name).is_file()]
    if missing:
        found = "no such folder"
        if folder.is_dir():
            found = printable(", ".join(sorted(p.name for p in folder.iterdir())[:20]))
        raise ValueError(
            f"{quoted(folder.name)} is not a UniFusion folder: {', '.join(missing)} missing (found: "
            f"{found or 'nothing'}). Choose a folder with dit.safetensors, vae.safetensors and vlm/."
        )
