"""What a run leaves: a folder for UniFusionLoadModel, or a LoRA for ComfyUI's stock loader, with its contract."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from . import checkpoint
from .config import Config
from .encode_once import vae_file, vlm_folder
from .examples import Contract
from .lora import difference_file, lora_file
from .models import base_weights

MODEL = "model"  # the folder inside the run's
NAMES = {"everything": f"{MODEL}/dit.safetensors", "pooling": "pooling.safetensors", "lora": "lora.safetensors"}


def _put(source: Path, target: Path) -> None:
    """The same file in another place, without using its room twice where the disk can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Export:
    """Writes trained weights. An :data:`~.trainer.Exporter`.

    Args:
        config: of the run.
        contract: written into the file.
    """

    def __init__(self, config: Config, contract: Contract) -> None:
        self.config, self.contract = config, contract

    def __call__(self, state: dict[str, Tensor], out: Path, step: int) -> Path:
        """Write; returns the file.

        Args:
            state: trained tensors of the drawing model by name.
        """
        train = self.config.train
        path = out / NAMES[train.what]
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {**self.contract.metadata(self.config.data.labels), "unifusion.step": str(step)}
        if train.what == "lora":
            alpha = train.alpha or float(train.rank)
            tensors = lora_file(state, alpha)
            metadata |= {"ss_network_dim": str(train.rank), "ss_network_alpha": str(alpha)}
        elif train.what == "pooling":
            tensors = difference_file(state, base_weights(self.config, list(state)))
        else:
            tensors = {name: value.bfloat16().contiguous() for name, value in state.items()}
            self._complete(path.parent)
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished, metadata=metadata)
        os.replace(unfinished, path)
        return path

    def _complete(self, folder: Path) -> None:
        """VAE and VLM beside the drawing model, once."""
        if not (folder / "vae.safetensors").exists():
            _put(vae_file(self.config), folder / "vae.safetensors")
        source = vlm_folder(self.config)
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name != "config.json" and not (folder / "vlm" / path.name).exists():
                _put(path, folder / "vlm" / path.name)
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
        values["taps"] = list(self.contract.taps)  # the layers it was trained with
        config = folder / "vlm" / "config.json"
        config.unlink(missing_ok=True)  # never write through a link into the folder it came from
        config.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def export_checkpoint(config: Config, contract: Contract, out: Path | None = None) -> Path:
    """Write what the newest checkpoint of a run holds.

    Raises:
        ValueError: if there is none.
    """
    folder = config.out_folder / "checkpoints"
    found = sorted(folder.glob("step_*[0-9]"), key=lambda path: int(path.name[5:]))
    if not found:
        raise ValueError(f"There is no checkpoint in {folder}; train first.")
    state = checkpoint.read(found[-1])
    weights = state["ema"]["averages"] if state["ema"] else state["weights"]
    own = {name.removeprefix("dit."): value.float() for name, value in weights.items() if name.startswith("dit.")}
    return Export(config, contract)(own, out or config.out_folder, state["step"])
