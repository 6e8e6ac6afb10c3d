"""What travels with every pooled token, as further features of the same tensor.

Stock nodes join, average, mask and range conditioning by its tensor and copy the options of one side. What stands in the
options is therefore torn as soon as two conditionings meet; what stands in the tensor is not. So a pooled token carries
its weight, its part of the schedule and its region in :data:`FEATURES` columns behind the pooled width. All of them are
0 for a neutral token, so that the zeros with which stock nodes pad and silence are neutral too.

=========  ==========================================================================================
column     holds
=========  ==========================================================================================
weight     ``w - 1``: the mean of two conditionings has the mean of their weights
start      beginning of the token's part of the schedule, 0 .. 1
end        its end; 0 in both means the whole schedule
region     1: a token that counts inside a mask only; 2: a row of that mask; 0: everywhere
seal       a convex function of start, end and region: a mean of two different ones no longer matches it
=========  ==========================================================================================

The mask of a region follows its tokens as rows that hold :data:`MASK_SIDE` squared values.

Shapes: B batch, T tokens, W pooled width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

FEATURES = 5
MASK_SIDE = 64
EVERYWHERE, IN_REGION, MASK_ROW = 0, 1, 2
_TOLERANCE = 0.02  # of the seal, far above bfloat16's rounding of a part of the schedule


class Carried(NamedTuple):
    """What :func:`split` finds.

    Attributes:
        tokens: ``(B, T, W)``, as the drawing model takes them; rows of masks included. All else is in main memory.
        weights: ``(B, T)`` float32; 0 for rows of masks.
        spans: ``(B, T, 2)`` float32, part of the schedule, from 0 to 1.
        regions: ``(B, T)`` int64, 0 = everywhere, else the number of the token's mask in its batch row, from 1.
        masks: for each batch row ``(regions, MASK_SIDE, MASK_SIDE)`` float32.
        is_mask: ``(B, T)`` bool, rows of masks.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    spans: torch.Tensor
    regions: torch.Tensor
    masks: tuple[torch.Tensor, ...]
    is_mask: torch.Tensor

    @property
    def weighted(self) -> bool:
        return bool(((self.weights != 1) & ~self.is_mask).any())

    @property
    def scheduled(self) -> bool:
        return bool((self.spans[..., 0] != 0).any() or (self.spans[..., 1] != 1).any())


def _seal(spans: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    return spans[..., 0].square() + 2 * spans[..., 1].square() + 4 * region.square()


def features(weights: torch.Tensor, spans: torch.Tensor, region: int = EVERYWHERE) -> torch.Tensor:
    """``(T, FEATURES)`` float32.

    Args:
        weights: ``(T,)``.
        spans: ``(T, 2)``, part of the schedule in which each token counts.
        region: of all of them.
    """
    weights, spans = weights.float().cpu(), spans.float().cpu()
    always = (spans == spans.new_tensor([0.0, 1.0])).all(dim=-1, keepdim=True)
    spans = spans.masked_fill(always, 0.0)
    regions = torch.full_like(weights, region)
    return torch.cat(
        [(weights - 1)[:, None], spans, regions[:, None], _seal(spans, regions)[:, None]],
        dim=1,
    )


def _columns(weights: torch.Tensor, span: tuple[float, float], region: int) -> torch.Tensor:
    return features(weights, torch.tensor(span).expand(weights.shape[0], 2), region)


def attach(
    tokens: torch.Tensor,
    weights: torch.Tensor,
    span: tuple[float, float] = (0.0, 1.0),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pooled tokens with their features.

    Args:
        tokens: ``(B, T, W)``.
        weights: ``(T,)``, not 0.
        span: part of the schedule in which all of them count.
        mask: ``(MASK_SIDE, MASK_SIDE)``, how much they count at each place; None: everywhere alike.

    Returns:
        ``(B, T [+ rows of the mask], W + FEATURES)`` in the dtype of the tokens, bit-equal in its first W columns.
    """
    weights = weights.float().cpu()
    columns = _columns(weights, span, EVERYWHERE if mask is None else IN_REGION)
    if mask is not None:
        width = tokens.shape[-1]
        values = mask.flatten().float()
        rows = F.pad(values, (0, -len(values) % width)).unflatten(0, (-1, width)).to(tokens)
        tokens = torch.cat([tokens, rows[None].expand(tokens.shape[0], -1, -1)], dim=1)
        columns = torch.cat([columns, _columns(torch.ones(len(rows)), span, MASK_ROW)])
    return torch.cat([tokens, columns.to(tokens)[None].expand(tokens.shape[0], -1, -1)], dim=-1)


def split(context: torch.Tensor, width: int) -> Carried:
    """The inverse of :func:`attach`.

    Args:
        context: ``(B, T, width + FEATURES)``.
        width: the pooled width.

    Raises:
        ValueError: if the features were mixed with those of other parts of the schedule or regions, or are no numbers.
    """
    return read(context[..., :width], context[..., width:])


def read(tokens: torch.Tensor, features: torch.Tensor) -> Carried:
    """Tokens and what their features say.

    Args:
        tokens: ``(B, T, W)``.
        features: ``(B, T, FEATURES)``.

    Raises:
        ValueError: as :func:`split`.
    """
    features = features.float().cpu()  # their numbers are read here; ComfyUI's conditioning is there anyway
    if not torch.isfinite(features).all():
        raise ValueError(
            "The weights inside this conditioning are NaN or infinite: a node between Layerwise Attention Pool and the "
            "sampler changed them. Take it out, or encode again."
        )
    weights, spans, kinds = features[..., 0] + 1, features[..., 1:3], features[..., 3]
    expected = _seal(spans, kinds)
    if ((features[..., 4] - expected).abs() > _TOLERANCE * expected.clamp_min(0.05)).any():
        raise ValueError(
            "A conditioning in which a reference counts for a part of the schedule, or words in a region, was mixed with "
            "another one (as Conditioning Average does), so it is no longer known when and where its tokens count. Give "
            "both the same, or combine them with Conditioning Combine."
        )
    always = (spans == 0).all(dim=-1, keepdim=True)
    spans = torch.where(always, spans.new_tensor([0.0, 1.0]), spans)
    kinds = kinds.round().long()
    regions, masks = _regions(tokens, kinds)
    is_mask = kinds == MASK_ROW
    return Carried(tokens, weights.masked_fill(is_mask, 0.0), spans, regions, masks, is_mask)


def _regions(tokens: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Numbers of the regions ``(B, T)`` and the masks of each batch row."""
    numbers, masks = torch.zeros_like(kinds), []
    for row, kind in enumerate(kinds.tolist()):
        found, open_since, index = [], None, 0
        while index < len(kind):
            if kind[index] == IN_REGION and open_since is None:
                open_since = index
            if kind[index] != MASK_ROW:
                index += 1
                continue
            end = index
            while end < len(kind) and kind[end] == MASK_ROW and (end - index) * tokens.shape[-1] < MASK_SIDE**2:
                end += 1
            values = tokens[row, index:end].flatten()[: MASK_SIDE**2].float().cpu()
            if len(values) < MASK_SIDE**2 or open_since is None:
                raise ValueError(
                    "A region inside this conditioning is cut off: a node between Layerwise Attention Pool and the "
                    "sampler dropped tokens. Take it out, or wire the Region behind it."
                )
            found.append(values.unflatten(0, (MASK_SIDE, MASK_SIDE)))
            inside = kinds[row, open_since:index] == IN_REGION
            numbers[row, open_since:index][inside] = len(found)
            open_since, index = None, end
        masks.append(torch.stack(found) if found else torch.zeros(0, MASK_SIDE, MASK_SIDE))
    return numbers, tuple(masks)


def upgraded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Pooled tokens as version 0.1 saved them, in today's form.

    Args:
        tensor: ``(1, T, width)``, or with log(w) in one further column, or in today's form.
        width: the pooled width.
    """
    if tensor.shape[-1] == width:
        return attach(tensor, torch.ones(tensor.shape[1]))
    if tensor.shape[-1] == width + 1:
        return attach(tensor[..., :-1], tensor[0, :, -1].float().exp())
    return tensor
