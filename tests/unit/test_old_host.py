"""A ComfyUI too old for the pack gets one sentence in its log, no nodes and no traceback.

No such ComfyUI can be run here (the oldest supported one is the oldest with Krea 2), so its version number stands in.
"""

import importlib.util
import logging
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", ["0.3.40", "0.9.2", "0.25.1", "v0.25.0-3-gabc"])
def test_an_old_host_is_refused_by_name(monkeypatch, caplog, version):
    host = types.ModuleType("comfyui_version")
    host.__version__ = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    spec = importlib.util.spec_from_file_location(
        "old_host_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    pack = importlib.util.module_from_spec(spec)
    with caplog.at_level(logging.ERROR):
        spec.loader.exec_module(pack)
    assert pack.NODE_CLASS_MAPPINGS == {} and not hasattr(pack, "comfy_entrypoint")
    assert f"needs ComfyUI 0.26.0 or newer, which has Krea 2 and its text encoder; this is {version}" in caplog.text


def test_the_oldest_host_is_the_one_the_registry_is_told():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-comfyui = ">=0.26.0"' in project and 'OLDEST = "0.26.0"' in (ROOT / "__init__.py").read_text()
