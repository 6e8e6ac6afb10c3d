"""The whole graph through a real server: this pack's nodes beside the stock ones, timed by the server itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .host import pack
from .measure import Figure, figure
from .random_sizes import CUDA, model

STOCK = "the stock graph"


class Graphs:
    """Queues both graphs in turn on one server."""

    def __init__(self, server):
        from harness import krea2_graphs

        self.server, self.graphs = server, krea2_graphs
        self.number = 0

    def fresh(self) -> int:
        self.number += 1
        return self.number

    def seconds(self, graph: dict) -> float:
        """Time from the start to the end of the execution, as the server's history has it."""
        history = self.server.queue(graph)
        if errors := self.server.errors(history):
            raise RuntimeError(errors[0])
        at = {kind: about["timestamp"] for kind, about in history["status"]["messages"] if "timestamp" in about}
        return (at["execution_success"] - at["execution_start"]) / 1000

    def forget(self) -> None:
        """Unload the models and empty the cache."""
        import time

        self.server.raw("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.2)

    def graph(self, side: str, prompt: str = "a red fox in the snow", seed: int = 1) -> dict:
        made = self.graphs.unifusion if side == "ours" else self.graphs.stock
        size = (1024, 1024) if CUDA else (128, 128)
        return made(prompt, "blurry, dark and noisy", seed=seed, steps=4, size=size, cfg=4.5)

    def referenced(self, picture: int, prompt: str) -> dict:
        """With a reference whose colour is ``picture``."""
        node = self.graphs.node
        graph = self.graph("ours", prompt)
        graph["picture"] = node("EmptyImage", width=256, height=256, batch_size=1, color=picture)
        graph["positive"]["inputs"]["images.image0"] = ["picture", 0]
        graph["negative"] = node("PreviewAny", source=["positive", 2])
        graph["pool"]["inputs"]["negative"] = ["positive", 1]
        return graph


def figures(quick: bool) -> list[Figure]:
    """Cold, all changed, prompt changed, seed changed; with a reference: reference changed, prompt changed."""
    pack("unifusion.profiles")
    import os

    from harness.comfy_server import Server
    from harness.krea2_graphs import MODEL, write_models
    from safetensors.torch import save_file

    runs = 2 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        server = Server(Path(os.environ["COMFYUI_PATH"]), base)
        try:
            write_models(base)
            weights = {name: value.contiguous() for name, value in model().model.diffusion_model.state_dict().items()}
            save_file(weights, base / "models" / "diffusion_models" / MODEL)
            server.wait()
            return _figures(Graphs(server), runs)
        finally:
            server.stop()


def _figures(both: Graphs, runs: int) -> list[Figure]:
    cold, prompts, seeds = [], [], []
    for side in ("ours", "stock"):
        both.seconds(both.graph(side))
    for _ in range(runs):
        times = {}
        for side in ("ours", "stock"):
            both.forget()
            times[side] = both.seconds(both.graph(side))
        cold.append((times["ours"], times["stock"]))
        for pairs, change in ((prompts, "prompt"), (seeds, "seed")):
            number = both.fresh()
            for side in ("ours", "stock"):
                both.seconds(both.graph(side))
                graph = (
                    both.graph(side, prompt=f"a red fox number {number}")
                    if change == "prompt"
                    else both.graph(side, seed=1000 + number)
                )
                times[side] = both.seconds(graph)
            pairs.append((times["ours"], times["stock"]))
    lines = [
        figure("whole graph, cold (models and cache freed)", STOCK, cold),
        figure("whole graph, prompt changed", STOCK, prompts),
        figure("whole graph, seed changed", STOCK, seeds),
    ]
    changed, kept = [], []
    for _ in range(runs):
        both.forget()
        first = both.seconds(both.referenced(both.fresh(), "make it blue"))
        picture = both.fresh()
        changed.append((both.seconds(both.referenced(picture, "make it blue")), first))
        kept.append((both.seconds(both.referenced(picture, f"make it red {picture}")), first))
    return [
        *lines,
        figure("whole graph with a reference, reference changed", "the same graph cold", changed),
        figure("whole graph with a reference, prompt changed", "the same graph cold", kept),
    ]
