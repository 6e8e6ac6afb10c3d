"""Write text with a ComfyUI text encoder and keep the states of the tapped layers of the same pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
        states: ``(1, tokens read + tokens written, taps, width)`` float32, without the first ``skip`` tokens, or None if no
            layer was tapped.
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


class _Row:
    """One text while it is written."""

    def __init__(self, settings: Decoding, seed: int, device: torch.device):
        self.ids: list[int] = []
        self.ending = AT_LIMIT
        self.generator = torch.Generator(device=device).manual_seed(seed) if settings.sample else None


def _each_tensor(cache, change: Callable[[torch.Tensor], torch.Tensor]):
    """A KV cache with every tensor changed, layer by layer; encoders differ in what they keep of a layer."""
    if hasattr(cache, "each_tensor"):
        return cache.each_tensor(change)
    cache = list(cache)
    for index, layer in enumerate(cache):
        cache[index] = tuple(change(part) if isinstance(part, torch.Tensor) else part for part in layer)
    return cache


def decode(
    vlm: VLM,
    embedded: Embedded,
    taps: Sequence[int],
    settings: Decoding,
    limit: int,
    precision: str,
    seeds: Sequence[int] | None = None,
    *,
    skip: int = 0,
) -> list[Decoded]:
    """Decode with a KV cache: one prefill and one step a token, for one text or for several at once.

    The state of a token exists once it has been fed, one step after it was drawn. So the token that ends the text
    costs nothing, and a text cut at the limit needs one more step, which goes only as deep as the deepest tap.
    Several texts share the prefill; each is drawn with its own seed, stops by itself and costs nothing from then on.

    Args:
        vlm: loaded.
        embedded: system prompt, pictures, instruction and the first words of the answer.
        taps: layers whose inputs are kept; empty for text alone.
        settings: how to draw; its maximum length is replaced by ``limit``.
        limit: most tokens to write, 1 or more.
        precision: ``"fp32"`` or ``"bf16"``.
        seeds: one for each text; by default the one of ``settings``.
        skip: tokens at the beginning whose states are not wanted; fewer than are read.

    Returns:
        One entry a seed, in their order.
    """
    transformer, decoder, dtype = vlm.transformer, vlm.decoder, PRECISIONS[precision]
    stops = stop_tokens(vlm)
    never = _never_written(vlm, stops)
    rows = [_Row(settings, seed, vlm.device) for seed in (seeds or [settings.seed])]
    active = list(range(len(rows)))
    progress = comfy.utils.ProgressBar(limit)
    # Two buffers on the encoder's device, filled as the text grows: nothing is copied to the host while writing.
    front = torch.empty((1, embedded.tokens - skip, len(taps), vlm.width), dtype=dtype, device=vlm.device)
    began = time.perf_counter()
    with comfy.model_management.cuda_device_context(vlm.device):
        hidden, cache, following = _prefill(vlm, embedded, taps, front, limit, dtype)
    behind = torch.empty((len(rows), limit, len(taps), vlm.width), dtype=dtype, device=vlm.device)
    written = 0  # tokens of the longest text

    with (
        comfy.model_management.cuda_device_context(vlm.device),
        vlm.tapped(taps, stop=False) if taps else nullcontext({}) as caught,
    ):

        def keep_written():
            at = written - 1
            if taps and len(active) == len(rows):
                torch.stack([caught[tap] for tap in taps], dim=2, out=behind[:, at : at + 1])
            elif taps:
                behind[active, at] = torch.stack([caught[tap] for tap in taps], dim=2)[:, 0]

        def feed(tokens):
            return decoder.forward(
                None,
                embeds=decoder.embed_tokens(tokens).to(dtype),
                past_key_values=cache,
                position_ids=None if following is None else following[None, written - 1 : written],
            )

        def draw(row, logits, forbidden=()):
            if forbidden:
                logits[:, sorted(forbidden)] = float("-inf")
            return transformer.sample_token(
                logits,
                settings.temperature,
                settings.top_k,
                settings.top_p,
                settings.min_p,
                settings.repetition_penalty,
                row.ids,
                row.generator,
                do_sample=settings.sample,
            )

        def draw_all():
            """(token ids on the device ``(rows, 1)``, the same as a list), one for each text that is not done."""
            hold = stops if written < settings.min_length else set()
            # The first draw is made for all from one pass; a row of the prefill is the same for every text.
            logits = transformer.logits(hidden)[:, -1]
            if len(active) > 1:
                logits = logits.expand(len(active), -1).clone()
            tokens = torch.cat([draw(rows[row], logits[at : at + 1], hold) for at, row in enumerate(active)])
            drawn = tokens.flatten().tolist()
            for at, row in enumerate(active):
                if drawn[at] in never:  # again only then, so that every other text equals ComfyUI's for the same seed
                    again = transformer.logits(hidden)[:, -1].expand(len(active), -1)[at : at + 1].clone()
                    tokens[at] = draw(rows[row], again, never | hold)[0]
                    drawn[at] = tokens[at].item()
            return tokens, drawn

        if len(rows) > 1:
            cache = _each_tensor(cache, lambda part: part.expand(len(rows), *part.shape[1:]).contiguous())
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            tokens, drawn = draw_all()
            going = [at for at, token in enumerate(drawn) if token not in stops]
            if len(going) < len(active):
                for at in set(range(len(active))) - set(going):
                    rows[active[at]].ending = ENDED
                active = [active[at] for at in going]
                if not active:
                    break
                tokens = tokens[going]
                cache = _each_tensor(cache, lambda part, going=going: part[going])
            for at, row in zip(going, active, strict=True):
                rows[row].ids.append(drawn[at])
            written += 1
            progress.update(1)
            if written == limit:
                if taps:
                    with vlm.tapped(taps, stop=True):  # the outer hooks keep the states, the inner ones end the pass
                        feed(tokens)
                    keep_written()
                break
            hidden, _, cache = feed(tokens)
            keep_written()
    progress.update_absolute(limit)
    hidden = cache = None  # freed before the states are put together
    seconds = time.perf_counter() - began
    return [
        Decoded(row.ids, _states_of(front, behind[index : index + 1, : len(row.ids)]), seconds, row.ending)
        for index, row in enumerate(rows)
    ]


def _prefill(
    vlm: VLM, embedded: Embedded, taps: Sequence[int], states: torch.Tensor, limit: int, dtype: torch.dtype
) -> tuple[torch.Tensor, list[tuple], torch.Tensor | None]:
    """Read what was asked, behind what was read ahead if anything was.

    Args:
        states: ``(1, tokens, taps, width)`` of the last tokens, filled.

    Returns:
        (last hidden states, KV cache with room for ``limit`` tokens, positions of what will be written or None where a
        token's position is its index)
    """
    prefix = embedded.prefix
    read = embedded.embeds.shape[1]
    after = torch.arange(limit, device=vlm.device)
    known = max(0, states.shape[1] - read)  # states that are wanted of the prefix
    with vlm.tapped(taps, stop=False, into=states[:, known:]) if taps else nullcontext():
        if prefix:
            if taps and known:
                states[:, :known] = prefix.states[:, -known:]
            cache = prefix.cache(vlm.transformer, read + limit, vlm.device, dtype)
            hidden, cache = read_rest(vlm, embedded, cache, dtype)
            return hidden, cache, prefix.following + read + after
        positions, seen = None, {}
        if embedded.info:
            positions, pictures, deepstack = vlm.transformer.build_image_inputs(embedded.embeds, embedded.info)
            seen = {} if deepstack is None else {"deepstack_embeds": deepstack, "visual_pos_masks": pictures}
        cache = vlm.transformer.init_kv_cache(1, read + limit, vlm.device, dtype)
        hidden, _, cache = vlm.decoder.forward(
            None, embeds=embedded.embeds.to(dtype), past_key_values=cache, position_ids=positions, **seen
        )
        # With pictures a token's position is not its index: it goes on behind the largest position read.
        return hidden, cache, None if positions is None else int(positions[:, -1].max()) + 1 + after


def _states_of(front: torch.Tensor, behind: torch.Tensor) -> torch.Tensor | None:
    """What was kept of reading and of writing, as it travels on; None where no layer was tapped."""
    if not front.shape[2]:
        return None
    return torch.cat([front, behind], dim=1).float().to(comfy.model_management.intermediate_device())
