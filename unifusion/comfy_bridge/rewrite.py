"""A terse prompt to hidden states of what the VLM wrote: what the VERIFI Rewrite node does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..hidden_states import GENERATED, IMAGE, HiddenStates, make_hidden_states, selection_mask, take
from ..messages import Segment, chat, remove_control_tokens, token_bytes
from ..profiles import Profile, parse_taps, taps_for
from ..references import Reference
from ..system_prompts import AS_PROFILE, CUSTOM, system_prompt_for
from ..verifi import ENCODE_AGAIN, REWRITE_SELECTIONS, Decoding, count_words, room_to_write, what_is_wrong
from .decode import AT_LIMIT, Decoded, check_can_write, decode, precision_for
from .encode_prompt import budget_lines, choose_profile, empty_prompt, encode_selected, gather, label_texts, with_spans
from .vlm import VLM, encode


class Written(NamedTuple):
    """All tokens of a rewrite.

    Attributes:
        hidden: hidden states of system prompt, pictures, instruction and text; None if only the text was asked for.
        text: the rewritten text, the given first words included.
        opener: first token of the assistant's turn.
        decoded: what was decoded, or None if the text was given.
    """

    hidden: HiddenStates | None
    text: str
    opener: int
    decoded: Decoded | None


class Request(NamedTuple):
    """What is asked of the VLM: system prompt, instruction and pictures, without control tokens."""

    system: str
    prompt: str
    pictures: Sequence[Reference]

    def segments(self, answer: Sequence[Segment] = ()) -> list[Segment]:
        """The chat up to and including the words of the assistant that are given."""
        asked = chat(self.system, self.prompt, [len(reference.views) for reference in self.pictures],
                     label_texts(self.pictures), strengths=[reference.strength for reference in self.pictures])
        return [*asked, *answer]

    @property
    def views(self) -> list[tuple[torch.Tensor, ...]]:
        return [reference.views for reference in self.pictures]


def given_text(vlm: VLM, request: Request, answer: Sequence[Segment], taps: tuple[int, ...], precision: str) -> Written:
    """One teacher-forced pass over the request and a text that is known already."""
    text = "".join(segment.text for segment in answer)
    hidden, opener = encode(vlm, request.segments(answer), taps, request.views, precision, prompt=request.prompt,
                            text=text)
    return Written(with_spans(hidden, request.pictures), text, opener, None)


def _tokens_around(vlm: VLM, profile: Profile, request: Request) -> int:
    """Tokens that a plain encode selects besides the prompt and the pictures."""
    views = [len(reference.views) for reference in request.pictures]
    roles = torch.tensor(vlm.tokenize(chat(profile.system, "x", views, label_texts(request.pictures))).roles)
    return int((selection_mask(roles, profile.encode_selection) & (roles < IMAGE)).sum()) - 1


def write(vlm: VLM, profile: Profile, request: Request, prefill: str, taps: tuple[int, ...], selection: str,
          settings: Decoding, precision: str) -> Written:
    """Decode the rewrite and keep the states of the same pass.

    Raises:
        ValueError: if nothing can be written within the window.
    """
    tokens = vlm.tokenize(request.segments([Segment(prefill, GENERATED)] if prefill else ()))
    # Room for the features of the pictures, at most 1024 tokens of the VLM per megapixel.
    read = len(tokens.ids) + sum(view.shape[1] * view.shape[2] // 1024 for views in request.views for view in views)
    vlm.load(read + settings.max_length, len(taps), precision)
    embedded = vlm.embed(tokens, request.views)
    around = _tokens_around(vlm, profile, request) if selection == ENCODE_AGAIN else 0
    limit = room_to_write(embedded.roles, selection, around, profile.window,
                          vlm.decoder.config.max_position_embeddings, settings.max_length, profile.title)
    tapped = () if selection == ENCODE_AGAIN else taps
    decoded = decode(vlm, embedded, tapped, settings, limit, precision)
    raw = token_bytes(vlm.tokenizer, decoded.ids)
    # A text cut inside a character (or a model that writes broken ones) must not leave half of it behind.
    text = prefill + b"".join(raw).decode("utf-8", "ignore")
    if decoded.states is None:
        return Written(None, text, embedded.opener, decoded)
    hidden = make_hidden_states(
        decoded.states, [*embedded.roles, *[GENERATED] * len(raw)],
        [*embedded.pieces, *(piece.decode("utf-8", "replace") for piece in raw)], taps, vlm.name, prompt=request.prompt,
        text=text, grids=embedded.grids, weights=torch.tensor([*embedded.weights, *[1.0] * len(raw)]))
    return Written(with_spans(hidden, request.pictures), text, embedded.opener, decoded)


def _sampling(choice: dict, seed: int, min_length: int, max_length: int) -> Decoding:
    """Decoding settings from the node's widgets."""
    mode = choice.get("sampling")
    if mode not in ("greedy", "sample"):
        raise ValueError(f"There is no sampling '{mode}'; choose 'greedy' or 'sample'.")
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    drawn = {name: choice[name] for name in names} if mode == "sample" else {}
    return Decoding(sample=mode == "sample", seed=seed, min_length=min_length, max_length=max_length, **drawn)


def _answer(text: str) -> list[Segment]:
    return [Segment(text, GENERATED)] if text else []


def run(clip, prompt: str, profile_key: str, system_choice: str, custom_system: str, selection: str, sampling: dict,
        seed: int, min_length: int, max_length: int, prefill: str, edited_text: str, precision: str, taps_text: str,
        references: Sequence[Reference] | None, images: dict | None) -> tuple[HiddenStates, HiddenStates, str, str]:
    """Returns (hidden states, negative, rewritten text, report).

    Raises:
        ValueError: for an encoder that cannot write, nothing to rewrite, control tokens in the first words, lengths out
            of range, or pictures that leave no room.
    """
    vlm = VLM(clip)
    check_can_write(vlm)
    settings = _sampling(sampling, seed, min_length, max_length)
    profile = choose_profile(vlm, profile_key)
    taps = parse_taps(taps_text, vlm.layers) if taps_text.strip() else taps_for(profile, vlm.layers)
    chosen = profile.rewrite_selection if selection == AS_PROFILE else selection
    if chosen not in REWRITE_SELECTIONS:
        raise ValueError(f"Unknown token selection '{chosen}'; use one of: {', '.join(REWRITE_SELECTIONS)}.")
    precision = precision_for(vlm, precision)
    system = system_prompt_for(profile.rewrite_system, system_choice, custom_system)
    cleaned = [remove_control_tokens(text, vlm.tokenizer) for text in (system, prompt, edited_text)]
    system, prompt, edited = (text for text, _ in cleaned)
    removed = {token for _, found in cleaned for token in found}
    if leaked := remove_control_tokens(prefill, vlm.tokenizer)[1]:
        raise ValueError(f"The prefill contains the control token '{leaked[0]}', which would end or break the "
                         f"answer. Give only the first words of the answer.")
    pictures = gather(references, images, profile)
    if not prompt.strip() and not pictures and not edited.strip():
        raise ValueError("There is nothing to rewrite: the prompt is empty and no picture is connected. Write a "
                         "prompt or connect a picture.")
    request = Request(system, prompt, pictures)
    lines = []
    if edited.strip():
        written = given_text(vlm, request, _answer(edited), taps, precision)
        lines.append("The edited text was used: one pass, nothing was decoded.")
    else:
        written = write(vlm, profile, request, prefill.rstrip(" "), taps, chosen, settings, precision)
        lines.append(_speed_line(written.decoded, settings, profile))
        fresh = written.text[len(prefill.rstrip(" ")):]
        if problem := what_is_wrong(fresh) or what_is_wrong(written.text):
            written = given_text(vlm, request, _answer(prompt), taps, precision)
            lines.append(f"Warning: the model {problem}. The original prompt was used as instruction and text "
                         f"instead. First words given in prefill, another system prompt or another seed often help.")
    everything, selected, negative = _conditioning(vlm, profile, request, written, taps, chosen, precision)
    lines.insert(0, f"VERIFI: {count_words(prompt)} words in, {count_words(written.text)} words out")
    lines += budget_lines(everything, selected, chosen, profile, precision)
    if system_choice != CUSTOM and custom_system.strip():
        lines.append("custom_system_prompt is not used: set system_prompt to 'custom' to use it.")
    if removed:
        lines.append(f"Removed control tokens from the text: {', '.join(sorted(removed))}.")
    return selected, negative, written.text, "\n".join(lines)


def _conditioning(vlm: VLM, profile: Profile, request: Request, written: Written, taps: tuple[int, ...], selection: str,
                  precision: str) -> tuple[HiddenStates, HiddenStates, HiddenStates]:
    """Returns (all tokens, selected tokens, negative)."""
    if selection == ENCODE_AGAIN:
        plain = (profile.system, request.pictures, taps, profile.encode_selection, precision)
        everything, selected = encode_selected(vlm, profile, profile.system, written.text, *plain[1:])
        selected = selected._replace(prompt=request.prompt, text=written.text)
    else:
        plain = (request.system, request.pictures, taps, selection, precision)
        everything = written.hidden
        selected = take(everything, selection_mask(everything.roles, selection, written.opener))
    return everything, selected, empty_prompt(vlm, profile, *plain)


def _speed_line(decoded: Decoded, settings: Decoding, profile: Profile) -> str:
    count = len(decoded.ids)
    ending = decoded.ending
    if ending == AT_LIMIT:
        ending += (f" of {settings.max_length} tokens" if count == settings.max_length
                   else f": the window of {profile.window} tokens of {profile.title} is full")
    speed = count / max(decoded.seconds, 1e-9)
    return f"wrote {count} tokens in {decoded.seconds:.2f} s ({speed:.1f} tokens/s), {ending}"
