"""A terse prompt to hidden states of what the VLM wrote: what the VERIFI Rewrite node does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from ...chat_templates import QWEN, Template
from ...conditions import label_texts, selected_tokens
from ...hidden_states import GENERATED, IMAGE, SYSTEM, HiddenStates, make_hidden_states
from ...json_caption import checked, values
from ...letters import script_of
from ...limits import check_tokens
from ...messages import Segment, chat, remove_control_tokens
from ...miniature import broken_caption
from ...profiles import LAP, Profile, parse_taps, taps_for
from ...prompt_weights import plain_text
from ...quoting import quoted
from ...references import PreparedReference, Reference
from ...selection import ENCODE_AGAIN, REWRITE_SELECTIONS, selection_mask
from ...system_prompts import (
    AS_PROFILE,
    CUSTOM,
    JSON_CAPTIONS,
    SAME_LANGUAGE,
    SYSTEM_PROMPTS,
    asks_for,
    system_prompt_for,
)
from ...verifi import Decoding, check_variations, count_words, room_to_write, seeds_of, what_is_broken, what_is_wrong
from ..encoders.kept import KeptStates, states_key
from ..encoders.prefix import embed_in_parts
from ..encoders.text_encoder import VLM, LaidOut, encode
from ..encoders.writing import AT_LIMIT, ENDED, Decoded, check_can_write, decode, precision_for
from .encode import (
    Reading,
    as_asked,
    choose_profile,
    empty_prompt,
    encode_selected,
    gather,
    put_off,
    read_prompt,
    typed_text,
)
from .later import NOT_YET, Later
from .reports import budget_lines, foreign_word_lines, kept_line, picture_lines, syntax_lines, weight_lines

AGAIN_TEMPERATURE = 0.8  # of the second try at a text that broke
Pieces = Sequence[tuple[str, float]]  # text and weight, from prompt_weights


class Request(NamedTuple):
    """What is asked of the VLM, without control tokens.

    Attributes:
        system, instruction, pictures: of the chat.
        template: how the chat is written.
        prefill: first words of the answer.
    """

    system: str
    instruction: Pieces
    pictures: Sequence[PreparedReference]
    template: Template = QWEN
    prefill: str = ""

    @property
    def prompt(self) -> str:
        return plain_text(self.instruction)

    @property
    def views(self) -> list[tuple[torch.Tensor, ...]]:
        return [picture.views for picture in self.pictures]

    def segments(self, answer: Pieces = ()) -> list[Segment]:
        """The chat up to the assistant's turn, and the words of it that are given."""
        return chat(
            self.system,
            self.instruction,
            list(map(len, self.views)),
            label_texts(self.pictures),
            answer,
            [picture.strength for picture in self.pictures],
            self.template,
        )


class Written(NamedTuple):
    """A decoded rewrite.

    Attributes:
        text: the given first words and what was written.
        hidden: hidden states of system prompt (zeros), pictures, instruction and text, or None if no layer was tapped.
        opener: first token of the assistant's turn.
        decoded: ids, ending and time; 0 seconds where the text was kept from before.
    """

    text: str
    hidden: HiddenStates | None
    opener: int
    decoded: Decoded


def write(reading: Reading, request: Request, settings: Decoding, seeds: Sequence[int] | None = None) -> list[Written]:
    """Decode one rewrite for each seed with the states of the same pass, or take what was kept of the same one.

    Raises:
        ValueError: if nothing can be written within the window.
    """
    vlm, profile, _, taps, selection, precision = reading
    given = [(request.prefill, 1.0)] if request.prefill else ()
    tokens = vlm.tokenize(request.segments(given), opener=request.template.opener)
    side = vlm.token_side
    read = len(tokens.ids) + sum(view.shape[1] * view.shape[2] // side**2 for views in request.views for view in views)
    check_tokens(read, vlm.decoder.config.max_position_embeddings, vlm.name)
    seeds = seeds or [settings.seed]
    tapped = () if selection == ENCODE_AGAIN else taps
    around = _tokens_around(vlm, profile, request) if selection == ENCODE_AGAIN else 0
    seconds = [0.0] * len(seeds)

    def limit(sizes: Sequence[int]) -> int:
        return room_to_write(
            vlm.lay_out(tokens, sizes).roles,
            selection,
            around,
            profile.window,
            vlm.decoder.config.max_position_embeddings,
            settings.max_length,
            profile.title,
        )

    def compute(missing: Sequence[int]) -> list[KeptStates]:
        vlm.load(read + settings.max_length, len(taps), precision, rows=len(missing))
        embedded = embed_in_parts(vlm, tokens, request.views, tapped, precision, writing=True)
        most = limit(embedded.sizes)
        made = []
        chosen = [seeds[index] for index in missing]
        skip = _system_tokens(embedded.roles)
        texts = decode(vlm, embedded, tapped, settings, most, precision, chosen, skip=skip)
        for index, decoded in zip(missing, texts, strict=True):
            seconds[index] = decoded.seconds
            states = None if decoded.states is None else decoded.states.cpu()
            ended = decoded.ending == ENDED
            made.append(KeptStates(states, embedded.sizes, embedded.grids, tuple(decoded.ids), ended, most))
        return made

    keys = [
        states_key(vlm, tokens.ids, request.views, tapped, precision, replace(settings, seed=seed).what_counts())
        for seed in seeds
    ]
    found = vlm.kept_of_several(keys, compute, serves=lambda kept: kept.serves(limit(kept.sizes)))
    return [
        _written(reading, request, kept, laid=vlm.lay_out(tokens, kept.sizes), seconds=spent)
        for kept, spent in zip(found, seconds, strict=True)
    ]


def _written(reading: Reading, request: Request, kept: KeptStates, *, laid: LaidOut, seconds: float) -> Written:
    """What was decoded, as text and hidden states; those of the system prompt, which no selection takes, are zeros."""
    decoded = Decoded(list(kept.written), kept.handed_out(), seconds, ENDED if kept.ended else AT_LIMIT)
    raw = reading.vlm.bytes_of(decoded.ids)
    # A text cut inside a character must not leave half of it behind.
    text = request.prefill + b"".join(raw).decode("utf-8", "ignore")
    hidden = None
    if decoded.states is not None:
        hidden = as_asked(
            make_hidden_states(
                functional.pad(decoded.states, (0, 0, 0, 0, _system_tokens(laid.roles), 0)),
                [*laid.roles, *[GENERATED] * len(raw)],
                [*laid.pieces, *(piece.decode("utf-8", "replace") for piece in raw)],
                reading.taps,
                reading.vlm.name,
                prompt=request.prompt,
                text=text,
                grids=kept.grids,
                weights=torch.tensor([*laid.weights, *[1.0] * len(raw)]),
            ),
            request.pictures,
        )
    return Written(text, hidden, laid.opener, decoded)


def _system_tokens(roles: Sequence[int]) -> int:
    """Tokens of the system prompt that a chat begins with."""
    return next((index for index, role in enumerate(roles) if role != SYSTEM), len(roles))


def _tokens_around(vlm: VLM, profile: Profile, request: Request) -> int:
    """Tokens that a plain encode selects besides the prompt and the pictures."""
    system = profile.system_for("x", bool(request.pictures))
    views = list(map(len, request.views))
    segments = chat(system, "x", views, label_texts(request.pictures), template=profile.chat)
    roles = torch.tensor(vlm.tokenize(segments).roles)
    return int((selection_mask(roles, profile.encode_selection) & (roles < IMAGE)).sum()) - 1


def _broken(profile: Profile, request: Request, written: Written) -> str | None:
    """What is broken in a text; the miniature's and a JSON caption have a form of their own."""
    ended = written.decoded.ending == ENDED
    problem = what_is_broken(written.text, ended)
    if not problem and asks_for(request.system, JSON_CAPTIONS):
        return checked(written.text).problem
    asked_plainly = request.system == SYSTEM_PROMPTS[profile.rewrite_system] and not request.prefill
    if problem or profile.key != "miniature" or not asked_plainly:
        return problem
    return broken_caption(written.text, ended)


def _write_whole(
    reading: Reading, request: Request, settings: Decoding, seeds: Sequence[int]
) -> list[tuple[Written, list[str]]]:
    """Writes one text for each seed; those that broke are written once more with sampling.

    Returns:
        For each seed (the text, lines for the report).
    """
    profile = reading.profile
    first = write(reading, request, settings, seeds)
    problems = [_broken(profile, request, text) for text in first]
    broken = [index for index, problem in enumerate(problems) if problem is not None]
    lines = [[_speed_line(text.decoded, settings, profile)] for text in first]
    if not broken:
        return list(zip(first, lines))
    again = replace(settings, sample=True, temperature=AGAIN_TEMPERATURE)
    second = write(reading, request, again, [_next(seeds[index]) for index in broken])
    for index, text in zip(broken, second, strict=True):
        still = _broken(profile, request, text)
        if still is None and what_is_wrong(text.text[len(request.prefill) :]) is None:
            lines[index] += [
                f"The text {problems[index]}, so it was written once more with sampling (seed {_next(seeds[index])}).",
                _speed_line(text.decoded, again, profile),
            ]
            first[index] = text
        else:
            lines[index].append(
                f"Warning: the text {problems[index]}, and so did a second one with sampling. Another seed, a shorter "
                f"prompt or edited_text helps."
            )
    return list(zip(first, lines))


def _next(seed: int) -> int:
    return seeds_of(seed, 2)[1]


def _in_its_form(system: str, prompt: str, text: str) -> tuple[str, list[str]]:
    """A text in the form that its system prompt asks for, as far as that can be had, and lines for the report."""
    lines, words = [], text
    if asks_for(system, JSON_CAPTIONS):
        caption = checked(text)
        lines += caption.notes
        if caption.problem:
            lines.append(
                f"Warning: the text {caption.problem}; another seed, a higher max_length or edited_text helps."
            )
        else:
            text, words = caption.text, values(caption.text)
    asked, written = script_of(prompt), script_of(words)
    if asks_for(system, SAME_LANGUAGE) and asked and written and asked != written:
        lines.append(
            f"Warning: the prompt is written in {asked} letters, the text in {written} ones, though the language of the "
            f"prompt was asked for. Another seed, or first words in prefill, often help."
        )
    return text, lines


def read_given(reading: Reading, request: Request, answer: Pieces) -> tuple[HiddenStates, int]:
    """One teacher-forced pass over the request and a text that is known already.

    Returns:
        (hidden states of every token, first token of the assistant's turn)
    """
    hidden, opener = encode(
        reading.vlm,
        request.segments(answer),
        reading.taps,
        request.views,
        reading.precision,
        opener=request.template.opener,
        prompt=request.prompt,
        text=plain_text(answer),
    )
    return as_asked(hidden, request.pictures), opener


def _settings(sampling: dict, seed: int, min_length: int, max_length: int) -> Decoding:
    """Decoding settings from the node's widgets."""
    mode = sampling.get("sampling")
    if mode not in ("greedy", "sample"):
        raise ValueError(f"There is no sampling {quoted(mode)}; choose 'greedy' or 'sample'.")
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    drawn = {name: sampling[name] for name in names} if mode == "sample" else {}
    return Decoding(sample=mode == "sample", seed=seed, min_length=min_length, max_length=max_length, **drawn)


class Rewrite(NamedTuple):
    """One of the node's results.

    Attributes:
        hidden_states, negative: what conditions the picture.
        text: what was written.
        report: how.
    """

    hidden_states: HiddenStates
    negative: HiddenStates | Later
    text: str
    report: str


def run(clip, prompt: str, **asked) -> Rewrite:
    """One rewrite; arguments of :func:`run_variations`."""
    return run_variations(clip, prompt, **asked)[0]


def run_variations(
    clip,
    prompt: str,
    *,
    sampling: dict,
    profile: str = "auto",
    system_prompt: str = AS_PROFILE,
    custom_system_prompt: str = "",
    selection: str = AS_PROFILE,
    seed: int = 0,
    min_length: int = 0,
    max_length: int = 256,
    prefill: str = "",
    edited_text: str = "",
    precision: str = "auto",
    taps: str = "",
    references: Sequence[Reference] | None = None,
    images: dict | None = None,
    variations: int = 1,
    later: bool = False,
) -> list[Rewrite]:
    """One rewrite for each of the seeds ``seed``, ``seed + 1``, ...; one alone if the text is given.

    Args:
        later: whether the negative is put off until a node takes it.

    Raises:
        ValueError: for an encoder that cannot write, nothing to rewrite, control tokens in the first words, lengths
            out of range, several variations without sampling, or pictures that leave no room.
    """
    vlm = VLM(clip)
    check_can_write(vlm)
    settings = _settings(sampling, seed, min_length, max_length)
    known = choose_profile(vlm, profile)
    layers = parse_taps(taps, vlm.layers) if taps.strip() else taps_for(known, vlm.layers)
    chosen = known.rewrite_selection if selection == AS_PROFILE else selection
    if chosen not in REWRITE_SELECTIONS:
        raise ValueError(f"Unknown token selection {quoted(chosen)}; use one of: {', '.join(REWRITE_SELECTIONS)}.")
    precision = precision_for(vlm, precision)
    system, removed = remove_control_tokens(
        system_prompt_for(known.rewrite_system, system_prompt, custom_system_prompt), vlm.tokenizer
    )
    instruction, removed_too = read_prompt(prompt, vlm.tokenizer)
    edited, removed_as_well = read_prompt(edited_text, vlm.tokenizer)
    removed = {*removed, *removed_too, *removed_as_well}
    prefill = prefill.rstrip(" ")  # a word's token begins with its space
    if leaked := remove_control_tokens(prefill, vlm.tokenizer)[1]:
        raise ValueError(
            f"The prefill contains the control token '{leaked[0]}', which would end or break the answer. "
            f"Give only the first words of the answer."
        )
    pictures = gather(references, images, known, token=vlm.token_side, side=vlm.picture_side)
    request = Request(system, instruction, pictures, known.writing_chat, prefill)
    reading = Reading(vlm, known, pictures, taps=layers, selection=chosen, precision=precision)
    has_text = bool(plain_text(edited).strip())
    if not request.prompt.strip() and not request.pictures and not has_text:
        raise ValueError(
            "There is nothing to rewrite: the prompt is empty and no picture is connected. Write a prompt "
            "or connect a picture."
        )

    answers: list[tuple[Pieces, Written | None, list[str]]] = []
    if has_text:
        only = " One picture is drawn, not several: unlock the text for variations." if variations > 1 else ""
        about = [f"The edited text was used: nothing was written, one pass.{only}"]
        if asks_for(system, JSON_CAPTIONS) and (problem := checked(plain_text(edited)).problem):
            about.append(f"Warning: the edited text {problem}, which {known.title} was trained with.")
        answers.append((edited, None, about))
    else:
        check_variations(variations, sampling.get("sampling"))
        seeds = seeds_of(seed, variations)
        for written, about in _write_whole(reading, request, settings, seeds):
            if problem := what_is_wrong(written.text[len(prefill) :]) or what_is_wrong(written.text):
                about.append(
                    f"Warning: the model {problem}. The original prompt was used as instruction and text instead. "
                    f"First words given in prefill, another system prompt or another seed often help."
                )
                answers.append((instruction, None, about))
                continue
            formed, notes = _in_its_form(system, request.prompt, written.text)
            about += notes
            answers.append(([(formed, 1.0)], written if formed == written.text else None, about))

    ends = syntax_lines(request.prompt)
    if system_prompt != CUSTOM and custom_system_prompt.strip():
        ends.append("custom_system_prompt is not used: set system_prompt to 'custom' to use it.")
    if removed:
        ends.append(f"Removed control tokens from the text: {', '.join(sorted(removed))}.")
    # These models know one negative: the empty prompt as their own encode reads it.
    plain = chosen == ENCODE_AGAIN or known.combination != LAP
    as_encoded = reading._replace(selection=known.encode_selection)
    make = partial(empty_prompt, as_encoded) if plain else partial(empty_prompt, reading, system)
    negative: HiddenStates | Later | None = None
    if len(answers) > 1 and len({plain_text(answer) for answer, _, _ in answers}) == 1:
        ends.append("All variations say the same: a higher temperature, a lower min_p or a vaguer prompt parts them.")
    made = []
    for answer, written, about in answers:
        text = typed_text(edited_text, vlm.tokenizer) if has_text else plain_text(answer)
        if chosen == ENCODE_AGAIN:
            again = known.system_for(text, bool(request.pictures))
            everything, selected = encode_selected(as_encoded, again, answer)
            selected = selected._replace(prompt=request.prompt, text=text)
        else:
            everything, opener = (
                (written.hidden, written.opener) if written is not None else read_given(reading, request, answer)
            )
            selected = selected_tokens(everything, chosen, opener)
        if negative is None:  # not before a text that may be refused was read
            negative = put_off(later, clip, make)
        report = [
            *foreign_word_lines(vlm, f"{prompt}\n{edited_text}"),
            f"VERIFI: {count_words(request.prompt)} words in, {count_words(text)} words out",
            *about,
            *budget_lines(everything, selected, chosen, known, precision),
            *picture_lines(request.prompt, request.pictures),
            *weight_lines(everything, selected, [*instruction, *edited]),
            *ends,
            kept_line(vlm),
            *([NOT_YET] if later else ()),
        ]
        made.append(Rewrite(selected, negative, text, "\n".join(report)))
    return made


def _speed_line(decoded: Decoded, settings: Decoding, profile: Profile) -> str:
    count, ending = len(decoded.ids), decoded.ending
    if ending == AT_LIMIT:
        ending += (
            f" of {settings.max_length} tokens"
            if count == settings.max_length
            else f": the window of {profile.window} tokens of {profile.title} is full"
        )
    if not decoded.seconds:
        return f"kept from before: {count} tokens, {ending}; nothing was written again"
    speed = count / max(decoded.seconds, 1e-9)
    return f"wrote {count} tokens in {decoded.seconds:.2f} s ({speed:.1f} tokens/s), {ending}"
