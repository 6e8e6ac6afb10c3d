from comfy_api.latest import io, ui

from ..unifusion.comfy_bridge.actions import stored_files
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket


class SaveConditioning(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionSaveConditioning",
            display_name="Save Conditioning",
            category=CATEGORY,
            description="Saves conditioning or hidden states into the output folder, so that later graphs draw without "
            "the vision-language model.",
            search_aliases=["UniFusion", "save conditioning", "save hidden states", "export", "cache prompt"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "positive",
                    types=[io.Conditioning, HiddenStatesSocket],
                    tooltip="Conditioning from Layerwise Attention Pool, or hidden states.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="conditioning/UniFusion",
                    tooltip="Folder and beginning of the file's name inside the output folder; a number is added.",
                ),
                io.MultiType.Input(
                    "negative",
                    types=[io.Conditioning, HiddenStatesSocket],
                    optional=True,
                    tooltip="The negative, of the same kind; kept in the same file.",
                ),
            ],
            outputs=[
                io.Combo.Output(
                    "file",
                    display_name="file",
                    tooltip="The saved file's name, for the file input of Load Conditioning.",
                ),
                io.String.Output("report", display_name="report"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, positive, filename_prefix, negative=None) -> io.NodeOutput:
        file, report = stored_files.save(
            positive, negative, filename_prefix, cls.hidden.prompt, cls.hidden.extra_pnginfo
        )
        return io.NodeOutput(file, report, ui=ui.PreviewText(report))
