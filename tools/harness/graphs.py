"""The shipped workflows, each once: what is in it, where it stands on the canvas, and the API prompt it must give.

``python tools/build_workflows.py`` turns these into the files of ``workflows/`` with the real frontend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KREA_FILES = "https://huggingface.co/Comfy-Org/Krea-2/resolve/main/"
PACK_ID = "comfyui-unifusion"


def model_file(directory: str, name: str, url: str | None = None) -> dict:
    """An entry of ``properties.models``, from which the frontend offers the download."""
    return {"name": name, "url": url or f"{KREA_FILES}{directory}/{name}", "directory": directory}


@dataclass
class Node:
    """One node. ``inputs`` has the values of widgets and the links ``(key of a node, index of its output)``."""

    type: str
    at: tuple[int, int]
    size: tuple[int, int]
    inputs: dict = field(default_factory=dict)
    title: str | None = None
    models: list[dict] = field(default_factory=list)
    behind_links: dict = field(default_factory=dict)  # values of linked widgets, used when the link goes


@dataclass
class Graph:
    """One workflow.

    Attributes:
        name: of its file and in the template browser.
        nodes: by a short key; the order gives the ids.
        groups: title -> keys of the nodes inside.
        notes: (markdown, position, size).
        runs: whether it runs on what the pack ships.
        picture: key of the node whose picture is the thumbnail.
    """

    name: str
    nodes: dict[str, Node]
    groups: dict[str, list[str]]
    notes: list[tuple[str, tuple[int, int], tuple[int, int]]]
    runs: bool = True
    picture: str = "save"

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


def load(at=(0, 0)) -> Node:
    return Node("UniFusionLoadModel", at, (300, 120), {"model": "bundled miniature"})


def encode(prompt: str, at, clip=("load", 1), **more) -> Node:
    return Node(
        "UniFusionVLMEncode",
        at,
        (400, 420),
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


def verifi(prompt: str, at, clip=("load", 1), system_prompt="as the profile", **more) -> Node:
    return Node(
        "UniFusionVerifiRewrite",
        at,
        (420, 760),
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
            **more,
        },
    )


def pool(source: str, at, model=("load", 0), **more) -> Node:
    return Node(
        "UniFusionLayerwiseAttentionPool",
        at,
        (340, 300),
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


def sampler(pooled: str, at, latent="latent", preset="UniFusion miniature", seed=1, **more) -> Node:
    return Node(
        "UniFusionDiTSampler",
        at,
        (320, 260),
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


def empty(at, width=128, height=128) -> Node:
    return Node("EmptyLatentImage", at, (300, 120), {"width": width, "height": height, "batch_size": 1})


def decode(drawn: str, at, vae=("load", 2)) -> Node:
    return Node("VAEDecode", at, (220, 60), {"samples": (drawn, 0), "vae": vae})


def save(image: str, at, prefix="UniFusion", size=(360, 400), title=None) -> Node:
    return Node("SaveImage", at, size, {"images": (image, 0), "filename_prefix": prefix}, title)


def preview(image: str, at, size=(300, 330), title=None) -> Node:
    return Node("PreviewImage", at, size, {"images": (image, 0)}, title)


def drawn_picture(key: str, prompt: str, top: int, seed: int) -> dict[str, Node]:
    """Prompt to picture in one row; stands for a picture of the creator's."""
    return {
        f"{key}_encode": encode(prompt, (360, top)),
        f"{key}_pool": pool(f"{key}_encode", (800, top)),
        f"{key}_draw": sampler(f"{key}_pool", (1180, top), seed=seed),
        f"{key}_picture": decode(f"{key}_draw", (1540, top)),
        f"{key}_preview": preview(f"{key}_picture", (1540, top + 110), (260, 300), title="The picture"),
    }


WORLD = (
    "The miniature knows coloured shapes on plain backgrounds at 128 x 128 pixels: circle, square, triangle, star, "
    "cross, ring, heart and crescent, solid, striped or dotted, on white, gray, black, beige or navy. For real pictures "
    "open a *Krea 2* template: only the loaders differ."
)

KREA_NOTE = """## Files for this workflow

Put each file into the folder named, then press *R* on the canvas.

| folder | file |
|---|---|
| `models/diffusion_models` | [{dit}]({files}diffusion_models/{dit}) |
| `models/text_encoders` | [qwen3vl_4b_fp8_scaled.safetensors]({files}text_encoders/qwen3vl_4b_fp8_scaled.safetensors) |
| `models/vae` | [qwen_image_vae.safetensors]({files}vae/qwen_image_vae.safetensors) |
"""


def krea_loaders(dit: str) -> dict[str, Node]:
    clip, vae = "qwen3vl_4b_fp8_scaled.safetensors", "qwen_image_vae.safetensors"
    return {
        "unet": Node(
            "UNETLoader",
            (0, 0),
            (340, 110),
            {"unet_name": dit, "weight_dtype": "default"},
            models=[model_file("diffusion_models", dit)],
        ),
        "clip": Node(
            "CLIPLoader",
            (0, 170),
            (340, 130),
            {"clip_name": clip, "type": "krea2", "device": "default"},
            models=[model_file("text_encoders", clip)],
        ),
        "vae": Node("VAELoader", (0, 360), (340, 80), {"vae_name": vae}, models=[model_file("vae", vae)]),
    }


TEXT = Graph(
    "01 Text to picture with VERIFI",
    {
        "load": load(),
        "latent": empty((0, 200)),
        "rewrite": verifi("a red circle in the top left and a blue star in the bottom right", (380, 0)),
        "pool": pool("rewrite", (860, 0)),
        "draw": sampler("pool", (1260, 0)),
        "decode": decode("draw", (1260, 340)),
        "save": save("decode", (1640, 0)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. Words: the model rewrites them as it reads": ["rewrite"],
        "3. Layers to conditioning": ["pool"],
        "4. Draw": ["draw", "decode", "save"],
    },
    [
        (
            "## Text to picture\n\nPress **Run**. The vision-language model rewrites the few words into a full description; the "
            "states of that same pass condition the picture. The text it wrote appears on *VERIFI Rewrite*.\n\n"
            + WORLD,
            (0, 400),
            (340, 360),
        )
    ],
)

PLAIN = Graph(
    "02 Plain prompt, stock sampler",
    {
        "load": load(),
        "latent": empty((0, 200)),
        "encode": encode("a large green square in the center on a black background", (380, 0)),
        "pool": pool("encode", (840, 0)),
        "draw": Node(
            "KSampler",
            (1240, 0),
            (320, 480),
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
        "decode": decode("draw", (1620, 0)),
        "save": save("decode", (1620, 120)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. Words, read as they are": ["encode"],
        "3. Layers to conditioning": ["pool"],
        "4. Draw with the stock KSampler": ["draw", "decode", "save"],
    },
    [
        (
            "## Without rewriting\n\n*VLM Encode* reads the prompt as it is. *Layerwise Attention Pool* hands out ordinary MODEL "
            "and CONDITIONING, so any sampler works: here the stock KSampler.",
            (0, 400),
            (340, 260),
        )
    ],
)

EDIT = Graph(
    "03 Edit by instruction",
    {
        "load": load(),
        "latent": empty((0, 200)),
        **drawn_picture("first", "a large solid red circle in the center on a white background", 0, 1),
        "rewrite": verifi("make the circle green", (360, 560), **{"images.image0": ("first_picture", 0)}),
        "pool": pool("rewrite", (820, 560)),
        "draw": sampler("pool", (1180, 560), seed=2),
        "decode": decode("draw", (1540, 560)),
        "save": save("decode", (1540, 680)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. A picture to change (or use Load Image)": [
            f"first_{k}" for k in ("encode", "pool", "draw", "picture", "preview")
        ],
        "3. Say what to change, and draw": ["rewrite", "pool", "draw", "decode", "save"],
    },
    [
        (
            "## Edit by instruction\n\nThe picture goes to the vision-language model only: no VAE encode, no mask. It "
            "writes what the changed picture shows, and that pass conditions the drawing. Connect a "
            "*Load Image* to `image0` of the *VERIFI Rewrite* to edit a picture of your own.\n\n" + WORLD,
            (0, 560),
            (320, 420),
        )
    ],
)

TWO = Graph(
    "04 Two references with strengths",
    {
        "load": load(),
        "latent": empty((0, 200)),
        **drawn_picture("first", "a large solid red heart in the top left on a white background", 0, 1),
        **drawn_picture("second", "a large solid yellow star in the bottom right on a navy background", 560, 2),
        "reference1": Node(
            "UniFusionReference",
            (1880, 0),
            (320, 240),
            {
                "image": ("first_picture", 0),
                "label": "",
                "strength": 1.0,
                "detail": "default",
                "start": 0.0,
                "end": 1.0,
            },
        ),
        "reference2": Node(
            "UniFusionReference",
            (1880, 300),
            (320, 240),
            {
                "image": ("second_picture", 0),
                "label": "",
                "strength": 1.0,
                "detail": "default",
                "start": 0.0,
                "end": 1.0,
                "references": ("reference1", 0),
            },
        ),
        "combine": Node(
            "UniFusionMultiReferenceCombine",
            (1880, 600),
            (320, 460),
            {"budget": 0, "detail": "one view", "labels": "none", "references": ("reference2", 0)},
        ),
        "rewrite": verifi("put the heart of image 1 into image 2", (2260, 0), references=("combine", 0)),
        "pool": pool("rewrite", (2260, 820)),
        "draw": sampler("pool", (2740, 0), seed=3),
        "decode": decode("draw", (2740, 320)),
        "save": save("decode", (2740, 440)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. Two pictures (or use Load Image)": [
            f"{p}_{k}" for p in ("first", "second") for k in ("encode", "pool", "draw", "picture", "preview")
        ],
        "3. Name them, weigh them": ["reference1", "reference2", "combine"],
        "4. Say what to do with them, and draw": ["rewrite", "pool", "draw", "decode", "save"],
    },
    [
        (
            "## Strengths\n\n`strength` 1 is neutral, 2 counts as if the picture were given twice, 0 removes it. The prompt may say *image 1* "
            "and *image 2*; larger models also read labels of your own. The sheet on *Multi-Reference Combine* shows what the model sees.",
            (0, 400),
            (320, 300),
        )
    ],
)

INSPECT = Graph(
    "05 Look inside",
    {
        "load": load(),
        "latent": empty((0, 200)),
        **drawn_picture("first", "a large solid red circle in the center on a white background", 0, 1),
        "encode": verifi("make the circle green", (360, 560), **{"images.image0": ("first_picture", 0)}),
        "inspect": Node(
            "UniFusionInspect",
            (800, 560),
            (700, 820),
            {
                "hidden_states": ("encode", 0),
                "model": ("load", 0),
                "words": "",
                "heat_map": "circle",
                "silence": "7",
                "view": "all pages",
                "images.image0": ("first_picture", 0),
            },
        ),
        "pool": pool("encode", (1580, 560)),
        "draw": sampler("pool", (1580, 920), seed=2),
        "decode": decode("draw", (1580, 1240)),
        "save": save("decode", (1960, 560), "UniFusion", (320, 360), title="All layers"),
        "less_pool": pool("encode", (2340, 560), positive=("inspect", 1)),
        "less_draw": sampler("less_pool", (2340, 920), seed=2),
        "less_decode": decode("less_draw", (2340, 1240)),
        "less_save": save("less_decode", (1960, 980), "UniFusion silenced", (320, 360), title="Without layer 7"),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. A picture to look at": [f"first_{k}" for k in ("encode", "pool", "draw", "picture", "preview")],
        "3. What the pooling uses": ["encode", "inspect"],
        "4. With and without the silenced layers": [
            "pool",
            "draw",
            "decode",
            "save",
            "less_pool",
            "less_draw",
            "less_decode",
            "less_save",
        ],
    },
    [
        (
            "## Look inside\n\n*UniFusion Inspect* shows how much each layer of the vision-language model gives, which layers a "
            "word attends to, a heat map over the picture, and what the tokens are spent on.\n\nWrite a word or a layer's number "
            "into `heat_map`. Layers named in `silence` are switched off in the second output.",
            (0, 560),
            (320, 420),
        )
    ],
    picture="inspect",
)

SAVED = Graph(
    "06 Save conditioning, draw without the encoder",
    {
        "load": load(),
        "latent": empty((0, 200)),
        "rewrite": verifi("a yellow star in the center and a green square in the top right", (380, 0)),
        "pool": pool("rewrite", (860, 0)),
        "store": Node(
            "UniFusionSaveConditioning",
            (860, 360),
            (340, 240),
            {"positive": ("pool", 1), "filename_prefix": "conditioning/yellow star", "negative": ("pool", 2)},
        ),
        "restore": Node(
            "UniFusionLoadConditioning",
            (1280, 0),
            (400, 300),
            {"file": ("store", 0), "model": ("load", 0)},
            behind_links={"file": "conditioning/yellow star_00001_.safetensors [output]"},
        ),
        "draw": Node(
            "UniFusionDiTSampler",
            (1740, 0),
            (320, 260),
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
        "decode": decode("draw", (1740, 320)),
        "save": save("decode", (2120, 0)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. Read and save (bypass after the first run)": ["rewrite", "pool", "store"],
        "3. Load and draw": ["restore", "draw", "decode", "save"],
    },
    [
        (
            "## Draw without the encoder\n\nRun once. Then bypass group 2 (select it, *Ctrl+B*), choose the saved file in *Load "
            "Conditioning* and run again: the vision-language model is not loaded any more, only the drawing model.\n\nFiles lie in "
            "`output/conditioning` and can be shared.",
            (0, 400),
            (340, 330),
        )
    ],
)

STYLE = Graph(
    "07 Style of one picture, subject of another",
    {
        "load": load(),
        "latent": empty((0, 200)),
        **drawn_picture("first", "a large solid red heart in the center on a white background", 0, 1),
        **drawn_picture("second", "a large solid green circle in the top left on a navy background", 560, 2),
        "subject": Node(
            "UniFusionReference",
            (1880, 0),
            (320, 240),
            {
                "image": ("first_picture", 0),
                "label": "",
                "strength": 1.0,
                "detail": "default",
                "start": 0.0,
                "end": 1.0,
            },
        ),
        "style": Node(
            "UniFusionReference",
            (1880, 300),
            (320, 240),
            {
                "image": ("second_picture", 0),
                "label": "",
                "strength": 1.5,
                "detail": "default",
                "start": 0.0,
                "end": 1.0,
                "references": ("subject", 0),
            },
        ),
        "rewrite": verifi("the heart of image 1 on the background of image 2", (2260, 0), references=("style", 0)),
        "pool": pool("rewrite", (2260, 820)),
        "draw": sampler("pool", (2740, 0), seed=3),
        "decode": decode("draw", (2740, 320)),
        "save": save("decode", (2740, 440)),
    },
    {
        "1. Model and size": ["load", "latent"],
        "2. Subject and style (or use Load Image)": [
            f"{p}_{k}" for p in ("first", "second") for k in ("encode", "pool", "draw", "picture", "preview")
        ],
        "3. Weigh them": ["subject", "style"],
        "4. Draw": ["rewrite", "pool", "draw", "decode", "save"],
    },
    [
        (
            "## Style and subject\n\nRaise the strength of the picture that shall win. `start` and `end` (advanced) let a picture "
            "count in one part of the schedule only: early steps make the layout, late ones the details.",
            (0, 400),
            (320, 300),
        )
    ],
)

TURBO_DIT, RAW_DIT = "krea2_turbo_fp8_scaled.safetensors", "krea2_raw_fp8_scaled.safetensors"

TURBO = Graph(
    "08 Krea 2 Turbo with VERIFI",
    {
        **krea_loaders(TURBO_DIT),
        "latent": empty((0, 500), 1024, 1024),
        "rewrite": verifi("a fox reading a newspaper in a cafe, morning light", (400, 0), ("clip", 0)),
        "pool": pool("rewrite", (880, 0), ("unet", 0)),
        "draw": sampler("pool", (1280, 0), preset="Krea 2 Turbo"),
        "decode": decode("draw", (1280, 340), ("vae", 0)),
        "save": save("decode", (1660, 0), "Krea 2 Turbo", (640, 700)),
    },
    {
        "1. Models and size": ["unet", "clip", "vae", "latent"],
        "2. Words: the encoder rewrites them as it reads": ["rewrite"],
        "3. Layers to conditioning": ["pool"],
        "4. Draw in 8 steps": ["draw", "decode", "save"],
    },
    [(KREA_NOTE.format(dit=TURBO_DIT, files=KREA_FILES), (0, 700), (340, 420))],
    runs=False,
)

UPSCALER = "RealESRGAN_x4plus.safetensors"
RAW = Graph(
    "09 Krea 2 Raw with upscaler",
    {
        **krea_loaders(RAW_DIT),
        "latent": empty((0, 500), 1024, 1024),
        "encode": encode(
            "a lighthouse on a cliff in a storm, oil painting, thick brush strokes", (400, 0), ("clip", 0)
        ),
        "pool": pool("encode", (860, 0), ("unet", 0)),
        "draw": sampler("pool", (1260, 0), preset="Krea 2 Raw"),
        "decode": decode("draw", (1260, 340), ("vae", 0)),
        "upscaler": Node(
            "UpscaleModelLoader",
            (1640, 0),
            (340, 80),
            {"model_name": UPSCALER},
            models=[
                model_file(
                    "upscale_models",
                    UPSCALER,
                    "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
                )
            ],
        ),
        "upscale": Node(
            "ImageUpscaleWithModel", (1640, 130), (340, 60), {"upscale_model": ("upscaler", 0), "image": ("decode", 0)}
        ),
        "resize": Node(
            "ImageScale",
            (1640, 240),
            (340, 180),
            {"image": ("upscale", 0), "upscale_method": "lanczos", "width": 1536, "height": 1536, "crop": "disabled"},
        ),
        "encode_vae": Node("VAEEncode", (1640, 470), (220, 60), {"pixels": ("resize", 0), "vae": ("vae", 0)}),
        "draw_again": sampler("pool", (2040, 0), "encode_vae", "Krea 2 Raw", 2, denoise=0.3),
        "decode_again": decode("draw_again", (2040, 340), ("vae", 0)),
        "save": save("decode_again", (2420, 0), "Krea 2 Raw", (640, 700)),
    },
    {
        "1. Models and size": ["unet", "clip", "vae", "latent"],
        "2. Words": ["encode", "pool"],
        "3. Draw": ["draw", "decode"],
        "4. Enlarge": ["upscaler", "upscale", "resize", "encode_vae"],
        "5. Draw the details": ["draw_again", "decode_again", "save"],
    },
    [
        (
            KREA_NOTE.format(dit=RAW_DIT, files=KREA_FILES)
            + f"| `models/upscale_models` | [{UPSCALER}](https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/"
            f"{UPSCALER}) |\n",
            (0, 700),
            (340, 480),
        )
    ],
    runs=False,
)

GRAPHS = [TEXT, PLAIN, EDIT, TWO, INSPECT, SAVED, STYLE, TURBO, RAW]
