"""What each known model expects: one table that widgets, nodes, tests and help read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .chat_templates import (
    BARE,
    BOOGU,
    GEMMA,
    JOYIMAGE,
    KLEIN,
    LUMINA2,
    MISTRAL,
    OVIS,
    QWEN,
    QWEN_NO_THINKING,
    QWEN_USER_ONLY,
    Template,
)
from .miniature import SIDE
from .picture_rules import PictureRule, area_of_384, longest_side_of_384, nearest_joyimage_size
from .quoting import quoted
from .selection import ENCODE_AGAIN
from .system_prompts import IDEOGRAM_4, MINIATURE_SYSTEM

KREA2_SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:"
)


# How tapped layers become what a drawing model takes.
LAP, TAPS_MAJOR, WIDTH_MAJOR = "layerwise attention pooling", "taps side by side", "taps woven into the width"
# When the conditioning carries an attention mask.
MASK_NEVER, MASK_ALWAYS, MASK_UNLESS_FULL = "never", "always", "unless every token counts"
# How a weight of 2 compares with the token given twice.
EXACT, NEAR = "exact", "near"
# Where the text stands in the attention of the drawing model.
TEXT_FIRST, TEXT_LAST = "in front of the picture", "behind the picture"
TEXT_REFINED_FIRST = "refined by itself, then in front of the picture"

EDIT_SYSTEM = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain "
    "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
FLUX2_SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
BOOGU_SYSTEM = (
    "You are a helpful assistant that generates high-quality images based on user instructions. "
    "The instructions are as follows."
)
OMNIGEN2_SYSTEM = "You are a helpful assistant that generates high-quality images based on user instructions."
OVIS_SYSTEM = (
    "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial relationships of the objects "
    "and background"
)
LUMINA2_SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts."
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a drawing model wants its encoder to be asked, and what it wants of conditioning: one row a model.

    Attributes:
        key: value of the widget, stored in graphs.
        title: name in reports.
        encoders: (class, name) of the ``CLIP`` modules this row belongs to; ``auto`` goes by them.
        models: classes of the ``MODEL`` this row belongs to.
        features: width of one token of the finished conditioning; tells rows of one class apart. 0 = any.
        text_input: the layer of the MODEL's network that takes the conditioning; empty if it does not matter.
        sign: a part of the MODEL's network that tells it from others of its class; empty where the class is its own.
        taps: tapped layers: k >= 0 is the input of layer k, -k the output of the k-th layer from the end; empty means
            every third layer from the second on.
        final_norm: whether the output of the last layer is taken behind the final norm, where there is one.
        combination: :data:`LAP`, :data:`TAPS_MAJOR` or :data:`WIDTH_MAJOR`; the latter two are one for a single tap.
        system: system prompt of a plain encode.
        picture_system: the same when pictures are wired; empty for the same.
        empty_system: the same for an empty prompt without pictures; empty for the same.
        chat: how a plain encode is written down.
        writing_chat: how the encoder is asked to write.
        drop: tokens at the beginning that the drawing model is not given, whatever they are; 0 = by the chat.
        label: words in front of picture ``{}`` that has no label of its own; empty for none.
        picture_rule: how a picture is resized where its detail is not set; None = the pack's own way.
        pictures: whether the drawing model was trained with pictures in its encoder.
        rewrite_system: key of the system prompt that VERIFI uses by default (see ``system_prompts``).
        encode_selection: tokens that condition the picture after a plain encode.
        rewrite_selection: the same after VERIFI.
        window: tokens the DiT was trained with, 0 if unknown.
        image_pixels: picture area given to the VLM by default, in pixels.
        min_side: smallest side a picture may have for the VLM, in pixels.
        negative_pictures: whether the usual negative, the empty prompt, holds the pictures of the positive too.
        stop_tokens: ids that end a written text besides the encoder's own.
        cannot_write: which CLIP could write in its place and how to wire it; empty where it writes itself.
        mask: when the conditioning carries an attention mask.
        zero_padding: whether the states of padding are handed on as zeros.
        weights: :data:`EXACT`, :data:`NEAR`, or empty where nothing carries a weight.
        text_place: where the text stands in the attention of the drawing model, for those that carry weights.
        left_padding: tokens to which the MODEL itself fills up a shorter text with zeros, on its left; 0 = it does not.
        files: names of files that were looked at, for the documentation.
        loader: type of the stock Load CLIP node.
        presets: keys of its sampler presets; the first is what ``auto`` takes.
    """

    key: str
    title: str
    encoders: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()
    features: int = 0
    text_input: str = ""
    sign: str = ""
    taps: tuple[int, ...]
    final_norm: bool = True
    combination: str = TAPS_MAJOR
    system: str = ""
    picture_system: str = ""
    empty_system: str = ""
    chat: Template = QWEN
    writing_chat: Template = QWEN
    drop: int = 0
    label: str = ""
    picture_rule: PictureRule | None = None
    pictures: bool = False
    rewrite_system: str = "faithful detail"
    encode_selection: str = "everything"
    rewrite_selection: str = "everything after the system prompt"
    window: int = 0
    image_pixels: int = 384 * 384
    min_side: int = 32
    negative_pictures: bool = True
    stop_tokens: tuple[int, ...] = ()
    cannot_write: str = ""
    mask: str = MASK_ALWAYS
    zero_padding: bool = False
    weights: str = ""
    text_place: str = TEXT_FIRST
    left_padding: int = 0
    files: tuple[str, ...] = ()
    loader: str = ""
    presets: tuple[str, ...] = ()

    def system_for(self, prompt: str, pictures: bool) -> str:
        """System prompt of a plain encode."""
        if pictures and self.picture_system:
            return self.picture_system
        if not pictures and self.empty_system and not prompt.strip():
            return self.empty_system
        return self.system


WRITE_ELSEWHERE = (
    "Load Qwen3-VL-4B (CLIPLoader, type 'krea2'), write with VERIFI Rewrite on that CLIP, and connect its text "
    "to the prompt of VLM Encode on this one."
)
_AFTER_SYSTEM = "everything after the system prompt"

PROFILES: dict[str, Profile] = {
    p.key: p
    for p in (
        # Krea 2: taps, template and window from its reference code; the user prompt is injected, unlike in the paper.
        Profile(
            key="krea2",
            title="Krea 2",
            loader="krea2",
            encoders=(("Krea2TEModel", "qwen3vl_4b"),),
            models=("Krea2",),
            taps=(2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35),
            combination=LAP,
            system=KREA2_SYSTEM,
            pictures=True,
            encode_selection=_AFTER_SYSTEM,
            window=512,
            mask=MASK_NEVER,
            weights=EXACT,
            presets=("Krea 2 Turbo", "Krea 2 Raw"),
        ),
        Profile(
            key="miniature",
            title="UniFusion miniature",
            encoders=(("MiniatureTEModel", "unifusion_miniature"),),
            taps=(1, 3, 5, 7),
            combination=LAP,
            system=MINIATURE_SYSTEM,
            pictures=True,
            rewrite_system="miniature",
            encode_selection="images and prompt",
            rewrite_selection="images and rewritten text",
            window=160,
            image_pixels=SIDE**2,
            # Its unconditional training had no picture. Pictures alone mean "draw this again" to it; guidance away from
            # that overdoes every change: half of the recoloured things lost their texture or shape.
            negative_pictures=False,
            mask=MASK_NEVER,
            weights=EXACT,
            presets=("UniFusion miniature",),
        ),
        Profile(
            key="qwen3vl",
            title="Qwen3-VL",
            taps=(),
            combination=LAP,
            system=KREA2_SYSTEM,
            pictures=True,
            encode_selection=_AFTER_SYSTEM,
            rewrite_selection="images and rewritten text",
            mask=MASK_NEVER,
            weights=EXACT,
        ),
        Profile(
            key="flux2-klein-4b",
            title="FLUX.2 klein 4B",
            loader="flux2",
            encoders=(("Flux2TEModel", "qwen3_4b"),),
            models=("Flux2",),
            features=3 * 2560,
            text_input="txt_in",
            taps=(9, 18, 27),
            chat=KLEIN,
            writing_chat=QWEN_NO_THINKING,
            rewrite_system="FLUX.2",
            window=512,
            left_padding=512,
            weights=NEAR,
            files=("qwen_3_4b.safetensors", "flux-2-klein-4b.safetensors", "flux2-vae.safetensors"),
            presets=("FLUX.2 klein", "FLUX.2 klein Base"),
        ),
        Profile(
            key="flux2-klein-9b",
            title="FLUX.2 klein 9B",
            loader="flux2",
            encoders=(("Flux2TEModel", "qwen3_8b"),),
            models=("Flux2",),
            features=3 * 4096,
            text_input="txt_in",
            taps=(9, 18, 27),
            chat=KLEIN,
            writing_chat=QWEN_NO_THINKING,
            rewrite_system="FLUX.2",
            window=512,
            left_padding=512,
            weights=NEAR,
            files=("qwen_3_8b_fp8mixed.safetensors", "flux-2-klein-9b-fp8.safetensors", "flux2-vae.safetensors"),
            presets=("FLUX.2 klein", "FLUX.2 klein Base"),
        ),
        Profile(
            key="flux2-dev",
            title="FLUX.2 dev",
            loader="flux2",
            encoders=(("Flux2TEModel", "mistral3_24b"),),
            models=("Flux2",),
            features=3 * 5120,
            text_input="txt_in",
            taps=(10, 20, 30),
            # ComfyUI's file of the encoder may end with the last tap, which then has no norm behind it.
            final_norm=False,
            system=FLUX2_SYSTEM,
            chat=MISTRAL,
            writing_chat=MISTRAL,
            rewrite_system="FLUX.2",
            window=512,
            left_padding=512,
            cannot_write=WRITE_ELSEWHERE,
            weights=NEAR,
            files=("mistral_3_small_flux2_bf16.safetensors", "flux2_dev_fp8mixed.safetensors", "flux2-vae.safetensors"),
            presets=("FLUX.2 dev",),
        ),
        Profile(
            key="z-image",
            title="Z-Image",
            loader="lumina2",
            encoders=(("ZImageTEModel", "qwen3_4b"),),
            models=("Lumina2",),
            features=2560,
            text_input="cap_embedder.1",
            taps=(-2,),
            chat=QWEN_USER_ONLY,
            writing_chat=QWEN_NO_THINKING,
            rewrite_system="Z-Image",
            weights=NEAR,
            text_place=TEXT_REFINED_FIRST,
            files=("qwen_3_4b.safetensors", "z_image_turbo_bf16.safetensors", "ae.safetensors"),
            presets=("Z-Image Turbo", "Z-Image"),
        ),
        Profile(
            key="qwen-image",
            title="Qwen-Image and Qwen-Image Edit",
            loader="qwen_image",
            encoders=(("QwenImageTEModel", "qwen25_7b"),),
            models=("QwenImage",),
            features=3584,
            text_input="txt_in",
            taps=(-1,),
            system=KREA2_SYSTEM,
            picture_system=EDIT_SYSTEM,
            label="Picture {}",
            picture_rule=area_of_384,
            pictures=True,
            rewrite_system="Qwen-Image",
            encode_selection=_AFTER_SYSTEM,
            cannot_write=WRITE_ELSEWHERE,
            mask=MASK_UNLESS_FULL,
            weights=NEAR,
            files=(
                "qwen_2.5_vl_7b_fp8_scaled.safetensors",
                "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
                "qwen_image_vae.safetensors",
            ),
            presets=("Qwen-Image",),
        ),
        Profile(
            key="ideogram4",
            title="Ideogram 4",
            loader="ideogram4",
            encoders=(("Ideogram4Qwen3VLTEModel", "qwen3vl_8b"), ("Ideogram4TEModel", "qwen3vl_8b")),
            models=("Ideogram4",),
            features=13 * 4096,
            text_input="llm_cond_proj",
            taps=(1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, -1),
            combination=WIDTH_MAJOR,
            chat=QWEN_USER_ONLY,
            rewrite_system=IDEOGRAM_4,
            rewrite_selection=ENCODE_AGAIN,  # it is conditioned on a user's turn that is a JSON caption
            weights=NEAR,
            files=("qwen3vl_8b_fp8_scaled.safetensors", "ideogram4_fp8_scaled.safetensors", "flux2-vae.safetensors"),
            presets=("Ideogram 4",),
        ),
        Profile(
            key="mage-flow",
            title="Mage-Flow",
            loader="mage",
            encoders=(("MageFlowTEModel", "qwen3vl_4b"),),
            models=("MageFlow",),
            features=2560,
            text_input="txt_in",
            taps=(-1,),
            system=KREA2_SYSTEM,
            picture_system=EDIT_SYSTEM,
            label="Image {}",
            picture_rule=longest_side_of_384,
            pictures=True,
            encode_selection=_AFTER_SYSTEM,
            mask=MASK_UNLESS_FULL,
            weights=EXACT,
            presets=("Mage-Flow", "Mage-Flow Turbo"),
        ),
        Profile(
            key="joyimage",
            title="JoyImage Edit",
            loader="joyimage",
            encoders=(("JoyImageTEModel", "qwen3vl_8b"),),
            models=("JoyImage",),
            features=4096,
            text_input="condition_embedder.text_embedder.linear_1",
            taps=(-1,),
            final_norm=False,
            system=KREA2_SYSTEM,
            chat=JOYIMAGE,
            drop=34,
            picture_rule=nearest_joyimage_size,
            pictures=True,
            encode_selection=_AFTER_SYSTEM,
            weights=EXACT,
            text_place=TEXT_LAST,
            presets=("JoyImage",),
        ),
        Profile(
            key="boogu",
            title="Boogu-Image",
            loader="boogu",
            encoders=(("BooguTEModel", "qwen3vl_8b"),),
            models=("Boogu",),
            features=4096,
            taps=(-1,),
            system=BOOGU_SYSTEM,
            picture_system=EDIT_SYSTEM,
            empty_system=EDIT_SYSTEM,
            chat=BOOGU,
            picture_rule=area_of_384,
            pictures=True,
            negative_pictures=False,
            presets=("Boogu-Image", "Boogu-Image Turbo"),
        ),
        Profile(
            key="ernie-image",
            title="Ernie-Image",
            loader="flux2",
            encoders=(("ErnieTEModel", "ministral3_3b"),),
            models=("ErnieImage",),
            features=3072,
            taps=(-2,),
            chat=BARE,
            writing_chat=MISTRAL,
            presets=("Ernie-Image", "Ernie-Image Turbo"),
        ),
        Profile(
            key="lumina2",
            title="Lumina 2",
            loader="lumina2",
            encoders=(("LuminaModel", "gemma2_2b"),),
            models=("Lumina2",),
            features=2304,
            text_input="cap_embedder.1",
            taps=(-2,),
            system=LUMINA2_SYSTEM,
            chat=LUMINA2,
            writing_chat=GEMMA,
            stop_tokens=(107,),  # <end_of_turn>, which ComfyUI 0.30 does not count among them
            weights=NEAR,
            text_place=TEXT_REFINED_FIRST,
            presets=("Lumina 2",),
        ),
        Profile(
            key="omnigen2",
            title="OmniGen2",
            loader="omnigen2",
            encoders=(("Omnigen2Model", "qwen25_3b"),),
            models=("Omnigen2",),
            features=2048,
            text_input="time_caption_embed.caption_embedder.1",
            taps=(-1,),
            system=OMNIGEN2_SYSTEM,
            chat=BOOGU,
            cannot_write=WRITE_ELSEWHERE,
            files=("qwen_2.5_vl_fp16.safetensors", "omnigen2_fp16.safetensors", "ae.safetensors"),
            presets=("OmniGen2",),
        ),
        Profile(
            key="ovis-image",
            title="Ovis-Image",
            loader="ovis",
            encoders=(("OvisTEModel", "qwen3_2b"),),
            models=("Flux",),
            features=2048,
            text_input="txt_in",
            sign="txt_norm",
            taps=(-1,),
            system=OVIS_SYSTEM,
            chat=OVIS,
            encode_selection=_AFTER_SYSTEM,
            cannot_write=WRITE_ELSEWHERE,
            mask=MASK_NEVER,
            zero_padding=True,
            weights=NEAR,
            files=("ovis_2.5.safetensors", "ovis_image_bf16.safetensors", "ae.safetensors"),
            presets=("Ovis-Image",),
        ),
    )
}


class NotServed(NamedTuple):
    """A model of ComfyUI whose conditioning a row cannot say.

    Attributes:
        encoder: class of the ``CLIP`` module.
        title: name in documents and refusals.
        reason: the end of a sentence that begins with the title.
    """

    encoder: str
    title: str
    reason: str


NOT_SERVED = (
    NotServed(
        "HunyuanImageTEModel",
        "HunyuanImage 2.1 (or HunyuanVideo 1.5)",
        "reads words in quotes with a second encoder for glyphs, whose states no layer of the language model holds",
    ),
    NotServed(
        "LongCatImageTEModel",
        "LongCat-Image",
        "reads quoted words letter by letter and fills the prompt up to 512 tokens before the chat goes on",
    ),
    NotServed(
        "LensTEModel",
        "Lens",
        "reads with a GPT-OSS that ComfyUI runs by code of its own, and its tokenizer does not say where its pieces stand",
    ),
    NotServed("Kandinsky5TEModel", "Kandinsky 5", "is conditioned on the pooled output of a CLIP-L as well"),
    NotServed("NewBieTEModel", "NewBie", "is conditioned on the pooled output of a Jina CLIP as well"),
    NotServed("AnimaTEModel", "Anima", "is conditioned on the tokens of a T5 as well"),
    NotServed("PixelDiTGemma2TE", "PixelDiT", "takes the first token and the last 299 of a padded text"),
)


def profile_of_encoder(kind: str, name: str) -> Profile | None:
    """The row of a CLIP's module.

    Args:
        kind: name of its class.
        name: what the host calls the language model in it.
    """
    return next((row for row in PROFILES.values() if (kind, name) in row.encoders), None)


def profiles_of_model(kind: str, features: int = 0) -> list[Profile]:
    """Rows of a MODEL, the one that takes ``features`` numbers a token first.

    Args:
        kind: name of the MODEL's class.
        features: what its text input takes; 0 if unknown.
    """
    rows = [row for row in PROFILES.values() if kind in row.models]
    return sorted(rows, key=lambda row: row.features != features)


def taps_for(profile: Profile, layers: int) -> tuple[int, ...]:
    """Tapped layers of a VLM of ``layers`` decoder layers (paper: every third); ``layers`` is the end of the last one.

    Raises:
        ValueError: if the profile taps deeper than the model is.
    """
    taps = tuple(tap if tap >= 0 else layers + 1 + tap for tap in profile.taps) or tuple(range(2, layers, 3))
    beyond = max(taps) > layers or (max(taps) == layers and profile.combination == LAP) or min(taps) < 0
    if beyond or list(taps) != sorted(set(taps)):  # in too small a model two taps may meet
        raise ValueError(
            f"The profile '{profile.key}' taps layer {max(taps)}, but this text encoder has only {layers} "
            f"layers. Choose another profile, or load the text encoder that belongs to {profile.title}."
        )
    return taps


def parse_taps(text: str, layers: int) -> tuple[int, ...]:
    """Taps from a creator's list such as ``"2, 5, 8"``.

    Raises:
        ValueError: if it is no ascending list of layers of the model.
    """
    try:
        taps = tuple(int(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"Taps must be layer numbers separated by commas such as '2, 5, 8', found {quoted(text)}."
        ) from None
    if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= layers:
        raise ValueError(
            f"Taps must be rising layer numbers from 0 to {layers - 1} (this text encoder has {layers} "
            f"layers), found {quoted(text)}."
        )
    return taps


AS_THE_MODEL, BY_STEPS_AND_RESOLUTION = "as the model", "by steps and resolution"


@dataclass(frozen=True)
class SamplerPreset:
    """Sampling settings that belong to a model.

    Attributes:
        steps: number of steps.
        cfg: classifier-free guidance in ComfyUI's counting, 1 = off (Krea's own g is ``cfg - 1``).
        sampler: name of a ComfyUI sampler.
        scheduler: name of a ComfyUI scheduler.
        shift: ``"fixed"``, ``"by resolution"``, :data:`AS_THE_MODEL` or, as FLUX.2 has it, :data:`BY_STEPS_AND_RESOLUTION`.
        mu: log shift when fixed.
    """

    key: str
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    shift: str
    mu: float


SAMPLER_PRESETS: dict[str, SamplerPreset] = {
    p.key: p
    for p in (
        SamplerPreset("UniFusion miniature", 16, 2.0, "euler", "simple", "fixed", 0.5),
        SamplerPreset("Krea 2 Turbo", 8, 1.0, "euler", "simple", "fixed", 1.15),
        SamplerPreset("Krea 2 Raw", 28, 4.5, "euler", "simple", "by resolution", 1.15),
        # As ComfyUI's own templates of these models have them. FLUX.2 dev takes its guidance of 4 from the stock node
        # FluxGuidance; Ideogram 4 is guided by a second MODEL and a schedule of its own, which stock nodes have.
        SamplerPreset("FLUX.2 klein", 4, 1.0, "euler", "simple", BY_STEPS_AND_RESOLUTION, 0.0),
        SamplerPreset("FLUX.2 klein Base", 20, 5.0, "euler", "simple", BY_STEPS_AND_RESOLUTION, 0.0),
        SamplerPreset("FLUX.2 dev", 20, 1.0, "euler", "simple", BY_STEPS_AND_RESOLUTION, 0.0),
        SamplerPreset("Z-Image Turbo", 8, 1.0, "res_multistep", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Z-Image", 25, 4.0, "res_multistep", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Qwen-Image", 40, 3.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Ideogram 4", 20, 1.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Mage-Flow", 30, 5.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Mage-Flow Turbo", 4, 1.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("JoyImage", 40, 4.0, "euler", "normal", AS_THE_MODEL, 0.0),
        SamplerPreset("Boogu-Image", 25, 4.0, "dpmpp_2m", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Boogu-Image Turbo", 4, 1.0, "lcm", "sgm_uniform", AS_THE_MODEL, 0.0),
        SamplerPreset("Ernie-Image", 20, 4.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Ernie-Image Turbo", 8, 1.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("Lumina 2", 30, 4.0, "res_multistep", "simple", AS_THE_MODEL, 0.0),
        # Its template has the stock node ModelSamplingAuraFlow (shift 3) in front.
        SamplerPreset("Ovis-Image", 20, 5.0, "euler", "simple", AS_THE_MODEL, 0.0),
        SamplerPreset("OmniGen2", 20, 5.0, "euler", "simple", AS_THE_MODEL, 0.0),
    )
}
