from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from .checked import Node
from .sockets import CATEGORY

SAMPLES = Path(__file__).resolve().parents[1] / "web" / "samples"


def samples() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.png"))


class SamplePicture(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionSamplePicture",
            display_name="Sample Picture",
            category=CATEGORY,
            description="A picture that comes with the pack, to try a graph with. Put Load Image in its place for a "
            "picture of your own.",
            search_aliases=["UniFusion", "example image", "test image", "sample", "Load Image"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=samples(),
                    tooltip="Pictures of the miniature's world: coloured shapes on plain backgrounds.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image")],
        )

    @classmethod
    def execute(cls, picture) -> io.NodeOutput:
        with Image.open(SAMPLES / f"{picture}.png") as opened:
            pixels = np.array(opened.convert("RGB"), dtype=np.float32) / 255
        return io.NodeOutput(torch.from_numpy(pixels)[None])
