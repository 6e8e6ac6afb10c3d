from comfy_api.latest import io, ui

from ..unifusion.comfy_bridge.actions import presets
from ..unifusion.jobs import TAPS, TOKENS
from ..unifusion.own_presets import GAINS, JOB, SYSTEM
from .checked import Node
from .sockets import CATEGORY


class SavePreset(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionSavePreset",
            display_name="Save Preset",
            category=CATEGORY,
            is_output_node=True,
            description="Keeps layer gains, a system prompt or a job of a picture under a name of your own. It then stands in "
            "the lists beside the built-in ones, and its file can be shared.",
            search_aliases=["UniFusion", "preset", "my gains", "my system prompt", "save settings"],
            inputs=[
                io.String.Input("name", default="", tooltip="A few plain words; the file is called the same."),
                io.DynamicCombo.Input(
                    "kind",
                    options=[
                        io.DynamicCombo.Option(
                            key=GAINS,
                            inputs=[
                                io.String.Input(
                                    "gains", default="", tooltip="As in Layerwise Attention Pool: '11=1.45, 5=0.9'."
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            key=SYSTEM,
                            inputs=[io.String.Input("text", multiline=True, default="", tooltip="The system prompt.")],
                        ),
                        io.DynamicCombo.Option(
                            key=JOB,
                            inputs=[
                                io.Combo.Input(
                                    "mean_at",
                                    options=list(TAPS),
                                    tooltip="Taps at which every token becomes the mean of the picture: places are lost there.",
                                ),
                                io.Combo.Input(
                                    "tokens", options=list(TOKENS), tooltip="Which tokens of the picture count."
                                ),
                            ],
                        ),
                    ],
                    tooltip="What is kept.",
                ),
                io.Boolean.Input("replace", default=False, tooltip="Write over a preset of the same name."),
            ],
            outputs=[io.String.Output("report", display_name="report")],
        )

    @classmethod
    def execute(cls, name, kind, replace=False) -> io.NodeOutput:
        fields = {key: value for key, value in kind.items() if key != "kind"}
        report = presets.save(name, kind["kind"], fields, replace)
        return io.NodeOutput(report, ui=ui.PreviewText(report))
