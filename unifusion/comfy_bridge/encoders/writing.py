"""Write text with a ComfyUI text encoder and keep the states of the tapped layers of the same pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import torch

from ...profiles import WRITE_ELSEWHERE
from ...verifi import Decoding
from .prefix import read_rest
from .text_encoder import PRECISIONS, VLM, Embedded

ENDED, AT_LIMIT = "ended by itself", "stopped at the limit"


class Decoded(NamedTuple):
    """What was written.

    Attributes:
        ids: token ids without the token that ended the text.
        states: ``(1, tokens read + tokens written, taps, width)`` float32, or None if no layer was tapped.
        seconds: time from the first forward pass to the last.
        ending: :data:`ENDED` or :data:`AT_LIMIT`.
    """

    ids: list[int]
    states: torch.Tensor | None
    seconds: float
    ending: str


def check_can_write(vlm: VLM) -> None:
    """Refuse text encoders that cannot generate.

    Raises:
        ValueError: naming the text encoder, the reason, which CLIP could write instead and how to wire it.
    """
    missing = [name for name in ("logits", "sample_token", "init_kv_cache") if not hasattr(vlm.transformer, name)]
    stops = stop_tokens(vlm)
    if missing or vlm.decoder.norm is None or not stops:
        if missing:
            reason = "ComfyUI has no text generation for it"
        elif vlm.decoder.norm is None:
            reason = "its last layers and its final norm are cut off"
        else:
            reason = "ComfyUI does not know the tokens that end its text"
        raise ValueError(
            f"This text encoder ({vlm.kind}, {vlm.name}) cannot write text: {reason}. "
            f"{vlm.profile.cannot_write or WRITE_ELSEWHERE}"
        )


def stop_tokens(vlm: VLM) -> set[int]:
    """Ids that end a written text."""
    return {*getattr(vlm.decoder.config, "stop_tokens", ()), *vlm.profile.stop_tokens}


def precision_for(vlm: VLM, choice: str) -> str:
    """``"auto"`` is what ComfyUI's own text generation computes in on this device."""
    if choice != "auto":
        return choice
    return "bf16" if comfy.model_management.should_use_bf16(vlm.device) else "fp32"


def _never_written(vlm: VLM, stops: set[int]) -> set[int]:
    """Ids that are no text: control tokens other than those that end it, and rows of the table without a token."""
    rows = range(vlm.decoder.config.vocab_size)
    added = {token for token in vlm.tokenizer.get_added_vocab().values() if token in rows}
    return added.union(rows[len(vlm.tokenizer) :]) - stops


def decode(
    vlm: VLM, embedded: Embedded, taps: Sequence[int], settings: Decoding, limit: int, precision: str
) -> Decoded:
    """Decode with a KV cache: one prefill and one step a token.

    The state of a token exists once it has been fed, one step after it was drawn. So the token that ends the text
    costs nothing, and a text cut at the limit needs one more step, which goes only as deep as the deepest tap.

    Args:
        vlm: loaded.
        embedded: system prompt, pictures, instruction and the first words of the answer.
        taps: layers whose inputs are kept; empty for text alone.
        settings: how to draw; its maximum length is replaced by ``limit``.
        limit: most tokens to write, 1 or more.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    transformer, decoder, dtype = vlm.transformer, vlm.decoder, PRECISIONS[precision]
    stops = stop_tokens(vlm)
    never = _never_written(vlm, stops)
    generator = torch.Generator(device=vlm.device).manual_seed(settings.seed) if settings.sample else None
    progress = comfy.utils.ProgressBar(limit)
    # One buffer on the encoder's device, filled as the text grows: nothing is copied to the host while writing.
    states = torch.empty(1, embedded.tokens + limit, len(taps), vlm.width, dtype=dtype, device=vlm.device)
    kept = 0
    ids: list[int] = []
    began = time.perf_counter()

    with (
        comfy.model_management.cuda_device_context(vlm.device),
        vlm.tapped(taps, stop=False) if taps else nullcontext({}) as caught,
    ):
        positions = pictures = deepstack = None
        if embedded.info and not embedded.prefix:
            positions, pictures, deepstack = transformer.build_image_inputs(embedded.embeds, embedded.info)
        # With pictures a token's position is not its index: it goes on behind the largest position read.
        following = None
        if positions is not None:
            following = int(positions[:, -1].max()) + 1 + torch.arange(limit, device=vlm.device)
        if embedded.prefix:
            read = embedded.embeds.shape[1]
            following = embedded.prefix.following + read + torch.arange(limit, device=vlm.device)
            cache = embedded.prefix.cache(transformer, read + limit, vlm.device, dtype)
        else:
            cache = transformer.init_kv_cache(1, embedded.tokens + limit, vlm.device, dtype)

        def keep(count):
            nonlocal kept
            if taps:
                torch.stack([caught[tap] for tap in taps], dim=2, out=states[:, kept : kept + count])
            kept += count

        def feed(token):
            return decoder.forward(
                None,
                embeds=decoder.embed_tokens(token).to(dtype),
                past_key_values=cache,
                position_ids=None if following is None else following[None, len(ids) - 1 : len(ids)],
            )

        def draw(forbidden=()):
            logits = transformer.logits(hidden)[:, -1]
            if forbidden:
                logits[:, sorted(forbidden)] = float("-inf")
            token = transformer.sample_token(
                logits,
                settings.temperature,
                settings.top_k,
                settings.top_p,
                settings.min_p,
                settings.repetition_penalty,
                ids,
                generator,
                do_sample=settings.sample,
            )
            return token, token[0].item()

        if embedded.prefix:
            hidden, cache = read_rest(vlm, embedded, cache, dtype)
            if taps:
                states[:, : embedded.prefix.count] = embedded.prefix.states
            kept = embedded.prefix.count
            keep(embedded.embeds.shape[1])
        else:
            first = {} if deepstack is None else {"deepstack_embeds": deepstack, "visual_pos_masks": pictures}
            hidden, _, cache = decoder.forward(
                None, embeds=embedded.embeds.to(dtype), past_key_values=cache, position_ids=positions, **first
            )
            keep(embedded.tokens)
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            token, drawn = draw(stops if len(ids) < settings.min_length else ())
            if drawn in never:  # drawn again only then, so that every other text equals ComfyUI's for the same seed
                token, drawn = draw(never | (stops if len(ids) < settings.min_length else set()))
            if drawn in stops:
                ending = ENDED
                break
            ids.append(drawn)
            progress.update(1)
            if len(ids) == limit:
                ending = AT_LIMIT
                if taps:
                    with vlm.tapped(taps, stop=True):  # the outer hooks keep the states, the inner ones end the pass
                        feed(token)
                    keep(1)
                break
            hidden, _, cache = feed(token)
            keep(1)
    progress.update_absolute(limit)
    read = states[:, :kept].float().to(comfy.model_management.intermediate_device()) if taps else None
    return Decoded(ids, read, time.perf_counter() - began, ending)
