"""Writes ``workflows/*.json`` and the subgraph blueprint from :mod:`harness.graphs`, with the real frontend.

``COMFYUI_PATH=... python tools/build_workflows.py [01 05]`` needs Debian's chromium and ``playwright``; numbers choose
workflows, without the blueprint.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from harness.browser import LINKS_UNDER_NODES, open_page
from harness.comfy_server import PACK, Server
from harness.graphs import BLUEPRINTS, GRAPHS, PACK_ID, TEXT, Graph

BUILD = """
async ({nodes, groups, notes, subgraphs, places, pack}) => {
  await app.loadGraphData({ nodes: [], links: [], version: 0.4 });
  const made = {};
  window.outside = {};
  const put = (node, key) => {
    const [left, top, width, height] = places[key], least = node.computeSize();
    node.pos = [left, top];
    node.setSize([Math.max(width, least[0]), Math.max(height, least[1])]);
  };
  for (const [key, spec] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(spec.type);
    node.id = spec.id;
    app.graph.add(node);
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
  const slot = (node, name) => {
    const found = node.inputs.findIndex((input) => input.name === name);
    if (found < 0) throw new Error(`${node.type} has no input ${name}: ${node.inputs.map((i) => i.name)}`);
    return found;
  };
  for (const [key, spec] of Object.entries(nodes))
    for (const [name, value] of Object.entries(spec.inputs)) {
      if (!Array.isArray(value)) continue;
      if (!made[value[0]].connect(value[1], made[key], slot(made[key], name)))
        throw new Error(`${spec.type}.${name} is not connected`);
    }
  for (const [key, node] of Object.entries(made)) put(node, key);
  for (const [number, text] of notes.entries()) {
    const note = LiteGraph.createNode("MarkdownNote");
    app.graph.add(note);
    put(note, number ? `note ${number + 1}` : "note");
    note.widgets[0].value = text;
    note.title = "Read me";
  }
  for (const [title, { nodes: keys, outside }] of Object.entries(subgraphs)) {
    // A widget that is linked across the border stands outside afterwards.
    const standIns = outside.map(([key, name]) => {
      const widget = made[key].widgets.find((w) => w.name === name);
      const kind = { STRING: "PrimitiveStringMultiline", INT: "PrimitiveInt", FLOAT: "PrimitiveFloat" }[
        made[key].inputs[slot(made[key], name)].type];
      const standIn = LiteGraph.createNode(kind);
      app.graph.add(standIn);
      standIn.connect(0, made[key], slot(made[key], name));
      return [standIn, widget.value, name];
    });
    const { node } = app.graph.convertToSubgraph(new Set(keys.map((key) => made[key])));
    node.title = node.subgraph.name = title;
    for (const input of node.subgraph.inputs) {
      const counted = /(?:^|\\.)image(\\d+)$/.exec(input.name);  // sockets are counted from 1, as prompts count pictures
      if (counted) node.subgraph.renameInput(input, `image ${Number(counted[1]) + 1}`);
    }
    // The frontend also puts the seed of a second sampler outside.
    const wanted = new Set(outside.map(([, name]) => name));
    const linked = new Set(node.inputs.filter((input) => input.link != null).map((input) => input.name));
    for (const input of [...node.subgraph.inputs])
      if (["INT", "FLOAT", "STRING"].includes(input.type) && !wanted.has(input.name) && !linked.has(input.name))
        node.subgraph.removeInput(input);
    for (const [standIn, value, name] of standIns) {
      app.graph.remove(standIn);
      if (!node.widgets.some((w) => w.name === name)) throw new Error(`${title} has no widget ${name}`);
      window.outside[node.id] = { ...window.outside[node.id], [name]: value };
    }
    put(node, title);
  }
  for (const [title, keys] of groups) {
    const group = new LiteGraph.LGraphGroup(title);
    const boxes = keys.map((key) => made[key]);
    const left = Math.min(...boxes.map((n) => n.pos[0])) - 18, top = Math.min(...boxes.map((n) => n.pos[1])) - 80;
    const right = Math.max(...boxes.map((n) => n.pos[0] + n.size[0])) + 18;
    const bottom = Math.max(...boxes.map((n) => n.pos[1] + n.size[1])) + 20;
    group.pos = [left, top];
    group.size = [right - left, bottom - top];
    app.graph.add(group);
  }
}
"""

ROUTE = """
() => {
  // A link that would run under a node goes over all of them, up and down between the columns.
  let lane = Math.min(...app.graph.nodes.map((n) => n.pos[1])) - 52;
  const lanes = new Map();
  for (const { id, from, to } of app.graph.nodes.length ? window.linksUnderNodes() : []) {
    const link = app.graph.links.get(id), source = app.graph.getNodeById(link.origin_id);
    const one = `${link.origin_id} ${link.origin_slot}`;  // links from one socket share their way
    if (!lanes.has(one)) { lanes.set(one, { y: lane, x: 10 + 6 * (lanes.size % 4) }); lane -= 12; }
    const { y, x } = lanes.get(one);
    const target = app.graph.getNodeById(link.target_id);
    const left = target.pos[0] - x, right = source.pos[0] + source.size[0] + x;
    let next = link;
    for (const stop of [[left, to[1]], [left, y], [right, y], [right, from[1]]]) next = app.graph.createReroute(stop, next);
  }
}
"""

SERIALIZE = """
({panel, ids}) => {
  const graph = app.graph.serialize();
  // Subgraphs that are made one after another share the values outside until they are loaded; each gets its own here.
  for (const node of graph.nodes) {
    const values = window.outside[node.id];
    if (values) node.widgets_values = app.graph.getNodeById(node.id).widgets.map((widget) => values[widget.name]);
  }
  const [inputs, results] = panel, named = (key) => ids[key] ?? graph.nodes.find((n) => n.title === key).id;
  // What app mode shows: prompt, pictures and seed beside the results.
  const linearData = { inputs: inputs.map(([key, name]) => [named(key), name]), outputs: results.map(named) };
  graph.extra = { ...graph.extra, ds: { scale: 0.7, offset: [110, 240] }, linearData };
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

AS_ONE_NODE = """
({name, description, aliases, inside, widgets, sockets, outputs}) => {
  const nodes = inside.map((id) => app.graph.getNodeById(id));
  const values = {}, slot = (node, input) => node.inputs.findIndex((one) => one.name === input);
  const named = new Map();  // what is linked inside -> its name outside
  for (const [id, widget, outside] of widgets) {
    const node = app.graph.getNodeById(id), value = node.widgets.find((one) => one.name === widget).value;
    const standIn = LiteGraph.createNode(typeof value === "string" ? "PrimitiveStringMultiline" : "PrimitiveInt");
    app.graph.add(standIn);
    standIn.connect(0, node, slot(node, widget));
    values[outside] = value;
    named.set(`${id} ${widget}`, outside);
  }
  for (const [id, input, outside] of sockets) named.set(`${id} ${input}`, outside);
  for (const [id, number] of outputs) {
    const shown = LiteGraph.createNode("PreviewAny");
    app.graph.add(shown);
    app.graph.getNodeById(id).connect(number, shown, 0);
  }
  const { node } = app.graph.convertToSubgraph(new Set(nodes)), { subgraph } = node;
  node.title = subgraph.name = name;
  for (const input of [...subgraph.inputs]) {
    const link = subgraph.links.get(input.linkIds[0]), target = link && subgraph.getNodeById(link.target_id);
    const outside = target && named.get(`${target.id} ${target.inputs[link.target_slot].name}`);
    if (outside) subgraph.renameInput(input, outside);
    else if (["INT", "FLOAT", "STRING"].includes(input.type)) subgraph.removeInput(input);
  }
  for (const output of subgraph.outputs) {
    const link = subgraph.links.get(output.linkIds[0]);
    const found = outputs.find(([id, number]) => id === link.origin_id && number === link.origin_slot);
    if (found) subgraph.renameOutput(output, found[2]);
  }
  for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
  const graph = app.graph.serialize();
  const [saved] = graph.nodes;
  for (const socket of [...saved.inputs, ...saved.outputs]) socket.label ??= socket.name;
  saved.widgets_values = node.widgets.map((widget) => values[widget.label ?? widget.name] ?? values[widget.name]);
  graph.extra = { BlueprintDescription: description, BlueprintSearchAliases: aliases };
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
            "subgraphs": {
                title: {"nodes": one.nodes, "outside": one.outside} for title, one in graph.subgraphs.items()
            },
            "places": graph.places(),
            "pack": PACK_ID,
        },
    )
    page.wait_for_timeout(500)
    page.evaluate(LINKS_UNDER_NODES)
    page.evaluate(ROUTE)


def write(path: Path, graph: dict) -> None:
    path.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(PACK))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base")
        try:
            server.wait()
            with open_page(server.url) as page:
                chosen = sys.argv[1:]
                page.wait_for_timeout(3000)  # until the frontend has opened its own first graph
                for graph in GRAPHS:
                    if chosen and graph.name[:2] not in chosen:
                        continue
                    build(page, graph)
                    write(
                        PACK / "workflows" / f"{graph.name}.json",
                        page.evaluate(SERIALIZE, {"panel": graph.panel(), "ids": graph.ids()}),
                    )
                if chosen:
                    return
                build(page, TEXT)
                ids = TEXT.ids()
                write(
                    PACK / "subgraphs" / "Prompt to conditioning (UniFusion).json",
                    page.evaluate(BLUEPRINT, [ids["rewrite"], ids["pool"]]),
                )
                for blueprint in BLUEPRINTS:
                    build(page, blueprint.graph())
                    ids = blueprint.graph().ids()
                    content = page.evaluate(
                        AS_ONE_NODE,
                        {
                            "name": blueprint.name.removesuffix(" (UniFusion)"),
                            "description": blueprint.description,
                            "aliases": blueprint.aliases,
                            "inside": [ids[key] for key in blueprint.nodes if key not in blueprint.outside],
                            "widgets": [[ids[key], *rest] for key, *rest in blueprint.widgets],
                            "sockets": [[ids[key], *rest] for key, *rest in blueprint.sockets],
                            "outputs": [[ids[key], *rest] for key, *rest in blueprint.outputs],
                        },
                    )
                    write(PACK / "subgraphs" / f"{blueprint.name}.json", content)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
