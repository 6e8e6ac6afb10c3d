from comfy_api.latest import io

from ..unifusion.comfy_bridge.actions import presets
from ..unifusion.references import AS_COMBINE, DETAILS, LEAST_STRENGTH, from_batch
from .checked import Node
from .sockets import CATEGORY, ReferencesSocket


class Reference(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionReference",
            display_name="Reference",
            category=CATEGORY,
            description="A picture with a name, a strength and a detail setting. Chain several, or lead them into "
            "Multi-Reference Combine.",
            search_aliases=["UniFusion", "reference strength", "style reference", "subject", "image prompt", "weight"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture. Of a batch, every picture becomes a reference and the label is numbered.",
                ),
                io.String.Input(
                    "label", default="", tooltip="A name that the prompt may use, e.g. 'the dog'. Empty for none."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=LEAST_STRENGTH,
                    max=10.0,
                    step=0.05,
                    tooltip="1 = neutral, 2 = as if the picture were given twice, 0 = its tokens are "
                    "removed (words behind it have still been read with it in sight), below 0 = away from it.",
                ),
                io.Combo.Input(
                    "detail",
                    options=[AS_COMBINE, *DETAILS],
                    default=AS_COMBINE,
                    tooltip="'one view' gives the picture as it is. 'N tiles' gives up to N - 1 patches of "
                    "it and then the whole, for small print and fine texture; every view costs "
                    "tokens. 'default' follows Multi-Reference Combine, or is one view without it.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the schedule from which on the picture counts: 0 = the first step.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the schedule up to which it counts: 0 to 0.5 shapes the layout, 0.5 to "
                    "1 the details.",
                ),
                ReferencesSocket.Input("references", optional=True, tooltip="References that stand before this one."),
                io.Combo.Input(
                    "job",
                    options=[AS_COMBINE, *presets.jobs()],
                    default=AS_COMBINE,
                    optional=True,
                    tooltip="What of the picture counts. 'read, not shown': the words are read with it in sight, and it is "
                    "left out of the drawing. 'default' follows Multi-Reference Combine, or is the whole without it.",
                ),
            ],
            outputs=[ReferencesSocket.Output("references", display_name="references")],
        )

    @classmethod
    def execute(
        cls, image, label, strength, detail, start=0.0, end=1.0, references=None, job=AS_COMBINE
    ) -> io.NodeOutput:
        tiles = 0 if detail == AS_COMBINE else DETAILS[detail]
        done = None if job == AS_COMBINE else presets.job(job)
        made = from_batch(image, "image", label, strength, tiles, start, end, done)
        return io.NodeOutput([*(references or ()), *made])
