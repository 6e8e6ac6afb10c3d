import comfy.samplers
from comfy_api.latest import io

from ..unifusion.before_queue import NOT_CONNECTED, cfg_of, check_guidance
from ..unifusion.comfy_bridge.actions import draw
from ..unifusion.profiles import SAMPLER_PRESETS
from .checked import Node
from .sockets import CATEGORY

SHIFTS = ["as the model", "fixed", "by resolution"]


def custom_inputs():
    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Steps of the sampler."),
        io.Float.Input(
            "cfg",
            display_name="CFG (text guidance)",
            default=4.5,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="ComfyUI's CFG: 1 = off. Krea's own g is one less: g 3.5 is CFG 4.5.",
        ),
        io.Combo.Input("sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", tooltip="ComfyUI sampler."),
        io.Combo.Input(
            "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", tooltip="ComfyUI scheduler."
        ),
        io.Combo.Input(
            "shift",
            options=SHIFTS,
            default="by resolution",
            tooltip="Time shift. 'by resolution' runs from mu 0.5 at 256 image tokens to 1.15 at 6400; "
            "'fixed' uses mu; 'as the model' keeps what the MODEL carries.",
        ),
        io.Float.Input(
            "mu",
            default=1.15,
            min=-4.0,
            max=8.0,
            step=0.01,
            tooltip="Log shift for 'fixed': 1.15 spends e^1.15 = 3.2 times more of the schedule on layout.",
        ),
    ]


class DiTSampler(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionDiTSampler",
            display_name="DiT Sampler",
            category=CATEGORY,
            description="Draws the picture by flow matching with the model's own settings. Every stock sampler node "
            "works on the same inputs.",
            search_aliases=["UniFusion", "Krea 2", "KSampler", "sampler", "flow matching", "turbo", "shift"],
            inputs=[
                io.Model.Input("model", tooltip="From Layerwise Attention Pool."),
                io.Conditioning.Input("positive", tooltip="From Layerwise Attention Pool."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or an encoded picture with denoise below 1."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Noise of the first step.",
                ),
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        io.DynamicCombo.Option(key=draw.AUTO, inputs=[]),  # the first is what a new node has
                        *(io.DynamicCombo.Option(key=key, inputs=[]) for key in SAMPLER_PRESETS),
                        io.DynamicCombo.Option(key="custom", inputs=custom_inputs()),
                    ],
                    tooltip="Steps, guidance, sampler and shift that belong to a model; 'custom' shows them, 'auto' goes "
                    "by the MODEL.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 keeps something of the latent: image to image.",
                ),
                io.Conditioning.Input("negative", optional=True, lazy=True, tooltip="Needed at CFG above 1."),
                io.Conditioning.Input(
                    "images_only",
                    optional=True,
                    lazy=True,
                    tooltip="The pictures without text, for separate image guidance.",
                ),
                io.Float.Input(
                    "image_guidance",
                    default=-1.0,
                    min=-1.0,
                    max=30.0,
                    step=0.1,
                    optional=True,
                    tooltip="Strength of the pictures by themselves; -1 follows the CFG. Needs images only.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def check_lazy_status(cls, model=None, preset=None, image_guidance=-1.0, **given):
        return draw.still_needed(model, draw.cfg_of(preset, model), image_guidance, given)

    @classmethod
    def execute(
        cls, model, positive, latent_image, seed, preset, denoise, negative=None, images_only=None, image_guidance=-1.0
    ) -> io.NodeOutput:
        latent = draw.run(
            model,
            positive,
            negative,
            images_only=images_only,
            latent=latent_image,
            seed=seed,
            preset=preset,
            denoise=denoise,
            image_guidance=image_guidance,
        )
        notes = draw.notes(preset, model)
        return io.NodeOutput(latent, ui={"warning": notes} if notes else None)

    @classmethod
    def validate_inputs(cls, preset=None, negative=NOT_CONNECTED, images_only=NOT_CONNECTED, image_guidance=-1.0):
        check_guidance(
            cfg_of(preset),
            image_guidance,
            negative=negative != NOT_CONNECTED,
            images_only=images_only != NOT_CONNECTED,
        )
        return True
