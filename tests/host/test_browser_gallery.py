"""Templates as the gallery opens them, in windows of several widths; each opens a browser of its own."""

import json
from pathlib import Path

import pytest
from harness import browser
from harness.graphs import GRAPHS

PACK = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


def shipped(graph):
    return json.loads((PACK / "workflows" / f"{graph.name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("width", [1280, 1400, 1920])
def test_a_template_from_the_gallery_opens_at_a_zoom_that_shows_its_texts(server, width):
    """The frontend fits it at 0.56 in a window of 1400 px, where the classic renderer draws no text at all."""
    with browser.open_page(server.url, width=width, height=900) as page:
        for graph in GRAPHS:
            page.evaluate(
                "([graph, name]) => app.loadGraphData(graph, true, true, name, { openSource: 'template' })",
                [shipped(graph), graph.name],
            )
            page.wait_for_timeout(300)
            seen = page.evaluate("""() => { const { scale, offset } = app.canvas.ds;
                const at = (n) => [(n.pos[0] + offset[0]) * scale, (n.pos[1] - 30 + offset[1]) * scale,
                    (n.pos[0] + n.size[0] + offset[0]) * scale];
                return [scale, app.canvas.low_quality, app.graph.nodes.map(at)] }""")
            scale, coarse, places = seen
            assert scale >= 0.6 and not coarse, graph.name
            assert min(left for left, _, _ in places) >= 50 and min(top for _, top, _ in places) >= 30, graph.name
            if width >= 1400:
                assert max(right for _, _, right in places) <= width, graph.name
        saved = page.evaluate(
            "() => { app.canvas.ds.scale = 0.4; const g = app.graph.serialize(); g.extra.ds.scale = 0.4; return g }"
        )
        page.evaluate("(graph) => app.loadGraphData(graph)", saved)
        page.wait_for_timeout(300)
        assert page.evaluate("() => app.canvas.ds.scale") == 0.4  # a creator's own view stays
        saved["extra"]["ds"]["scale"] = 0.7
        page.evaluate("(graph) => app.loadGraphData(graph, false, false)", saved)  # as an undo does
        page.wait_for_timeout(300)
        assert page.evaluate("() => app.canvas.ds.scale") == 0.4
