from comfy_api.latest import io

from ..unifusion.comfy_bridge.actions import model_folders
from .checked import Node
from .sockets import CATEGORY


class LoadModel(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionLoadModel",
            display_name="Load UniFusion Model",
            category=CATEGORY,
            description="Loads the bundled miniature, a model of your own from models/unifusion, or a language model alone as "
            "transformers saves it (Qwen3-VL, InternVL, SmolVLM2, SmolLM2 and others). For full-size models such as "
            "Krea 2 use the stock loaders instead.",
            search_aliases=[
                "UniFusion",
                "miniature",
                "checkpoint",
                "load model",
                "Krea 2",
                "VLM",
                "LLM",
                "transformers",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_folders.listing(),
                    default=model_folders.BUNDLED,
                    tooltip="The miniature comes with the pack and needs no download. Folders in "
                    "models/unifusion are listed too.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Clip.Output("clip", display_name="clip"),
                io.Vae.Output("vae", display_name="vae"),
            ],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        return io.NodeOutput(*model_folders.load(model))
