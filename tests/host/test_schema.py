"""The contract with saved graphs: ids, inputs, their order, types and defaults stay as they are.

After a change on purpose: ``UPDATE_CONTRACT=1 pytest tests/host/test_schema.py``. New inputs are optional and come
last; a node or input that is renamed or dropped needs a replacement rule (``io.NodeReplace``) for graphs saved before.
"""

import json
import os
from pathlib import Path

import pytest
from harness.graphs import GRAPHS

CONTRACT = Path(__file__).with_name("contract.json")
FROM_HOST = {"sampler", "scheduler", "sampler_name", "file", "model"}  # lists that depend on the installation


@pytest.fixture(scope="module")
def info(pack):
    from unifusion_pack.nodes.extension import NODES

    return {cls.GET_SCHEMA().node_id: cls.GET_NODE_INFO_V1() for cls in NODES}


def inputs(section, prefix=""):
    for group in ("required", "optional"):
        for name, (kind, options) in section.get(group, {}).items():
            entry = {"id": prefix + name, "type": kind, "optional": group == "optional"}
            entry |= {key: options[key] for key in ("default", "min", "max", "multiline") if key in options}
            if kind == "COMBO" and name not in FROM_HOST:
                entry["options"] = options["options"]
            if kind == "COMFY_DYNAMICCOMBO_V3":
                entry["options"] = {
                    option["key"]: list(inputs(option["inputs"], f"{prefix}{name}.")) for option in options["options"]
                }
            if kind == "COMFY_AUTOGROW_V3":
                entry["template"] = {key: options["template"][key] for key in ("prefix", "min", "max")}
                entry["template"]["type"] = next(iter(options["template"]["input"]["required"].values()))[0]
            yield entry


def contract(info):
    return {
        node: {
            "inputs": list(inputs(about["input"])),
            "output_node": about["output_node"],
            "outputs": [list(pair) for pair in zip(about["output_name"], about["output"])],
        }
        for node, about in sorted(info.items())
    }


def test_nodes_are_what_saved_graphs_expect(info):
    now = json.loads(json.dumps(contract(info)))
    if os.environ.get("UPDATE_CONTRACT"):
        CONTRACT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = json.loads(CONTRACT.read_text(encoding="utf-8"))
    assert sorted(now) == sorted(kept)
    for node in kept:
        assert now[node] == kept[node], node


def test_every_node_says_what_it_is_and_is_found_by_the_names_creators_use(info):
    found = {alias.lower() for about in info.values() for alias in about["search_aliases"]}
    assert {"krea 2", "qwen3-vl", "rewrite", "prompt enhance", "reference", "edit", "rebalance"} <= found
    for node, about in info.items():
        assert about["category"] == "UniFusion" and about["description"].endswith("."), node
        assert "UniFusion" in about["search_aliases"], node


def test_every_input_has_a_tooltip_of_whole_sentences(info):
    def all_inputs(section):
        for group in ("required", "optional"):
            for name, (kind, options) in section.get(group, {}).items():
                yield name, options.get("tooltip")
                for option in options.get("options", ()) if kind == "COMFY_DYNAMICCOMBO_V3" else ():
                    yield from all_inputs(option["inputs"])
                if kind == "COMFY_AUTOGROW_V3":
                    yield from all_inputs(options["template"]["input"])

    for node, about in info.items():
        for name, tooltip in all_inputs(about["input"]):
            assert tooltip and tooltip.endswith("."), f"{node}.{name}"


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_shipped_workflows_hold_every_input_of_the_contract(info, graph):
    """Each node of ours in a shipped workflow carries a value or link for every required input, and none unknown."""
    for node in graph.nodes.values():
        if not node.type.startswith("UniFusion"):
            continue
        section = info[node.type]["input"]
        known = {**section.get("required", {}), **section.get("optional", {})}
        assert not {name.split(".")[0] for name in node.inputs} - set(known), node.type
        assert set(section["required"]) <= {name.split(".")[0] for name in node.inputs}, node.type
