"""A walk as a newcomer, with mouse and keyboard in the real frontend, in both renderers; a picture of every step.

``COMFYUI_PATH=... PYTHONPATH=tools python tools/walk.py`` writes ``docs/pictures/walk_*.jpg``; ``docs/first_steps.md`` says
what was seen.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path

from harness.browser import PackConsole, open_page
from harness.comfy_server import PACK, Server
from PIL import Image, ImageDraw

OUT = Path(os.environ.get("WALK_OUT") or PACK / "docs" / "pictures")
WIDTH = 1000  # of the pictures kept


class Walk:
    """One browser on one server; every step is shown and timed."""

    def __init__(self, page, server: Server, renderer: str):
        self.page, self.server, self.renderer, self.number = page, server, renderer, 0
        self.began = time.monotonic()

    def seen(self, name: str) -> None:
        """Keep what is on the screen."""
        self.number += 1
        picture = Image.open(io.BytesIO(self.page.screenshot(timeout=180_000))).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        picture.save(OUT / f"walk_{self.renderer}_{self.number}_{name}.jpg", quality=80)
        print(f"{self.renderer} {self.number} {name}: {time.monotonic() - self.began:.0f} s", flush=True)
        self.began = time.monotonic()

    def template(self, name: str) -> None:
        """Through the gallery: Templates, Extensions, UniFusion, the card."""
        page = self.page
        page.get_by_role("button", name="Templates").first.click()
        gallery = page.get_by_role("dialog")
        gallery.get_by_text("Extensions", exact=True).first.wait_for(timeout=60_000)
        page.wait_for_timeout(1500)
        own = gallery.get_by_text("UniFusion", exact=True).first
        if not own.is_visible():
            gallery.get_by_text("Extensions", exact=True).first.click()
        own.click()
        gallery.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
        page.wait_for_timeout(1500)
        if self.number == 0:
            self.seen("gallery")
        gallery.get_by_text(name, exact=True).first.click()
        page.wait_for_function(
            "() => app.graph.nodes.some((n) => n.type.startsWith('UniFusion'))",
            timeout=60_000,
        )
        page.wait_for_timeout(1500)

    def fit(self) -> None:
        """All of the graph in the window, as the button at the lower right does."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(1200)

    def run(self) -> list[str]:
        """Press Run and wait; returns errors of nodes."""
        before = set(self.server.get("/history"))
        self.page.get_by_test_id("queue-button").or_(
            self.page.get_by_role("button", name="Run", exact=True)
        ).first.click()
        end = time.monotonic() + 200
        while not (new := set(self.server.get("/history")) - before):
            if time.monotonic() > end:
                return ["nothing was queued"]
            time.sleep(0.2)
        history = self.server.finished(new.pop())
        self.page.wait_for_timeout(2500)
        return self.server.errors(history)

    def prompt(self, text: str, kind: str) -> None:
        """Type into the prompt of the first node of a kind, as it is on the screen."""
        where = self.page.evaluate(
            """(kind) => { const node = app.graph.nodes.find((n) => n.type === kind);
            const own = node.widgets.find((w) => w.name === 'prompt').element;
            const box = own?.isConnected ? own : document.querySelector(`[data-node-id="${node.id}"] textarea`);
            const r = box.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }""",
            kind,
        )
        self.page.mouse.click(*where)
        if not self.page.evaluate("() => document.activeElement?.tagName === 'TEXTAREA'"):
            raise SystemExit(f"the prompt of {kind} cannot be typed into at {where}")
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)


def own_picture() -> bytes:
    """What a newcomer may have at hand: a drawing of their own."""
    picture = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(picture).ellipse((120, 70, 280, 230), fill=(220, 30, 30))
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return kept.getvalue()


DROP = """
async (bytes) => {
  const file = new File([new Uint8Array(bytes)], "mine.png", { type: "image/png" });
  const data = new DataTransfer();
  data.items.add(file);
  const canvas = document.querySelector("#graph-canvas"), at = { clientX: 350, clientY: 700, bubbles: true, cancelable: true };
  canvas.dispatchEvent(new DragEvent("dragover", { dataTransfer: data, ...at }));
  canvas.dispatchEvent(new DragEvent("drop", { dataTransfer: data, ...at }));
}
"""
CONNECT = """
() => {
  const loaded = app.graph.nodes.find((n) => n.type === "LoadImage");
  if (!loaded) return "no Load Image appeared";
  const rewrite = app.graph.nodes.find((n) => n.type === "UniFusionVerifiRewrite");
  loaded.connect(0, rewrite, rewrite.inputs.findIndex((input) => input.name === "images.image0"));
  return rewrite.inputs.find((input) => input.name === "images.image0").label;
}
"""


def walk(server: Server, vue: bool) -> None:
    with open_page(server.url, width=1400, height=900, VueNodes_Enabled=vue, Workflow_Persist=False) as page:
        it, console = Walk(page, server, "vue" if vue else "classic"), PackConsole(page)
        it.template("01 Text to picture with VERIFI")
        it.seen("first_template")
        print(it.run())
        it.seen("first_run")
        it.prompt("two green stars on black", "UniFusionVerifiRewrite")
        print(it.run())
        it.seen("own_prompt")
        it.template("03 Edit by instruction")
        page.evaluate(DROP, list(own_picture()))
        page.wait_for_timeout(2500)
        print(page.evaluate(CONNECT))
        it.prompt("make the circle blue", "UniFusionVerifiRewrite")
        print(it.run())
        it.fit()
        it.seen("own_picture")
        it.template("04 Two references with strengths")
        field = page.locator('.unifusion-board:visible [data-field="strength"]').nth(1)
        field.fill("0")
        field.press("Tab")
        print(it.run())
        it.seen("two_references")
        it.template("08 Krea 2 Turbo with VERIFI")
        it.seen("krea_2")
        print(f"errors: {page.problems}; errors and warnings of the pack in the console: {console.lines}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for vue in (False, True):
            if len(sys.argv) > 1 and sys.argv[1] != ("vue" if vue else "classic"):
                continue
            began = time.monotonic()
            server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / ("vue" if vue else "classic"))
            try:
                server.wait()
                print(f"ComfyUI with the pack answers after {time.monotonic() - began:.0f} s")
                walk(server, vue)
            finally:
                server.stop()


if __name__ == "__main__":
    main()
