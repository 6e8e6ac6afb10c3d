from comfy_api.latest import io

from ..unifusion.before_queue import check_rewrite
from ..unifusion.board import use_names
from ..unifusion.comfy_bridge.actions import presets, rewrite, studio
from ..unifusion.own_presets import SYSTEM
from ..unifusion.profiles import PROFILES
from ..unifusion.selection import REWRITE_SELECTIONS
from ..unifusion.system_prompts import AS_PROFILE, CUSTOM, SYSTEM_PROMPTS
from ..unifusion.verifi import VARIATIONS, check_variations, seeds_of
from .checked import Node
from .sockets import CATEGORY, SHOWS_AGAIN, HiddenStatesSocket, picture_inputs


def sampling_inputs():
    return [
        io.Float.Input(
            "temperature", default=0.7, min=0.01, max=2.0, step=0.01, tooltip="Below 1 is tamer, above 1 is wilder."
        ),
        io.Float.Input(
            "top_p",
            default=0.95,
            advanced=True,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Draw from the likeliest tokens that together have this probability; 1 = all.",
        ),
        io.Int.Input(
            "top_k",
            default=64,
            min=0,
            max=1000,
            advanced=True,
            tooltip="Draw from this many likeliest tokens; 0 = all.",
        ),
        io.Float.Input(
            "min_p",
            default=0.05,
            advanced=True,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Leave out tokens less likely than this share of the likeliest one; 0 = off.",
        ),
        io.Float.Input(
            "repetition_penalty",
            default=1.05,
            advanced=True,
            min=0.01,
            max=5.0,
            step=0.01,
            tooltip="Above 1 repeats itself less; 1 = off.",
        ),
    ]


class VerifiRewrite(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionVerifiRewrite",
            display_name="VERIFI Rewrite",
            category=CATEGORY,
            **SHOWS_AGAIN,
            description="Rewrites a terse prompt with the vision-language model that is already loaded, and hands on "
            "the hidden states of the pass that wrote it: nothing is encoded a second time.",
            search_aliases=[
                "UniFusion",
                "VERIFI",
                "prompt enhance",
                "prompt expander",
                "rewrite",
                "upsample prompt",
                "text generate",
                "LLM",
                "caption",
                "Krea 2",
                "FLUX.2",
                "Z-Image",
                "Qwen-Image",
                "Ideogram 4",
                "Qwen3-VL",
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
                    tooltip="A few words of what to draw, or what to change in the pictures.",
                ),
                io.Combo.Input(
                    "profile",
                    options=["auto", *PROFILES],
                    default="auto",
                    advanced=True,
                    tooltip="How the drawing model wants its encoder to be asked. 'auto' goes by the CLIP.",
                ),
                io.Combo.Input(
                    "system_prompt",
                    options=[AS_PROFILE, *SYSTEM_PROMPTS, CUSTOM, *presets.names(SYSTEM)],
                    default=AS_PROFILE,
                    tooltip="What kind of description is written.",
                ),
                io.String.Input(
                    "custom_system_prompt",
                    multiline=True,
                    default="",
                    tooltip="Your own system prompt, used when system_prompt is 'custom'.",
                ),
                io.Combo.Input(
                    "selection",
                    options=[AS_PROFILE, *REWRITE_SELECTIONS],
                    default=AS_PROFILE,
                    advanced=True,
                    tooltip="Which tokens condition the picture. 'images and rewritten text' is the "
                    "paper's rule; 'encode the rewritten text as a prompt' reads the text a "
                    "second time, as graphs without VERIFI do.",
                ),
                io.DynamicCombo.Input(
                    "sampling",
                    options=[
                        io.DynamicCombo.Option(key="greedy", inputs=[]),
                        io.DynamicCombo.Option(key="sample", inputs=sampling_inputs()),
                    ],
                    tooltip="'greedy' writes the likeliest text; 'sample' draws another one for every seed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="For 'sample': the same seed, text and settings write the same text.",
                ),
                io.Int.Input(
                    "min_length",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="Tokens before which the text does not end.",
                ),
                io.Int.Input(
                    "max_length",
                    default=256,
                    min=1,
                    max=4096,
                    tooltip="Most tokens to write. Writing also stops when the drawing model's window is full.",
                ),
                io.String.Input(
                    "prefill",
                    default="",
                    advanced=True,
                    tooltip="First words of the text, e.g. 'A photograph of'. They steer it, and stop refusals.",
                ),
                io.String.Input(
                    "edited_text",
                    multiline=True,
                    default="",
                    tooltip="The text that was written. Change it and it is locked: it takes the place of the "
                    "rewrite and nothing is written until you unlock it.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "bf16"],
                    default="auto",
                    advanced=True,
                    tooltip="'auto' computes as ComfyUI's own text generation does: bf16 on a GPU that "
                    "has it, else fp32. bf16 is several times faster there and differs from "
                    "ComfyUI's fp32 encoding by a few percent in the states.",
                ),
                io.String.Input(
                    "taps",
                    default="",
                    advanced=True,
                    tooltip="Layers to read, e.g. '2, 5, 8'. Empty uses the profile's; the drawing model "
                    "must have been trained with the same.",
                ),
                *picture_inputs(),
                io.Boolean.Input(
                    "as_written",
                    display_name="draw from",
                    default=False,
                    optional=True,
                    label_on="as written",
                    label_off="rewrite",
                    tooltip="'as written' reads the prompt as it is, like VLM Encode: one click to compare with the "
                    "rewrite.",
                ),
                io.Int.Input(
                    "variations",
                    default=1,
                    min=1,
                    max=VARIATIONS,
                    optional=True,
                    tooltip="Texts to write at once, with this seed and those behind it; each is drawn as a picture of "
                    "its own. Needs sampling 'sample'.",
                ),
            ],
            hidden=[io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            outputs=[
                HiddenStatesSocket.Output(
                    "hidden_states",
                    display_name="hidden states",
                    is_output_list=True,
                    tooltip="One for each variation; what comes behind runs once for each.",
                ),
                HiddenStatesSocket.Output(
                    "negative",
                    display_name="negative",
                    tooltip="The usual negative: the empty prompt, with the same pictures where the drawing model was "
                    "trained so, without them for the miniature and Boogu-Image.",
                ),
                io.String.Output("text", display_name="text", is_output_list=True, tooltip="What was written."),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        prompt,
        profile,
        system_prompt,
        custom_system_prompt,
        selection,
        sampling,
        seed,
        min_length,
        max_length,
        prefill,
        edited_text,
        precision="auto",
        taps="",
        references=None,
        images=None,
        as_written=False,
        variations=1,
    ) -> io.NodeOutput:
        asked, unknown = use_names(prompt, references)
        edited_text, unknown_too = use_names(edited_text, references)
        read = {
            "profile": profile,
            "precision": precision,
            "taps": taps,
            "references": references,
            "images": images,
            "later": True,
        }
        if as_written:
            states, negative, text, report = studio.read_as_written(clip, asked, **read)
            report = "\n".join([report, *unknown])
            return io.NodeOutput([states], negative, [text], report, ui={"report": [report]})
        system_prompt, custom_system_prompt = presets.system_prompt(system_prompt, custom_system_prompt)
        made = rewrite.run_variations(
            clip,
            asked,
            system_prompt=system_prompt,
            custom_system_prompt=custom_system_prompt,
            selection=selection,
            sampling=sampling,
            seed=seed,
            min_length=min_length,
            max_length=max_length,
            prefill=prefill,
            edited_text=edited_text,
            variations=variations,
            **read,
        )
        names = dict.fromkeys([*unknown, *unknown_too])
        seeds = seeds_of(seed, len(made))
        texts = [(one.text, its, "\n".join([one.report, *names])) for one, its in zip(made, seeds, strict=True)]
        if cls.hidden is not None:
            studio.write_into_workflow(cls.hidden.extra_pnginfo, cls.hidden.unique_id, texts=texts, prompt=prompt)
        report = studio.joined_report(texts)
        return io.NodeOutput(
            [one.hidden_states for one in made],
            made[0].negative,
            [one.text for one in made],
            report,
            ui={
                "text": [text for text, _, _ in texts],
                "report": [one for _, _, one in texts],
                "prompt": [prompt],
                "seed": seeds,
            },
        )

    @classmethod
    def validate_inputs(
        cls,
        prompt=None,
        edited_text=None,
        system_prompt=None,
        custom_system_prompt=None,
        taps=None,
        as_written=False,
        references="",
        images=None,
        sampling=None,
        variations=None,
    ):
        if not as_written:
            system_prompt, custom_system_prompt = presets.system_prompt(system_prompt, custom_system_prompt)
        check_rewrite(
            # As written, the text that is kept and the system prompt are not used; an empty prompt is a negative.
            prompt=None if as_written else prompt,
            edited_text=edited_text,
            system_prompt=None if as_written else system_prompt,
            custom_system_prompt=custom_system_prompt,
            taps=taps,
            pictures=references is None or bool(images),  # what comes through a link is None
        )
        if not as_written and not edited_text and variations is not None:
            check_variations(variations, (sampling or {}).get("sampling"))
        return True
