"""Fixtures in one process with the real ComfyUI; random weights where numbers are compared, never for pictures."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or next(iter(sorted(PACK.glob(".host/ComfyUI-*"), reverse=True)), "missing"))


def pytest_collection_modifyitems(items):
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    krea2 = HOST / "comfy" / "ldm" / "krea2" / "model.py"
    if not (HOST / "comfy").is_dir():
        reason = "no ComfyUI: set COMFYUI_PATH or run the README's test command, which fetches one"
    elif "attn1_patch" not in krea2.read_text():
        here = [item for item in here if item.path.name == "test_weights.py"]
        reason = "this ComfyUI is older than 0.30 and has no place for weights; they are refused by name"
    else:
        return
    for item in here:
        item.add_marker(pytest.mark.skip(reason=reason))


if (HOST / "comfy").is_dir():
    sys.path.insert(0, str(HOST))
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


@pytest.fixture(scope="session")
def pack():
    """The pack as the host imports it."""
    spec = importlib.util.spec_from_file_location("unifusion_pack", PACK / "__init__.py",
                                                  submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["unifusion_pack"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bridge(pack):
    """Import a module of the pack's bridge by its short name."""
    return lambda name: importlib.import_module(f"unifusion_pack.unifusion.comfy_bridge.{name}")


@pytest.fixture(scope="session")
def node(pack):
    """A node class by its id."""
    from unifusion_pack.nodes.extension import NODES

    return {cls.define_schema().node_id: cls for cls in NODES}.__getitem__


@pytest.fixture(scope="session")
def krea2_clip():
    from harness.random_krea2 import make_clip

    return make_clip()


@pytest.fixture(scope="session")
def krea2_model():
    from harness.random_krea2 import make_model

    return make_model()


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real server for all tests that ask for it."""
    from harness.comfy_server import Server  # "server" is a module of the host

    running = Server(HOST, tmp_path_factory.mktemp("comfyui") / "base")
    try:
        running.wait()
        yield running
    finally:
        running.stop()
