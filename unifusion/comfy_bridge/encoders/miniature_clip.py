"""The miniature in ComfyUI's own classes: a stock CLIP, MODEL and VAE from one folder.

ComfyUI's Qwen3-VL text encoder has the sizes and token ids of the 4B and 8B models built in; here its classes are
subclassed with the miniature's.  Memory, LoRA, text generation and encoding are the stock ones.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import comfy.sd
import comfy.text_encoders.llama as llama
import comfy.text_encoders.qwen3vl as qwen3vl
import comfy.utils
import torch
from comfy import sd1_clip

from ...messages import IMAGE_PAD, VISION_BLOCK, chat_text
from ...miniature import SIDE, VLMConfig, check_weights, read_config
from ...miniature_words import load_words
from ...quoting import printable, quoted
from ...system_prompts import MINIATURE_SYSTEM
from ..read_files import check_files, read_safetensors
from .text_encoder import picture_inputs

NAME = "unifusion_miniature"
TEMPLATE = chat_text(MINIATURE_SYSTEM, "{}")


def _decoder_config(config: VLMConfig, stop_tokens: list[int]) -> llama.Qwen3VL_8BConfig:
    """ComfyUI's configuration of the decoder (the 8B one has an untied head, as the miniature)."""
    out = llama.Qwen3VL_8BConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_position_embeddings,
    )
    out.head_dim = config.head_dim  # these three are class attributes there, not fields
    out.rope_dims = list(config.rope_dims)
    out.stop_tokens = stop_tokens
    return out


class MiniatureQwen3VL(qwen3vl.Qwen3VL):
    """ComfyUI's Qwen3-VL with the miniature's sizes."""

    def __init__(self, config_dict, dtype, device, operations):
        torch.nn.Module.__init__(self)
        config: VLMConfig = config_dict["config"]
        self.num_layers = config.num_hidden_layers
        self.model = llama.Llama2_(
            _decoder_config(config, config_dict["stop_tokens"]), device=device, dtype=dtype, ops=operations
        )
        vision = dict(
            qwen3vl.QWEN3VL_VISION_COMMON,
            hidden_size=config.vision_hidden_size,
            depth=config.vision_depth,
            intermediate_size=config.vision_intermediate_size,
            num_heads=config.vision_heads,
            num_position_embeddings=config.num_position_embeddings,
            out_hidden_size=config.hidden_size,
            deepstack_visual_indexes=list(config.deepstack_visual_indexes),
        )
        self.visual = qwen3vl.Qwen3VLVisionModel(vision, device=device, dtype=dtype, ops=operations)
        self.dtype = dtype

    def preprocess_embed(self, embed, device):
        """As stock, at the only size the vision tower knows: every picture becomes 16 tokens."""
        if embed["type"] == "image" and embed["data"].shape[1:3] != (SIDE, SIDE):
            picture = embed["data"][..., :3].float().movedim(-1, 1)
            picture = torch.nn.functional.interpolate(picture, (SIDE, SIDE), mode="bicubic", antialias=True)
            embed = {**embed, "data": picture.clamp(0, 1).movedim(1, -1)}
        return super().preprocess_embed(embed, device)

    def forward(self, input_ids, *args, embeds=None, embeds_info=(), **kwargs):
        """As ComfyUI 0.27 and newer: in 0.26 pictures keep their positions and DeepStack features while writing only."""
        if embeds is not None and kwargs.get("position_ids") is None:
            kwargs |= picture_inputs(self, embeds, embeds_info)
        return super().forward(input_ids, *args, embeds=embeds, embeds_info=embeds_info, **kwargs)


class MiniatureClipModel(qwen3vl.Qwen3VLClipModel):
    """Gives the states of the taps, as ComfyUI's Krea 2 text encoder does."""

    def __init__(self, device="cpu", dtype=None, model_options={}, config=None, tokens=None):
        options = {**model_options, f"{NAME}_model_config": {"config": config, "stop_tokens": [tokens["end"]]}}
        sd1_clip.SDClipModel.__init__(
            self,
            device=device,
            layer=list(config.taps),
            layer_idx=None,
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"pad": tokens["pad"]},
            layer_norm_hidden_state=False,
            model_class=MiniatureQwen3VL,
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=options,
        )


class MiniatureTEModel(sd1_clip.SD1ClipModel):
    """The module behind the CLIP.  ``unifusion_profile`` tells the pack's nodes which profile it belongs to."""

    unifusion_profile = "miniature"
    unifusion_side = SIDE

    def __init__(self, device="cpu", dtype=None, model_options={}, config=None, tokens=None):
        super().__init__(
            device=device,
            dtype=dtype,
            name=NAME,
            model_options=model_options,
            clip_model=partial(MiniatureClipModel, config=config, tokens=tokens),
        )
        self.tokens = tokens
        self.unifusion_taps = config.taps  # the folder's own: they are what its drawing model was trained with

    def encode_token_weights(self, token_weight_pairs):
        """Conditioning (1, tokens, taps * width) of what stands after the user turn's opening, as Krea 2's encoder."""
        states, pooled, extra = super().encode_token_weights(token_weight_pairs)
        row = [pair[0] for pair in token_weight_pairs[NAME][0]]
        user = self.tokens["user turn"]
        start = next((i + len(user) for i in range(len(row)) if row[i : i + len(user)] == user), 0)
        states = states[:, :, start:].permute(0, 2, 1, 3).flatten(2)
        extra.pop("attention_mask", None)  # one prompt has no padding
        return states, pooled, extra


class _Words:
    """What ComfyUI's tokenizers load; the class that it makes is the miniature's own."""

    from_pretrained = staticmethod(load_words)


class MiniatureTokenizer(qwen3vl.Qwen3VLTokenizer):
    """ComfyUI's Qwen3-VL tokenizer over the miniature's vocabulary; pictures stand before the prompt."""

    def __init__(self, embedding_directory=None, tokenizer_data={}, folder=None, width=0, tokens=None):
        inner = partial(
            sd1_clip.SDTokenizer,
            str(folder),
            pad_with_end=False,
            embedding_size=width,
            embedding_key=NAME,
            tokenizer_class=_Words,
            has_start_token=False,
            has_end_token=False,
            pad_to_max_length=False,
            max_length=99999999,
            min_length=1,
            pad_token=tokens["pad"],
        )
        sd1_clip.SD1Tokenizer.__init__(
            self, embedding_directory=embedding_directory, tokenizer_data=tokenizer_data, name=NAME, tokenizer=inner
        )
        self.image_pad = tokens["image"]
        self.llama_template = TEMPLATE
        self.llama_template_images = TEMPLATE.replace("{}", VISION_BLOCK.format(IMAGE_PAD) + "{}")

    def tokenize_with_weights(
        self, text, return_word_ids=False, llama_template=None, images=(), thinking=True, **kwargs
    ):
        """As stock, without the empty think block, which the miniature has never seen."""
        if kwargs.get("image") is not None and not len(images):
            images = list(kwargs["image"].split(1))
        tokens = super().tokenize_with_weights(
            text, return_word_ids=return_word_ids, llama_template=llama_template, images=images, thinking=True, **kwargs
        )
        queue = iter(images)
        for row in tokens[NAME]:
            for index, entry in enumerate(row):
                if not torch.is_tensor(entry[0]) and entry[0] == self.image_pad:
                    picture = next(queue, None)
                    if picture is not None:
                        row[index] = ({"type": "image", "data": picture, "original_type": "image"}, *entry[1:])
        return tokens


def _token_ids(folder: Path, config: VLMConfig) -> dict:
    """Ids that the encoder needs to know.

    Raises:
        ValueError: if the tokenizer's files are damaged, or of another vocabulary than the weights.
    """
    try:
        words = load_words(folder)
        ids = words.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|image_pad|>"])
        turn = list(words("<|im_start|>user\n")["input_ids"])
    except Exception as error:  # whatever transformers and tokenizers raise for a damaged file
        raise ValueError(
            f"The tokenizer in {quoted(folder.name)} cannot be read ({printable(error)[:120].rstrip('.')}). Take "
            f"vocab.json, merges.txt and tokenizer_config.json from the training of its weights."
        ) from None
    if any(type(number) is not int for number in ids) or len(words) > config.vocab_size:
        raise ValueError(
            f"The tokenizer in {quoted(folder.name)} ({len(words)} tokens) does not belong to its weights "
            f"({config.vocab_size}): take both from the same training."
        )
    return dict(zip(("pad", "end", "image"), ids)) | {"user turn": turn}


def load_clip(folder: str | Path, **patching) -> comfy.sd.CLIP:
    """The miniature's VLM as a stock CLIP.

    Args:
        folder: holds model.safetensors, config.json and the tokenizer's files.
        patching: the host's ``disable_dynamic``.

    Raises:
        ValueError: if a file is missing or the weights do not belong to config.json.
    """
    folder = Path(folder)
    check_files(folder, ("model.safetensors", "config.json", "vocab.json", "merges.txt", "tokenizer_config.json"))
    weights = read_safetensors(folder / "model.safetensors")
    config = read_config(folder)
    check_weights(config, {name: tuple(tensor.shape) for name, tensor in weights.items()}, folder.name)
    tokens = _token_ids(folder, config)

    class Target:
        params = {"config": config, "tokens": tokens}
        clip = MiniatureTEModel
        tokenizer = partial(MiniatureTokenizer, folder=folder, width=config.hidden_size, tokens=tokens)

    dtype = weights["model.embed_tokens.weight"].dtype if "model.embed_tokens.weight" in weights else None
    clip = comfy.sd.CLIP(
        Target, parameters=comfy.utils.calculate_parameters(weights), model_options={"dtype": dtype}, **patching
    )
    try:
        missing, unexpected = clip.cond_stage_model.load_sd(weights)
        problem = f"{len(missing)} weights missing, {len(unexpected)} unknown" if missing or unexpected else None
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
    if problem:
        raise ValueError(
            f"model.safetensors in {quoted(folder.name)} does not belong to its config.json: {problem}. Take "
            f"both from the same training."
        )
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (folder,))
    return clip


def _load_clip_patcher(folder, **patching):
    return load_clip(folder, **patching).patcher
