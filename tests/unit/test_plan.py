"""The plan of the house (docs/architecture.md), held."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or next(iter(sorted(ROOT.glob(".host/ComfyUI-*"), reverse=True)), "missing"))
HOSTS_OWN = {
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "comfyui_version", "folder_paths", "latent_preview", "node_helpers",
    "execution", "server",
}  # fmt: skip


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Top names of absolute imports, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", files("unifusion", "nodes"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_shipped_rests_on_recipes_tools_or_benches(path):
    assert not imports(path) & {"recipes", "tools", "harness", "bench", "tests"}


@pytest.mark.parametrize("path", files("unifusion"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_the_bridge_imports_the_host(path):
    if "comfy_bridge" not in path.parts:
        assert not imports(path) & HOSTS_OWN


def test_no_two_files_of_one_name_do_two_jobs():
    names = defaultdict(list)
    for path in files("unifusion", "nodes", "bench", "recipes"):
        if not path.name.startswith("__"):
            names[path.name].append(path.relative_to(ROOT).as_posix())
    assert {name: places for name, places in names.items() if len(places) > 1} == {}


def test_no_file_shadows_the_standard_library():
    assert [path.name for path in files("unifusion", "nodes") if path.stem in sys.stdlib_module_names] == []


@pytest.mark.parametrize("path", files("nodes"), ids=lambda path: path.name)
def test_a_node_is_a_schema_and_a_short_execute(path):
    """checked.py is the base of all; the others hold no maths."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "checked.py":
        assert "torch" not in imports(path)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "execute"):
        body = [line for line in function.body if not isinstance(line, ast.Expr)]
        assert len(body) <= 14, f"{path.name}: execute has {len(body)} statements"


IMPORT = """
import sys, time
sys.path.insert(0, {host!r})
{first}
import comfy.options
from comfy.cli_args import args
args.cpu = True
import torch, folder_paths, latent_preview, nodes, comfy.sd, comfy.samplers, comfy_api.latest
import asyncio, importlib.util
before = set(sys.modules)
began = time.process_time()
spec = importlib.util.spec_from_file_location("pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
asyncio.run(extension.on_load())
found = asyncio.run(extension.get_node_list())
[node.GET_SCHEMA() for node in found]
seconds = time.process_time() - began
print(len(found), round(seconds, 3), *sorted(set(sys.modules) - before))
"""


def imported(first: str = "") -> tuple[int, float, set[str]]:
    if not (HOST / "comfy").is_dir():
        pytest.skip("no ComfyUI: set COMFYUI_PATH or run the README's test command, which fetches one")
    code = IMPORT.format(host=str(HOST), root=str(ROOT), first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    count, seconds, *modules = done.stdout.splitlines()[-1].split()
    return int(count), float(seconds), set(modules)


def test_importing_the_pack_loads_no_figures_no_language_models_and_no_training():
    """0.3 s of CPU beyond the host is the aim (docs/bench.md); the bound here is for busy machines."""
    count, seconds, modules = imported()
    tops = {name.split(".")[0] for name in modules}
    assert count >= 12 and not tops & {"matplotlib", "accelerate", "diffusers", "tensorboard", "datasets", "recipes"}
    assert not [name for name in modules if name.startswith(("transformers.models", "pack.unifusion.training"))]
    assert not {"pack.unifusion.dit", "pack.unifusion.pooling"} & modules
    assert seconds < 1.5


def test_without_matplotlib_every_node_is_there():
    count, _, _ = imported("sys.modules['matplotlib'] = None")
    assert count >= 12


DRAWN = """
from pack.unifusion import contact_sheet
from pack.unifusion.comfy_bridge.actions import encode, look_inside, model_folders
from pack.unifusion.references import Reference
with torch.inference_mode():
    model, clip, vae = model_folders.load(model_folders.BUNDLED)
    hidden = encode.run(clip, "a red circle")[0]
    sheet = contact_sheet.draw([Reference(torch.rand(1, 64, 64, 3), label=label) for label in ("a fox", "F\\u00fcchse")])
    try:
        said = list(look_inside.run(hidden, model)[0].shape)
    except ValueError as error:
        said = str(error)
print(list(sheet.shape), "matplotlib" in sys.modules and sys.modules["matplotlib"] is not None, said, sep="|")
"""


@pytest.mark.parametrize("there", [True, False])
def test_without_matplotlib_all_is_drawn_but_the_pages_of_inspect_which_say_what_to_install(there):
    if not (HOST / "comfy").is_dir():
        pytest.skip("no ComfyUI: set COMFYUI_PATH or run the README's test command, which fetches one")
    first = "" if there else "sys.modules['matplotlib'] = None"
    code = IMPORT.format(host=str(HOST), root=str(ROOT), first=first) + DRAWN
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    sheet, loaded, said = done.stdout.splitlines()[-1].split("|")
    assert sheet == "[1, 490, 700, 3]" and loaded == str(there)
    if there:
        assert said == "[4, 600, 600, 3]"
    else:
        assert "pip install matplotlib" in said and said.endswith(".")


@pytest.mark.parametrize("door", ["encoders", "drawers"])
def test_the_two_doors_know_nothing_of_each_other_nor_of_actions_nor_of_nodes(door):
    forbidden = {"encoders", "drawers", "actions", "nodes"} - {door}
    for path in files(f"unifusion/comfy_bridge/{door}"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                assert not names & forbidden, path.name


def test_docs_architecture_names_every_folder_and_only_files_that_are_there():
    plan = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in {path.parent for path in files("unifusion", "nodes")}:
        assert f"{folder.name}/" in plan, folder.name
    named = set(re.findall(r"`([\w./]+\.(?:py|md|json|toml|txt))`", plan))
    assert len(named) > 25
    everywhere = [
        f"/{path.relative_to(ROOT).as_posix()}" for path in files("unifusion", "nodes", "tools", "tests", "recipes")
    ]
    missing = [
        name for name in named if not (ROOT / name).exists() and not any(p.endswith(f"/{name}") for p in everywhere)
    ]
    assert missing == []


def test_a_new_system_prompt_is_one_place():
    """An entry of the table is an option of the node, a choice that works, and nothing else names them."""
    from unifusion.system_prompts import AS_PROFILE, SYSTEM_PROMPTS, system_prompt_for

    source = (ROOT / "nodes" / "verifi_rewrite.py").read_text(encoding="utf-8")
    assert "*SYSTEM_PROMPTS" in source
    SYSTEM_PROMPTS["a made-up manner"] = "Write it as a haiku."
    try:
        assert system_prompt_for("a made-up manner", AS_PROFILE, "") == "Write it as a haiku."
        assert system_prompt_for("x", "a made-up manner", "") == "Write it as a haiku."
    finally:
        del SYSTEM_PROMPTS["a made-up manner"]
