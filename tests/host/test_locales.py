"""Every name, input and tooltip is there in every language, and every node has a help page."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

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


def test_pictures_of_help_pages_exist():
    pages = list(HELP.glob("*.md"))
    assert pages
    for page in pages:
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert pictures, page.name
        for picture in pictures:
            assert (HELP / picture).is_file(), f"{page.name}: {picture}"
