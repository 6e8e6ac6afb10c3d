"""A real browser opens every shipped workflow in the real frontend and runs those on the miniature."""

import json
import time
from pathlib import Path

import pytest
from harness import browser
from harness.graphs import BLUEPRINTS, GRAPHS, INSPECT, SAVED, TEXT
from running_graphs import RUNNING, picture_of

from unifusion.miniature import DIT_FILE

PACK = Path(__file__).resolve().parents[2]
TRAINED = DIT_FILE.is_file()
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


@pytest.fixture(params=[False, True], ids=["classic nodes", "Vue nodes"])
def rendered(page, request):
    """The page with one of the frontend's renderers."""
    browser.use_renderer(page, request.param)
    yield page
    browser.use_renderer(page, False)


def unfolded(prompt):
    """The nodes of a prompt with what they are linked to in place of numbers, which subgraphs change."""

    def plain(value):  # JavaScript writes 1.0 as 1
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def node(number):
        about = prompt[number]
        return [
            about["class_type"],
            {
                name: [node(value[0]), value[1]] if isinstance(value, list) else plain(value)
                for name, value in sorted(about["inputs"].items())
            },
        ]

    return sorted(json.dumps(node(number)) for number in prompt)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_a_shipped_workflow_opens_whole_and_gives_its_prompt(page, graph):
    open_graph(page, shipped(graph))
    state = page.evaluate("""() => ({
        missing: app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type),
        groups: app.graph.groups.map((g) => g.title),
        notes: app.graph.nodes.filter((n) => n.type === 'MarkdownNote').length,
    })""")
    assert state["missing"] == []
    assert state["groups"] == list(graph.groups) and state["notes"] == len(graph.notes)
    assert unfolded(page.evaluate(TO_PROMPT)) == unfolded(json.loads(json.dumps(graph.api())))
    assert page.problems == []


CANVAS = (1400 - 60, 900 - 100)  # of a 1400 px window, without its bars


def clear_view(page):
    """(width and height of the graph, what lies over what, links that run under nodes)."""
    return page.evaluate("""() => {
        const box = (n) => ({title: n.title, left: n.pos[0], top: n.pos[1] - 30,
                             right: n.pos[0] + n.size[0], bottom: n.pos[1] + n.size[1]});
        const boxes = app.graph.nodes.map(box);
        const over = boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => a.left < b.right && b.left < a.right
            && a.top < b.bottom && b.top < a.bottom).map((b) => [a.title, b.title]));
        const span = (low, high) => Math.max(...boxes.map((b) => b[high])) - Math.min(...boxes.map((b) => b[low]));
        return [[span('left', 'right'), span('top', 'bottom')], over, window.linksUnderNodes().map((l) => l.under)] }""")


@needs_weights
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_a_template_can_be_read_before_and_after_a_run(rendered, server, graph):
    """At most eight nodes beside the note, 70% in a window of 1400 px, nothing over anything, no link under a node."""
    rendered.evaluate(browser.LINKS_UNDER_NODES)
    open_graph(rendered, shipped(graph))
    rendered.wait_for_timeout(600)
    assert len(shipped(graph)["nodes"]) - len(graph.notes) <= 8
    (width, height), over, under = clear_view(rendered)
    assert width * 0.7 <= CANVAS[0] and height * 0.7 <= CANVAS[1] + 20
    assert over == [] and under == []
    if graph.runs:
        run_in_browser(rendered, server)
        rendered.wait_for_timeout(1200)
        (width, _), over, _ = clear_view(rendered)
        assert over == [] and width * 0.7 <= CANVAS[0]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_saving_an_opened_workflow_changes_no_value(page, graph):
    open_graph(page, shipped(graph))
    saved = page.evaluate("() => app.graph.serialize()")
    before = {str(node["id"]): node.get("widgets_values") or [] for node in shipped(graph)["nodes"]}
    assert {str(node["id"]): node.get("widgets_values") or [] for node in saved["nodes"]} == before


@needs_weights
@pytest.mark.parametrize("graph", RUNNING)
def test_workflows_on_the_miniature_run_from_the_browser(page, server, graph):
    open_graph(page, shipped(graph))
    assert picture_of(server, graph, run_in_browser(page, server))


@needs_weights
@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_reports_are_shown_on_the_nodes(page, server, vue):
    """That of VERIFI Rewrite is tested with its studio."""
    browser.use_renderer(page, vue)
    try:
        open_graph(page, shipped(INSPECT))
        arguments = [INSPECT.ids()["inspect"], "token budget:"]
        page.evaluate(
            """([id]) => {
            app.graph.getNodeById(id).widgets.find((w) => w.name === 'shown_text').value = '' }""",
            arguments,
        )
        run_in_browser(page, server)  # from the cache if it ran before: the frontend is told all the same
        page.wait_for_function(
            """([id, text]) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'shown_text')
            .value.includes(text)""",
            arg=arguments,
            timeout=20_000,
        )
        assert page.evaluate(
            """([_, text]) => [...document.querySelectorAll('textarea')].some(
            (area) => area.value.includes(text) && area.offsetParent !== null)""",
            arguments,
        )
    finally:
        browser.use_renderer(page, False)


@needs_weights
def test_conditioning_is_drawn_with_the_encoder_bypassed(rendered, server):
    """As the template's note says: run once, bypass its group, run again."""
    open_graph(rendered, shipped(SAVED))
    assert picture_of(server, SAVED, run_in_browser(rendered, server))
    rendered.evaluate(
        "(ids) => { for (const id of ids) app.graph.getNodeById(id).mode = 4 }",
        [SAVED.ids()[key] for key in ("rewrite", "pool", "store")],
    )
    prompt = rendered.evaluate(TO_PROMPT)
    assert not {node["class_type"] for node in prompt.values()} & {
        "UniFusionVerifiRewrite",
        "UniFusionSaveConditioning",
    }
    rendered.evaluate(
        "() => { for (const n of app.graph.nodes) for (const m of n.subgraph?.nodes ?? []) "
        "if (m.type === 'UniFusionDiTSampler') for (const w of n.widgets) if (w.name === 'seed') w.value = 7 }"
    )
    assert picture_of(server, SAVED, run_in_browser(rendered, server))


def test_the_blueprint_opens_as_one_node_with_the_sockets_of_the_two_inside(page):
    content = json.loads((PACK / "subgraphs" / "Prompt to conditioning (UniFusion).json").read_text(encoding="utf-8"))
    open_graph(page, content)
    node = page.evaluate("""() => { const node = app.graph.nodes[0];
        return {inputs: node.inputs.map((i) => i.type), outputs: node.outputs.map((o) => o.type),
                inside: node.subgraph.nodes.map((n) => n.type)} }""")
    assert set(node["inside"]) == {"UniFusionVerifiRewrite", "UniFusionLayerwiseAttentionPool"}
    assert {"CLIP", "MODEL"} <= set(node["inputs"])
    assert {"MODEL", "CONDITIONING"} <= set(node["outputs"])


def blueprint(name):
    return json.loads((PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))


# A blueprint with models, pictures and a saver around it, as a creator wires it.
AROUND = """
() => {
  const node = app.graph.nodes[0];
  const add = (type) => { const made = LiteGraph.createNode(type); app.graph.add(made); return made };
  const models = add("UniFusionLoadModel"), order = ["MODEL", "CLIP", "VAE"];
  let pictures = 0;
  for (const [index, input] of node.inputs.entries()) {
    if (input.widget) continue;
    if (order.includes(input.type)) models.connect(order.indexOf(input.type), node, index);
    else {
      const picture = add("UniFusionSamplePicture");
      picture.widgets[0].value = ["red heart on white", "yellow star on navy"][pictures++];
      picture.connect(0, node, index);
    }
  }
  const save = add("SaveImage"), shown = add("PreviewAny");
  node.connect(node.outputs.findIndex((output) => output.type === "IMAGE"), save, 0);
  node.connect(node.outputs.findIndex((output) => output.type === "STRING"), shown, 0);
  return [save.id, shown.id, pictures];
}
"""


@needs_weights
@pytest.mark.parametrize("one", BLUEPRINTS, ids=lambda one: one.name)
def test_a_blueprint_is_one_node_with_prompt_pictures_seed_and_result_outside(rendered, server, one):
    open_graph(rendered, blueprint(one.name))
    node = rendered.evaluate("""() => { const node = app.graph.nodes[0];
        return {nodes: app.graph.nodes.length, title: node.title, size: [...node.size],
                widgets: Object.fromEntries(node.widgets.map((w) => [w.label ?? w.name, w.value])),
                inputs: node.inputs.map((i) => i.label ?? i.name), outputs: node.outputs.map((o) => o.type)} }""")
    assert node["nodes"] == 1 and f"{node['title']} (UniFusion)" == one.name
    assert sorted(node["widgets"]) == ["height", "prompt", "seed", "width"] and node["widgets"]["prompt"]
    assert sorted(node["outputs"]) == ["IMAGE", "STRING"]
    pictures = [name for name in node["inputs"] if name.startswith("picture")]
    assert len(pictures) == len([key for key in one.nodes if key in ("first", "second")])
    listed = server.get("/global_subgraphs")
    assert any(one.name in json.dumps(about) for about in listed.values())
    if "Krea 2" in one.name:  # cannot run on what the pack ships; without a picture it is a plain prompt
        prompt = rendered.evaluate(TO_PROMPT)
        (rewrite,) = [about for about in prompt.values() if about["class_type"] == "UniFusionVerifiRewrite"]
        assert "images.image0" not in rewrite["inputs"]
        return
    save, shown, count = rendered.evaluate(AROUND)
    assert count == len(pictures)
    history = run_in_browser(rendered, server)
    assert server.errors(history) == []
    assert history["outputs"][str(save)]["images"] and history["outputs"][str(shown)]["text"][0]


def in_app_mode(page, on):
    if page.evaluate("() => document.body.innerText.includes('Number of runs')") != on:
        page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
        page.wait_for_timeout(1200)


@needs_weights
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_every_template_has_prompt_pictures_and_seed_in_app_mode(page, graph):
    page.set_viewport_size({"width": 1400, "height": 900})
    open_graph(page, shipped(graph))
    inputs, results = graph.panel()
    names = [name for _, name in inputs]
    assert "prompt" in names and {"seed", "noise_seed"} & set(names) and results
    assert names.count("picture") == sum(node.type == "UniFusionSamplePicture" for node in graph.nodes.values())
    try:
        in_app_mode(page, True)
        labels = page.evaluate(
            """() => [...document.querySelectorAll('*')].filter((e) => !e.children.length && e.offsetParent)
            .map((e) => e.innerText?.trim())"""
        )
        for name in set(names):
            assert labels.count(name) == names.count(name), name
        assert page.problems == []
    finally:
        in_app_mode(page, False)


@needs_weights
def test_app_mode_runs_and_fits_400_pixels(page, server):
    open_graph(page, shipped(TEXT))
    try:
        page.set_viewport_size({"width": 400, "height": 800})
        page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
        page.wait_for_timeout(1200)
        page.get_by_text("Edit & Run").click()
        page.wait_for_timeout(800)
        box = page.locator("textarea:visible").first
        box.fill("a green star")
        place = box.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= 400 and place["width"] > 250
        before = set(server.get("/history"))
        page.get_by_role("button", name="Run", exact=True).last.click()
        end = time.monotonic() + 300
        while not (new := set(server.get("/history")) - before):
            assert time.monotonic() < end
            time.sleep(0.3)
        history = server.finished(new.pop())
        assert server.errors(history) == []
        assert "star" in history["outputs"][str(TEXT.ids()["rewrite"])]["text"][0]
        page.get_by_text("Outputs", exact=True).click()
        page.wait_for_function(
            "() => [...document.querySelectorAll('img')].some((i) => i.offsetParent && i.naturalWidth >= 128 "
            "&& i.getBoundingClientRect().right <= 401)",
            timeout=20_000,
        )
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
    finally:
        page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
        page.set_viewport_size({"width": 1800, "height": 1100})


def test_titles_and_inputs_are_shown_in_the_creators_language(page, server):
    def reload(language):
        page.request.post(f"{server.url}/settings/Comfy.Locale", data=json.dumps(language))
        page.reload()
        page.wait_for_function(browser.READY, timeout=180_000)
        page.wait_for_timeout(4000)  # the graph of before comes back by itself, after the nodes

    reload("ja")  # this frontend has no German interface yet, so German is only served
    try:
        page.wait_for_function(  # languages arrive after the nodes
            "() => LiteGraph.createNode('UniFusionDiTSampler').title !== 'DiT Sampler'", timeout=90_000
        )
        found = page.evaluate("""() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('UniFusionDiTSampler'));
            const node = app.graph.nodes[0];
            return [node.title, ...node.widgets.map((w) => w.label), ...node.inputs.map((i) => i.label)] }""")
        open_graph(page, shipped(TEXT))
        (note,) = notes(page)
        kept = page.evaluate("() => app.graph.serialize()")
        (changed,) = [node for node in kept["nodes"] if node["type"] == "MarkdownNote"]
        changed["widgets_values"][0] += "\nmy own line"
    finally:
        reload("en")
    assert {"DiT サンプラー", "プリセット", "画像のガイダンス"} <= set(found)
    english = "\n".join(TEXT.notes[0].splitlines())
    assert note[0] == "はじめに" and note[1].startswith("## 文章から画像\n\n**実行**") and note[1] != english
    open_graph(page, kept)  # saved in Japanese, opened in English; a line of the creator's own stays
    assert notes(page) == [["Read me", english + "\nmy own line"]]


def notes(page):
    return page.evaluate(
        "() => app.graph.nodes.filter((n) => n.type === 'MarkdownNote').map((n) => [n.title, n.widgets[0].value])"
    )
