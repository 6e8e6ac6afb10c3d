"""The shipped workflows: nothing lies over anything else, and loaders offer the files they lack."""

import json
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
TITLE = 30  # a node's title bar, above its position
APART = 20  # the least distance of two groups
FOLDERS = {
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "UpscaleModelLoader": "upscale_models",
}


class Box(NamedTuple):
    name: str
    left: float
    top: float
    right: float
    bottom: float

    def distance(self, other: "Box") -> float:
        """Of the nearer pair of edges; below 0 the two overlap."""
        return max(other.left - self.right, self.left - other.right, other.top - self.bottom, self.top - other.bottom)

    def holds(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


def layout(graph: dict) -> tuple[list[Box], list[Box]]:
    """Boxes of the nodes, with their title bars, and of the groups."""
    nodes = [
        Box(f"{node['type']} {node['id']}", x, y - TITLE, x + width, y + height)
        for node in graph["nodes"]
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    ]
    groups = [
        Box(group["title"], x, y, x + width, y + height)
        for group in graph["groups"]
        for x, y, width, height in [group["bounding"]]
    ]
    return nodes, groups


def faults(graph: dict) -> list[str]:
    nodes, groups = layout(graph)
    return [
        *(
            f"'{a.name}' and '{b.name}' are {a.distance(b):g} px apart"
            for a, b in combinations(groups, 2)
            if a.distance(b) < APART
        ),
        *(f"{a.name} lies over {b.name}" for a, b in combinations(nodes, 2) if a.distance(b) < 0),
        *(
            f"{node.name} lies partly in '{group.name}'"
            for node in nodes
            for group in groups
            if group.distance(node) < 0 and not group.holds(node)
        ),
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_lies_over_anything_else(path):
    assert faults(json.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_stock_loaders_offer_the_file_they_name(path):
    """The frontend offers what stands in ``properties.models``; the note links the same."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    notes = "".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    loaders = [node for node in graph["nodes"] if node["type"] in FOLDERS]
    assert bool(loaders) == any(model in path.stem for model in ("Krea 2", "FLUX.2", "Z-Image", "Qwen", "Ideogram"))
    for node in loaders:
        (model,) = node["properties"]["models"]
        assert model["directory"] == FOLDERS[node["type"]] and model["name"] in node["widgets_values"]
        assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{model['name']}")
        behind = notes.split(f"models/{model['directory']}")[1:]  # a note may name a folder for each of its files
        assert any(f"[{model['name']}]({model['url']})" in part[:300] for part in behind)


def test_every_workflow_is_looked_at():
    assert len(WORKFLOWS) == 15


def test_the_check_sees_what_it_forbids():
    def node(number, x, y=0):
        return {"type": "Node", "id": number, "pos": [x, y], "size": [100, 100]}

    def group(title, x):
        return {"title": title, "bounding": [x, -80, 140, 200]}

    found = faults(
        {
            "nodes": [node(1, 0), node(2, 50), node(3, 0, 125), node(4, 400)],
            "groups": [group("a", -20), group("b", 130), group("c", 450)],
        }
    )
    assert found == [
        "'a' and 'b' are 10 px apart",
        "Node 1 lies over Node 2",
        "Node 1 lies over Node 3",
        "Node 2 lies over Node 3",
        "Node 2 lies partly in 'a'",
        "Node 2 lies partly in 'b'",
        "Node 3 lies partly in 'a'",
        "Node 4 lies partly in 'c'",
    ]
