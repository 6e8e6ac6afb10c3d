"""A real, headless browser on a real server."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READY = "!!(window.app && app.graph && app.canvas && LiteGraph.registered_node_types['UniFusionVLMEncode'])"

# Defines linksUnderNodes(): links of the graph on the canvas that run behind a node other than the two they join. A link
# without reroutes is drawn as a spline whose handles are a quarter of its length; between reroutes it is nearly straight.
LINKS_UNDER_NODES = """
() => { window.linksUnderNodes = () => {
  const graph = app.graph, found = [];
  const boxes = graph.nodes.map((n) => [n.id, n.pos[0] - 2, n.pos[1] - 32, n.pos[0] + n.size[0] + 2, n.pos[1] + n.size[1] + 2]);
  for (const link of graph.links.values()) {
    const source = graph.getNodeById(link.origin_id), target = graph.getNodeById(link.target_id);
    if (!source || !target) continue;
    const from = [...source.getOutputPos(link.origin_slot)], to = [...target.getInputPos(link.target_slot)];
    const between = [];
    for (let id = link.parentId; id != null; id = graph.reroutes.get(id)?.parentId)
      between.unshift([...graph.reroutes.get(id).pos]);
    const stops = [from, ...between, to], points = [];
    for (let i = 0; i + 1 < stops.length; i++) {
      const [a, b] = [stops[i], stops[i + 1]];
      const handle = between.length ? 0 : 0.25 * Math.hypot(b[0] - a[0], b[1] - a[1]);
      for (let t = 0; t <= 1; t += 1 / 60) {
        const u = 1 - t, along = (p, p1, p2, q) => u * u * u * p + 3 * u * u * t * p1 + 3 * u * t * t * p2 + t * t * t * q;
        points.push([along(a[0], a[0] + handle, b[0] - handle, b[0]), along(a[1], a[1], b[1], b[1])]);
      }
    }
    const under = boxes.filter(([id, left, top, right, bottom]) => points.some(([x, y]) => {
      const inside = x > left && x < right && y > top && y < bottom;
      if (id !== source.id && id !== target.id) return inside;
      return inside && x > left + 40 && x < right - 40;  // its own nodes it may touch at the socket
    }));
    if (under.length) found.push({ id: link.id, from, to, under: under.map(([id]) => graph.getNodeById(id).title) });
  }
  return found;
} }
"""


def missing() -> str | None:
    """Why there is no browser to test with, or None."""
    if BROWSER is None:
        return "no chromium: install your distribution's chromium"
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "no playwright: pip install playwright (its own browsers are not needed)"
    return None


@contextmanager
def open_page(url: str, width: int = 1800, height: int = 1100, **settings):
    """A page with ComfyUI loaded; ``page.problems`` collects uncaught errors.

    Args:
        url: of the server.
        width, height: of the window.
        settings: of the frontend, with ``_`` for ``.`` in their names after ``Comfy.``.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        settings = {"TutorialCompleted": True, "Minimap_Visible": False, **settings}  # no tour on the first start
        for name, value in settings.items():
            page.request.post(f"{url}/settings/Comfy.{name.replace('_', '.')}", data=json.dumps(value))
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(url, timeout=180_000)
        page.wait_for_function(READY, timeout=180_000)
        yield page
        browser.close()


def use_renderer(page, vue: bool) -> None:
    """Nodes as the Vue renderer draws them, or the classic one."""
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)


@contextmanager
def watched(page, vue: bool):
    """The page with one of its renderers; in the end no error, and nothing of the pack in the console, may be there."""
    use_renderer(page, vue)
    page.vue = vue
    page.problems.clear()
    console = PackConsole(page)
    yield page
    console.close()
    assert page.problems == [] and console.lines == []


class PackConsole:
    """Errors and warnings in the browser's console that name the pack or its files; ``lines`` collects them."""

    def __init__(self, page):
        self.page, self.lines = page, []
        page.on("console", self._note)

    def _note(self, message) -> None:
        about = f"{message.text} {message.location.get('url', '')}"
        if message.type in ("error", "warning") and "unifusion" in about.lower():
            self.lines.append(message.text)

    def close(self) -> None:
        """Stop listening."""
        self.page.remove_listener("console", self._note)
