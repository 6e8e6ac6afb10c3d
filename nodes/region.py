from comfy_api.latest import io, ui

from ..unifusion.comfy_bridge.actions import place
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket


class Region(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionRegion",
            display_name="Region",
            category=CATEGORY,
            description="Lets the words and pictures of one encode count inside a mask only. Join several regions, and what "
            "counts everywhere, in Layerwise Attention Pool: all are drawn in one pass.",
            search_aliases=["UniFusion", "regional prompt", "area", "mask", "couple", "attention couple"],
            inputs=[
                HiddenStatesSocket.Input("hidden_states", tooltip="From VLM Encode or VERIFI Rewrite."),
                io.Mask.Input("mask", tooltip="Where they count. It is stretched over the whole picture."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1 = neutral, 2 = as if the words stood there twice. With 0 nothing would be left.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels of the mask over which its edge becomes soft.",
                ),
            ],
            outputs=[
                HiddenStatesSocket.Output("hidden_states", display_name="hidden states"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, hidden_states, mask, strength=1.0, feather=0) -> io.NodeOutput:
        placed, report = place.run(hidden_states, mask, strength=strength, feather=feather)
        return io.NodeOutput(placed, report, ui=ui.PreviewText(report))
