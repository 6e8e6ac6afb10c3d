"""A transformers folder as a stock ``CLIP``: under ComfyUI's patcher, read and asked to write as any other encoder.

The model is the one of ``unifusion.transformers_vlm``, so that what the nodes read is what the trainer reads. Here it gets
the questions that ComfyUI's own language models answer (``text_encoder.VLM``, ``writing.decode``, stock nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import comfy.ops
import comfy.sd
import torch
from comfy import sd1_clip
from comfy.text_encoders import llama

from ...messages import IMAGE_PAD
from ...quoting import quoted
from ...transformers_vlm import Chat, TransformersVLM, positions_of, tapped
from .castable import make_castable

NAME = "unifusion_folder"


class FolderDecoder:
    """The language model with the questions of ComfyUI's ``Llama2_``."""

    def __init__(self, vlm: TransformersVLM):
        self.vlm = vlm
        sizes = vlm.config
        heads = sizes.num_attention_heads
        self.config = SimpleNamespace(
            vocab_size=vlm.decoder.embed_tokens.weight.shape[0],
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=vlm.layers,
            num_attention_heads=heads,
            num_key_value_heads=getattr(sizes, "num_key_value_heads", None) or heads,
            head_dim=getattr(sizes, "head_dim", None) or sizes.hidden_size // heads,
            max_position_embeddings=vlm.context,
            stop_tokens=sorted(vlm.stops),
        )

    @property
    def layers(self):
        return self.vlm.decoder.layers

    @property
    def norm(self):
        return self.vlm.decoder.norm

    @property
    def embed_tokens(self):
        return self.vlm.decoder.embed_tokens

    def forward(
        self,
        x=None,
        *,
        embeds: torch.Tensor,
        past_key_values=None,
        position_ids: torch.Tensor | None = None,
        visual_pos_masks: torch.Tensor | None = None,
        deepstack_embeds: Sequence[torch.Tensor] | None = None,
        **others,
    ):
        """(hidden behind the final norm, None, cache).

        Args:
            embeds: ``(1, tokens, width)``.
            past_key_values: from ``init_kv_cache``.
            position_ids: ``(3, tokens)`` from ``build_image_inputs``, ``(1, 1)`` of one written token, or None: counted on.
            visual_pos_masks: ``(1, tokens)`` bool, tokens of pictures.
            deepstack_embeds: what the vision tower adds to them behind the first layers.
            others: what ComfyUI's own models are given besides, e.g. a mask; one sequence without padding needs none.
        """
        if self.vlm.in_a_plane:
            if position_ids is None:
                start = 0 if past_key_values is None else past_key_values.get_seq_length()
                position_ids = torch.arange(start, start + embeds.shape[1], device=embeds.device)[None]
            position_ids = position_ids.expand(3, -1)[:, None].expand(3, embeds.shape[0], -1)
        extra = {}
        if deepstack_embeds:
            extra = {"visual_pos_masks": visual_pos_masks, "deepstack_visual_embeds": list(deepstack_embeds)}
        hidden = self.vlm.decoder(
            inputs_embeds=embeds,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            **extra,
        ).last_hidden_state
        return hidden, None, past_key_values

    __call__ = forward


def _each_tensor(cache, change: Callable[[torch.Tensor], torch.Tensor]):
    """The cache with its keys and values changed, for ``writing.decode``, which writes several texts at once."""
    for layer in cache.layers:
        layer.keys, layer.values = change(layer.keys), change(layer.values)
    return cache


class FolderTransformer(torch.nn.Module, llama.BaseGenerate):
    """Language model, vision tower and head of a folder, with the questions of ComfyUI's Qwen3-VL."""

    def __init__(self, vlm: TransformersVLM, operations):
        super().__init__()
        self.vlm = vlm
        self.hf = vlm.model
        self.tied = self.hf.lm_head.weight is vlm.decoder.embed_tokens.weight
        if self.tied:
            self.hf.lm_head = None  # one weight, moved once
        make_castable(self.hf, operations)
        vlm.casts = True
        self.model = FolderDecoder(vlm)
        self.num_layers = vlm.layers
        self.dtype = vlm.dtype
        if vlm.reads_pictures:
            # Known by the name that the pack looks for, and counted once: under ``hf``.
            object.__setattr__(self, "visual", self.hf.get_submodule(vlm.kind.vision))
            self.preprocess_embed = self._preprocess_embed

    def get_input_embeddings(self):
        return self.vlm.decoder.embed_tokens

    def _preprocess_embed(self, embed: dict, device):
        """Features of one view; the grid counts patches two by two, as ComfyUI's Qwen models do."""
        merged, (rows, columns), deepstack = self.vlm.features(embed["data"].to(device), device)
        return merged, {"grid": torch.tensor([[1, 2 * rows, 2 * columns]], device=device), "deepstack": deepstack}

    def build_image_inputs(self, embeds: torch.Tensor, info: Sequence[dict]):
        """(positions ``(3, tokens)`` or None, ``(1, tokens)`` bool, DeepStack features or None) of a sequence with pictures."""
        count = embeds.shape[1]
        mask = torch.zeros(1, count, dtype=torch.bool, device=embeds.device)
        places = []
        for span in info:
            grid = span["extra"]["grid"][0]
            places.append((span["index"], int(grid[1]) // 2, int(grid[2]) // 2))
            mask[0, span["index"] : span["index"] + span["size"]] = True
        levels = zip(*(span["extra"]["deepstack"] for span in info), strict=True)
        deepstack = [torch.cat(level).to(embeds.device) for level in levels]
        positions = positions_of(count, places).to(embeds.device) if self.vlm.in_a_plane else None
        return positions, mask, deepstack or None

    def forward(
        self,
        input_ids,
        attention_mask=None,
        *,
        embeds: torch.Tensor,
        intermediate_output=None,
        embeds_info: Sequence[dict] = (),
        position_ids=None,
        visual_pos_masks=None,
        deepstack_embeds=None,
        **others,
    ):
        """(hidden behind the final norm, ``(1, taps, tokens, width)`` of the layers asked for or None)."""
        info = [span for span in embeds_info if span.get("type") == "image"]
        if info and position_ids is None:
            position_ids, visual_pos_masks, deepstack_embeds = self.build_image_inputs(embeds, info)
        given = dict(
            embeds=embeds,
            position_ids=position_ids,
            visual_pos_masks=visual_pos_masks,
            deepstack_embeds=deepstack_embeds,
        )
        if not isinstance(intermediate_output, list):
            return self.model.forward(**given)[0], None
        with tapped(self.vlm.decoder, intermediate_output, stop=False) as caught:
            hidden = self.model.forward(**given)[0]
        return hidden, torch.stack([caught[tap] for tap in intermediate_output], dim=1)

    def init_kv_cache(self, batch, max_cache_len, device, execution_dtype):
        """An empty cache of transformers; it grows as it is written."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.vlm.config)
        cache.each_tensor = partial(_each_tensor, cache)
        return cache

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        last = hidden[:, -1:]
        if not self.tied:
            return self.hf.lm_head(last)
        table = self.vlm.decoder.embed_tokens
        weight, _, stream = comfy.ops.cast_bias_weight(table, last, offloadable=True)
        out = torch.nn.functional.linear(last, weight)
        comfy.ops.uncast_bias_weight(table, weight, None, stream)
        return out


class FolderClipModel(sd1_clip.SDClipModel):
    """Gives the states of the taps, as ComfyUI's Krea 2 text encoder does."""

    def __init__(self, device="cpu", dtype=None, model_options={}, vlm=None):
        super().__init__(
            device=device,
            layer=list(vlm.taps),
            layer_idx=None,
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"pad": -1},  # no id ends or pads a chat here
            layer_norm_hidden_state=False,
            model_class=lambda _config, _dtype, _device, operations: FolderTransformer(vlm, operations),
            enable_attention_masks=False,
            return_attention_masks=False,
            model_options=model_options,
        )

    def generate(self, tokens, *settings, **more):
        """As stock, with the places of pictures."""
        rows = next(iter(tokens.values())) if isinstance(tokens, dict) else tokens
        embeds, _, _, info = self.process_tokens([[pair[0] for pair in row] for row in rows], self.execution_device)
        info = [span for span in info if span.get("type") == "image"]
        if info:
            positions, pictures, deepstack = self.transformer.build_image_inputs(embeds, info)
            more |= {"position_ids": positions, "visual_pos_masks": pictures, "deepstack_embeds": deepstack}
        return self.transformer.generate(embeds, *settings, **more)


class FolderTEModel(sd1_clip.SD1ClipModel):
    """The module behind the CLIP; it brings its own row of ``profiles``."""

    def __init__(self, device="cpu", dtype=None, model_options={}, vlm=None):
        super().__init__(
            device=device,
            dtype=dtype,
            name=NAME,
            model_options=model_options,
            clip_model=partial(FolderClipModel, vlm=vlm),
        )
        self.unifusion_row = vlm.profile
        self.unifusion_name = vlm.name
        self.unifusion_width = vlm.width
        self.unifusion_side = vlm.picture_side
        self.unifusion_token_side = vlm.token_side

    def encode_token_weights(self, token_weight_pairs):
        """Conditioning ``(1, tokens, taps * width)`` of what stands behind the system prompt."""
        row = token_weight_pairs[NAME][0]
        states, pooled, *_ = super().encode_token_weights(token_weight_pairs)
        return states.permute(0, 2, 1, 3).flatten(2)[:, row[0][-1] if len(row[0]) > 2 else 0 :], pooled, {}


class _Inner:
    """What ``VLM`` asks of the tokenizer inside: one token in front is the tokenizer's own matter."""

    start_token, tokens_start, min_length, pad_token, pad_left = None, 0, 0, -1, False

    def __init__(self, words):
        self.tokenizer = words


class FolderTokenizer:
    """The stock questions of a tokenizer, answered by the folder's; pictures stand before the prompt."""

    clip = clip_name = NAME

    def __init__(self, embedding_directory=None, tokenizer_data={}, vlm=None):
        self.vlm = vlm
        setattr(self, NAME, _Inner(vlm.words))

    def tokenize_with_weights(self, text: str, return_word_ids=False, images=(), image=None, **options):
        """One row of (token or picture, weight 1); the first entry also says how many tokens the system prompt has."""
        pictures = list(images) if len(images) else [] if image is None else list(image.split(1))
        profile = self.vlm.profile
        views = [self.vlm.prepare(picture) for picture in pictures]
        said = Chat(instruction=text, system=profile.system_for(text, bool(views)), views=views)
        tokens = self.vlm.tokenize(said)
        pad = self.vlm.words.convert_tokens_to_ids(IMAGE_PAD) if views else None
        queue = iter([view for picture in views for view in picture])
        row: list[tuple] = [
            ({"type": "image", "data": next(queue), "original_type": "image"} if number == pad else number, 1.0)
            for number in tokens.ids
        ]
        system = next((index for index, role in enumerate(tokens.roles) if role != tokens.roles[0]), 0)
        row[0] = (*row[0], system if tokens.roles[0] == 0 else 0)
        return {NAME: [row]}

    def untokenize(self, pairs):
        return [(pair, self.vlm.bytes_of([pair[0]])[0].decode("utf-8", "replace")) for pair in pairs]

    def decode(self, token_ids, skip_special_tokens=True) -> str:
        special = set(self.vlm.words.get_added_vocab().values()) if skip_special_tokens else set()
        kept = [int(number) for number in token_ids if int(number) not in special]
        return b"".join(self.vlm.bytes_of(kept)).decode("utf-8", "replace")

    def state_dict(self) -> dict:
        return {}


def load_clip(folder: str | Path, taps: tuple[int, ...] = (), **patching) -> comfy.sd.CLIP:
    """A transformers folder as a CLIP, its weights in the file's dtype.

    Args:
        folder: see ``TransformersVLM.from_folder``.
        taps: layers that its drawing model was trained with, where config.json names none; empty: the default ones.
        patching: the host's ``disable_dynamic``.

    Raises:
        ValueError: for whatever the folder lacks, or taps that the model has not.
    """
    folder = Path(folder)
    vlm = TransformersVLM.from_folder(folder, dtype=None)
    if folder.name == "vlm":
        vlm.name = folder.parent.name  # of the model it belongs to
    if taps and not vlm.taps_named:
        if max(taps) >= vlm.layers:
            raise ValueError(
                f"The drawing model was trained with layer {max(taps)}, but the language model in {quoted(vlm.name)} "
                f"has {vlm.layers}. Take both from the same training."
            )
        vlm.taps = tuple(taps)

    class Target:
        params = {"vlm": vlm}
        clip = FolderTEModel
        tokenizer = partial(FolderTokenizer, vlm=vlm)

    parameters = sum(weight.numel() for weight in vlm.model.parameters())
    clip = comfy.sd.CLIP(Target, parameters=parameters, model_options={"dtype": vlm.dtype}, **patching)
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (folder, taps))
    return clip


def _load_clip_patcher(folder, taps, **patching):
    return load_clip(folder, taps, **patching).patcher
