from comfy_api.latest import io, ui

from ..unifusion.comfy_bridge.actions import stored_files
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket


class LoadConditioning(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionLoadConditioning",
            display_name="Load Conditioning",
            category=CATEGORY,
            description="Loads what Save Conditioning wrote. Draws without the vision-language model: nothing of it is "
            "loaded.",
            search_aliases=["UniFusion", "load conditioning", "load hidden states", "import", "saved prompt"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=stored_files.listing(),
                    tooltip="A file that Save Conditioning wrote, in the output or input folder.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The drawing model. It is handed on prepared for pooled conditioning.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("positive", display_name="positive"),
                io.Conditioning.Output("negative", display_name="negative"),
                HiddenStatesSocket.Output(
                    "hidden_states", display_name="hidden states", tooltip="Only if the file holds hidden states."
                ),
                HiddenStatesSocket.Output(
                    "negative_states",
                    display_name="negative states",
                    tooltip="Only if the file holds hidden states with a negative.",
                ),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        if file is None:  # linked from Save Conditioning, known only when it has run
            return True
        try:
            stored_files.path_of(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file=None, model=None):
        if file is None:
            return ""
        try:
            info = stored_files.path_of(file).stat()
        except (OSError, ValueError):  # removed since it was validated; execute says so
            return float("nan")
        return f"{info.st_mtime_ns} {info.st_size}"

    @classmethod
    def execute(cls, file, model=None) -> io.NodeOutput:
        *outputs, report = stored_files.load(file, model)
        return io.NodeOutput(*outputs, report, ui=ui.PreviewText(report))
