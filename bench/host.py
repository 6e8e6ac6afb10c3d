"""ComfyUI and the pack inside this process, as the host imports them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PACK = Path(os.environ.get("UNIFUSION_BENCH_PACK") or ROOT)  # another checkout, to compare two commits with one bench


def pack(module: str):
    """A module of the pack by its name below the pack, e.g. ``"unifusion.comfy_bridge.actions.rewrite"``.

    Raises:
        RuntimeError: if COMFYUI_PATH names no ComfyUI.
    """
    if "unifusion_pack" not in sys.modules:
        host = Path(os.environ.get("COMFYUI_PATH", "missing"))
        if not (host / "comfy").is_dir():
            raise RuntimeError("Set COMFYUI_PATH to the folder of a ComfyUI, or run `nox -s bench`, which fetches one.")
        sys.path[:0] = [str(host), str(ROOT / "tools")]  # harness: Krea 2 with random weights
        import comfy.options  # noqa: F401
        from comfy.cli_args import args

        args.cpu = not torch.cuda.is_available()
        spec = importlib.util.spec_from_file_location(
            "unifusion_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        sys.modules["unifusion_pack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["unifusion_pack"])
    return importlib.import_module(f"unifusion_pack.{module}")
