"""Fixtures in one process with the real ComfyUI; random weights where numbers are compared, never for pictures."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or next(iter(sorted(PACK.glob(".host/ComfyUI-*"), reverse=True)), "missing"))


KREA2 = HOST / "comfy" / "ldm" / "krea2" / "model.py"
# What a Krea 2 of an older ComfyUI lacks: (what its source would contain, how the pack refuses it by name).
FEATURES = {
    "weights": ("attn1_patch", "Strengths and word weights other than 1 need ComfyUI 0.30 or newer"),
    "reference latents": ("default_ref_method", "Reference latents need ComfyUI 0.30 or newer"),
}
LACKING = {
    feature: refusal
    for feature, (sign, refusal) in FEATURES.items()
    if KREA2.is_file() and sign not in KREA2.read_text(encoding="utf-8")
}


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "needs(feature): in a ComfyUI that lacks it the test must end in the refusal by name"
    )


def pytest_collection_modifyitems(items):
    if not (HOST / "comfy").is_dir():
        reason = "no ComfyUI: set COMFYUI_PATH or run the README's test command, which fetches one"
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    needed = [marker.args[0] for marker in pyfuncitem.iter_markers("needs")]
    refusals = [LACKING[feature] for feature in needed if feature in LACKING]
    if not refusals:
        return (yield)
    with pytest.raises(ValueError, match="|".join(refusals)) as stopped:
        yield
    assert "\n" not in str(stopped.value) and str(stopped.value).endswith(".")
    pyfuncitem.user_properties.append(("refused", ", ".join(needed)))
    return True


def pytest_report_teststatus(report):
    """Tests that ended in the refusal they had to end in are counted by themselves."""
    if report.when == "call" and report.passed and "refused" in dict(report.user_properties):
        return "refused", "r", "REFUSED"


@pytest.fixture(scope="session")
def lacking():
    """Features this ComfyUI lacks, each with the beginning of its refusal."""
    return LACKING


if (HOST / "comfy").is_dir():
    sys.path.insert(0, str(HOST))
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


@pytest.fixture(scope="session")
def pack():
    """The pack as the host imports it."""
    spec = importlib.util.spec_from_file_location(
        "unifusion_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
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
def host_folder() -> Path:
    """The ComfyUI that the tests run in."""
    return HOST


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
