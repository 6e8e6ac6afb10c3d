"""A real browser opens every shipped workflow in the real frontend and runs those on the miniature."""

import json
import time
from pathlib import Path

import pytest
from harness import browser
from harness.graphs import GRAPHS, INSPECT, TEXT
from running_graphs import RUNNING, picture_of

from unifusion.miniature import MINIATURE

PACK = Path(__file__).resolve().parents[2]
TRAINED = (MINIATURE / "dit.safetensors").is_file()
pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
needs_weights = pytest.mark.skipif(not TRAINED, reason="the bundled weights are not here")

TO_PROMPT = "async () => (await app.graphToPrompt()).output"


@pytest.fixture(scope="module")
def page(server):
    with browser.open_page(server.url) as opened:
        yield opened


def shipped(graph):
    return json.loads((PACK / "workflows" / f"{graph.name}.json").read_text(encoding="utf-8"))


def open_graph(page, content):
    page.evaluate("(graph) => app.loadGraphData(graph)", content)
    page.wait_for_timeout(200)


def run_in_browser(page, server):
    """Queue what is on the canvas, as the Run button does."""
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 400
    while not (new := set(server.get("/history")) - before):
        assert time.monotonic() < end, "the graph was not finished in 400 s"
        time.sleep(0.3)
    return server.finished(new.pop())


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_a_shipped_workflow_opens_whole_and_gives_its_prompt(page, graph):
    open_graph(page, shipped(graph))
    state = page.evaluate("""() => ({
        missing: app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type),
        groups: app.graph.groups.map((g) => g.title),
        notes: app.graph.nodes.filter((n) => n.type === 'MarkdownNote').length,
        overlaps: app.graph.nodes.flatMap((a) => app.graph.nodes.filter((b) => a.id < b.id
            && a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0]
            && a.pos[1] < b.pos[1] + b.size[1] && b.pos[1] < a.pos[1] + a.size[1]).map((b) => [a.type, b.type])),
    })""")
    assert state["missing"] == [] and state["overlaps"] == []
    assert state["groups"] == list(graph.groups) and state["notes"] == len(graph.notes)
    prompt = {
        number: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for number, node in page.evaluate(TO_PROMPT).items()
    }
    assert prompt == graph.api()
    assert page.problems == []


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_saving_an_opened_workflow_changes_no_value(page, graph):
    open_graph(page, shipped(graph))
    saved = page.evaluate("() => app.graph.serialize()")
    before = {node["id"]: node.get("widgets_values") or [] for node in shipped(graph)["nodes"]}
    assert {node["id"]: node.get("widgets_values") or [] for node in saved["nodes"]} == before


@needs_weights
@pytest.mark.parametrize("graph", RUNNING)
def test_workflows_on_the_miniature_run_from_the_browser(page, server, graph):
    open_graph(page, shipped(graph))
    assert picture_of(server, graph, run_in_browser(page, server))


@needs_weights
@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_text_and_pages_are_shown_on_the_nodes(page, server, vue):
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)
    try:
        for graph, key, expected in ((TEXT, "rewrite", "read:"), (INSPECT, "inspect", "token budget:")):
            open_graph(page, shipped(graph))
            page.evaluate(
                """(id) => {
                app.graph.getNodeById(id).widgets.find((w) => w.name === 'shown_text').value = '' }""",
                graph.ids()[key],
            )
            run_in_browser(page, server)  # from the cache if it ran before: the frontend is told all the same
            page.wait_for_function(
                """([id, text]) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'shown_text')
                .value.includes(text)""",
                arg=[graph.ids()[key], expected],
                timeout=20_000,
            )
            visible = page.evaluate(
                """(text) => [...document.querySelectorAll('textarea')].some(
                (area) => area.value.includes(text) && area.offsetParent !== null)""",
                expected,
            )
            assert visible
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


def test_the_blueprint_opens_as_one_node_with_the_sockets_of_the_two_inside(page):
    content = json.loads((PACK / "subgraphs" / "Prompt to conditioning (UniFusion).json").read_text(encoding="utf-8"))
    open_graph(page, content)
    node = page.evaluate("""() => { const node = app.graph.nodes[0];
        return {inputs: node.inputs.map((i) => i.type), outputs: node.outputs.map((o) => o.type),
                inside: node.subgraph.nodes.map((n) => n.type)} }""")
    assert set(node["inside"]) == {"UniFusionVerifiRewrite", "UniFusionLayerwiseAttentionPool"}
    assert {"CLIP", "MODEL"} <= set(node["inputs"])
    assert {"MODEL", "CONDITIONING"} <= set(node["outputs"])


def test_titles_and_inputs_are_shown_in_the_creators_language(page, server):
    def reload(language):
        page.request.post(f"{server.url}/settings/Comfy.Locale", data=json.dumps(language))
        page.reload()
        page.wait_for_function(browser.READY, timeout=180_000)

    reload("ja")  # this frontend has no German interface yet, so German is only served
    try:
        page.wait_for_function(  # languages arrive after the nodes
            "() => LiteGraph.createNode('UniFusionDiTSampler').title !== 'DiT Sampler'", timeout=90_000
        )
        found = page.evaluate("""() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('UniFusionDiTSampler'));
            const node = app.graph.nodes[0];
            return [node.title, ...node.widgets.map((w) => w.label), ...node.inputs.map((i) => i.label)] }""")
    finally:
        reload("en")
    assert {"DiT サンプラー", "プリセット", "画像のガイダンス"} <= set(found)
