"""Run the default graph in a real ComfyUI server and say where the picture is.

``COMFYUI_PATH=... python tools/demo.py ["a prompt"]``. The server gets a folder of its own, so nothing of the host changes.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from harness.comfy_server import Server
from harness.graphs import GRAPHS

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    graph = GRAPHS[0]
    prompt = graph.api()
    if sys.argv[1:]:
        next(node for node in prompt.values() if "prompt" in node["inputs"])["inputs"]["prompt"] = sys.argv[1]
    target = ROOT / "output"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        print("Starting ComfyUI ...", flush=True)
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(base))
        try:
            server.wait()
            print(f"Running '{graph.name}' ...", flush=True)
            began = time.monotonic()
            history = server.queue(prompt)
            if errors := server.errors(history):
                sys.exit("\n".join(errors))
            seconds = time.monotonic() - began
            texts = [text for shown in history["outputs"].values() for text in shown.get("text", [])]
            pictures = [
                about
                for shown in history["outputs"].values()
                for about in shown.get("images", [])
                if about["type"] == "output"
            ]
            saved = [target / about["filename"] for about in pictures]
            for about, path in zip(pictures, saved, strict=True):
                shutil.copyfile(Path(base) / "output" / about["subfolder"] / about["filename"], path)
        finally:
            server.stop()
    print("\n".join(texts))
    print(f"\nDone in {seconds:.1f} s. The picture: {', '.join(map(str, saved))}")
    print("To use the pack in your own ComfyUI, link or copy this folder into its custom_nodes.")


if __name__ == "__main__":
    main()
