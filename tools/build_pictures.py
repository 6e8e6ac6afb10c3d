"""Thumbnails, help pictures and the tour's screenshots, all drawn by the shipped workflows in the real frontend.

``COMFYUI_PATH=... python tools/build_pictures.py [01 05]`` after ``build_workflows.py``; numbers choose workflows (``00``
none of them: only the nodes as they come from the library, and those in no template).
Workflows on Krea 2 cannot run on what the pack ships; their thumbnail is the graph itself under its title. Empty files
stand for the models there, so that no loader is framed in red.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from harness.browser import open_page, use_renderer
from harness.comfy_server import PACK, Server
from harness.graphs import GRAPHS, Graph
from PIL import Image, ImageDraw, ImageFont

HELP = PACK / "web" / "docs" / "pictures"
TOUR = PACK / "docs" / "pictures"
MARGIN = 24
IN_NO_TEMPLATE = ("UniFusionGuider", "UniFusionLabelledSheet", "UniFusionSavePreset")


def slug(graph: Graph) -> str:
    return graph.name[3:].lower().replace(",", "").replace(" ", "_")


def run(page, server: Server, graph: Graph) -> dict:
    """Queue the graph on the canvas and wait until the frontend shows what came out."""
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    while not (new := set(server.get("/history")) - before):
        time.sleep(0.3)
    history = server.finished(new.pop())
    if errors := server.errors(history):
        raise SystemExit(f"{graph.name}: {errors}")
    page.wait_for_timeout(2500)
    return history


def shot(page, box: tuple[float, float, float, float], scale: float) -> Image.Image:
    """Screenshot of a part of the canvas, given in the graph's own units."""
    x, y, width, height = box
    size = {"width": int((width + 2 * MARGIN) * scale) + 140, "height": int((height + 2 * MARGIN) * scale) + 120}
    page.set_viewport_size({"width": max(size["width"], 900), "height": max(size["height"], 500)})
    page.evaluate(
        """([x, y, scale]) => { app.canvas.deselectAll?.(); app.canvas.ds.scale = scale;
        app.canvas.ds.offset = [110 / scale - x, 90 / scale - y]; app.canvas.setDirty(true, true) }""",
        [x - MARGIN, y - MARGIN, scale],
    )
    page.mouse.move(page.viewport_size["width"] - 4, 300)  # not over a tab, which would open its preview
    page.wait_for_timeout(900)
    clip = {"x": 110, "y": 90, "width": (width + 2 * MARGIN) * scale, "height": (height + 2 * MARGIN) * scale}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def whole(page) -> tuple[float, float, float, float]:
    """The box around all nodes and groups."""
    return tuple(
        page.evaluate("""() => { const boxes = [...app.graph.nodes.map((n) => [...n.pos, ...n.size]),
            ...app.graph.groups.map((g) => [...g.pos, ...g.size]),
            ...[...app.graph.reroutes.values()].map((r) => [...r.pos, 0, 0])];
        const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1] - 30));
        return [left, top, Math.max(...boxes.map((b) => b[0] + b[2])) - left,
                Math.max(...boxes.map((b) => b[1] + b[3])) - top] }""")
    )


def titled(picture: Image.Image, title: str) -> Image.Image:
    """The picture of a graph on a plain card with its title."""
    card = Image.new("RGB", (1024, 640), (26, 26, 30))
    picture.thumbnail((984, 530))
    card.paste(picture, ((1024 - picture.width) // 2, 96 + (530 - picture.height) // 2))
    ImageDraw.Draw(card).text((512, 48), title, fill=(235, 235, 235), font=ImageFont.load_default(44), anchor="mm")
    return card


def stand_ins(base: Path) -> None:
    """Empty files with the names of the models that the graphs load."""
    for model in (model for graph in GRAPHS for node in graph.nodes.values() for model in node.models):
        path = base / "models" / model["directory"] / model["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


FRESH = """
async (kinds) => {
  await app.loadGraphData({ nodes: [], links: [], version: 0.4 });
  const column = [0, 0, 0, 0], wide = 660;
  for (const kind of kinds) {
    const node = LiteGraph.createNode(kind), place = column.indexOf(Math.min(...column));
    app.graph.add(node);
    node.pos = [place * wide, column[place]];
    column[place] += node.size[1] + 110;
  }
}
"""


def fresh_nodes(page) -> None:
    """Every node as it comes from the library, in both renderers."""
    kinds = page.evaluate("() => Object.keys(LiteGraph.registered_node_types).filter((t) => t.startsWith('UniFusion'))")
    for vue, name in ((False, "classic"), (True, "vue")):
        use_renderer(page, vue)
        page.evaluate(FRESH, kinds)
        page.wait_for_timeout(1500)
        shot(page, whole(page), 0.6).save(TOUR / f"fresh_nodes_{name}.png", optimize=True)
    use_renderer(page, False)


def main() -> None:
    HELP.mkdir(exist_ok=True, parents=True)
    TOUR.mkdir(exist_ok=True, parents=True)
    chosen = [graph for graph in GRAPHS if graph.name[:2] in sys.argv[1:] or not sys.argv[1:]]
    pictured: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base")
        try:
            stand_ins(server.base)
            server.wait()
            with open_page(server.url, Graph_CanvasMenu=False) as page:
                page.add_style_tag(content='[data-testid="queue-notification-banner"] { visibility: hidden }')
                for graph in chosen:
                    path = PACK / "workflows" / f"{graph.name}.json"
                    page.evaluate("(graph) => app.loadGraphData(graph)", json.loads(path.read_text(encoding="utf-8")))
                    page.wait_for_timeout(500)
                    history = run(page, server, graph) if graph.runs else None
                    picture = shot(page, whole(page), 0.75)
                    picture.save(TOUR / f"{slug(graph)}.png", optimize=True)
                    if history is not None:
                        found = history["outputs"][str(graph.ids()[graph.picture])]["images"][0]
                        drawn = Image.open(server.base / found["type"] / found["subfolder"] / found["filename"])
                        drawn = drawn.convert("RGB")
                        if drawn.width < 512:
                            drawn.resize((384, 384), Image.Resampling.LANCZOS).save(TOUR / f"{slug(graph)}_result.png")
                            drawn = drawn.resize((512, 512), Image.Resampling.LANCZOS)
                        elif graph.picture == "save":
                            small = drawn.copy()
                            small.thumbnail((384, 384), Image.Resampling.LANCZOS)
                            small.save(TOUR / f"{slug(graph)}_result.png")
                        picture = drawn
                    else:
                        picture = titled(picture, graph.name[3:])
                    picture.thumbnail((1024, 768))
                    picture.save(path.with_suffix(".jpg"), quality=88)
                    inside = {key for subgraph in graph.subgraphs.values() for key in subgraph.nodes}
                    for key, node in graph.nodes.items():
                        if key not in inside and node.type.startswith("UniFusion") and node.type not in pictured:
                            pictured.add(node.type)
                            box = page.evaluate(
                                "(id) => { const n = app.graph.getNodeById(id); "
                                "return [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30] }",
                                graph.ids()[key],
                            )
                            shot(page, tuple(box), 1.0).save(HELP / f"{node.type}.png", optimize=True)
                    print(graph.name, flush=True)
                fresh_nodes(page)
                for kind in IN_NO_TEMPLATE:
                    page.evaluate(
                        """(kind) => { app.graph.clear(); const node = LiteGraph.createNode(kind);
                        app.graph.add(node); node.pos = [0, 0] }""",
                        kind,
                    )
                    box = page.evaluate("() => [0, -30, app.graph.nodes[0].size[0], app.graph.nodes[0].size[1] + 30]")
                    shot(page, tuple(box), 1.0).save(HELP / f"{kind}.png", optimize=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
