"""The bundled miniature as a creator's folder under ``models/unifusion`` has it: all parts beside each other."""

import shutil
from pathlib import Path

from unifusion.miniature import MINIATURE, VLM_FOLDER, part_of


def copied_miniature(folder: Path) -> Path:
    """A new folder with dit.safetensors, vae.safetensors and vlm/."""
    shutil.copytree(VLM_FOLDER, folder / "vlm")
    for name in ("dit.safetensors", "vae.safetensors"):
        shutil.copyfile(part_of(MINIATURE, name), folder / name)
    return folder
