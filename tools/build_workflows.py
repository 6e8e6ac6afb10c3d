"""Writes ``workflows/*.json`` and the subgraph blueprint from :mod:`harness.graphs`, with the real frontend.

``COMFYUI_PATH=... python tools/build_workflows.py`` needs Debian's chromium and ``playwright``.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from harness.browser import open_page
from harness.comfy_server import PACK, Server
from harness.graphs import GRAPHS, PACK_ID, TEXT, Graph

BUILD = """
({nodes, groups, notes, pack}) => {
  app.graph.clear();
  const made = {};
  for (const [key, spec] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(spec.type);
    node.id = spec.id;
    app.graph.add(node);
    node.pos = spec.at;
    if (spec.title) node.title = spec.title;
    node.properties["Node name for S&R"] = spec.type;
    if (spec.type.startsWith("UniFusion")) node.properties.cnr_id = pack;
    if (spec.models.length) node.properties.models = spec.models;
    made[key] = node;
    for (const [name, value] of Object.entries({ ...spec.inputs, ...spec.behindLinks })) {
      if (Array.isArray(value)) continue;
      const widget = node.widgets.find((w) => w.name === name);
      if (!widget) throw new Error(`${spec.type} has no widget ${name}`);
      widget.value = value;
      widget.callback?.(value);
    }
    for (const widget of node.widgets ?? [])
      if (["fixed", "increment", "decrement", "randomize"].includes(widget.value)) widget.value = "fixed";
  }
  for (const [key, spec] of Object.entries(nodes))
    for (const [name, value] of Object.entries(spec.inputs)) {
      if (!Array.isArray(value)) continue;
      const slot = made[key].inputs.findIndex((input) => input.name === name);
      if (slot < 0) throw new Error(`${spec.type} has no input ${name}: ${made[key].inputs.map((i) => i.name)}`);
      if (!made[value[0]].connect(value[1], made[key], slot)) throw new Error(`${spec.type}.${name} is not connected`);
    }
  for (const [key, spec] of Object.entries(nodes)) {
    const least = made[key].computeSize();
    made[key].setSize([Math.max(spec.size[0], least[0]), Math.max(spec.size[1], least[1])]);
  }
  for (const [text, at, size] of notes) {
    const note = LiteGraph.createNode("MarkdownNote");
    app.graph.add(note);
    note.pos = at;
    note.setSize(size);
    note.widgets[0].value = text;
    note.title = "Read me";
  }
  for (const [title, keys] of groups) {
    const group = new LiteGraph.LGraphGroup(title);
    const boxes = keys.map((key) => made[key]);
    const left = Math.min(...boxes.map((n) => n.pos[0])) - 20, top = Math.min(...boxes.map((n) => n.pos[1])) - 80;
    const right = Math.max(...boxes.map((n) => n.pos[0] + n.size[0])) + 20;
    const bottom = Math.max(...boxes.map((n) => n.pos[1] + n.size[1])) + 20;
    group.pos = [left, top];
    group.size = [right - left, bottom - top];
    app.graph.add(group);
  }
}
"""

SERIALIZE = """
() => {
  const graph = app.graph.serialize();
  graph.extra = { ds: { scale: 0.6, offset: [120, 160] } };
  return graph;
}
"""

BLUEPRINT = """
(keys) => {
  const nodes = keys.map((id) => app.graph.getNodeById(id));
  // What is linked across the border becomes a socket of the blueprint, widgets included.
  const words = LiteGraph.createNode("PrimitiveStringMultiline"), shown = LiteGraph.createNode("PreviewAny");
  app.graph.add(words);
  app.graph.add(shown);
  words.connect(0, nodes[0], nodes[0].inputs.findIndex((input) => input.name === "prompt"));
  nodes[0].connect(nodes[0].outputs.findIndex((output) => output.name === "text"), shown, 0);
  const { node } = app.graph.convertToSubgraph(new Set(nodes));
  node.title = "Prompt to conditioning";
  node.subgraph.name = "Prompt to conditioning";
  for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
  for (const group of [...app.graph.groups]) app.graph.remove(group);
  const graph = app.graph.serialize();
  graph.extra = {};
  return graph;
}
"""


def build(page, graph: Graph) -> None:
    """Put a graph on the canvas."""
    ids = graph.ids()
    page.evaluate(
        BUILD,
        {
            "nodes": {
                key: {
                    "type": node.type,
                    "id": ids[key],
                    "at": node.at,
                    "size": node.size,
                    "title": node.title,
                    "models": node.models,
                    "behindLinks": node.behind_links,
                    "inputs": {
                        name: list(value) if isinstance(value, tuple) else value for name, value in node.inputs.items()
                    },
                }
                for key, node in graph.nodes.items()
            },
            "groups": list(graph.groups.items()),
            "notes": graph.notes,
            "pack": PACK_ID,
        },
    )


def write(path: Path, graph: dict) -> None:
    path.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(PACK))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base")
        try:
            server.wait()
            with open_page(server.url) as page:
                for graph in GRAPHS:
                    build(page, graph)
                    write(PACK / "workflows" / f"{graph.name}.json", page.evaluate(SERIALIZE))
                build(page, TEXT)
                ids = TEXT.ids()
                write(
                    PACK / "subgraphs" / "Prompt to conditioning (UniFusion).json",
                    page.evaluate(BLUEPRINT, [ids["rewrite"], ids["pool"]]),
                )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
