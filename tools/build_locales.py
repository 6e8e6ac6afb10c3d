"""Writes ``locales/*/nodeDefs.json`` and ``main.json`` from the nodes' schemas and ``tools/translations/*.json``.

``COMFYUI_PATH=... python tools/build_locales.py`` after a name or tooltip changed. A translation is kept by its English
text, so a changed text is missing until it is translated anew; the missing ones are printed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
LANGUAGES = ("de", "ja", "zh")
DATA_TYPES = {
    language: {"UNIFUSION_HIDDEN_STATES": states, "UNIFUSION_REFERENCES": references}
    for language, states, references in (
        ("en", "hidden states", "references"),
        ("de", "innere Zustände", "Referenzen"),
        ("ja", "隠れ状態", "参照"),
        ("zh", "隐藏状态", "参考图"),
    )
}


def object_info() -> dict:
    """What ``/object_info`` says of the pack's nodes."""
    host = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, host)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        "unifusion_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["unifusion_pack"] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {cls.GET_SCHEMA().node_id: cls.GET_NODE_INFO_V1() for cls in asyncio.run(extension.get_node_list())}


def inputs_of(section: dict, prefix: str = ""):
    """(key in locale files, shown name, tooltip) of every input, those of dynamic inputs included."""
    for group in ("required", "optional"):
        for name, (kind, options) in section.get(group, {}).items():
            key = (prefix + name).replace(".", "_")
            yield key, options.get("display_name") or name.replace("_", " "), options.get("tooltip")
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    yield from inputs_of(option["inputs"], f"{prefix}{name}.")
            if kind == "COMFY_AUTOGROW_V3":
                template = options["template"]
                ((_, (_, inner)),) = template["input"]["required"].items()
                for number in range(template["max"]):
                    slot = f"{template['prefix']}{number}"
                    yield f"{name}_{slot}", slot, inner.get("tooltip")


def node_definitions(info: dict, translate) -> dict:
    """``nodeDefs.json`` for ``/object_info``, each text through ``translate``."""

    def entry(name: str, tooltip: str | None) -> dict:
        return {"name": translate(name)} | ({"tooltip": translate(tooltip)} if tooltip else {})

    return {
        node: {
            "display_name": translate(about["display_name"]),
            "description": translate(about["description"]),
            "inputs": {key: entry(name, tooltip) for key, name, tooltip in inputs_of(about["input"])},
            "outputs": {
                str(number): entry(name, about["output_tooltips"][number])
                for number, name in enumerate(about["output_name"])
            },
        }
        for node, about in info.items()
    }


HEADINGS = {"ja": ("入力", "出力", "よくある間違い"), "zh": ("输入", "输出", "常见错误")}


def help_page(node: str, about: dict, inputs: dict, mistakes: list[str], language: str) -> str:
    """A help page in another language: the English one's picture, names and tooltips, and what goes wrong.

    Args:
        about: of the node in ``nodeDefs.json`` of that language.
        inputs: id -> (name, tooltip) of the node's own inputs, in their order.
        mistakes: in that language.
    """
    into, out, wrong = HEADINGS[language]
    rows = [f"| `{name}` | {shown} | {tooltip} |" for name, (shown, tooltip) in inputs.items()]
    outputs = [f"| {one['name']} | {one.get('tooltip', '')} |" for one in about["outputs"].values()]
    return "\n".join(
        [
            f"# {about['display_name']}",
            "",
            about["description"],
            "",
            f"![{about['display_name']}](pictures/{node}.png)",
            "",
            f"## {into}",
            "",
            "| | | |",
            "|---|---|---|",
            *rows,
            "",
            f"## {out}",
            "",
            "| | |",
            "|---|---|",
            *outputs,
            "",
            f"## {wrong}",
            "",
            *(f"- {one}" for one in mistakes),
            "",
        ]
    )


def write_help(info: dict, language: str, definitions: dict, translate) -> None:
    """``web/docs/<node>/<language>.md`` of every node; a node without translated mistakes is printed."""
    texts = json.loads((PACK / "tools" / "translations" / "help.json").read_text(encoding="utf-8"))
    for node, about in info.items():
        mistakes = texts.get(node, {}).get(language, [])
        if not mistakes:
            print(f"{language}: no common mistakes for {node} in help.json")
        own = {}
        for group in ("required", "optional"):
            for name, (_, options) in about["input"].get(group, {}).items():
                shown = options.get("display_name") or name.replace("_", " ")
                own[name] = (translate(shown), translate(options.get("tooltip") or ""))
        folder = PACK / "web" / "docs" / node
        folder.mkdir(exist_ok=True)
        page = help_page(node, definitions[node], own, mistakes, language)
        (folder / f"{language}.md").write_text(page, encoding="utf-8")


def slot_name(text: str) -> bool:
    """Whether a text is the name of a growing socket, which is the same in every language."""
    return text.rstrip("0123456789") in ("image", "states") and text[-1].isdigit()


def main() -> None:
    info = object_info()
    texts: dict[str, None] = {}
    english = node_definitions(info, lambda text: texts.setdefault(text) or text)
    for language in ("en", *LANGUAGES):
        definitions = english
        if language != "en":
            path = PACK / "tools" / "translations" / f"{language}.json"
            table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for text in texts:
                if text not in table and not slot_name(text):
                    print(f"{language}: not translated: {text}")
            definitions = node_definitions(info, lambda text, table=table: table.get(text, text))
            if language in HEADINGS:
                write_help(info, language, definitions, lambda text, table=table: table.get(text, text))
        folder = PACK / "locales" / language
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("nodeDefs.json", definitions), ("main.json", {"dataTypes": DATA_TYPES[language]})):
            (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
