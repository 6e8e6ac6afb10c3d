"""What travels with every pooled token, as further features of the same tensor.

Stock nodes join, average, mask and range conditioning by its tensor and copy the options of one side. What stands in the
options is therefore torn as soon as two conditionings meet; what stands in the tensor is not. So a pooled token carries
its weight and its part of the schedule in :data:`FEATURES` columns behind the pooled width. All of them are 0 for a
neutral token, so that the zeros with which stock nodes pad and silence are neutral too.

=========  ==========================================================================================
column     holds
=========  ==========================================================================================
weight     ``w - 1``: the mean of two conditionings has the mean of their weights
start      beginning of the token's part of the schedule, 0 .. 1
end        its end; 0 in both means the whole schedule
seal       a convex function of start and end: a mean of two different parts no longer matches it
=========  ==========================================================================================

Shapes: B batch, T tokens, W pooled width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

FEATURES = 4
_TOLERANCE = 0.02  # of the seal, far above bfloat16's rounding of a part of the schedule


class Carried(NamedTuple):
    """What :func:`split` finds.

    Attributes:
        tokens: ``(B, T, W)``, as the drawing model takes them.
        weights: ``(B, T)`` float32.
        spans: ``(B, T, 2)`` float32, part of the schedule, from 0 to 1.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    spans: torch.Tensor

    @property
    def weighted(self) -> bool:
        return bool((self.weights != 1).any())

    @property
    def scheduled(self) -> bool:
        return bool((self.spans[..., 0] != 0).any() or (self.spans[..., 1] != 1).any())


def _seal(spans: torch.Tensor) -> torch.Tensor:
    return spans[..., 0].square() + 2 * spans[..., 1].square()


def attach(tokens: torch.Tensor, weights: torch.Tensor, span: tuple[float, float] = (0.0, 1.0)) -> torch.Tensor:
    """Pooled tokens with their features.

    Args:
        tokens: ``(B, T, W)``.
        weights: ``(T,)``, not 0.
        span: part of the schedule in which all of them count.

    Returns:
        ``(B, T, W + FEATURES)`` in the dtype of the tokens, bit-equal in its first W columns.
    """
    spans = torch.tensor(span if span != (0.0, 1.0) else (0.0, 0.0)).expand(weights.shape[0], 2)
    columns = torch.cat([(weights.float().cpu() - 1)[:, None], spans, _seal(spans)[:, None]], dim=1)
    return torch.cat([tokens, columns.to(tokens)[None].expand(tokens.shape[0], -1, -1)], dim=-1)


def split(context: torch.Tensor, width: int) -> Carried:
    """The inverse of :func:`attach`.

    Args:
        context: ``(B, T, width + FEATURES)``.
        width: the pooled width.

    Raises:
        ValueError: if the features were mixed with those of other parts of the schedule, or are no numbers.
    """
    features = context[..., width:].float()
    if not torch.isfinite(features).all():
        raise ValueError(
            "The weights inside this conditioning are NaN or infinite: a node between Layerwise Attention Pool and the "
            "sampler changed them. Take it out, or encode again."
        )
    weights, spans = features[..., 0] + 1, features[..., 1:3]
    expected = _seal(spans)
    if ((features[..., 3] - expected).abs() > _TOLERANCE * expected.clamp_min(0.05)).any():
        raise ValueError(
            "A conditioning in which a reference counts for a part of the schedule was mixed with another one (as "
            "Conditioning Average does), so it is no longer known when its tokens count. Give both the same start and "
            "end, or combine them with Conditioning Combine."
        )
    always = (spans == 0).all(dim=-1, keepdim=True)
    spans = torch.where(always, spans.new_tensor([0.0, 1.0]), spans)
    return Carried(context[..., :width], weights, spans)


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
