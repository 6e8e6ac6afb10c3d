"""What the registry's archive holds: tracked files without those of ``.comfyignore``, as ``comfy node pack`` does."""

import re
import subprocess
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
MINIATURE = "unifusion/weights/unifusion_miniature"
WEIGHTS = {  # each once; a stock loader lists all that lies below the root of its kind
    f"{MINIATURE}/diffusion_models/unifusion_miniature/dit.safetensors",
    f"{MINIATURE}/vae/unifusion_miniature/vae.safetensors",
    f"{MINIATURE}/vlm/model.safetensors",
}


@pytest.fixture(scope="module")
def archive() -> list[str]:
    def listed(*arguments):
        done = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=PACK, capture_output=True, text=True)
        if done.returncode:
            pytest.skip("not a git checkout")
        return {name for name in done.stdout.split("\0") if name}

    return sorted(listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore"))


def test_everything_a_creator_needs_is_in_it(archive):
    for name in (
        "__init__.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "requirements.txt",
        "nodes/extension.py",
        "unifusion/pooling.py",
        "unifusion/comfy_bridge/encoders/text_encoder.py",
        "web/js/text_on_node.js",
        "web/docs/UniFusionInspect.md",
        "locales/zh/nodeDefs.json",
        "workflows/01 Text to picture with VERIFI.json",
        "subgraphs/Prompt to conditioning (UniFusion).json",
        "subgraphs/Text to picture (UniFusion).json",
        "subgraphs/Krea 2 Turbo (UniFusion).json",
    ):
        assert name in archive


def test_nothing_else_is_in_it(archive):
    for name in archive:
        top = name.split("/")[0]
        assert top not in {"tests", "bench", "tools", "recipes", "runs", ".github"}, name
        assert not re.search(r"__pycache__|\.(pyc|pkl|pt|ckpt|bin|log)$", name), name
        if name.endswith(".safetensors"):
            assert name in WEIGHTS
    assert WEIGHTS <= set(archive)


def test_every_link_of_the_readme_leads_to_something_in_it(archive):
    text = (PACK / "README.md").read_text(encoding="utf-8")
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link} - {""}
    assert len(links) > 20
    assert sorted(links - set(archive)) == []


def test_links_between_pages_lead_to_files_of_the_repository():
    pages = [*PACK.glob("*.md"), *PACK.glob("docs/*.md"), *PACK.glob("web/docs/*.md"), *PACK.glob("unifusion/**/*.md")]
    dead = [
        f"{page.relative_to(PACK)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert dead == []


def test_it_stays_small(archive):
    assert sum((PACK / name).stat().st_size for name in archive if (PACK / name).is_file()) < 100 * 2**20


def test_the_registry_finds_what_it_asks_for():
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    for field in ("name", "version", "description", "license", "PublisherId", "DisplayName"):
        assert re.search(rf"^{field}\s*=", text, re.MULTILINE), field
    version = re.search(r'^version = "(.+)"', text, re.MULTILINE).group(1)
    assert f"## {version}" in (PACK / "CHANGELOG.md").read_text(encoding="utf-8")


def test_comfyui_takes_one_folder_for_templates():
    """It serves the first of these names under one address (``custom_node_manager.py``), which hides the others."""
    taken = [
        name for name in ("example_workflows", "example", "examples", "workflow", "workflows") if (PACK / name).is_dir()
    ]
    assert taken == ["workflows"]
