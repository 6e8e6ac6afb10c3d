from comfy_api.latest import io

from ..unifusion.before_queue import NOT_CONNECTED, check_guidance
from ..unifusion.comfy_bridge.actions import draw
from .checked import Node
from .sockets import CATEGORY


class Guider(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionGuider",
            display_name="UniFusion Guider",
            category=CATEGORY,
            description="Separate guidance for text and pictures, for the stock SamplerCustomAdvanced node.",
            search_aliases=["UniFusion", "guidance", "CFG", "image guidance", "dual CFG"],
            inputs=[
                io.Model.Input("model", tooltip="From Layerwise Attention Pool."),
                io.Conditioning.Input("positive", tooltip="Pictures and text."),
                io.Float.Input(
                    "cfg",
                    display_name="CFG (text guidance)",
                    default=4.5,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="ComfyUI's CFG: 1 = off. Krea's own g is one less: g 3.5 is CFG 4.5.",
                ),
                io.Float.Input(
                    "image_guidance",
                    default=-1.0,
                    min=-1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Strength of the pictures by themselves; -1 follows the CFG.",
                ),
                io.Conditioning.Input("negative", optional=True, lazy=True, tooltip="Needed at CFG above 1."),
                io.Conditioning.Input("images_only", optional=True, lazy=True, tooltip="The pictures without text."),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def check_lazy_status(cls, model=None, cfg=None, image_guidance=-1.0, **given):
        return draw.still_needed(model, cfg, image_guidance, given)

    @classmethod
    def execute(cls, model, positive, cfg, image_guidance, negative=None, images_only=None) -> io.NodeOutput:
        return io.NodeOutput(
            draw.guider(model, positive, negative, cfg=cfg, images_only=images_only, image_guidance=image_guidance)
        )

    @classmethod
    def validate_inputs(cls, cfg=None, image_guidance=-1.0, negative=NOT_CONNECTED, images_only=NOT_CONNECTED):
        check_guidance(
            cfg,
            image_guidance,
            negative=negative != NOT_CONNECTED,
            images_only=images_only != NOT_CONNECTED,
        )
        return True
