from comfy_api.latest import io, ui

from ..unifusion.before_queue import check_gains
from ..unifusion.comfy_bridge.actions import pool, presets
from ..unifusion.layer_gains import CUSTOM, PRESETS
from ..unifusion.own_presets import GAINS
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket


class LayerwiseAttentionPool(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionLayerwiseAttentionPool",
            display_name="Layerwise Attention Pool",
            category=CATEGORY,
            description="Turns hidden states into the conditioning that the drawing model was trained with: pooled by its "
            "own weights and LoRAs, or its layers side by side. The outputs work in any sampler node.",
            search_aliases=[
                "UniFusion",
                "LAP",
                "txtfusion",
                "Krea 2",
                "FLUX.2",
                "Z-Image",
                "Qwen-Image",
                "Ideogram 4",
                "rebalance",
                "layer gains",
                "conditioning",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The drawing model with its LoRAs: Krea 2, FLUX.2, Z-Image, Qwen-Image, Ideogram 4 and others, "
                    "or the UniFusion miniature.",
                ),
                HiddenStatesSocket.Input("positive", tooltip="From VLM Encode or VERIFI Rewrite."),
                io.Combo.Input(
                    "gain_preset",
                    options=[*PRESETS, CUSTOM, *presets.names(GAINS)],
                    default=next(iter(PRESETS)),
                    tooltip="Gains of single layers before pooling. 'off' changes nothing.",
                ),
                io.String.Input(
                    "gains",
                    default="",
                    tooltip="For 'custom': '11=1.45, 5=0.9' sets taps counted from 1, or one number per tap.",
                ),
                io.Boolean.Input(
                    "keep_rms",
                    default=True,
                    advanced=True,
                    tooltip="Keep every token's overall size when gains are used. Off lets a strong tap "
                    "drown the others.",
                ),
                HiddenStatesSocket.Input(
                    "negative",
                    optional=True,
                    tooltip="Needed only at CFG above 1. VLM Encode and VERIFI Rewrite give one.",
                ),
                HiddenStatesSocket.Input(
                    "images_only",
                    optional=True,
                    tooltip="For separate image guidance: the pictures without text, that is an "
                    "encode of an empty prompt with the pictures.",
                ),
                io.Autogrow.Input(
                    "join",
                    optional=True,
                    template=io.Autogrow.TemplatePrefix(
                        HiddenStatesSocket.Input("states", tooltip="Hidden states to join."),
                        prefix="states",
                        min=0,
                        max=8,
                    ),
                    tooltip="Further hidden states, joined to the positive before pooling so that they are mixed.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Conditioning.Output("positive", display_name="positive"),
                io.Conditioning.Output("negative", display_name="negative"),
                io.Conditioning.Output("images_only", display_name="images only"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, gain_preset, gains="", keep_rms=True, negative=None, images_only=None, join=None
    ) -> io.NodeOutput:
        gain_preset, gains = presets.gains(gain_preset, gains)
        *outputs, report = pool.run(
            model,
            positive,
            gain_preset=gain_preset,
            gains=gains,
            keep_rms=keep_rms,
            negative=negative,
            images_only=images_only,
            more=list((join or {}).values()),
        )
        return io.NodeOutput(*outputs, report, ui=ui.PreviewText(report))

    @classmethod
    def validate_inputs(cls, gain_preset=None, gains=None, join=None):
        check_gains(*presets.gains(gain_preset, gains))
        return True
