"""Hidden states of several VLM layers, with the role of every token.

The value that travels between nodes is :class:`HiddenStates`. It is a named tuple, so that ComfyUI's cache,
which counts tensors inside lists and tuples only, sees its memory, and so that two copies of this library
(one imported by name, one through the host) understand each other's values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from .quoting import quoted

SYSTEM, TEMPLATE, INSTRUCTION, GENERATED, PADDING = 0, 1, 2, 3, 4
IMAGE = 16  # image k has role IMAGE + k

_NAMES = {
    SYSTEM: "system",
    TEMPLATE: "template",
    INSTRUCTION: "instruction",
    GENERATED: "generated",
    PADDING: "padding",
}
_SAID = {
    SYSTEM: "the system prompt",
    TEMPLATE: "the frame of the chat",
    INSTRUCTION: "the prompt",
    GENERATED: "the written text",
    PADDING: "padding",
}


def image_role(index: int) -> int:
    """Role of the tokens of image ``index`` (0 for the first)."""
    return IMAGE + index


def role_name(role: int) -> str:
    """Plain name of a role: ``"generated"``, ``"image 1"`` (counted from 1)."""
    return _NAMES[role] if role < IMAGE else f"image {role - IMAGE + 1}"


class HiddenStates(NamedTuple):
    """Layer stack of one sequence.

    Attributes:
        states: ``(1, tokens, taps, width)`` float32; not normalised.
        roles: ``(tokens,)`` int16; see the constants above.
        weights: ``(tokens,)`` float32, 1 = neutral. A weight w acts as a bias log(w) on the token's key wherever
            tokens attend to each other after the VLM; w = 0 removes the token; w < 0 subtracts what it means.
        spans: ``(tokens, 2)`` float32; part of the schedule in which the token counts, 0 = first step, 1 = last.
        pieces: the text of every token; ``""`` for image tokens.
        taps: layers whose inputs the states are. For text ``hidden_states[k]`` in transformers' counting; at the first layers
            image tokens differ: DeepStack adds picture features to what the layer before gave, and transformers lists it without.
        vlm: name of the model the states come from.
        prompt: what the creator asked for.
        text: what the model wrote (VERIFI), else ``""``.
        grids: for each image, the (rows, columns) of tokens of each of its views.
        regions: ``(tokens,)`` int16, 0 = everywhere, k = where ``masks[k - 1]`` is; None if all count everywhere.
        masks: ``(side, side)`` float32 each, how much its tokens count at a place of the picture.
    """

    states: torch.Tensor
    roles: torch.Tensor
    weights: torch.Tensor
    spans: torch.Tensor
    pieces: tuple[str, ...]
    taps: tuple[int, ...]
    vlm: str
    prompt: str = ""
    text: str = ""
    grids: tuple[tuple[tuple[int, int], ...], ...] = ()
    regions: torch.Tensor | None = None
    masks: tuple[torch.Tensor, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.states.shape[1]

    @property
    def width(self) -> int:
        """Width of one state."""
        return self.states.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes the layer stack occupies."""
        return self.states.numel() * self.states.element_size()

    def in_words(self) -> str:
        """What the tokens are, as a creator would say it: ``"the prompt and image 1"``; the chat's frame only if alone."""
        roles = list(dict.fromkeys(self.roles.tolist()))
        said = [role for role in roles if role not in (TEMPLATE, PADDING)] or roles
        names = [_SAID[role] if role < IMAGE else role_name(role) for role in said]
        return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

    def count_by_role(self) -> dict[str, int]:
        """Tokens of each role, in order of first appearance."""
        counts: dict[str, int] = {}
        for role in self.roles.tolist():
            counts[role_name(role)] = counts.get(role_name(role), 0) + 1
        return counts


def make_hidden_states(
    states: torch.Tensor, roles: Sequence[int], pieces: Sequence[str], taps: Sequence[int], vlm: str, **about
) -> HiddenStates:
    """Build neutral hidden states (weights 1, counting during the whole schedule).

    Args:
        states: ``(1, tokens, taps, width)``.
        roles: one per token.
        pieces: one per token.
        taps: one per entry of the tap axis.
        vlm: model name.
        about: ``prompt``, ``text``, ``grids``, ``weights`` or ``spans``.

    Raises:
        ValueError: if the lengths disagree.
    """
    if states.ndim != 4 or states.shape[0] != 1:
        raise ValueError(f"Hidden states must have the shape (1, tokens, taps, width), found {tuple(states.shape)}.")
    tokens = states.shape[1]
    if len(roles) != tokens or len(pieces) != tokens or len(taps) != states.shape[2]:
        raise ValueError(
            f"Hidden states of {tokens} tokens and {states.shape[2]} taps came with {len(roles)} roles, "
            f"{len(pieces)} pieces and {len(taps)} taps."
        )
    about.setdefault("weights", torch.ones(tokens))
    about.setdefault("spans", torch.tensor([[0.0, 1.0]]).repeat(tokens, 1))
    return HiddenStates(
        states=states,
        roles=torch.as_tensor(roles, dtype=torch.int16),
        pieces=tuple(pieces),
        taps=tuple(taps),
        vlm=vlm,
        **about,
    )


def take(hidden: HiddenStates, keep: torch.Tensor) -> HiddenStates:
    """The tokens where ``keep`` (tokens,) bool is true, in order."""
    index = keep.nonzero().squeeze(1)
    return hidden._replace(
        states=hidden.states.index_select(1, index.to(hidden.states.device)),
        roles=hidden.roles[index],
        weights=hidden.weights[index],
        spans=hidden.spans[index],
        regions=None if hidden.regions is None else hidden.regions[index],
        pieces=tuple(hidden.pieces[i] for i in index.tolist()),
    )


def drop_taps(hidden: HiddenStates, silenced: Iterable[int]) -> HiddenStates:
    """Layer dropout at pooling (paper, ablations): the states of these layers become zero.

    Raises:
        ValueError: if a layer is not among the taps.
    """
    silenced = list(silenced)
    foreign = [tap for tap in silenced if tap not in hidden.taps]
    if foreign:
        raise ValueError(f"Layers {foreign} are not tapped; the tapped layers are {list(hidden.taps)}.")
    states = hidden.states.clone()
    states[:, :, [hidden.taps.index(tap) for tap in silenced]] = 0
    return hidden._replace(states=states)


def join(parts: Sequence[HiddenStates]) -> HiddenStates:
    """One sequence from several encodes, to be pooled together (the refiner mixes tokens).

    Images are renumbered in order of appearance.

    Raises:
        ValueError: if the parts come from other models, taps or widths.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for number, part in enumerate(parts[1:], 2):
        for what, a, b in (
            ("model", first.vlm, part.vlm),
            ("taps", first.taps, part.taps),
            ("width", first.width, part.width),
        ):
            if a != b:
                raise ValueError(
                    f"Hidden states can be joined only when they come from the same encoder: the first "
                    f"has {what} {a}, number {number} has {b}. Encode both with the same CLIP and "
                    f"profile."
                )
    roles, regions, images, masks = [], [], 0, 0
    for part in parts:
        shifted = part.roles.clone()
        shifted[shifted >= IMAGE] += images
        roles.append(shifted)
        images += len(part.grids)
        numbers = part.roles.new_zeros(part.tokens) if part.regions is None else part.regions.clone()
        numbers[numbers > 0] += masks
        regions.append(numbers)
        masks += len(part.masks)
    return first._replace(
        states=torch.cat([p.states for p in parts], dim=1),
        roles=torch.cat(roles),
        weights=torch.cat([p.weights for p in parts]),
        spans=torch.cat([p.spans for p in parts]),
        pieces=sum((p.pieces for p in parts), ()),
        grids=sum((p.grids for p in parts), ()),
        prompt=" | ".join(p.prompt for p in parts if p.prompt),
        text=" | ".join(p.text for p in parts if p.text),
        regions=torch.cat(regions) if masks else None,
        masks=sum((p.masks for p in parts), ()),
    )


def in_region(hidden: HiddenStates, mask: torch.Tensor) -> HiddenStates:
    """All tokens count where the mask is; what already has a region keeps it, times the mask.

    Args:
        hidden: of one prompt.
        mask: ``(side, side)``, 0 and more; 1 everywhere returns ``hidden`` itself.

    Raises:
        ValueError: if the mask is 0 everywhere, negative or no number.
    """
    mask = mask.float()
    if not torch.isfinite(mask).all() or mask.min() < 0 or not mask.any():
        raise ValueError(
            "The mask of a region must hold numbers of 0 and more, and something above 0. Paint the place where the words "
            "are to count, or take the Region node out."
        )
    if (mask == 1).all():
        return hidden
    regions = hidden.roles.new_zeros(hidden.tokens) if hidden.regions is None else hidden.regions.clone()
    masks = tuple(known * mask for known in hidden.masks)
    if (regions == 0).any():
        regions[regions == 0] = len(masks) + 1
        masks = (*masks, mask)
    return hidden._replace(regions=regions, masks=masks)


def with_weight(hidden: HiddenStates, mask: torch.Tensor, weight: float) -> HiddenStates:
    """Multiply the weights of the tokens where ``mask`` (tokens,) is true.

    Raises:
        ValueError: if the weight is not finite.
    """
    if not abs(weight) < float("inf"):
        raise ValueError(
            f"A weight must be a number, found {weight}: 1 is neutral, 2 counts twice, 0 removes, below 0 subtracts."
        )
    return hidden._replace(weights=torch.where(mask, hidden.weights * weight, hidden.weights))


def to_tensors(hidden: HiddenStates) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and string metadata for a safetensors file."""
    tensors = {name: getattr(hidden, name).contiguous().cpu() for name in ("states", "roles", "weights", "spans")}
    if hidden.regions is not None:
        tensors |= {"regions": hidden.regions.contiguous().cpu(), "masks": torch.stack(hidden.masks).contiguous().cpu()}
    about = {name: getattr(hidden, name) for name in ("pieces", "taps", "vlm", "prompt", "text", "grids")}
    return tensors, {"unifusion.kind": "hidden_states", "unifusion.about": json.dumps(about)}


def from_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> HiddenStates:
    """Inverse of :func:`to_tensors`.

    Raises:
        ValueError: if the content is not what :func:`to_tensors` wrote.
    """
    missing = {"states", "roles", "weights", "spans"} - tensors.keys()
    if metadata.get("unifusion.kind") != "hidden_states" or missing:
        raise ValueError(
            "This is not a file of UniFusion hidden states"
            + (f": {', '.join(sorted(missing))} missing." if missing else ".")
        )
    try:
        about = json.loads(metadata["unifusion.about"])
        grids = tuple(tuple((int(rows), int(columns)) for rows, columns in image) for image in about["grids"])
        pieces, taps = tuple(map(str, about["pieces"])), tuple(map(int, about["taps"]))
        vlm, prompt, text = str(about["vlm"]), str(about["prompt"]), str(about["text"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The description inside these hidden states is damaged ({quoted(error)}).") from None
    shape = tuple(tensors["states"].shape)
    if len(shape) != 4 or shape[0] != 1 or 0 in shape:
        raise ValueError(f"Damaged hidden states: states has the shape {shape}, expected (1, tokens, taps, width).")
    tokens = shape[1]
    for name, expected in (("roles", (tokens,)), ("weights", (tokens,)), ("spans", (tokens, 2))):
        if tuple(tensors[name].shape) != expected:
            raise ValueError(
                f"Damaged hidden states: {name} has the shape {tuple(tensors[name].shape)}, expected {expected}."
            )
    for name in ("states", "weights", "spans"):
        if not tensors[name].is_floating_point():
            raise ValueError(f"Damaged hidden states: {name} is {tensors[name].dtype}, expected floating point.")
    roles, weights, spans = tensors["roles"], tensors["weights"].float(), tensors["spans"].float()
    limit = IMAGE + len(grids)
    if roles.is_floating_point() or roles.is_complex() or not ((roles >= 0) & (roles < limit)).all():
        raise ValueError(f"Damaged hidden states: roles must be whole numbers from 0 to {limit - 1}.")
    if not torch.isfinite(weights).all() or not ((spans >= 0) & (spans <= 1)).all():
        raise ValueError("Damaged hidden states: weights must be finite and spans within 0 and 1.")
    return make_hidden_states(
        tensors["states"].float(),
        roles.tolist(),
        pieces,
        taps,
        vlm,
        weights=weights,
        spans=spans,
        prompt=prompt,
        text=text,
        grids=grids,
        **_read_regions(tensors, tokens),
    )


def _read_regions(tensors: dict[str, torch.Tensor], tokens: int) -> dict:
    """Regions and masks of a file, or nothing.

    Raises:
        ValueError: if they do not belong together.
    """
    regions, masks = tensors.get("regions"), tensors.get("masks")
    if regions is None and masks is None:
        return {}
    if regions is None or masks is None or masks.ndim != 3 or tuple(regions.shape) != (tokens,):
        raise ValueError("Damaged hidden states: regions and masks do not belong together.")
    whole = not regions.is_floating_point() and not regions.is_complex()
    if not whole or regions.min() < 0 or regions.max() > len(masks):
        raise ValueError(f"Damaged hidden states: regions must be whole numbers from 0 to {len(masks)}.")
    masks = masks.float()
    if not torch.isfinite(masks).all() or (masks < 0).any():
        raise ValueError("Damaged hidden states: masks must hold numbers of 0 and more.")
    return {"regions": regions.to(torch.int16), "masks": tuple(masks.unbind(0))}
