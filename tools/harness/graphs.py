"""The shipped workflows, each once: what is in it, where it stands on the canvas, and the API prompt it must give.

``python tools/build_workflows.py`` turns these into the files of ``workflows/`` with the real frontend.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

KREA_FILES = "https://huggingface.co/Comfy-Org/Krea-2/resolve/main/"
PACK_ID = "comfyui-unifusion"
GAP, BETWEEN = 40, 60  # pixels between columns, and between the nodes of one


def model_file(directory: str, name: str, url: str | None = None) -> dict:
    """An entry of ``properties.models``, from which the frontend offers the download."""
    return {"name": name, "url": url or f"{KREA_FILES}{directory}/{name}", "directory": directory}


@dataclass
class Node:
    """One node. ``inputs`` has the values of widgets and the links ``(key of a node, index of its output)``."""

    type: str
    inputs: dict = field(default_factory=dict)
    title: str | None = None
    models: list[dict] = field(default_factory=list)
    behind_links: dict = field(default_factory=dict)  # values of linked widgets, used when the link goes


@dataclass
class Subgraph:
    """Nodes that stand on the canvas as one.

    Attributes:
        nodes: keys of the nodes inside.
        outside: (key, widget) of what can be set from outside, shown under the widget's own name.
    """

    nodes: list[str]
    outside: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Graph:
    """One workflow.

    Attributes:
        name: of its file and in the template browser.
        nodes: by a short key; the order gives the ids.
        groups: title -> keys of the nodes inside.
        notes: markdown; the places are "note" and so on.
        columns: (width, [(key, title of a subgraph or "note", height), ...]) from left to right.
        subgraphs: by their title.
        runs: whether it runs on what the pack ships.
        picture: key of the node whose picture is the thumbnail.
    """

    name: str
    nodes: dict[str, Node]
    notes: list[str]
    columns: list[tuple[int, list[tuple[str, int]]]]
    groups: dict[str, list[str]] = field(default_factory=dict)
    subgraphs: dict[str, Subgraph] = field(default_factory=dict)
    runs: bool = True
    picture: str = "save"

    def places(self) -> dict[str, tuple[int, int, int, int]]:
        """Left, top, width and height of everything on the canvas."""
        found, left = {}, 0
        for width, column in self.columns:
            top = 0
            for key, height in column:
                found[key] = (left, top, width, height)
                top += height + BETWEEN
            left += width + GAP
        for subgraph in self.subgraphs.values():
            left = 0
            for key in subgraph.nodes:
                found[key] = (left, 0, 340, 300)
                left += 340 + GAP
        return found

    def panel(self) -> tuple[list[tuple[str, str]], list[str]]:
        """What stands outside in app mode: (key or title of a subgraph, widget) of prompts, pictures and seeds, in the
        order of the columns, and the keys of the results."""
        found: list[tuple[int, str, str]] = []
        inside = {key for subgraph in self.subgraphs.values() for key in subgraph.nodes}
        for order, widgets in enumerate((("prompt",), ("picture", "image"), ("seed", "noise_seed"))):
            for _, column in self.columns:
                for place, _ in column:
                    outside = [name for _, name in self.subgraphs[place].outside] if place in self.subgraphs else []
                    node = self.nodes.get(place)
                    # The seed of a rewrite counts only where it is drawn by chance; the sampler's is the picture's.
                    own = list(node.inputs) if node and place not in inside else []
                    if node and node.type == "UniFusionVerifiRewrite":
                        own.remove("seed")
                    found += [(order, place, name) for name in widgets if name in [*outside, *own]]
        found = [one for one in found if not isinstance(self._value(one[1], one[2]), tuple)]
        results = [key for key, node in self.nodes.items() if node.type in ("SaveImage", "UniFusionInspect")]
        return [(place, name) for _, place, name in found], results

    def _value(self, place: str, name: str):
        return self.nodes[place].inputs.get(name) if place in self.nodes else None

    def ids(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.nodes, 1)}

    def api(self) -> dict:
        """The API prompt."""
        ids = self.ids()
        return {
            str(ids[key]): {
                "class_type": node.type,
                "inputs": {
                    name: [str(ids[value[0]]), value[1]] if isinstance(value, tuple) else value
                    for name, value in node.inputs.items()
                },
            }
            for key, node in self.nodes.items()
        }


def load() -> Node:
    return Node("UniFusionLoadModel", {"model": "bundled miniature"})


def sample(picture: str) -> Node:
    return Node("UniFusionSamplePicture", {"picture": picture})


def encode(prompt: str | tuple[str, int], clip=("load", 1), **more) -> Node:
    return Node(
        "UniFusionVLMEncode",
        {
            "clip": clip,
            "prompt": prompt,
            "profile": "auto",
            "selection": "as the profile",
            "system_prompt": "",
            "taps": "",
            "precision": "fp32",
            **more,
        },
    )


def verifi(prompt: str, clip=("load", 1), system_prompt="as the profile", **more) -> Node:
    return Node(
        "UniFusionVerifiRewrite",
        {
            "clip": clip,
            "prompt": prompt,
            "profile": "auto",
            "system_prompt": system_prompt,
            "custom_system_prompt": "",
            "selection": "as the profile",
            "sampling": "greedy",
            "seed": 0,
            "min_length": 0,
            "max_length": 256,
            "prefill": "",
            "edited_text": "",
            "precision": "auto",
            "taps": "",
            "as_written": False,
            "variations": 1,
            **more,
        },
    )


def board(*rows: tuple[str, str, float], **more) -> Node:
    """Multi-Reference Combine; a row is (key of the picture's node, name, strength)."""
    kept = [
        {"slot": f"image{number}", "name": name, "strength": strength, "on": True}
        for number, (_, name, strength) in enumerate(rows)
    ]
    return Node(
        "UniFusionMultiReferenceCombine",
        {
            "budget": 0,
            "detail": "one view",
            "labels": "none",
            **{f"images.image{number}": (key, 0) for number, (key, *_) in enumerate(rows)},
            "board": json.dumps(kept),
            "job": "whole",
            **more,
        },
    )


def pool(source: str, model=("load", 0), **more) -> Node:
    return Node(
        "UniFusionLayerwiseAttentionPool",
        {
            "model": model,
            "positive": (source, 0),
            "gain_preset": "off",
            "gains": "",
            "keep_rms": True,
            "negative": (source, 1),
            **more,
        },
    )


def sampler(pooled: str, latent="latent", preset="UniFusion miniature", seed=1, **more) -> Node:
    return Node(
        "UniFusionDiTSampler",
        {
            "model": (pooled, 0),
            "positive": (pooled, 1),
            "latent_image": (latent, 0),
            "seed": seed,
            "preset": preset,
            "denoise": 1.0,
            "negative": (pooled, 2),
            "image_guidance": -1.0,
            **more,
        },
    )


def empty(width=128, height=128) -> Node:
    return Node("EmptyLatentImage", {"width": width, "height": height, "batch_size": 1})


def decode(drawn: str, vae=("load", 2)) -> Node:
    return Node("VAEDecode", {"samples": (drawn, 0), "vae": vae})


def enlarge(decoded: str) -> Node:
    """Four times as large for the eye: the miniature draws 128 x 128 pixels."""
    return Node("ImageScaleBy", {"image": (decoded, 0), "upscale_method": "lanczos", "scale_by": 4.0})


def save(image: str, prefix="UniFusion", title=None) -> Node:
    return Node("SaveImage", {"images": (image, 0), "filename_prefix": prefix}, title)


def drawing(source: str, prefix="", model=("load", 0), vae=("load", 2), size=128, **more) -> dict[str, Node]:
    """From hidden states to a picture, to stand in a subgraph; the result is ``<prefix>shown``, of Krea 2 ``decode``."""
    drawn = {
        f"{prefix}latent": empty(size, size),
        f"{prefix}pool": pool(source, model),
        f"{prefix}draw": sampler(f"{prefix}pool", f"{prefix}latent", **more),
        f"{prefix}decode": decode(f"{prefix}draw", vae),
    }
    return drawn | ({f"{prefix}shown": enlarge(f"{prefix}decode")} if size == 128 else {})


def drawing_subgraph(prefix="", last="shown") -> Subgraph:
    keys = ("latent", "pool", "draw", "decode") + (("shown",) if last == "shown" else ())
    return Subgraph(
        [f"{prefix}{key}" for key in keys],
        [(f"{prefix}draw", "seed"), (f"{prefix}latent", "width"), (f"{prefix}latent", "height")],
    )


WORLD = (
    "The miniature knows coloured shapes on plain backgrounds at 128 x 128 pixels: circle, square, triangle, star, "
    "cross, ring, heart and crescent, solid, striped or dotted, on white, gray, black, beige or navy. For real pictures "
    "open a *Krea 2* template: only the loaders differ."
)
OWN = "**Your own picture:** drag it onto the canvas and lead the **IMAGE** of its *Load Image* where *Sample Picture* leads."

KREA_NOTE = """## {title}

Put each file into its folder, then press *R* on the canvas.

**models/diffusion_models** (about 13 GB)
[{dit}]({files}diffusion_models/{dit})

**models/text_encoders** (about 5 GB)
[qwen3vl_4b_fp8_scaled.safetensors]({files}text_encoders/qwen3vl_4b_fp8_scaled.safetensors)

**models/vae** (about 0.3 GB)
[qwen_image_vae.safetensors]({files}vae/qwen_image_vae.safetensors)
{more}
**Memory.** A 16 GB card holds the drawing model whole; with less, ComfyUI keeps a part in main memory (32 GB) and draws slower. Encoder and drawing model need not fit together: the encoder makes way.

**Size.** Best near one megapixel: 1024 x 1024, 1248 x 832, 832 x 1248. Width and height are on the node that draws.

**Prompt.** {advice}

**Licence.** The weights come under Krea's own licence, to be read [beside the files](https://huggingface.co/Comfy-Org/Krea-2) before they are used for work; this pack is Apache-2.0.
"""
TURBO_ADVICE = (
    "A few words are enough: *VERIFI Rewrite* writes the description, in the prompt's language. Say what must be there; "
    "what you leave open it chooses. Text and prompt together should stay below 512 tokens, about 350 words. No negative "
    "is needed: Turbo draws 8 steps at CFG 1."
)
RAW_ADVICE = (
    "Here the prompt is read as it is: describe subject, place, light and manner in whole sentences, up to about 350 "
    "words (512 tokens). **(word:1.4)** makes a word count more. Raw draws 28 steps at CFG 4.5 and takes several times as "
    "long as Turbo; the second drawing adds detail, **denoise** says how much."
)


def krea_loaders(dit: str) -> dict[str, Node]:
    clip, vae = "qwen3vl_4b_fp8_scaled.safetensors", "qwen_image_vae.safetensors"
    return {
        "unet": Node(
            "UNETLoader",
            {"unet_name": dit, "weight_dtype": "default"},
            models=[model_file("diffusion_models", dit)],
        ),
        "clip": Node(
            "CLIPLoader",
            {"clip_name": clip, "type": "krea2", "device": "default"},
            models=[model_file("text_encoders", clip)],
        ),
        "vae": Node("VAELoader", {"vae_name": vae}, models=[model_file("vae", vae)]),
    }


TEXT = Graph(
    "01 Text to picture with VERIFI",
    {
        "load": load(),
        "latent": empty(),
        "rewrite": verifi("a red circle in the top left and a blue star in the bottom right"),
        "pool": pool("rewrite"),
        "draw": sampler("pool"),
        "decode": decode("draw"),
        "shown": enlarge("decode"),
        "save": save("shown"),
    },
    [
        "## Text to picture\n\nPress **Run**. The model rewrites the few words into a full description; that same "
        "pass conditions the picture. Change a word of the text and run again.\n\n" + WORLD
    ],
    [
        (230, [("load", 130), ("note", 560)]),
        (400, [("rewrite", 780)]),
        (250, [("pool", 300), ("latent", 140)]),
        (250, [("draw", 300)]),
        (226, [("Decode, enlarge", 100)]),
        (310, [("save", 420)]),
    ],
    subgraphs={"Decode, enlarge": Subgraph(["decode", "shown"])},
)

PLAIN = Graph(
    "02 Plain prompt, stock sampler",
    {
        "load": load(),
        "latent": empty(),
        "encode": encode("a large green square in the center on a black background"),
        "pool": pool("encode"),
        "draw": Node(
            "KSampler",
            {
                "model": ("pool", 0),
                "seed": 1,
                "steps": 16,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ("pool", 1),
                "negative": ("pool", 2),
                "latent_image": ("latent", 0),
                "denoise": 1.0,
            },
        ),
        "decode": decode("draw"),
        "shown": enlarge("decode"),
        "save": save("shown"),
    },
    [
        "## Without rewriting\n\n*VLM Encode* reads the prompt as it is. *Layerwise Attention Pool* hands out ordinary "
        "MODEL and CONDITIONING, so any sampler works: here the stock KSampler."
    ],
    [
        (230, [("load", 130), ("note", 320)]),
        (380, [("encode", 460)]),
        (250, [("pool", 300), ("latent", 140)]),
        (260, [("draw", 340)]),
        (226, [("Decode, enlarge", 100)]),
        (330, [("save", 440)]),
    ],
    subgraphs={"Decode, enlarge": Subgraph(["decode", "shown"])},
)

EDIT = Graph(
    "03 Edit by instruction",
    {
        "load": load(),
        "picture": sample("red circle on white"),
        "rewrite": verifi("make the circle green", **{"images.image0": ("picture", 0)}),
        **drawing("rewrite", seed=2),
        "save": save("shown"),
    },
    [
        "## Edit by instruction\n\nThe picture goes to the vision-language model only: no VAE encode, no mask. It "
        "writes what the changed picture shows, and that pass conditions the drawing.\n\n" + OWN + "\n\n" + WORLD
    ],
    [
        (300, [("load", 130), ("picture", 110), ("note", 520)]),
        (460, [("rewrite", 800)]),
        (300, [("Draw", 260)]),
        (460, [("save", 540)]),
    ],
    subgraphs={"Draw": drawing_subgraph()},
)

READ = "image 1 and image 2 together"
TWO = Graph(
    "04 Two references with strengths",
    {
        "load": load(),
        "heart": sample("red heart on white"),
        "night": sample("yellow star on navy"),
        "combine": board(("heart", "heart", 1.0), ("night", "night", 4.0)),
        "encode": encode("@heart and @night together", references=("combine", 0)),
        **drawing("encode", seed=4),
        "save": save("shown", title="night at strength 4"),
        "even_encode": encode(READ, **{"images.image0": ("heart", 0), "images.image1": ("night", 0)}),
        **drawing("even_encode", "even_", seed=4),
        "even_save": save("even_shown", "UniFusion even", title="both at strength 1"),
    },
    [
        "## Strengths\n\nThe board gives each picture a name and a strength: 1 is neutral, 2 counts as if it were "
        "given twice, 0 leaves it out. The prompt may say **@heart**. Above, the night counts four times; below, both "
        "count the same and the heart wins.\n\n" + OWN
    ],
    [
        (300, [("load", 130), ("heart", 110), ("night", 110), ("note", 380)]),
        (460, [("combine", 620)]),
        (330, [("Read and draw", 400), ("Read and draw, both at 1", 400)]),
        (400, [("save", 400), ("even_save", 400)]),
    ],
    subgraphs={
        "Read and draw": Subgraph(
            ["encode", "latent", "pool", "draw", "decode", "shown"], [("encode", "prompt"), ("draw", "seed")]
        ),
        "Read and draw, both at 1": Subgraph(
            ["even_encode", "even_latent", "even_pool", "even_draw", "even_decode", "even_shown"],
            [("even_encode", "prompt"), ("even_draw", "seed")],
        ),
    },
)

SILENCED = "3, 5"  # of single layers the other ones take the place; without these two the circle is gone
INSPECT = Graph(
    "05 Look inside",
    {
        "load": load(),
        "first": sample("red circle on white"),
        "encode": verifi("make the circle green", **{"images.image0": ("first", 0)}),
        "inspect": Node(
            "UniFusionInspect",
            {
                "hidden_states": ("encode", 0),
                "model": ("load", 0),
                "words": "",
                "heat_map": "circle",
                "silence": SILENCED,
                "view": "all pages",
                "images.image0": ("first", 0),
                "pages": "one page",
            },
        ),
        **drawing("encode", seed=2),
        "save": save("shown", title="All layers"),
        **drawing("encode", "less_", seed=2),
        "less_save": save("less_shown", "UniFusion silenced", title="Without layers 3 and 5"),
    },
    [
        "## Look inside\n\n*UniFusion Inspect* shows how much each layer of the vision-language model gives, which "
        "layers a word attends to, a heat map over the picture, and what the tokens are spent on.\n\nWrite a word or a "
        "layer's number into **heat_map**. Layers named in **silence** are switched off in the second drawing."
    ],
    [
        (250, [("load", 130), ("first", 110), ("note", 420)]),
        (390, [("encode", 780)]),
        (520, [("inspect", 880)]),
        (260, [("Draw", 280), ("Draw without layers", 280)]),
        (290, [("save", 380), ("less_save", 380)]),
    ],
    subgraphs={"Draw": drawing_subgraph(), "Draw without layers": drawing_subgraph("less_")},
    picture="inspect",
)
INSPECT.nodes["less_pool"].inputs["positive"] = ("inspect", 1)

SAVED = Graph(
    "06 Save conditioning, draw without the encoder",
    {
        "load": load(),
        "latent": empty(),
        "rewrite": verifi("a yellow star in the center and a green square in the top right"),
        "pool": pool("rewrite"),
        "store": Node(
            "UniFusionSaveConditioning",
            {"positive": ("pool", 1), "filename_prefix": "conditioning/yellow star", "negative": ("pool", 2)},
        ),
        "restore": Node(
            "UniFusionLoadConditioning",
            {"file": ("store", 0), "model": ("load", 0)},
            behind_links={"file": "conditioning/yellow star_00001_.safetensors [output]"},
        ),
        "draw": Node(
            "UniFusionDiTSampler",
            {
                "model": ("restore", 0),
                "positive": ("restore", 1),
                "latent_image": ("latent", 0),
                "seed": 1,
                "preset": "UniFusion miniature",
                "denoise": 1.0,
                "negative": ("restore", 2),
                "image_guidance": -1.0,
            },
        ),
        "decode": decode("draw"),
        "shown": enlarge("decode"),
        "save": save("shown"),
    },
    [
        "## Draw without the encoder\n\nRun once. Then bypass the group *Read and save* (select it, *Ctrl+B*) and run "
        "again: the vision-language model is not loaded any more, only the drawing model. *Load Conditioning* offers "
        "the saved files.\n\nThey lie in **output/conditioning** and can be shared."
    ],
    [
        (230, [("load", 130), ("note", 420)]),
        (400, [("rewrite", 780)]),
        (280, [("pool", 300), ("store", 240)]),
        (290, [("restore", 300)]),
        (240, [("Draw", 260)]),
        (240, [("save", 340)]),
    ],
    groups={"Read and save (bypass after the first run)": ["rewrite", "pool", "store"]},
    subgraphs={
        "Draw": Subgraph(
            ["latent", "draw", "decode", "shown"], [("draw", "seed"), ("latent", "width"), ("latent", "height")]
        )
    },
)

STYLE = Graph(
    "07 Style of one picture, subject of another",
    {
        "load": load(),
        "subject": sample("red heart on white"),
        "style": sample("green striped circle on navy"),
        "combine": board(("subject", "subject", 1.0), ("style", "style", 1.5)),
        "rewrite": verifi("the heart of @subject on the background of @style", references=("combine", 0)),
        **drawing("rewrite", seed=3),
        "save": save("shown"),
    },
    [
        "## Style and subject\n\nNames of the board stand in the prompt as **@subject** and **@style**. Write what to take "
        "from which picture. A row's last two numbers let a picture count in one part of the schedule only: early steps "
        "make the layout, late ones the details.\n\n" + OWN
    ],
    [
        (280, [("load", 130), ("subject", 110), ("style", 110), ("note", 400)]),
        (420, [("combine", 620)]),
        (430, [("rewrite", 800)]),
        (280, [("Draw", 260)]),
        (300, [("save", 400)]),
    ],
    subgraphs={"Draw": drawing_subgraph()},
)

TURBO_DIT, RAW_DIT = "krea2_turbo_fp8_scaled.safetensors", "krea2_raw_fp8_scaled.safetensors"

TURBO = Graph(
    "08 Krea 2 Turbo with VERIFI",
    {
        **krea_loaders(TURBO_DIT),
        "rewrite": verifi("a fox reading a newspaper in a cafe, morning light", ("clip", 0)),
        **drawing("rewrite", model=("unet", 0), vae=("vae", 0), size=1024, preset="Krea 2 Turbo"),
        "save": save("decode", "Krea 2 Turbo"),
    },
    [KREA_NOTE.format(title="Krea 2 Turbo", dit=TURBO_DIT, files=KREA_FILES, advice=TURBO_ADVICE, more="")],
    [
        (280, [("unet", 120), ("clip", 140), ("vae", 100)]),
        (400, [("note", 840)]),
        (430, [("rewrite", 800)]),
        (240, [("Draw", 260)]),
        (380, [("save", 480)]),
    ],
    subgraphs={"Draw": drawing_subgraph(last="decode")},
    runs=False,
)

UPSCALER = "RealESRGAN_x4plus.safetensors"
RAW = Graph(
    "09 Krea 2 Raw with upscaler",
    {
        **krea_loaders(RAW_DIT),
        "upscaler": Node(
            "UpscaleModelLoader",
            {"model_name": UPSCALER},
            models=[
                model_file(
                    "upscale_models",
                    UPSCALER,
                    "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
                )
            ],
        ),
        "encode": encode("a lighthouse on a cliff in a storm, oil painting, thick brush strokes", ("clip", 0)),
        "pool": pool("encode", ("unet", 0)),
        "latent": empty(1024, 1024),
        "draw": sampler("pool", preset="Krea 2 Raw"),
        "decode": decode("draw", ("vae", 0)),
        "upscale": Node("ImageUpscaleWithModel", {"upscale_model": ("upscaler", 0), "image": ("decode", 0)}),
        "resize": Node(
            "ImageScale",
            {"image": ("upscale", 0), "upscale_method": "lanczos", "width": 1536, "height": 1536, "crop": "disabled"},
        ),
        "encode_vae": Node("VAEEncode", {"pixels": ("resize", 0), "vae": ("vae", 0)}),
        "draw_again": sampler("pool", "encode_vae", "Krea 2 Raw", 2, denoise=0.3),
        "decode_again": decode("draw_again", ("vae", 0)),
        "save": save("decode_again", "Krea 2 Raw"),
    },
    [
        KREA_NOTE.format(
            title="Krea 2 Raw",
            dit=RAW_DIT,
            files=KREA_FILES,
            advice=RAW_ADVICE,
            more="\n**models/upscale_models** (about 0.07 GB)\n"
            f"[{UPSCALER}](https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/{UPSCALER})\n",
        )
    ],
    [
        (330, [("unet", 120), ("clip", 140), ("vae", 100), ("upscaler", 100)]),
        (420, [("encode", 400), ("note", 660)]),
        (270, [("pool", 300)]),
        (290, [("Draw, enlarge, draw the details", 340)]),
        (440, [("save", 560)]),
    ],
    subgraphs={
        "Draw, enlarge, draw the details": Subgraph(
            ["latent", "draw", "decode", "upscale", "resize", "encode_vae", "draw_again", "decode_again"],
            [("draw", "seed"), ("latent", "width"), ("latent", "height"), ("draw_again", "denoise")],
        )
    },
    runs=False,
)

REGIONS = Graph(
    "10 Regions",
    {
        "load": load(),
        "black": Node("SolidMask", {"value": 0.0, "width": 128, "height": 128}, "Black"),
        "white": Node("SolidMask", {"value": 1.0, "width": 64, "height": 128}, "White, half as wide"),
        "half": Node(
            "MaskComposite",
            {"destination": ("black", 0), "source": ("white", 0), "x": 0, "y": 0, "operation": "add"},
            "Left half",
        ),
        "other": Node("InvertMask", {"mask": ("half", 0)}, "Right half"),
        "left": encode("a large dotted red circle at the middle left on a white background"),
        "right": encode("a large striped blue star at the middle right on a white background"),
        "in_left": Node(
            "UniFusionRegion", {"hidden_states": ("left", 0), "mask": ("half", 0), "strength": 1.0, "feather": 0}
        ),
        "in_right": Node(
            "UniFusionRegion", {"hidden_states": ("right", 0), "mask": ("other", 0), "strength": 1.0, "feather": 0}
        ),
        "latent": empty(),
        "pool": pool("in_left", negative=("left", 1), **{"join.states0": ("in_right", 0)}),
        "draw": sampler("pool", seed=1),
        "decode": decode("draw"),
        "shown": enlarge("decode"),
        "save": save("shown"),
    },
    [
        "## Regions\n\nTwo prompts, each inside its own mask, drawn in **one** pass. Write what stands where, one thing to "
        "a region, and paint your own masks: right-click *Load Image*, *Open in Mask Editor*.\n\nA third encode without a "
        "*Region*, led into *join* as well, counts everywhere.\n\n" + WORLD
    ],
    [
        (300, [("Masks", 120), ("load", 130)]),
        (400, [("left", 440), ("right", 440)]),
        (260, [("in_left", 220), ("in_right", 220)]),
        (300, [("Pool and draw", 260)]),
        (400, [("save", 480), ("note", 400)]),
    ],
    subgraphs={
        "Masks": Subgraph(["black", "white", "half", "other"]),
        "Pool and draw": Subgraph(
            ["latent", "pool", "draw", "decode", "shown"],
            [("draw", "seed"), ("latent", "width"), ("latent", "height")],
        ),
    },
)

COMPARE = Graph(
    "11 Compare strengths",
    {
        "load": load(),
        "picture": sample("yellow star on navy"),
        "reference": Node(
            "UniFusionReference",
            {
                "image": ("picture", 0),
                "label": "",
                "strength": 1.0,
                "detail": "default",
                "start": 0.0,
                "end": 1.0,
                "job": "default",
            },
        ),
        "encode": encode("a large red solid heart at the center", references=("reference", 0)),
        **drawing("encode", seed=2),
        "compare": Node(
            "UniFusionCompare",
            {"image": ("shown", 0), "setting": "strength", "values": "0, 0.5, 1, 2, 4", "which": "", "columns": 0},
        ),
        "save": save("compare", title="The sheet"),
    },
    [
        "## Compare\n\nPress **Run**: the picture is drawn once for every strength, and all stand on one sheet. What the "
        "setting does not change runs once, and the encoder not at all.\n\nChoose another **setting** (seed, layer gains, "
        "system prompt), or *any input* and write the node's number and the input, such as **5.cfg**, into **which**.\n\n"
        + OWN
    ],
    [
        (300, [("load", 130), ("picture", 110), ("note", 440)]),
        (360, [("reference", 300), ("encode", 460)]),
        (300, [("Draw", 260)]),
        (340, [("compare", 560)]),
        (400, [("save", 420)]),
    ],
    subgraphs={"Draw": drawing_subgraph()},
)


HUGGING_FACE = "https://huggingface.co/Comfy-Org/"
AGAIN = "encode the rewritten text as a prompt"


def from_template(folder: str, path: str) -> dict:
    """A file as ComfyUI's own template of the model links it."""
    return model_file(folder, path.split("/")[-1], f"{HUGGING_FACE}{path}")


def loaders(unet: dict, clip: dict, kind: str, vae: dict) -> dict[str, Node]:
    return {
        "unet": Node("UNETLoader", {"unet_name": unet["name"], "weight_dtype": "default"}, models=[unet]),
        "clip": Node("CLIPLoader", {"clip_name": clip["name"], "type": kind, "device": "default"}, models=[clip]),
        "vae": Node("VAELoader", {"vae_name": vae["name"]}, models=[vae]),
    }


def about(*files: dict, size: str, licence: str, advice: str) -> str:
    """The note of a model's template: files, size and memory, licence, how to prompt."""
    rows = "".join(f"**models/{file['directory']}** [{file['name']}]({file['url']})\n\n" for file in files)
    return (
        "## Files for this workflow\n\nPut each file into the folder named, then press *R* on the canvas.\n\n"
        f"{rows}**Size and memory:** {size}\n\n**Licence:** {licence}\n\n**Prompts:** {advice}"
    )


def written_and_drawn(name: str, files, *, kind: str, latent: str, rewrite: Node, note: str) -> Graph:
    """VERIFI to picture on a model without pooling: its loaders, the rewrite, and the rest as one node.

    Args:
        name: the template's number and the model's name.
        files: of the MODEL, the CLIP and the VAE.
        kind: type of the CLIP.
        latent: node that makes an empty latent.
    """
    title = name.split(" ", 1)[1]
    return Graph(
        f"{name} with VERIFI",
        {
            **loaders(*files[:2], kind, files[2]),
            "rewrite": rewrite,
            "latent": Node(latent, {"width": 1024, "height": 1024, "batch_size": 1}),
            "pool": pool("rewrite", ("unet", 0)),
            "draw": sampler("pool", preset=title),
            "decode": decode("draw", ("vae", 0)),
            "save": save("decode", title),
        },
        [note],
        [
            (360, [("unet", 120), ("clip", 140), ("vae", 100), ("note", 560)]),
            (460, [("rewrite", 800)]),
            (300, [("Draw", 260)]),
            (600, [("save", 700)]),
        ],
        subgraphs={"Draw": drawing_subgraph(last="decode")},
        runs=False,
    )


KLEIN_FILES = (
    from_template(
        "diffusion_models", "flux2-klein/resolve/main/split_files/diffusion_models/flux-2-klein-4b.safetensors"
    ),
    from_template("text_encoders", "flux2-klein/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors"),
    from_template("vae", "flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors"),
)
KLEIN = written_and_drawn(
    "12 FLUX.2 klein",
    KLEIN_FILES,
    kind="flux2",
    latent="EmptyFlux2LatentImage",
    rewrite=verifi("a hedgehog in a tiny party hat, flash photo", ("clip", 0), selection=AGAIN),
    note=about(
        *KLEIN_FILES,
        size="model and encoder have 4 billion parameters each, about 8 GB a file in bf16; ComfyUI loads one after the "
        "other.",
        licence="4B: Apache 2.0; 9B: FLUX non-commercial.",
        advice="a few words; Qwen3-4B, which is loaded anyway, writes them out in your language. The text is then read "
        "as a prompt, which is nearest to the model's training; another **selection** takes the states of the pass that "
        "wrote.",
    ),
)

Z_IMAGE_FILES = (
    from_template(
        "diffusion_models", "z_image_turbo/resolve/main/split_files/diffusion_models/z_image_turbo_bf16.safetensors"
    ),
    from_template("text_encoders", "z_image_turbo/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors"),
    from_template("vae", "z_image_turbo/resolve/main/split_files/vae/ae.safetensors"),
)
Z_IMAGE = written_and_drawn(
    "13 Z-Image Turbo",
    Z_IMAGE_FILES,
    kind="lumina2",
    latent="EmptySD3LatentImage",
    rewrite=verifi('a night market in the rain, a sign that says "猫"', ("clip", 0), selection=AGAIN, max_length=512),
    note=about(
        *Z_IMAGE_FILES,
        size="20.8 GB of files; model and encoder are loaded one after the other.",
        licence="Apache 2.0.",
        advice="a few words in English or Chinese; Qwen3-4B, which is loaded anyway, writes out what a camera would see, "
        "in your language. Words to be read stand in quotation marks.",
    ),
)

QWEN_EDIT_FILES = (
    from_template(
        "diffusion_models",
        "Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/qwen_image_edit_2511_bf16.safetensors",
    ),
    from_template(
        "text_encoders",
        "HunyuanVideo_1.5_repackaged/resolve/main/split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
    ),
    from_template("vae", "Qwen-Image_ComfyUI/resolve/main/split_files/vae/qwen_image_vae.safetensors"),
    model_file("text_encoders", "qwen3vl_4b_fp8_scaled.safetensors"),
)
WRITER = QWEN_EDIT_FILES[3]
QWEN_EDIT = Graph(
    "14 Qwen-Image Edit with VERIFI",
    {
        **loaders(*QWEN_EDIT_FILES[:2], "qwen_image", QWEN_EDIT_FILES[2]),
        "writer": Node(
            "CLIPLoader",
            {"clip_name": WRITER["name"], "type": "krea2", "device": "default"},
            "Load CLIP (writes)",
            models=[WRITER],
        ),
        "picture": sample("red heart on white"),
        "rewrite": verifi(
            "paint it blue, on green paper", ("writer", 0), "Qwen-Image Edit", **{"images.image0": ("picture", 0)}
        ),
        "scale": Node("FluxKontextImageScale", {"image": ("picture", 0)}),
        "latent": Node("VAEEncode", {"pixels": ("scale", 0), "vae": ("vae", 0)}),
        "encode": encode(("rewrite", 2), ("clip", 0), **{"images.image0": ("scale", 0)}),
        "shift": Node("ModelSamplingAuraFlow", {"model": ("unet", 0), "shift": 3.1}),
        "norm": Node("CFGNorm", {"model": ("shift", 0), "strength": 1.0, "pre_cfg": False}),
        "pool": pool("encode", ("norm", 0)),
        "above": Node("ReferenceLatent", {"conditioning": ("pool", 1), "latent": ("latent", 0)}),
        "below": Node("ReferenceLatent", {"conditioning": ("pool", 2), "latent": ("latent", 0)}),
        "draw": Node(
            "KSampler",
            {
                "model": ("pool", 0),
                "seed": 1,
                "steps": 20,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ("above", 0),
                "negative": ("below", 0),
                "latent_image": ("latent", 0),
                "denoise": 1.0,
            },
        ),
        "decode": decode("draw", ("vae", 0)),
        "save": save("decode", "Qwen-Image Edit"),
    },
    [
        about(
            *QWEN_EDIT_FILES,
            size="about 51 GB of files with the model in bf16, and the small CLIP that writes.",
            licence="Apache 2.0.",
            advice="an instruction. ComfyUI 0.30 cannot write with this model's own encoder, so Qwen3-VL-4B writes it out and "
            "*VLM Encode* inside the subgraph reads text and picture. Without the second CLIP, write into *VLM Encode*.\n\n"
            + OWN,
        )
    ],
    [
        (360, [("writer", 140), ("unet", 120), ("clip", 140), ("vae", 100), ("picture", 110)]),
        (430, [("rewrite", 800)]),
        (380, [("Read and draw", 260), ("note", 560)]),
        (520, [("save", 620)]),
    ],
    subgraphs={
        "Read and draw": Subgraph(
            ["scale", "latent", "encode", "shift", "norm", "pool", "above", "below", "draw", "decode"],
            [("draw", "seed"), ("draw", "steps"), ("draw", "cfg")],
        )
    },
    runs=False,
)

IDEOGRAM_FILES = (
    from_template("diffusion_models", "Ideogram-4/resolve/main/diffusion_models/ideogram4_fp8_scaled.safetensors"),
    from_template("text_encoders", "Qwen3-VL/resolve/main/text_encoders/qwen3vl_8b_fp8_scaled.safetensors"),
    from_template("vae", "flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors"),
    from_template(
        "diffusion_models", "Ideogram-4/resolve/main/diffusion_models/ideogram4_unconditional_fp8_scaled.safetensors"
    ),
)
UNCONDITIONAL = IDEOGRAM_FILES[3]
IDEOGRAM = Graph(
    "15 Ideogram 4 with VERIFI",
    {
        **loaders(*IDEOGRAM_FILES[:2], "ideogram4", IDEOGRAM_FILES[2]),
        "without": Node(
            "UNETLoader",
            {"unet_name": UNCONDITIONAL["name"], "weight_dtype": "default"},
            "Load Diffusion Model (without text)",
            models=[UNCONDITIONAL],
        ),
        "size": Node("ResolutionSelector", {"aspect_ratio": "1:1 (Square)", "megapixels": 1.0, "multiple": 16}),
        "rewrite": verifi('a poster for a jazz night, bold letters that say "BLUE HOUR"', ("clip", 0), max_length=1024),
        "pool": pool("rewrite", ("unet", 0)),
        "late": Node("CFGOverride", {"model": ("pool", 0), "cfg": 3.0, "start_percent": 0.7, "end_percent": 1.0}),
        "zeros": Node("ConditioningZeroOut", {"conditioning": ("pool", 1)}),
        "guide": Node(
            "DualModelGuider",
            {
                "model": ("late", 0),
                "model_negative": ("without", 0),
                "positive": ("pool", 1),
                "cfg": 7.0,
                "negative": ("zeros", 0),
            },
        ),
        "noise": Node("RandomNoise", {"noise_seed": 1}),
        "euler": Node("KSamplerSelect", {"sampler_name": "euler"}),
        "sigmas": Node(
            "Ideogram4Scheduler", {"steps": 20, "width": ("size", 0), "height": ("size", 1), "mu": 0.0, "std": 1.75}
        ),
        "latent": Node("EmptyFlux2LatentImage", {"width": ("size", 0), "height": ("size", 1), "batch_size": 1}),
        "draw": Node(
            "SamplerCustomAdvanced",
            {
                "noise": ("noise", 0),
                "guider": ("guide", 0),
                "sampler": ("euler", 0),
                "sigmas": ("sigmas", 0),
                "latent_image": ("latent", 0),
            },
        ),
        "decode": decode("draw", ("vae", 0)),
        "save": save("decode", "Ideogram 4"),
    },
    [
        about(
            *IDEOGRAM_FILES,
            size="26.5 GB of files in fp8; two drawing models guide each other.",
            licence="Ideogram's non-commercial agreement.",
            advice="a few words; Qwen3-VL-8B, which is loaded anyway, writes the JSON caption that the model was trained "
            "with, in your language. A caption that breaks off is closed and the report says so: raise **max_length**. A "
            "caption of your own goes into **edited_text**.",
        )
    ],
    [
        (360, [("unet", 120), ("without", 120), ("clip", 140), ("vae", 100), ("size", 150)]),
        (440, [("rewrite", 800)]),
        (380, [("Draw", 260), ("note", 560)]),
        (520, [("save", 620)]),
    ],
    subgraphs={
        "Draw": Subgraph(
            ["pool", "late", "zeros", "guide", "noise", "euler", "sigmas", "latent", "draw", "decode"],
            [("noise", "noise_seed"), ("sigmas", "steps")],
        )
    },
    runs=False,
)

GRAPHS = [
    TEXT,
    PLAIN,
    EDIT,
    TWO,
    INSPECT,
    SAVED,
    STYLE,
    TURBO,
    RAW,
    REGIONS,
    COMPARE,
    KLEIN,
    Z_IMAGE,
    QWEN_EDIT,
    IDEOGRAM,
]


@dataclass
class Blueprint:
    """A graph as one node of the library.

    Attributes:
        name: of the file and of the node.
        description, aliases: shown and searched in the library.
        nodes: all of it; those in ``outside`` only stand in for what a creator connects.
        outside: keys of the nodes that stay outside.
        widgets: (key, widget, name outside).
        sockets: (key, input, name outside) of links from outside.
        outputs: (key, number, name outside).
    """

    name: str
    description: str
    nodes: dict[str, Node]
    outside: list[str]
    widgets: list[tuple[str, str, str]]
    sockets: list[tuple[str, str, str]]
    outputs: list[tuple[str, int, str]]
    aliases: list[str] = field(default_factory=lambda: ["UniFusion", "VERIFI"])

    def graph(self) -> Graph:
        """All of it flat on the canvas."""
        return Graph(self.name, self.nodes, [], [(340, [(key, 300)]) for key in self.nodes])


def _blueprint(name: str, description: str, nodes: dict[str, Node], source: str, sockets, **more) -> Blueprint:
    """Prompt, seed and size outside; pictures and models as sockets; the picture and its text come out."""
    size = nodes["latent"].inputs["width"]
    text = [(source, 2, "text")] if nodes[source].type == "UniFusionVerifiRewrite" else []
    return Blueprint(
        f"{name} (UniFusion)",
        f"{description} {'For Krea 2 set width and height to 1024.' if size == 128 else ''}".strip(),
        nodes,
        [key for key in nodes if key in ("load", "first", "second", "save")],
        [
            (source, "prompt", "prompt"),
            ("draw", "seed", "seed"),
            *((("latent", side, side)) for side in ("width", "height")),
        ],
        [*sockets],
        [("decode", 0, "image"), *text],
        **more,
    )


def _drawn(source: str, **more) -> dict[str, Node]:
    made = {**drawing(source, preset="auto", **more), "save": save("decode")}
    made.pop("shown", None)
    return made


MODELS = [("pool", "model", "model"), ("decode", "vae", "vae")]
BLUEPRINTS = [
    _blueprint(
        "Text to picture",
        "A few words are rewritten by the encoder that is loaded anyway, and drawn.",
        {"load": load(), "rewrite": verifi("a red circle and a blue star"), **_drawn("rewrite")},
        "rewrite",
        [("rewrite", "clip", "clip"), *MODELS],
    ),
    _blueprint(
        "Edit by instruction",
        "A picture and what to change in it: the vision-language model reads both and writes what is drawn.",
        {
            "load": load(),
            "first": sample("red circle on white"),
            "rewrite": verifi("make the circle green", **{"images.image0": ("first", 0)}),
            **_drawn("rewrite"),
        },
        "rewrite",
        [("rewrite", "clip", "clip"), ("rewrite", "images.image0", "picture"), *MODELS],
    ),
    _blueprint(
        "Two references",
        "Two pictures for one prompt, which may call them @first and @second; names and strengths are on the board inside.",
        {
            "load": load(),
            "first": sample("red heart on white"),
            "second": sample("yellow star on navy"),
            "combine": board(("first", "first", 1.0), ("second", "second", 1.0)),
            "rewrite": verifi("@first and @second together", references=("combine", 0)),
            **_drawn("rewrite"),
        },
        "rewrite",
        [
            ("rewrite", "clip", "clip"),
            ("combine", "images.image0", "picture 1"),
            ("combine", "images.image1", "picture 2"),
            *MODELS,
        ],
    ),
    _blueprint(
        "Krea 2 Turbo",
        "Krea 2 Turbo with its loaders: a few words, and a picture if you like, are rewritten and drawn.",
        {
            **krea_loaders(TURBO_DIT),
            "first": sample("red circle on white"),
            "rewrite": verifi(
                "a fox reading a newspaper in a cafe, morning light", ("clip", 0), **{"images.image0": ("first", 0)}
            ),
            **drawing("rewrite", model=("unet", 0), vae=("vae", 0), size=1024, preset="Krea 2 Turbo"),
            "save": save("decode"),
        },
        "rewrite",
        [("rewrite", "images.image0", "picture")],
        aliases=["UniFusion", "VERIFI", "Krea 2", "Krea 2 Turbo"],
    ),
]
