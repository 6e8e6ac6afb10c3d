from comfy_api.latest import io, ui

from ..unifusion.before_queue import check_taps
from ..unifusion.board import use_names
from ..unifusion.comfy_bridge.actions import encode
from ..unifusion.profiles import PROFILES
from ..unifusion.selection import SELECTIONS
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket, picture_inputs


class VLMEncode(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionVLMEncode",
            display_name="VLM Encode",
            category=CATEGORY,
            description="Reads a prompt and pictures with the vision-language model in one pass and hands on the hidden "
            "states of several of its layers.",
            search_aliases=[
                "UniFusion",
                "Krea 2",
                "FLUX.2",
                "Z-Image",
                "Qwen-Image",
                "Ideogram 4",
                "Qwen3-VL",
                "prompt",
                "text encode",
                "reference",
                "edit",
            ],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that belongs to the drawing model, from the stock Load CLIP node with the "
                    "model's type (krea2, flux2, qwen_image and so on), or the CLIP of the UniFusion miniature.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What to draw, or what to change in the pictures. (word:1.4) gives a word more weight.",
                ),
                io.Combo.Input(
                    "profile",
                    options=["auto", *PROFILES],
                    default="auto",
                    tooltip="How the drawing model wants its encoder to be asked. 'auto' goes by the CLIP.",
                ),
                io.Combo.Input(
                    "selection",
                    options=["as the profile", *SELECTIONS],
                    default="as the profile",
                    tooltip="Which tokens condition the picture.",
                ),
                io.String.Input(
                    "system_prompt",
                    multiline=True,
                    default="",
                    advanced=True,
                    tooltip="Replaces the profile's system prompt. Empty keeps it.",
                ),
                io.String.Input(
                    "taps",
                    default="",
                    advanced=True,
                    tooltip="Layers to read, e.g. '2, 5, 8'. Empty uses the profile's; the drawing model must "
                    "have been trained with the same.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["fp32", "bf16"],
                    default="fp32",
                    advanced=True,
                    tooltip="fp32 computes as ComfyUI's own encoding does, bit for bit. bf16 is faster on a "
                    "GPU and differs by a few percent in the states.",
                ),
                *picture_inputs(),
            ],
            outputs=[
                HiddenStatesSocket.Output("hidden_states", display_name="hidden states"),
                HiddenStatesSocket.Output(
                    "negative",
                    display_name="negative",
                    tooltip="The usual negative: the empty prompt, with the same pictures where the drawing model was "
                    "trained so, without them for the miniature and Boogu-Image.",
                ),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, clip, prompt, profile, selection, system_prompt="", taps="", precision="fp32", references=None, images=None
    ) -> io.NodeOutput:
        prompt, unknown = use_names(prompt, references)
        states, negative, report = encode.run(
            clip,
            prompt,
            profile=profile,
            selection=selection,
            system_prompt=system_prompt,
            taps=taps,
            precision=precision,
            references=references,
            images=images,
            later=True,
        )
        report = "\n".join([report, *unknown])
        return io.NodeOutput(states, negative, report, ui=ui.PreviewText(report))

    @classmethod
    def validate_inputs(cls, taps=None, images=None):
        check_taps(taps)
        return True
