"""Compare, Labelled Sheet, Save Preset and the job of a picture in a real browser, with both of the frontend's renderers."""

import json
import time
from pathlib import Path

import pytest
from harness import browser
from harness.graphs import COMPARE

from unifusion.miniature import DIT_FILE

PACK = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
    pytest.mark.skipif(not DIT_FILE.is_file(), reason="the bundled weights are not here"),
]


@pytest.fixture(scope="module")
def browsed(server):
    with browser.open_page(server.url, width=1600, height=1000) as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["classic nodes", "Vue nodes"])
def page(browsed, request):
    with browser.watched(browsed, request.param):
        browsed.evaluate("() => app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
        yield browsed


def look_at(page, number):
    page.evaluate(
        """(id) => { const node = app.graph.getNodeById(id), ds = app.canvas.ds; ds.scale = 1;
        ds.offset = [120 - node.pos[0], 110 - node.pos[1]]; app.canvas.setDirty(true, true) }""",
        number,
    )
    page.wait_for_timeout(500)


def put(page, kind):
    """A node as it comes from the library."""
    number = page.evaluate(
        """(kind) => { const node = LiteGraph.createNode(kind); app.graph.add(node);
        node.pos = [700 * (app.graph.nodes.length - 1), 0]; return node.id }""",
        kind,
    )
    look_at(page, number)
    return number


def connect(page, source, slot, target, name):
    done = page.evaluate(
        """([source, slot, target, name]) => { const to = app.graph.getNodeById(target);
        return Boolean(app.graph.getNodeById(source).connect(slot, to, to.inputs.findIndex((i) => i.name === name))) }""",
        [source, slot, target, name],
    )
    assert done
    page.wait_for_timeout(200)


def write(page, number, name, value):
    """A value into a widget: with the keyboard in Vue nodes, whose fields are named; the classic ones are drawn."""
    field = page.locator(f'[data-node-id="{number}"] input[aria-label="{name}"]')
    if page.vue and field.count():
        field.fill(value)
        field.press("Tab")
    else:
        page.evaluate(
            """([id, name, value]) => { const widget = app.graph.getNodeById(id).widgets.find((w) => w.name === name);
            widget.value = value; widget.callback?.(value) }""",
            [number, name, value],
        )
    page.wait_for_timeout(300)


def widgets(page, number):
    return page.evaluate(
        "(id) => Object.fromEntries(app.graph.getNodeById(id).widgets.map((w) => [w.name, w.value ?? null]))", number
    )


def run(page, server):
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 300
    while not (new := set(server.get("/history")) - before):
        assert time.monotonic() < end, "the graph was not finished in 300 s"
        time.sleep(0.2)
    history = server.finished(new.pop())
    assert server.errors(history) == []
    page.wait_for_timeout(800)
    return history["outputs"]


def shown(page, number):
    """The text that a node shows below its widgets."""
    return widgets(page, number)["shown_text"]


def choices(page, number, name):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).options.values", [number, name]
    )


def refresh_lists(page):
    """What the key R does."""
    page.evaluate("() => app.refreshComboInNodes()")
    page.wait_for_timeout(500)


def test_a_preset_is_saved_and_chosen_without_a_reload(page, server):
    name = f"mine {'vue' if page.vue else 'classic'}"
    saving = put(page, "UniFusionSavePreset")
    write(page, saving, "name", name)
    write(page, saving, "kind.gains", "2=1.3")
    run(page, server)
    assert name in shown(page, saving)
    pooling = put(page, "UniFusionLayerwiseAttentionPool")
    refresh_lists(page)
    assert f"own: {name}" in choices(page, pooling, "gain_preset")
    saved = json.loads((server.base / "user" / "default" / "unifusion" / "presets" / f"{name}.json").read_text())
    assert saved == {"unifusion_preset": 1, "kind": "layer gains", "gains": "2=1.3"}


def test_each_kind_of_preset_shows_its_own_fields_and_keeps_them(page, server):
    saving = put(page, "UniFusionSavePreset")
    own = {
        "layer gains": {"kind.gains"},
        "system prompt": {"kind.text"},
        "picture job": {"kind.mean_at", "kind.tokens"},
    }
    for kind, fields in own.items():
        write(page, saving, "kind", kind)
        assert {one for one in widgets(page, saving) if one.startswith("kind.")} == fields
    write(page, saving, "name", f"job {'vue' if page.vue else 'classic'}")
    saved = page.evaluate("() => app.graph.serialize()")
    before, size = widgets(page, saving), page.evaluate("(id) => [...app.graph.getNodeById(id).size]", saving)
    page.evaluate("(graph) => app.loadGraphData(graph)", saved)
    page.wait_for_timeout(500)
    assert widgets(page, saving) == before
    assert page.evaluate("(id) => [...app.graph.getNodeById(id).size]", saving) == size
    run(page, server)
    reference = put(page, "UniFusionReference")
    refresh_lists(page)
    assert f"own: job {'vue' if page.vue else 'classic'}" in choices(page, reference, "job")


def test_the_job_of_a_reference_reaches_the_report(page, server):
    picture, reference, board = (
        put(page, kind) for kind in ("UniFusionSamplePicture", "UniFusionReference", "UniFusionMultiReferenceCombine")
    )
    look = put(page, "PreviewImage")
    connect(page, picture, 0, reference, "image")
    connect(page, reference, 0, board, "references")
    connect(page, board, 1, look, "images")
    assert widgets(page, reference)["job"] == "default" and widgets(page, board)["job"] == "whole"
    run(page, server)
    assert "palette" not in shown(page, board)
    write(page, reference, "job", "palette")
    run(page, server)
    assert "palette" in shown(page, board)
    write(page, reference, "job", "default")
    write(page, board, "job", "style")  # of pictures without a job of their own
    run(page, server)
    assert "style" in shown(page, board) and "palette" not in shown(page, board)


def test_a_labelled_sheet_shows_its_pictures_with_their_lines(page, server):
    sheet = put(page, "UniFusionLabelledSheet")
    for number in range(2):
        connect(page, put(page, "UniFusionSamplePicture"), 0, sheet, f"images.image{number}")
    connect(page, sheet, 0, put(page, "PreviewImage"), "images")
    labels = page.evaluate(
        "(id) => app.graph.getNodeById(id).inputs.filter((i) => i.name.startsWith('images.')).map((i) => i.label)",
        sheet,
    )
    assert labels == ["image 1", "image 2", "image 3"]
    write(page, sheet, "labels", "first <b>line</b>\nsecond")
    write(page, sheet, "title", f"two of them, Vue {page.vue}")  # the same graph again would run nothing
    first = run(page, server)[str(sheet)]["images"]
    assert len(first) == 1
    page.wait_for_timeout(500)
    look_at(page, sheet)
    assert page.evaluate("(id) => app.graph.getNodeById(id).imgs?.length ?? 0", sheet) == 1 or page.vue
    if page.vue:
        assert page.locator(f'[data-node-id="{sheet}"] img').count() == 1


def test_compare_draws_a_sheet_and_again_after_other_values(page, server):
    content = json.loads((PACK / "workflows" / f"{COMPARE.name}.json").read_text(encoding="utf-8"))
    page.evaluate("(graph) => app.loadGraphData(graph)", content)
    page.wait_for_timeout(600)
    (compare,) = page.evaluate("() => app.graph.nodes.filter((n) => n.type === 'UniFusionCompare').map((n) => n.id)")
    look_at(page, compare)
    run(page, server)
    first = shown(page, compare)
    assert first and all(value in first for value in widgets(page, compare)["values"].replace(" ", "").split(","))
    box = (
        page.locator(f'[data-node-id="{compare}"] textarea').first
        if page.vue
        else page.evaluate_handle(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'values').element", compare
        ).as_element()
    )
    box.fill("0.5, 3")
    box.press("Tab")
    page.wait_for_timeout(200)
    run(page, server)
    assert shown(page, compare) != first and "3" in shown(page, compare)
    box.fill("one, two")
    box.press("Tab")
    page.wait_for_timeout(200)
    page.evaluate("() => app.queuePrompt(0, 1)")  # said before anything runs
    page.wait_for_timeout(1500)
    said = page.evaluate("() => JSON.stringify(app.lastNodeErrors ?? {}) + document.body.innerText")
    assert "one" in said and "number" in said.lower()
