"""A ComfyUI text encoder (``CLIP``) as the VLM of the method: tokenise, embed, states of taps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple

import comfy.model_management
import torch

from ...hidden_states import HiddenStates, make_hidden_states
from ...limits import check_tokens
from ...messages import IMAGE_PAD, Segment, Tokens, tokenize
from ...profiles import PROFILES, Profile
from ...references import TOKEN
from .clip_hooks import check_hooks
from .picture_features import image_features

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Embedded(NamedTuple):
    """A chat as input embeddings, images expanded.

    Attributes:
        embeds: ``(1, tokens, width)`` float32 on the encoder's device.
        mask: ``(1, tokens)`` int64, ones.
        info: ComfyUI's list of image spans with grid and DeepStack features.
        roles, weights, pieces: one per expanded token.
        opener: first token of the assistant's turn.
        grids: for each picture, (rows, columns) of tokens of each view.
    """

    embeds: torch.Tensor
    mask: torch.Tensor
    info: list[dict]
    roles: list[int]
    weights: list[float]
    pieces: list[str]
    opener: int
    grids: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def tokens(self) -> int:
        return self.embeds.shape[1]


# Text encoders of ComfyUI 0.30 that have decoder layers but not what the method asks of a VLM.
_WHY_NOT = {
    "Gemma": "has another chat format and tokenizer, so the roles of its tokens cannot be known",
    "Qwen35": "keeps a recurrent state in most layers, and ComfyUI builds no picture positions for it",
    "Qwen25_7BVLI": "gets no picture positions from ComfyUI while it writes",
    "Qwen": "reads text alone",
    "Ministral": "reads text alone, in another chat format",
    "Mistral": "reads text alone, in another chat format",
}


def why_not(transformer: type) -> str:
    """Why a class of text encoder cannot be used, as the end of a sentence that begins with its name."""
    names = [parent.__name__ for parent in transformer.__mro__]
    for family, reason in _WHY_NOT.items():
        if any(name.startswith(family) for name in names):
            return reason
    return "is not a vision-language model whose layers can be tapped"


def picture_inputs(transformer, embeds: torch.Tensor, info: list[dict]) -> dict:
    """What the decoder wants to know of pictures: positions, where they are, and their DeepStack features.

    ComfyUI's own forward pass finds it out by itself from 0.27 on only.
    """
    positions, pictures, deepstack = transformer.build_image_inputs(embeds, info) if info else (None, None, None)
    return {"position_ids": positions, "visual_pos_masks": pictures, "deepstack_embeds": deepstack}


class _DeepestTapReached(Exception):
    pass


class VLM:
    """The text encoder of one ``CLIP``, seen as a stack of decoder layers.

    Raises:
        ValueError: if the text encoder has no decoder layers that can be tapped.
    """

    def __init__(self, clip):
        check_hooks(clip)
        self.clip = clip
        model = clip.cond_stage_model
        self.encoder = getattr(model, getattr(model, "clip", ""), None)
        transformer = getattr(self.encoder, "transformer", None)
        decoder = getattr(transformer, "model", None)
        wrapper = getattr(clip.tokenizer, getattr(clip.tokenizer, "clip", ""), None)
        self.tokenizer = getattr(wrapper, "tokenizer", None)
        kind = type(model).__name__.rstrip("_")
        if not hasattr(decoder, "layers") or not hasattr(transformer, "build_image_inputs"):
            raise ValueError(
                f"This text encoder ({kind}) {why_not(type(transformer))}. Load a Qwen3-VL encoder "
                f"(CLIPLoader, type 'krea2') or the UniFusion miniature."
            )
        self.decoder = decoder
        self.transformer = transformer
        self.kind = kind
        self.device = clip.patcher.load_device

    @property
    def name(self) -> str:
        """Name kept with hidden states; the same for every clone of the encoder, with or without LoRA."""
        return f"{self.clip.cond_stage_model.clip} ({self.layers} layers, width {self.width})"

    @property
    def layers(self) -> int:
        return len(self.decoder.layers)

    @property
    def width(self) -> int:
        return self.decoder.config.hidden_size

    @property
    def profile(self) -> Profile:
        """The profile this encoder belongs to."""
        own = getattr(self.clip.cond_stage_model, "unifusion_profile", None)
        return PROFILES[own or ("krea2" if "Krea2" in self.kind else "qwen3vl")]

    def tokenize(self, segments: Sequence[Segment]) -> Tokens:
        return tokenize(segments, self.tokenizer)

    def load(self, tokens: int, taps: int, precision: str = "fp32") -> None:
        """Ask ComfyUI to bring the encoder to its device with room for a sequence of ``tokens``.

        ComfyUI has no estimate of its own for these encoders. Counted: KV cache or activations of one layer, the
        causal mask, and the tapped states.
        """
        size = torch.finfo(PRECISIONS[precision]).bits // 8
        config = self.decoder.config
        cache = 2 * self.layers * config.num_key_value_heads * config.head_dim * size
        activations = 4 * (config.hidden_size + config.intermediate_size) * size
        need = tokens * (cache + activations + taps * self.width * 4) + 2 * tokens * tokens * size
        comfy.model_management.load_models_gpu([self.clip.patcher], memory_required=need)
        self.clip.cond_stage_model.reset_clip_options()
        self.clip.cond_stage_model.set_clip_options({"execution_device": self.device})

    def embed(self, tokens: Tokens, pictures: Sequence[Sequence[torch.Tensor]] = ()) -> Embedded:
        """Input embeddings of a chat; pictures' features are reused when the same picture was seen before.

        Args:
            tokens: from :meth:`tokenize`, with one ``<|image_pad|>`` per view.
            pictures: for each picture its views, each ``(1, height, width, 3)`` in 0..1.
        """
        views = [view for picture in pictures for view in picture]
        features = [image_features(self, view) for view in views]
        queue = iter(features)
        pad = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        row = [{"type": "embedding", "data": next(queue)[0]} if token == pad else token for token in tokens.ids]
        embeds, mask, _, info = self.encoder.process_tokens([row], self.device)
        sizes = []
        for span, (_, extra) in zip(info, features, strict=True):
            span.update(type="image", extra=extra)
            sizes.append((int(extra["grid"][0][1]) // 2, int(extra["grid"][0][2]) // 2))
        roles, weights, pieces, opener, lengths = [], [], [], tokens.opener, iter(span["size"] for span in info)
        for index, token in enumerate(tokens.ids):
            if index == tokens.opener:
                opener = len(roles)
            count = next(lengths) if token == pad else 1
            roles += [tokens.roles[index]] * count
            weights += [tokens.weights[index]] * count
            pieces += [""] * count if token == pad else [tokens.pieces[index]]
        grids, rest = [], iter(sizes)
        for picture in pictures:
            grids.append(tuple(next(rest) for _ in picture))
        return Embedded(embeds, mask, info, roles, weights, pieces, opener, tuple(grids))

    @contextmanager
    def tapped(self, taps: Sequence[int], stop: bool):
        """Collect the inputs of the tapped layers; yields a dict layer -> ``(1, tokens, width)``.

        Args:
            taps: layers.
            stop: end the forward pass at the deepest tap; what lies behind it is not needed for conditioning.
        """
        caught: dict[int, torch.Tensor] = {}
        deepest = max(taps)

        def hook(layer):
            def catch(_module, args, kwargs):
                caught[layer] = kwargs["x"] if "x" in kwargs else args[0]
                if stop and layer == deepest:
                    raise _DeepestTapReached

            return catch

        handles = [self.decoder.layers[tap].register_forward_pre_hook(hook(tap), with_kwargs=True) for tap in taps]
        try:
            yield caught
        except _DeepestTapReached:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def states(self, embedded: Embedded, taps: Sequence[int], precision: str = "fp32") -> torch.Tensor:
        """One forward pass up to the deepest tap.

        Equal to the tail of ComfyUI's own encoding bit for bit in fp32, which is how ComfyUI encodes.

        Returns:
            ``(1, tokens, taps, width)`` float32 on ComfyUI's intermediate device.
        """
        embeds = embedded.embeds.to(PRECISIONS[precision])
        with comfy.model_management.cuda_device_context(self.device), self.tapped(taps, stop=True) as caught:
            self.transformer(
                None,
                embedded.mask,
                embeds=embeds,
                num_tokens=[embedded.tokens],
                embeds_info=embedded.info,
                dtype=torch.float32,
                **picture_inputs(self.transformer, embeds, embedded.info),
            )
        return stack(caught, taps)


def stack(caught: dict[int, torch.Tensor], taps: Sequence[int]) -> torch.Tensor:
    """``(1, tokens, taps, width)`` float32 from caught layer inputs, on ComfyUI's intermediate device."""
    states = torch.stack([caught[tap] for tap in taps], dim=2)
    return states.float().to(comfy.model_management.intermediate_device())


def encode(
    vlm: VLM, segments: Sequence[Segment], taps: Sequence[int], pictures=(), precision: str = "fp32", **about
) -> tuple[HiddenStates, int]:
    """Teacher-forced pass over a chat.

    Returns:
        (hidden states of every token, index of the first token of the assistant's turn)
    """
    tokens = vlm.tokenize(segments)
    seen = sum(view.shape[1] * view.shape[2] // TOKEN**2 for views in pictures for view in views)
    check_tokens(len(tokens.ids) + seen, vlm.decoder.config.max_position_embeddings, vlm.name)
    vlm.load(len(tokens.ids) + seen, len(taps), precision)
    embedded = vlm.embed(tokens, pictures)
    states = vlm.states(embedded, taps, precision)
    return make_hidden_states(
        states,
        embedded.roles,
        embedded.pieces,
        taps,
        vlm.name,
        grids=embedded.grids,
        weights=torch.tensor(embedded.weights),
        **about,
    ), embedded.opener
