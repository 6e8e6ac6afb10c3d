"""The prompt studio of VERIFI Rewrite in a real browser, with both of the frontend's renderers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import browser
from harness.graphs import TEXT

from unifusion.miniature import DIT_FILE

PACK = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
    pytest.mark.skipif(not DIT_FILE.is_file(), reason="the bundled weights are not here"),
]
ID = TEXT.ids()["rewrite"]
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{constructor}}\'"&lt;'


@pytest.fixture(scope="module")
def browsed(server):
    with browser.open_page(server.url, width=1600, height=1200) as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["classic nodes", "Vue nodes"])
def page(browsed, request):
    with browser.watched(browsed, request.param):
        open_template(browsed)
        yield browsed


def open_graph(page, graph):
    page.evaluate("(graph) => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(400)
    look_at_node(page)


def look_at_node(page):
    page.evaluate(
        """(id) => { const node = app.graph.getNodeById(id), ds = app.canvas.ds; ds.scale = 1;
        ds.offset = [120 - node.pos[0], 110 - node.pos[1]]; app.canvas.setDirty(true, true) }""",
        ID,
    )
    page.wait_for_timeout(400)


def open_template(page):
    open_graph(page, json.loads((PACK / "workflows" / f"{TEXT.name}.json").read_text(encoding="utf-8")))


def box(page, name):
    """The text box of a widget, as it is on the screen."""
    if page.vue:
        number = {"prompt": 0, "edited_text": 1}[name]
        return page.locator(f'[data-node-id="{ID}"] textarea').nth(number)
    return page.evaluate_handle(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).element", [ID, name]
    ).as_element()


def text_of(page, name="edited_text"):
    return box(page, name).input_value()


def press(page, act):
    page.locator(f'.unifusion-studio [data-act="{act}"]:visible').click()
    page.wait_for_timeout(150)


def state(page):
    return page.evaluate("(id) => app.graph.getNodeById(id).properties.verifi ?? {}", ID)


def value(page, name):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).value", [ID, name]
    )


def sent(page):
    """What the node would send to the server."""
    return page.evaluate("async (id) => (await app.graphToPrompt()).output[id].inputs", ID)


def status(page):
    return page.locator(".unifusion-studio .status:visible").get_attribute("class").split()[1:]


def colour(page):
    return page.evaluate("(id) => app.graph.getNodeById(id).color ?? null", ID)


def finished(page, server, before):
    """Wait for the run that is on its way, and until the frontend has shown it."""
    end = time.monotonic() + 300
    while not (new := set(server.get("/history")) - before):
        assert time.monotonic() < end, "the graph was not finished in 300 s"
        time.sleep(0.2)
    history = server.finished(new.pop())
    assert server.errors(history) == []
    page.wait_for_timeout(700)
    return history


def press_run(page):
    page.get_by_test_id("queue-button").or_(page.get_by_role("button", name="Run", exact=True)).first.click()


def run(page, server):
    before = set(server.get("/history"))
    press_run(page)
    return finished(page, server, before)


def written(history):
    return history["outputs"].get(str(ID), {})


def picture(server, history):
    (about,) = history["outputs"][str(TEXT.ids()["save"])]["images"]
    return server.base / about["type"] / about["subfolder"] / about["filename"]


def test_the_box_holds_the_text_alone_and_the_report_opens_apart(page, server):
    history = run(page, server)
    assert text_of(page) == written(history)["text"][0] and "read:" not in text_of(page)
    assert status(page) == [] and sent(page)["edited_text"] == ""
    press(page, "report")
    report = page.locator(".unifusion-studio pre:visible").inner_text()
    assert "read:" in report and report in written(history)["report"][0]
    press(page, "report")
    assert page.locator(".unifusion-studio pre:visible").count() == 0


def test_changing_one_word_and_drawing_again_takes_two_actions(page, server):
    """Type, Run. All that stands in the box is the text, so copying all of it and pasting it changes nothing."""
    first = run(page, server)
    text = text_of(page)
    box(page, "edited_text").fill(text.replace("red", "green"))  # 1
    again = run(page, server)  # 2
    assert sent(page)["edited_text"] == text.replace("red", "green") != text
    assert written(again)["text"] == [text.replace("red", "green")]
    assert "nothing was written" in written(again)["report"][0]
    assert picture(server, again).read_bytes() != picture(server, first).read_bytes()

    open_template(page)
    run(page, server)
    everything = text_of(page)
    box(page, "edited_text").fill("")
    box(page, "edited_text").fill(everything)  # select all, copy, paste
    assert sent(page)["edited_text"] in ("", everything) and "read:" not in sent(page)["edited_text"]


def test_lock_keeps_the_text_and_says_in_colour_when_the_prompt_changed(page, server):
    run(page, server)
    text = text_of(page)
    press(page, "lock")
    assert status(page) == ["locked"] and sent(page)["edited_text"] == text
    locked = colour(page)
    assert locked is not None
    box(page, "prompt").fill("a blue ring in the center")
    page.wait_for_timeout(200)
    assert status(page) == ["stale"] and colour(page) not in (None, locked)
    box(page, "prompt").fill(state(page)["prompt"])
    page.wait_for_timeout(200)
    assert status(page) == ["locked"]
    history = run(page, server)
    assert text_of(page) == text and "nothing was written" in written(history)["report"][0]
    press(page, "lock")
    assert status(page) == [] and sent(page)["edited_text"] == "" and colour(page) is None
    box(page, "prompt").fill("a blue ring in the center")
    run(page, server)
    assert "ring" in text_of(page)


def test_a_colour_of_the_creators_comes_back_with_the_unlock(page, server):
    page.evaluate("(id) => { app.graph.getNodeById(id).color = '#123456' }", ID)
    run(page, server)
    press(page, "lock")
    assert colour(page) != "#123456"
    press(page, "lock")
    assert colour(page) == "#123456"


def test_write_again_makes_the_seed_count_and_the_history_goes_back(page, server):
    run(page, server)
    first = text_of(page)
    assert value(page, "sampling") == "greedy"
    disabled = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'seed').disabled"
    assert page.evaluate(disabled, ID) is True
    before = set(server.get("/history"))
    press(page, "again")
    history = finished(page, server, before)
    assert value(page, "sampling") == "sample" and value(page, "seed") != 0
    assert page.evaluate(disabled, ID) is False
    assert text_of(page) == written(history)["text"][0]
    assert [entry["seed"] for entry in state(page)["history"]][0] == value(page, "seed")
    press(page, "history")
    entries = page.locator(".unifusion-studio .panel:visible button")
    assert entries.count() == len(state(page)["history"])
    entries.filter(has_text=first).first.click()
    page.wait_for_timeout(200)
    assert text_of(page) == first and status(page) == ["locked"] and sent(page)["edited_text"] == first


def set_value(page, name, value):
    page.evaluate(
        """([id, name, value]) => { const w = app.graph.getNodeById(id).widgets.find((w) => w.name === name);
        w.value = value; w.callback?.(value) }""",
        [ID, name, value],
    )
    page.wait_for_timeout(200)


def picks(page):
    return page.locator(".unifusion-studio .picks:visible button")


def test_four_variations_are_four_pictures_and_one_of_them_is_chosen_with_a_click(page, server):
    assert picks(page).count() == 0 and value(page, "variations") == 1
    set_value(page, "variations", 4)
    assert value(page, "sampling") == "sample"  # so that they differ
    set_value(page, "sampling.temperature", 1.5)
    set_value(page, "sampling.min_p", 0)
    box(page, "prompt").fill("a red circle and a blue star")
    height = page.evaluate("(id) => app.graph.getNodeById(id).size[1]", ID)
    history = run(page, server)
    texts = written(history)["text"]
    images = history["outputs"][str(TEXT.ids()["save"])]["images"]
    assert len(texts) == len(images) == 4 and len(set(texts)) > 1
    assert text_of(page) == texts[0] and status(page) == []
    assert picks(page).count() == 4 and sent(page)["edited_text"] == ""
    assert page.evaluate("(id) => app.graph.getNodeById(id).size[1]", ID) > height
    assert {entry["text"] for entry in state(page)["history"]} >= set(texts)
    third = next(index for index in (3, 2, 1) if texts[index] != texts[0])
    picks(page).nth(third).click()
    page.wait_for_timeout(200)
    assert text_of(page) == texts[third] and status(page) == ["locked"]
    history = run(page, server)
    assert written(history)["text"] == [texts[third]] == [sent(page)["edited_text"]]
    assert len(history["outputs"][str(TEXT.ids()["save"])]["images"]) == 1
    assert picks(page).count() == 4  # the others can still be chosen
    press(page, "lock")
    saved = page.evaluate("() => app.graph.serialize()")
    open_graph(page, saved)
    assert picks(page).count() == 4 and value(page, "variations") == 4
    for index, about in enumerate(images):
        dropped(page, server.base / about["type"] / about["subfolder"] / about["filename"])
        assert text_of(page) == texts[index] and status(page) == [] and picks(page).count() == 4
        assert state(page)["seed"] == index


def test_the_text_becomes_the_prompt_with_one_click(page, server):
    run(page, server)
    text = text_of(page)
    press(page, "asPrompt")
    assert text_of(page, "prompt") == text == sent(page)["prompt"] and status(page) == []


def test_as_written_is_one_click_and_leaves_the_text_alone(page, server):
    run(page, server)
    text = text_of(page)
    if page.vue:
        page.locator(f'[data-node-id="{ID}"]').get_by_text("as written", exact=True).click()
    else:
        at = page.evaluate(
            """(id) => { const node = app.graph.getNodeById(id), {ds, canvas} = app.canvas;
            const w = node.widgets.find((w) => w.name === 'as_written'), rect = canvas.getBoundingClientRect();
            return [rect.x + (node.pos[0] + node.size[0] / 2 + ds.offset[0]) * ds.scale,
                    rect.y + (node.pos[1] + w.y + 10 + ds.offset[1]) * ds.scale] }""",
            ID,
        )
        page.mouse.click(*at)
    page.wait_for_timeout(300)
    assert value(page, "as_written") is True and sent(page)["as_written"] is True
    history = run(page, server)
    assert written(history)["report"][0].startswith("As written") and text_of(page) == text


def dropped(page, path):
    """Drop a picture onto an empty canvas, as a creator does from the file browser."""
    page.evaluate("() => app.graph.clear()")
    page.evaluate(
        """async ([name, bytes]) => app.handleFile(new File([new Uint8Array(bytes)], name, {type: 'image/png'}))""",
        [path.name, list(path.read_bytes())],
    )
    page.wait_for_timeout(800)
    look_at_node(page)


def test_a_picture_brings_text_lock_and_history_back_without_a_run(page, server):
    history = run(page, server)
    text = text_of(page)
    dropped(page, picture(server, history))  # the first picture already holds the text that was written for it
    assert text_of(page) == text and status(page) == [] and sent(page)["edited_text"] == ""
    assert state(page)["history"][0]["text"] == text and "read:" in state(page)["report"]
    changed = text.replace("red", "green")
    box(page, "edited_text").fill(changed)
    history = run(page, server)
    dropped(page, picture(server, history))
    assert text_of(page) == changed and status(page) == ["locked"] and sent(page)["edited_text"] == changed
    assert [entry["text"] for entry in state(page)["history"]][:2] == [changed, text]


def test_saving_and_loading_keeps_texts_and_sizes(page, server):
    run(page, server)
    text = text_of(page)
    saved = page.evaluate("(id) => { app.graph.getNodeById(id).setSize([555, 901]); return app.graph.serialize() }", ID)
    (node,) = [node for node in saved["nodes"] if node["id"] == ID]
    assert "" in node["widgets_values"] and text not in node["widgets_values"]  # 0.1.0 would take it for an edited text
    sizes = {node["id"]: node["size"] for node in saved["nodes"]}
    open_graph(page, saved)
    assert text_of(page) == text and status(page) == []
    again = page.evaluate("() => app.graph.serialize()")
    assert {node["id"]: node["size"] for node in again["nodes"]} == sizes


def test_a_graph_of_the_first_release_with_an_edited_text_is_locked(page):
    graph = json.loads((PACK / "workflows" / f"{TEXT.name}.json").read_text(encoding="utf-8"))
    (node,) = [node for node in graph["nodes"] if node["id"] == ID]
    node["properties"].pop("verifi", None)
    old = ["a red star", "auto", "as the profile", "", "as the profile", "sample", 0.5, 0.9, 32, 0.1, 1.2, 7, "fixed"]
    node["widgets_values"] = [*old, 1, 99, "A", "a blue star", "fp32", ""]  # as 0.1.0 saved them
    open_graph(page, graph)
    assert text_of(page) == "a blue star" and status(page) == ["locked"]
    inputs = sent(page)
    assert [
        inputs[name] for name in ("prompt", "sampling", "sampling.temperature", "seed", "max_length", "prefill")
    ] == [
        "a red star",
        "sample",
        0.5,
        7,
        99,
        "A",
    ]
    assert [inputs[name] for name in ("edited_text", "precision", "taps", "as_written")] == [
        "a blue star",
        "fp32",
        "",
        False,
    ]


def test_no_text_is_ever_read_as_html(page, server):
    box(page, "prompt").fill(EVIL)
    box(page, "edited_text").fill(EVIL)
    history = run(page, server)
    for act in ("history", "report", "history"):
        press(page, act)
    page.evaluate("(id) => app.graph.getNodeById(id).studio.executed({report: [window.EVIL ?? '<b>x</b>']})", ID)
    dropped(page, picture(server, history))
    press(page, "history")
    assert state(page)["history"][0]["text"] == text_of(page)
    assert page.locator(".unifusion-studio img, .unifusion-studio script, .unifusion-studio b").count() == 0
    assert page.evaluate("() => window.hacked ?? null") is None


def test_new_nodes_are_large_enough_to_read(page):
    sizes = page.evaluate("""() => { app.graph.clear();
        return Object.keys(LiteGraph.registered_node_types).filter((t) => t.startsWith('UniFusion')).map((type) => {
            const node = LiteGraph.createNode(type); app.graph.add(node);
            const least = node.computeSize(); return [type, node.size[0], node.size[1] - least[1]] }) }""")
    assert sizes
    for kind, width, spare in sizes:
        assert width >= 300 and spare >= 0, kind


def test_the_packs_sockets_have_colours_of_their_own(page):
    colours = page.evaluate("""() => ['UNIFUSION_HIDDEN_STATES', 'UNIFUSION_REFERENCES'].map((type) => [
        app.canvas.default_connection_color_byType[type], app.canvas.constructor.link_type_colors[type],
        getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim()])""")
    (first,), (second,) = map(set, colours)  # sockets and links, classic and Vue, agree
    assert first and second and first != second
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    page.wait_for_timeout(500)
    try:
        kept = page.evaluate("""() => ['UNIFUSION_HIDDEN_STATES', 'UNIFUSION_REFERENCES'].map((type) =>
            app.canvas.default_connection_color_byType[type])""")
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        page.wait_for_timeout(300)
    assert kept == [first, second]


def test_what_is_wrong_is_said_before_anything_runs(page, server):
    before = set(server.get("/history"))
    box(page, "prompt").fill("")
    press_run(page)
    page.get_by_text("There is nothing to rewrite").first.wait_for(timeout=10_000)
    assert set(server.get("/history")) == before
    page.reload()
    page.wait_for_function(browser.READY, timeout=180_000)
    browser.use_renderer(page, page.vue)


def test_disable_metadata_leaves_the_workflow_alone():
    """In a process of its own, since the flag belongs to ComfyUI's start."""
    script = """
import sys, types
sys.argv = ["main.py", "--cpu", *sys.argv[1:]]
import comfy.options
comfy.options.enable_args_parsing()
from unifusion.comfy_bridge.actions.studio import write_into_workflow
inner = {"id": 3, "type": "UniFusionVerifiRewrite"}
outer = {"id": 5, "type": "sub"}
workflow = {"nodes": [outer], "definitions": {"subgraphs": [{"id": "sub", "nodes": [inner]}]}}
for text in "ab":
    write_into_workflow({"workflow": workflow}, "5:3", texts=[(text, 1, "r")], prompt="p")
write_into_workflow({"workflow": workflow}, "9", texts=[("c", 1, "r")], prompt="p")
write_into_workflow(None, "5:3", texts=[("c", 1, "r")], prompt="p")
print(inner.get("properties", {}).get("verifi", {}).get("history"), "properties" in outer)
"""
    from conftest import HOST

    def printed(*flags):
        done = subprocess.run(
            [sys.executable, "-c", script, *flags],
            cwd=PACK,
            env={**__import__("os").environ, "PYTHONPATH": f"{HOST}:{PACK}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()[-1]

    assert printed("--disable-metadata") == "None False"
    entries = "[{'text': 'b', 'prompt': 'p', 'seed': 1}, {'text': 'a', 'prompt': 'p', 'seed': 1}] False"
    assert printed() == entries
