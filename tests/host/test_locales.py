"""Every name, input and tooltip is there in every language, and every node has a help page."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from harness.graphs import GRAPHS

from unifusion.profiles import PROFILES

PACK = Path(__file__).resolve().parents[2]
HELP = PACK / "web" / "docs"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_locales", PACK / "tools" / "build_locales.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def info(pack):
    from unifusion_pack.nodes.extension import NODES

    return {cls.GET_SCHEMA().node_id: cls.GET_NODE_INFO_V1() for cls in NODES}


def read(language, name="nodeDefs.json"):
    return json.loads((PACK / "locales" / language / name).read_text(encoding="utf-8"))


def test_english_is_what_the_schemas_say(builder, info):
    """If not: run tools/build_locales.py."""
    assert read("en") == builder.node_definitions(info, lambda text: text)


@pytest.mark.parametrize("language", ["de", "ja", "zh"])
def test_every_text_is_translated(builder, info, language):
    table = json.loads((PACK / "tools" / "translations" / f"{language}.json").read_text(encoding="utf-8"))
    missing = []

    def translate(text):
        if text not in table and not builder.slot_name(text):
            missing.append(text)
        return table.get(text, text)

    expected = builder.node_definitions(info, translate)
    assert not missing
    assert read(language) == expected
    assert all(table.values())


@pytest.mark.parametrize("language", ["de", "ja", "zh"])
def test_options_and_numbers_quoted_in_tooltips_survive_translation(language):
    """Options of a combo are the same in every language, so a tooltip must name them as they stand."""
    table = json.loads((PACK / "tools" / "translations" / f"{language}.json").read_text(encoding="utf-8"))
    for english, text in table.items():
        for quoted in re.findall(r"'[^']{2,}?'", re.sub(r"(?<=\w)'(?=\w)", "", english)):
            assert quoted in text or quoted == "'negative'", english
        for number in re.findall(r"\d+\.\d+", english):
            assert number in text, english


@pytest.mark.parametrize("language", ["en", "de", "ja", "zh"])
def test_own_socket_types_have_names(language):
    assert set(read(language, "main.json")["dataTypes"]) == {"UNIFUSION_HIDDEN_STATES", "UNIFUSION_REFERENCES"}


def test_every_node_has_a_help_page_that_explains_every_input(info):
    for node, about in info.items():
        page = (HELP / f"{node}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {about['display_name']}\n"), node
        for heading in ("## Inputs", "## Outputs", "## Common mistakes"):
            assert heading in page, f"{node}: {heading}"
        for group in ("required", "optional"):
            for name in about["input"].get(group, {}):
                assert f"`{name}`" in page, f"{node}: {name}"
        for name in about["output_name"]:
            assert name in page, f"{node}: {name}"


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_help_pages_in_other_languages_explain_every_input(info, language):
    for node, about in info.items():
        page = (HELP / node / f"{language}.md").read_text(encoding="utf-8")
        names = read(language, "nodeDefs.json")[node]
        assert page.startswith(f"# {names['display_name']}\n") and page.count("\n## ") == 3, node
        assert f"(pictures/{node}.png)" in page and (HELP / "pictures" / f"{node}.png").is_file()
        for group in ("required", "optional"):
            for name in about["input"].get(group, {}):
                assert f"| `{name}` |" in page, f"{node}: {name}"
        mistakes = page.rsplit("\n## ", 1)[1].split("\n- ")[1:]
        assert mistakes, node
        for line in page.splitlines():
            words = re.sub(r"`[^`]*`|[*|(].*?[*|)]", "", line)
            assert len(re.findall(r"[A-Za-z]{3,}", words)) < 14, f"{node} is not translated: {line[:90]}"


def test_choices_have_labels_in_other_languages(info):
    """Names of models and labels that a LoRA was trained with stay as they are."""
    script = (HELP.parent / "js" / "choices.js").read_text(encoding="utf-8")
    table = json.loads(script.split("const CHOICES = ")[1].split(";\nconst ")[0])
    assert all(len(labels) == 2 and all(labels) for labels in table.values())
    proper = {profile.key for profile in PROFILES.values()} | {"bf16", "fp32", "miniature"}

    def options(section):
        for group in ("required", "optional"):
            for name, (kind, about) in section.get(group, {}).items():
                if kind == "COMBO" and name not in ("model", "file", "sampler", "scheduler"):
                    yield from about["options"]
                if kind == "COMFY_DYNAMICCOMBO_V3":
                    for option in about["options"]:
                        yield option["key"]
                        yield from options(option["inputs"])

    shown = {option for about in info.values() for option in options(about["input"])}
    plain = {option for option in shown if option[:1].islower() or option[:1].isdigit()} - proper
    assert plain <= set(table), sorted(plain - set(table))


@pytest.mark.parametrize("column, language", [(0, "ja"), (1, "zh")])
def test_notes_of_templates_have_lines_in_other_languages(column, language):
    """Addresses and names of folders stay as they are; nodes are called what they are called in that language."""
    script = (HELP.parent / "js" / "notes.js").read_text(encoding="utf-8")
    table = json.loads(script.split("const LINES = ")[1].split(";\nconst ")[0])
    names = read(language, "nodeDefs.json")
    english = {
        about["display_name"]: names[node]["display_name"] for node, about in read("en", "nodeDefs.json").items()
    }
    lines = {line for graph in GRAPHS for note in graph.notes for line in note.splitlines() if line.strip()}
    plain = {line for line in lines if not re.fullmatch(r"(\*\*models/\w+\*\* )?\[[^\]]*\]\(\S+\)", line)}
    assert plain and plain <= set(table), sorted(plain - set(table))
    assert set(table) - lines == {"Read me"}
    for line, texts in table.items():
        assert "`" not in line + texts[column], "Vue nodes show such words blue on blue: make them bold"
        for kept in re.findall(r"\*\*[a-z@(\d][^*\s]*\*\*|\]\(\S+\)|\d+ x \d+", line):
            assert kept in texts[column] or kept == "**one**", line
        for name in re.findall(r"\*([^*]+)\*", line):
            assert name not in english or f"*{english[name]}*" in texts[column], line


def test_pictures_of_help_pages_exist():
    pages = list(HELP.glob("*.md"))
    assert pages
    for page in pages:
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert pictures, page.name
        for picture in pictures:
            assert (HELP / picture).is_file(), f"{page.name}: {picture}"
