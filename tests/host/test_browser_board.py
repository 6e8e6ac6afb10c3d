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
    browsed.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param)
    browsed.problems.clear()
    console = browser.PackConsole(browsed)
    browsed.combine, browsed.preview = browsed.evaluate(BUILD)
    browsed.wait_for_timeout(700)
    yield browsed
    console.close()
    assert browsed.problems == [] and console.lines == []


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
    assert "strength 2.5" in lines[0] and "'hero'" in lines[1] and "image2 is off" in lines[-1]


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
