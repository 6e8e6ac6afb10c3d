"""What runs inside a creator's ComfyUI: no network, no pickle, no process, no eval, files only where they belong.

The rules hold for everything the host can reach from the pack's ``__init__.py`` by imports. What runs only when a
developer calls it by hand is a list of its own, with the reason, and nothing the host reaches may import it.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BY_COMMAND_ONLY = {
    "tools": "the demo, maintenance scripts and what they share with tests and benches; they start a server and write into the "
    "checkout",
    "tests": "tests",
    "bench": "measurements; they write to bench/out",
    "noxfile.py": "the task runner; it downloads the pinned host and checks its checksum",
    "unifusion/training": "the trainer; it writes checkpoints and logs where its command line says",
    "unifusion/dit.py": "the DiT for training and for use without ComfyUI",
    "unifusion/layers_to_blocks.py": "two rivals of pooling, for training and comparisons",
    "unifusion/still_vae.py": "the VAE of still pictures, for training",
    "unifusion/pooling.py": "Layerwise Attention Pooling for training and for use without ComfyUI",
    "recipes": "making and training the bundled models",
}

FORBIDDEN_MODULES = {
    "network": "socket ssl urllib urllib3 http requests aiohttp httpx ftplib smtplib telnetlib xmlrpc websocket "
    "websockets webbrowser huggingface_hub asyncio",
    "pickle": "pickle cPickle _pickle dill cloudpickle joblib shelve marshal",
    "processes": "subprocess multiprocessing pty ctypes cffi",
    "code from data": "code codeop runpy importlib pkgutil zipimport",
    "files": "tempfile shutil sqlite3 zipfile tarfile",
}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.jit.load",
    "torch.compile",
    "numpy.load",
    "np.load",
    "numpy.save",
    "np.save",
    "numpy.fromfile",
    "np.fromfile",
    "os.system",
    "os.popen",
    "os.fork",
    "os.kill",
    "os.startfile",
    "os.chmod",
    "os.environ.update",
    "os.putenv",
    "os.remove",
    "os.rmdir",
    "os.removedirs",
    "os.makedirs",
    "os.mkdir",
    "builtins.eval",
    "builtins.exec",
}
# load_torch_file and from_pretrained take pickles or reach for the network.
FORBIDDEN_METHODS = {
    "from_pretrained",
    "load_torch_file",
    "load_state_dict_from_url",
    "hf_hub_download",
    "rmtree",
    "load_lora",
    "torch_load",
}
WRITING = {
    "write_text",
    "write_bytes",
    "mkdir",
    "touch",
    "unlink",
    "rename",
    "rmdir",
    "symlink_to",
    "hardlink_to",
    "save_file",
    "savefig",
    "replace_file",
    "chmod",
}
# Who may write, and what keeps the file inside ComfyUI's folders.
WRITERS = {
    "unifusion/stored.py": "writes the file it is given; actions/stored_files.py gives it paths inside ComfyUI's "
    "output folder only (tests/host/test_files.py)",
    "unifusion/own_presets.py": "writes one small JSON file into the folder it is given, which is inside ComfyUI's user "
    "folder (tests/host/test_presets.py, tests/unit/test_own_presets.py)",
}
# What was looked at and is allowed in one file: part of the finding -> why.
REVIEWED = {
    "unifusion/comfy_bridge/read_files.py": {
        "load_torch_file": "behind a check of the name: ComfyUI opens .safetensors with safetensors alone"
    },
}


def module_file(parts: list[str]) -> Path | None:
    for candidate in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
        if parts and candidate.is_file():
            return candidate
    return None


def imported(path: Path) -> set[Path]:
    """The pack's own files that this one imports, wherever in it the import stands."""
    package = list(path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [base, *([*base, alias.name] for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for name in names:
            for length in range(1, len(name) + 1):  # importing a module runs its packages too
                if file := module_file(name[:length]):
                    found.add(file)
    return found


def reached_by_the_host() -> list[Path]:
    todo, seen = [ROOT / "__init__.py"], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += imported(path)
    return sorted(seen)


SHIPPED = reached_by_the_host()
NAMES = [path.relative_to(ROOT).as_posix() for path in SHIPPED]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def breaches(source: str, name: str) -> list[str]:
    """Every forbidden thing in a file, with its line."""
    forbidden = {module: why for why, modules in FORBIDDEN_MODULES.items() for module in modules.split()}
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module]
        found += [
            f"{name}:{node.lineno} imports {module} ({forbidden[module.split('.')[0]]})"
            for module in modules
            if module.split(".")[0] in forbidden
        ]
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        last = called.split(".")[-1] or getattr(node.func, "attr", "")
        local = any(
            word.arg == "local_files_only" and getattr(word.value, "value", False) is True for word in node.keywords
        )
        method = last in FORBIDDEN_METHODS and not local
        if called in FORBIDDEN_CALLS or method or called.startswith(("os.exec", "os.spawn")):
            found.append(f"{name}:{node.lineno} calls {called or last}")
        mode = [
            arg.value
            for arg in (*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode"))
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        writes = last == "open" and any(set("wax+") & set(text) for text in mode)
        if (writes or last in WRITING or called in ("os.replace", "os.rename")) and name not in WRITERS:
            found.append(f"{name}:{node.lineno} writes files with {called or last}")
    return [line for line in found if not any(part in line for part in REVIEWED.get(name, ()))]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_the_host_reaches_breaks_the_rules(name):
    assert breaches((ROOT / name).read_text(), name) == []


def test_the_host_reaches_no_trainer_no_test_and_no_tool():
    ours_alone = ("tools", "tests", "bench", "recipes", "noxfile", "unifusion/training")
    assert [name for name in NAMES if name.startswith(ours_alone)] == []


def test_every_python_file_is_either_reached_by_the_host_or_run_by_command():
    skipped = {".git", ".nox", ".host", ".venv", "__pycache__", "runs"}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if skipped & set(path.parts) or name in NAMES:
            continue
        assert any(name == part or name.startswith(f"{part}/") for part in BY_COMMAND_ONLY), (
            f"{name} is neither imported from the pack's __init__.py nor listed in BY_COMMAND_ONLY"
        )


@pytest.mark.parametrize(
    "code",
    [
        "import requests",
        "from urllib.request import urlopen",
        "import socket as s",
        "import pickle",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "import os\nos.system('ls')",
        "import subprocess",
        "import importlib",
        "def f():\n    import http.client",
        "open('x', 'w')",
        "from pathlib import Path\nPath('x').write_text('')",
        "import os\nos.replace('a', 'b')",
        "model.from_pretrained('x')",
        "open('x', mode='ab')",
        "import os\nos.execv('a', [])",
        "comfy.utils.load_torch_file('x')",
    ],
)
def test_the_scan_sees_what_it_forbids(code):
    assert breaches(code, "made_up.py")
