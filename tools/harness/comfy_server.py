"""A real ComfyUI server with the pack in it, in a folder of its own: nothing of the host is touched."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``main.py`` in a process of its own.

    Args:
        host: folder of ComfyUI.
        base: empty folder that becomes its base directory; the pack is linked into ``custom_nodes``.
    """

    def __init__(self, host: Path, base: Path, *arguments: str):
        self.base, self.port = base, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (base / "custom_nodes").mkdir(parents=True)
        (base / "custom_nodes" / "UniFusion").symlink_to(PACK, target_is_directory=True)
        # A CLIP of random weights and a look at the host's memory, for tests without the miniature.
        (base / "custom_nodes" / "random_models").symlink_to(
            PACK / "tools" / "harness" / "random_models", target_is_directory=True
        )
        self.log = base / "server.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(host / "main.py"),
                    "--cpu",
                    "--port",
                    str(self.port),
                    "--disable-api-nodes",
                    "--base-directory",
                    str(base),
                    "--database-url",
                    "sqlite:///:memory:",
                    *arguments,
                ],
                cwd=host,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    def wait(self, seconds: float = 600) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise RuntimeError("ComfyUI did not start:\n" + self.log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def raw(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.raw(path))

    def queue(self, prompt: dict, seconds: float = 300, extra: dict | None = None) -> dict:
        """Queue a graph in API form and wait for it.

        Returns:
            its history: ``outputs``, ``status``.

        Raises:
            ValueError: with the server's own words if it refuses the graph.
        """
        return self.finished(self.submit(prompt, extra), seconds)

    def submit(self, prompt: dict, extra: dict | None = None) -> str:
        """Queue a graph; returns its id."""
        body = {"prompt": prompt, **({"extra_data": {"extra_pnginfo": extra}} if extra else {})}
        try:
            return json.loads(self.raw("/prompt", body))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None

    def finished(self, number: str, seconds: float = 300) -> dict:
        """Wait for a queued graph."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{number}")
            if number in history and history[number]["status"]["completed"] | (
                history[number]["status"]["status_str"] == "error"
            ):
                return history[number]
            time.sleep(0.2)
        raise TimeoutError(f"the graph did not finish in {seconds} s:\n" + self.log.read_text(errors="replace")[-2000:])

    def errors(self, history: dict) -> list[str]:
        """Messages of nodes that failed."""
        return [
            f"{about['node_type']}: {about['exception_message'].strip()}"
            for kind, about in history["status"]["messages"]
            if kind == "execution_error"
        ]
