from comfy_api.latest import io

from ..unifusion.comfy_bridge.actions import bundled_pictures
from .checked import Node
from .sockets import CATEGORY


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
                    options=bundled_pictures.listing(),
                    tooltip="Pictures of the miniature's world: coloured shapes on plain backgrounds.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image")],
        )

    @classmethod
    def execute(cls, picture) -> io.NodeOutput:
        return io.NodeOutput(bundled_pictures.load(picture))
