from comfy_api.latest import io

from ..unifusion.comfy_bridge.actions import comparison
from ..unifusion.comfy_bridge.actions.sweep import ANY, MOST_VALUES, SETTINGS, read_values
from .checked import Node
from .sockets import CATEGORY


class Compare(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionCompare",
            display_name="Compare",
            category=CATEGORY,
            description="One setting over several values, as one labelled sheet. Wire the picture of any graph here: what the "
            "setting changes runs once for each value, all else once.",
            search_aliases=[
                "UniFusion",
                "XY plot",
                "sweep",
                "grid",
                "compare strengths",
                "compare seeds",
                "test values",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    lazy=True,
                    raw_link=True,
                    tooltip="From the end of the graph: VAE Decode, an upscaler, anything that gives a picture.",
                ),
                io.Combo.Input(
                    "setting",
                    options=list(SETTINGS),
                    default=next(iter(SETTINGS)),
                    tooltip="What is varied: the nearest node in front of the picture that has it. 'layer left out' "
                    f"counts taps from 1, 0 leaves none out. '{ANY}' needs 'which'.",
                ),
                io.String.Input(
                    "values",
                    multiline=True,
                    default="0, 0.5, 1, 2",
                    tooltip=f"Numbers with commas between them; gains, system prompts and texts one to a line. At most "
                    f"{MOST_VALUES}.",
                ),
                io.String.Input(
                    "which",
                    default="",
                    tooltip="Empty: the nearest node with the setting. A node's number chooses another one; '5.cfg' "
                    "names any input of node 5.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=16,
                    advanced=True,
                    tooltip="Pictures in a row. 0 = by their number.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", display_name="sheet"),
                io.String.Output("report", display_name="report"),
            ],
            hidden=[io.Hidden.dynprompt],
            enable_expand=True,
        )

    @classmethod
    def execute(cls, image, setting, values, which="", columns=0) -> io.NodeOutput:
        sheet, report, nodes = comparison.run(
            image, cls.hidden.dynprompt, setting=setting, values=values, which=which, columns=columns
        )
        return io.NodeOutput(sheet, report, expand=nodes)

    @classmethod
    def check_lazy_status(cls, **_inputs):
        return []

    @classmethod
    def validate_inputs(cls, setting=None, values=None):
        if setting in SETTINGS and values is not None:
            read_values(setting, values)
        return True
