"""Hidden states and a MODEL to pages and a table: what the Inspect node does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...attribution import (
    Word,
    find_words,
    heed,
    look,
    parse_silence,
    relative_change,
    silencing_effects,
    table,
    verdict,
    word_attention,
    words_of,
)
from ...hidden_states import HiddenStates, drop_taps
from ...quoting import quoted
from ...references import Reference, from_images
from ..drawers.door import drawer_for
from ..drawers.fusion_model import FusionModel, refiner_bias
from ..drawers.pooled_context import has_pooling

ALL = "all pages"
ONE_PAGE, EVERY_PAGE = "one page", "every page"
VIEWS = (ALL, "layers", "words", "pictures", "tokens")


def run(
    hidden: HiddenStates,
    model,
    *,
    words: str = "",
    heat_map: str = "",
    silence: str = "",
    view: str = ALL,
    references: Sequence[Reference] | None = None,
    images: dict | None = None,
    pages: str = EVERY_PAGE,
):
    """Returns (pages as one image batch, table, hidden states with the named layers silenced).

    Raises:
        ValueError: if the states do not belong to the model, or a word or layer is not there.
    """
    if not has_pooling(model):
        return _without_pooling(hidden, model, silence, view, pages)
    fusion = FusionModel(model)
    fusion.check(hidden, "inspected")
    silenced = parse_silence(silence, hidden.taps)
    kept = drop_taps(hidden, silenced) if silenced else hidden
    bias = refiner_bias(hidden)

    def read(pooling, states, bias):
        seen = look(pooling, states, bias)
        return seen, heed(pooling, seen.summed, hidden.roles, bias), *_heat(pooling, hidden, seen, heat_map, bias)

    seen, parts, values, title = fusion.through_pooling(kept.states, bias, read)
    change = None
    if silenced:
        before = fusion.through_pooling(hidden.states, bias, look)
        change = relative_change(before.pooled, seen.pooled)
    wanted = find_words(hidden, words) or _distinct(words_of(hidden))
    effects = silencing_effects(lambda states: fusion.through_pooling(states, bias, _pooled), hidden)
    said = verdict(parts, effects, hidden.taps)
    drawn = {
        "layers": lambda: attribution_pages.layers_page(hidden, seen),
        "words": lambda: attribution_pages.words_page(hidden, seen, wanted),
        "pictures": lambda: attribution_pages.pictures_page(hidden, values, title, _pictures(references, images)),
        "tokens": lambda: attribution_pages.tokens_page(hidden),
    }
    attribution_pages = _figures()
    under = _pictures(references, images)
    overview = {ALL: lambda: attribution_pages.overview_page(hidden, said, effects, values, title, under)}
    return _chosen(drawn, view, pages, overview), "\n".join([*said, "", table(hidden, seen, change, silenced)]), kept


def _chosen(drawn: dict, view: str, pages: str, overview: dict) -> torch.Tensor:
    """The pages asked for, one below the other in a batch."""
    if view != ALL:
        return drawn[view]()
    return overview[ALL]() if pages == ONE_PAGE else torch.cat([page() for page in drawn.values()])


def _pooled(pooling, states, bias) -> torch.Tensor:
    return pooling(states, mask=None if bias is None else bias[:, None, None, :])


def _without_pooling(hidden: HiddenStates, model, silence: str, view: str, pages: str):
    """What there is to see of a MODEL that joins the layers as they are: their size, and the tokens.

    Raises:
        ValueError: if the states do not belong to the model, a layer is not there, or the page needs pooling inside.
    """
    drawer_for(model).check(hidden, "inspected")
    silenced = parse_silence(silence, hidden.taps)
    kept = drop_taps(hidden, silenced) if silenced else hidden
    size = kept.states[0].square().mean(dim=-1).sqrt().cpu()
    share = size / size.sum(dim=1, keepdim=True).clamp_min(1e-20)
    figures = _figures()
    drawn = {"tokens": lambda: figures.tokens_page(hidden)}
    if len(hidden.taps) > 1:
        drawn = {"layers": lambda: figures.sizes_page(hidden, share), **drawn}
    if view != ALL and view not in drawn:
        raise ValueError(
            f"The page '{view}' shows Layerwise Attention Pooling, which this MODEL has not. Set view to '{ALL}' or one "
            f"of: {', '.join(drawn)}."
        )
    strongest = int(share.mean(dim=0).argmax())
    lines = []
    if len(hidden.taps) > 1:
        lines = [f"Layer {hidden.taps[strongest]} gives most: {share.mean(dim=0)[strongest]:.0%} of the size.", ""]
    lines += ["share of each layer in the size (RMS) of the tokens handed on:"]
    lines += [f"layer {tap}: {part:.1%}" for tap, part in zip(hidden.taps, share.mean(dim=0).tolist())]
    if silenced:
        lines.append(f"silenced: {', '.join(map(str, silenced))}")
    first = next(iter(drawn.values()))
    return _chosen(drawn, view, pages, {ALL: first}), "\n".join(lines), kept


def _figures():
    """The pages, imported when the first is drawn: matplotlib takes a second, which no other graph needs.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    try:
        from ... import attribution_pages
    except ImportError:
        raise ValueError(
            "UniFusion Inspect draws its pages with matplotlib, which is not installed. Install it with ComfyUI's Python: "
            "python -m pip install matplotlib. All other nodes work without it."
        ) from None
    return attribution_pages


def _distinct(words: Sequence[Word]) -> list[Word]:
    first: dict[str, Word] = {}
    for word in words:
        first.setdefault(word.text.casefold(), word)
    return list(first.values())


def _heat(pooling, hidden: HiddenStates, seen, heat_map: str, bias) -> tuple[torch.Tensor, str]:
    """Value of every token and what it means, for a layer's number, a word, or the layer that counts most."""
    asked = heat_map.strip()
    number = asked.isascii() and asked.isdecimal()
    if asked and not number:
        found = find_words(hidden, asked)
        if not found:
            raise ValueError(
                f"The heat map needs a layer's number or words of the prompt, found {quoted(asked)}. Leave it empty for the "
                f"layer that counts most."
            )
        tokens = sorted({token for word in found for token in word.tokens})
        return word_attention(pooling, seen.summed, tokens, bias), f"Attention of {quoted(asked)} in the refiner"
    if asked and int(asked[:9]) not in hidden.taps:
        raise ValueError(
            f"Layer {quoted(asked)[1:-1]} is not tapped, so it has no heat map; the tapped layers are "
            f"{', '.join(map(str, hidden.taps))}."
        )
    column = hidden.taps.index(int(asked)) if asked else int(seen.share.mean(dim=0).argmax())
    return seen.share[:, column], f"Share of layer {hidden.taps[column]} in the pooled tokens"


def _pictures(references: Sequence[Reference] | None, images: dict | None) -> list[torch.Tensor]:
    """The pictures in the order the encode node takes them: references first, every picture of a batch."""
    return [reference.picture for reference in [*(references or ()), *from_images(images or {})]]
