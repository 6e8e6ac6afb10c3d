"""A real, headless browser on a real server."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READY = "!!(window.app && app.graph && app.canvas && LiteGraph.registered_node_types['UniFusionVLMEncode'])"


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
