"""The reference board of Multi-Reference Combine in a real browser, with both of the frontend's renderers."""

import json
import time

import pytest
from harness import browser

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
EVIL = "<img src=x onerror=window.hacked=1>"
BUILD = """
async () => {
  await app.loadGraphData({ nodes: [], links: [], version: 0.4 });  // a graph of its own, so that no value stays behind
  const add = (type, x, y) => { const node = LiteGraph.createNode(type); app.graph.add(node); node.pos = [x, y]; return node };
  const combine = add("UniFusionMultiReferenceCombine", 420, 60);
  const pictures = ["red heart on white", "yellow star on navy", "red circle on white"].map((name, index) => {
    const node = add("UniFusionSamplePicture", 60, 60 + 130 * index);
    node.widgets[0].value = name;
    node.connect(0, combine, combine.inputs.findIndex((input) => input.name === `images.image${index}`));
    return node;
  });
  const preview = add("PreviewImage", 1000, 60);
  combine.connect(1, preview, 0);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [80, 100];
  app.canvas.setDirty(true, true);
  return [combine.id, preview.id];
}
"""


@pytest.fixture(scope="module")
def browsed(server):
    with browser.open_page(server.url, width=1600, height=1000) as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["classic nodes", "Vue nodes"])
def page(browsed, request):
    with browser.watched(browsed, request.param):
        browsed.combine, browsed.preview = browsed.evaluate(BUILD)
        browsed.wait_for_timeout(700)
        yield browsed


def rows(page):
    return page.locator(".unifusion-board:visible > div[data-slot]")


def slots(page):
    return [row.get_attribute("data-slot") for row in rows(page).all()]


def field(page, index, name):
    return rows(page).nth(index).locator(f'[data-field="{name}"]')


def numbers(page):
    return rows(page).locator(".number").all_inner_texts()


def fill(page, index, name, value):
    field(page, index, name).fill(value)
    field(page, index, name).press("Tab")
    page.wait_for_timeout(200)


def sent(page):
    inputs = page.evaluate("async (id) => (await app.graphToPrompt()).output[id].inputs", page.combine)
    return json.loads(inputs["board"] or "[]")


def report(page, server):
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 120
    while not (new := set(server.get("/history")) - before):
        assert time.monotonic() < end
        time.sleep(0.2)
    history = server.finished(new.pop())
    assert server.errors(history) == []
    return history["outputs"][str(page.combine)]["text"][0]


def test_every_picture_has_a_row_before_a_run(page):
    assert slots(page) == ["image0", "image1", "image2"]
    assert numbers(page) == ["image 1", "image 2", "image 3"]
    loaded = page.evaluate(
        "() => [...document.querySelectorAll('.unifusion-board img')].map((image) => image.naturalWidth)"
    )
    assert loaded == [128, 128, 128] and sent(page) == []
    names = page.evaluate("(id) => app.graph.getNodeById(id).widgets.map((w) => w.name)", page.combine)
    assert names[-2:] == ["reference_board", "shown_text"]  # in every order of the two files


def test_names_strengths_off_and_order_reach_the_model(page, server):
    fill(page, 0, "name", "hero")
    fill(page, 1, "strength", "2.5")
    field(page, 2, "on").uncheck()
    page.wait_for_timeout(200)
    assert numbers(page) == ["image 1", "image 2", "–"]
    rows(page).nth(1).locator('[data-act="up"]').click()
    page.wait_for_timeout(200)
    assert slots(page) == ["image1", "image0", "image2"]
    assert sent(page) == [
        {"slot": "image1", "name": "", "strength": 2.5, "on": True},
        {"slot": "image0", "name": "hero", "strength": 1, "on": True},
        {"slot": "image2", "name": "", "strength": 1, "on": False},
    ]
    lines = report(page, server).splitlines()
    assert "strength 2.5" in lines[0] and "'hero'" in lines[1] and "Row 3 of the board is off" in lines[-1]


def labels(page):
    """What the sockets are called, as the Vue renderer shows it where that is on."""
    kept = page.evaluate(
        """(id) => app.graph.getNodeById(id).inputs.filter((i) => i.name.startsWith('images.')).map((i) => i.label)""",
        page.combine,
    )
    shown = page.locator(f'[data-node-id="{page.combine}"] .lg-slot--input')
    if shown.count():
        assert [text for text in shown.all_inner_texts() if text.startswith("image ") or text == "off"] == kept
    return kept


def test_sockets_are_called_what_the_rows_are(page):
    assert labels(page) == ["image 1", "image 2", "image 3", "image 4"]
    rows(page).nth(2).locator('[data-act="up"]').click()
    field(page, 0, "on").uncheck()
    page.wait_for_timeout(300)
    assert slots(page) == ["image0", "image2", "image1"] and numbers(page) == ["–", "image 1", "image 2"]
    assert labels(page) == ["off", "image 2", "image 1", "image 4"]
    saved = page.evaluate("() => app.graph.serialize()")
    (inputs,) = [node["inputs"] for node in saved["nodes"] if str(node["id"]) == str(page.combine)]
    assert [one["label"] for one in inputs if one["name"].startswith("images.")] == labels(page)
    page.evaluate("(graph) => app.loadGraphData(graph)", saved)
    page.wait_for_timeout(700)
    field(page, 0, "on").check()
    page.wait_for_timeout(300)
    assert labels(page) == ["image 1", "image 3", "image 2", "image 4"]


@pytest.mark.parametrize("kind", ["UniFusionVLMEncode", "UniFusionVerifiRewrite", "UniFusionLabelledSheet"])
def test_plain_picture_sockets_are_counted_from_1(page, kind):
    number = page.evaluate(
        """(kind) => { const node = LiteGraph.createNode(kind); app.graph.add(node); node.pos = [1000, 400];
        app.canvas.ds.offset = [-900, -300]; app.canvas.setDirty(true, true); return node.id }""",
        kind,
    )
    page.wait_for_timeout(600)
    label = "(id) => app.graph.getNodeById(id).inputs.find((i) => i.name.startsWith('images.')).label"
    assert page.evaluate(label, number) == "image 1"
    shown = page.locator(f'[data-node-id="{number}"]')
    if shown.count():
        assert "image 1" in shown.inner_text().splitlines() and "image0" not in shown.inner_text()


def test_a_share_of_the_schedule_reaches_the_model_and_stays_in_order(page, server):
    fill(page, 1, "start", "25")
    fill(page, 1, "end", "50")
    assert sent(page)[1] == {"slot": "image1", "name": "", "strength": 1, "on": True, "start": 0.25, "end": 0.5}
    assert "from 25% to 50% of the schedule" in report(page, server).splitlines()[1]
    fill(page, 1, "start", "80")  # behind its end: just before it
    assert (sent(page)[1]["start"], sent(page)[1]["end"]) == (0.49, 0.5)
    fill(page, 1, "start", "0")
    fill(page, 1, "end", "")
    assert sent(page) == []


def prompt_box(page, kind):
    """A node that reads the board, and its prompt on the screen."""
    number = page.evaluate(
        """([kind, from]) => { const node = LiteGraph.createNode(kind); app.graph.add(node); node.pos = [1000, 400];
        app.graph.getNodeById(from).connect(0, node, node.inputs.findIndex((i) => i.name === 'references'));
        app.canvas.ds.offset = [-900, -300]; app.canvas.setDirty(true, true); return node.id }""",
        [kind, page.combine],
    )
    page.wait_for_timeout(700)
    if page.locator(f'[data-node-id="{number}"] textarea').count():
        return page.locator(f'[data-node-id="{number}"] textarea').first
    return page.evaluate_handle(
        "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'prompt').element", number
    ).as_element()


@pytest.mark.parametrize("kind", ["UniFusionVLMEncode", "UniFusionVerifiRewrite"])
def test_names_of_the_board_are_offered_behind_an_at_and_unknown_ones_said(page, kind):
    fill(page, 0, "name", "The Hero")
    fill(page, 1, "name", "night")
    fill(page, 2, "name", "nurse")
    field(page, 2, "on").uncheck()
    box = prompt_box(page, kind)
    offered = page.locator(".unifusion-names:visible button")
    box.focus()
    page.keyboard.type("put @")
    assert offered.all_inner_texts() == ["@the_hero", "@night"]  # what is off cannot be named
    page.keyboard.type("n")
    assert offered.all_inner_texts() == ["@night"]
    page.keyboard.press("Tab")
    assert box.input_value() == "put @night " and offered.count() == 0
    page.keyboard.type("and @")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert box.input_value() == "put @night and @the_hero "
    page.keyboard.type("by @nobody ")
    said = page.locator(".unifusion-names:visible p").inner_text()
    assert "@nobody" in said and "@the_hero, @night" in said
    page.keyboard.type("mail a@b")
    page.keyboard.press("Control+A")
    page.keyboard.type("only a@b")
    assert page.locator(".unifusion-names:visible").count() == 0
    value = "(kind) => app.graph.nodes.find((n) => n.type === kind).widgets.find((w) => w.name === 'prompt').value"
    assert page.evaluate(value, kind) == "only a@b"


def test_rows_are_dragged_into_another_order(page):
    rows(page).nth(2).locator(".grip").drag_to(rows(page).nth(0))
    page.wait_for_timeout(300)
    assert slots(page) == ["image2", "image0", "image1"] == [row["slot"] for row in sent(page)]


def test_saving_loading_and_unplugging_keep_the_board(page):
    fill(page, 1, "name", "night")
    fill(page, 1, "strength", "0")
    saved = page.evaluate("() => app.graph.serialize()")
    page.evaluate("() => app.graph.clear()")
    page.evaluate("(graph) => app.loadGraphData(graph)", saved)
    page.wait_for_timeout(700)
    assert [field(page, 1, name).input_value() for name in ("name", "strength")] == ["night", "0"]
    assert numbers(page) == ["image 1", "–", "image 2"]
    (size,) = [node["size"] for node in saved["nodes"] if str(node["id"]) == str(page.combine)]
    assert page.evaluate("(id) => [...app.graph.getNodeById(id).size]", page.combine) == size
    assert [row["name"] for row in sent(page)] == ["", "night", ""]


def test_names_are_never_read_as_html(page):
    fill(page, 0, "name", EVIL)
    page.wait_for_timeout(500)
    assert field(page, 0, "name").input_value() == EVIL
    assert page.locator('.unifusion-board img[src="x"]').count() == 0
    assert page.evaluate("() => window.hacked ?? null") is None
