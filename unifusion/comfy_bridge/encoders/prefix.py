"""What stands in front of the words, read once: system prompt and pictures.

Attention is causal, so keys, values and hidden states of these tokens are the same whatever follows. They are read by
themselves, kept in main memory, and only the rest of a chat is read behind them: for another prompt over the same
pictures, for the negative, and for writing.

Chats with pictures are always read in these two parts, whether the first was kept or not, so that a picture never depends
on what was encoded before it. In one pass the same numbers would come out up to rounding; where a plain encode is promised
to equal ComfyUI's own bit for bit (no pictures, or a model with an edit-encode node of its own), it is not read in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import comfy.model_management
import comfy.text_encoders.llama as llama
import torch
from comfy.ldm.modules import attention as host_attention

from ...hidden_states import PADDING
from ...messages import IMAGE_PAD, Tokens
from .kept import prefix_store, states_key


class Prefix(NamedTuple):
    """What the encoder knows of the first tokens of a chat, in main memory.

    Attributes:
        count: tokens, pictures expanded.
        following: position of the next token; behind a picture it is not its index.
        layers: keys and values ``(1, heads, count, head size)`` of every layer that was read.
        states: ``(1, count, taps, width)`` in the precision of the pass, or None where no layer was tapped.
        sizes, grids: as in ``KeptStates``.
    """

    count: int  # type: ignore[assignment]  # a tuple counts too, which nobody asks of this one
    following: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    states: torch.Tensor | None
    sizes: tuple[int, ...]
    grids: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def nbytes(self) -> int:
        tensors = [part for layer in self.layers for part in layer] + ([] if self.states is None else [self.states])
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def cache(self, transformer, more: int, device: torch.device, dtype: torch.dtype) -> list[tuple]:
        """A KV cache that holds these tokens, with room for ``more``."""
        cache = transformer.init_kv_cache(1, self.count + more, device, dtype)
        for index, (keys, values) in enumerate(self.layers):
            room = cache[index]
            room[0][:, :, : self.count].copy_(keys)
            room[1][:, :, : self.count].copy_(values)
        return [(layer[0], layer[1], self.count) for layer in cache]


def length_in_front(vlm, tokens: Tokens) -> int:
    """How many tokens are read ahead: up to the last picture; 0 without pictures, or where a chat cannot be read in parts."""
    decoder = vlm.decoder
    plain = isinstance(decoder, llama.Llama2_) and not getattr(decoder.config, "sliding_attention", None)
    if not plain or not hasattr(vlm.transformer, "init_kv_cache") or PADDING in tokens.roles:
        return 0
    pad = vlm.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    last = max((index for index, token in enumerate(tokens.ids) if token == pad), default=-1)
    return last + 1 if last + 1 < len(tokens.ids) else 0


def _cut(tokens: Tokens, first: int, end: int | None) -> Tokens:
    part = slice(first, end)
    return Tokens(tokens.ids[part], tokens.roles[part], tokens.weights[part], tokens.pieces[part], tokens.opener)


def embed_in_parts(vlm, tokens: Tokens, pictures, taps: Sequence[int], precision: str, *, writing: bool = False):
    """The chat embedded, with what stands in front of the words read already.

    Args:
        vlm: loaded.
        tokens, pictures: as in ``VLM.embed``.
        taps: layers whose states are wanted.
        writing: whether text will be written, which needs every layer.

    Returns:
        An ``Embedded`` whose embeddings are those of the rest, and whose ``prefix`` is the part in front; or one without a
        prefix where the chat is not read in parts.
    """
    count = length_in_front(vlm, tokens) if vlm.reads_pictures and any(map(len, pictures)) else 0
    if not count:
        return vlm.embed(tokens, pictures)
    front = _cut(tokens, 0, count)
    key = states_key(vlm, front.ids, pictures, taps, precision, "in front", writing)
    store = prefix_store(vlm)
    prefix = store.find(key)
    vlm.in_front_reused += prefix is not None
    if prefix is None:
        vlm.in_front_read += 1
        prefix = _read(vlm, vlm.embed(front, pictures), taps, precision, writing)
        store.put(key, prefix, prefix.nbytes)
    rest = vlm.embed(_cut(tokens, count, None))
    laid = vlm.lay_out(tokens, prefix.sizes)
    return rest._replace(**laid._asdict(), grids=prefix.grids, prefix=prefix)


def _read(vlm, embedded, taps: Sequence[int], precision: str, writing: bool) -> Prefix:
    dtype, count = vlm.dtype_of(precision), embedded.tokens
    positions, pictures, deepstack = vlm.transformer.build_image_inputs(embedded.embeds, embedded.info)
    seen = {} if deepstack is None else {"deepstack_embeds": deepstack, "visual_pos_masks": pictures}
    cache = vlm.transformer.init_kv_cache(1, count, vlm.device, dtype)
    states = torch.empty((1, count, len(taps), vlm.width), dtype=dtype, device=vlm.device)
    with (
        comfy.model_management.cuda_device_context(vlm.device),
        vlm.tapped(taps, stop=not writing, into=states) if taps else nullcontext(),
        continued(vlm, count),
    ):
        vlm.decoder.forward(
            None,
            embeds=embedded.embeds.to(dtype),
            past_key_values=cache,
            position_ids=positions,
            **seen,
        )
    depth = len(vlm.decoder.layers) if writing else min(max(taps), len(vlm.decoder.layers))
    layers = tuple((layer[0].cpu(), layer[1].cpu()) for layer in cache[:depth])
    following = count if positions is None else int(positions.max()) + 1
    return Prefix(count, following, layers, states.cpu() if taps else None, embedded.sizes, embedded.grids)


def read_rest(vlm, embedded, cache: list[tuple], dtype: torch.dtype):
    """One pass over the tokens behind the prefix; inside ``VLM.tapped`` it collects their states.

    Returns:
        (last hidden states, cache)
    """
    count = embedded.embeds.shape[1]
    following = embedded.prefix.following + torch.arange(count, device=vlm.device)
    with continued(vlm, count):
        hidden, _, cache = vlm.decoder.forward(
            None, embeds=embedded.embeds.to(dtype), past_key_values=cache, position_ids=following[None]
        )
    return hidden, cache


@contextmanager
def continued(vlm, count: int):
    """Lets ComfyUI's decoder read ``count`` tokens behind others: it makes the causal mask for all of them, and the rows
    of those that are read are cut out here.

    On a CPU the attention is torch's own: ComfyUI's for text encoders holds the matrix of every head there, unless it is
    started with --use-pytorch-cross-attention.
    """
    attention = {"optimized_attention": host_attention.attention_pytorch} if vlm.device.type == "cpu" else {}

    def cut(_module, args, kwargs):
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.shape[-2] > count:
            kwargs = {**kwargs, "attention_mask": mask[..., -count:, :]}
        return args, {**kwargs, **attention}

    handles = [layer.register_forward_pre_hook(cut, with_kwargs=True) for layer in vlm.decoder.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
