"""Workflows, forms and hooks are YAML that says what it is meant to say."""

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def commands(workflow: dict) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_tests_run_the_readmes_command_on_every_supported_python_and_host():
    workflow = load(".github/workflows/test.yml")
    readme = re.search(r"^(pip install nox && nox -s test)\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert any(command.startswith(readme.group(1)) for command in commands(workflow))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    hosts = re.findall(r'^    "([\d.]+)": \(', (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE)
    assert sorted(workflow["jobs"]["compat"]["strategy"]["matrix"]["host"]) == sorted(hosts)


def test_a_tag_packs_a_release():
    workflow = load(".github/workflows/release.yml")
    assert workflow[True]["push"]["tags"] == ["v*"]  # YAML reads "on" as true
    assert any("comfy node pack" in command for command in commands(workflow))


def test_the_form_of_a_fault_asks_for_report_and_workflow():
    fields = {field["id"]: field for field in load(".github/ISSUE_TEMPLATE/fault.yml")["body"]}
    assert fields["report"]["validations"]["required"] and fields["workflow"]["validations"]["required"]
    assert "goal" in {field["id"] for field in load(".github/ISSUE_TEMPLATE/wish.yml")["body"]}
    template = (ROOT / ".github/pull_request_template.md").read_text("utf-8")
    assert "Report text" in template and "Workflow JSON" in template


def test_hooks_and_lint_run_the_same():
    entries = [hook["entry"] for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert entries == ["ruff format", "ruff check", "mypy"]
    lint = (ROOT / "noxfile.py").read_text("utf-8").split("def lint")[1]
    assert all(f'"{entry.split()[0]}"' in lint for entry in entries)
    pins = (ROOT / "tools" / "lint.txt").read_text("utf-8")
    assert re.search(r"^ruff==", pins, re.MULTILINE) and re.search(r"^mypy==", pins, re.MULTILINE)
