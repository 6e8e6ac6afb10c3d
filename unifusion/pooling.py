"""From a stack of hidden states to one vector a token: Layerwise Attention Pooling and its rivals.

The layout and the parameter names are those of Krea 2's ``txtfusion``, the public model built on
the idea (github.com/krea-ai/krea-2, ``mmdit.py``): two transformer blocks attend over the tapped
layers of each token by itself, one linear sums the layers, two refiner blocks attend over tokens.
A Krea 2 file therefore loads into :class:`LayerwiseAttentionPooling` key by key, and weights
trained here load into anything that reads Krea 2.

Shapes: B batch, T tokens, N tapped layers, W width of the hidden states.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quoting import quoted


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, multiplied by ``1 + scale``; float32 inside."""

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        weight = 1.0 + self.scale.float()
        return F.rms_norm(x.float(), (x.shape[-1],), weight, self.eps).to(x.dtype)


class QKNorm(nn.Module):
    """A norm of its own for the queries and the keys of every head (B, heads, T, head size)."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.qnorm = RMSNorm(head_size)
        self.knorm = RMSNorm(head_size)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.qnorm(q), self.knorm(k)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``; the inner width is a multiple of 128, as in Krea 2."""

    def __init__(self, features: int, multiplier: int, bias: bool = False) -> None:
        super().__init__()
        inner = -(-(2 * features // 3 * multiplier) // 128) * 128
        self.gate = nn.Linear(features, inner, bias=bias)
        self.up = nn.Linear(features, inner, bias=bias)
        self.down = nn.Linear(inner, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention.

    Args:
        q, k, v: (B, heads, T, head size), equal numbers of heads.
        bias: added to the logits, broadcastable to (B, heads, T, T); -inf removes a key.

    On the CPU two matrix products are written out: torch's fused kernel in bfloat16 was 1.3 to
    1.45 times slower there at the sizes of the miniature, forward and backward.
    """
    if q.device.type != "cpu":
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits.float() + bias
    return logits.softmax(-1).to(v.dtype) @ v


def rotate_pairs(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn neighbouring pairs of (B, heads, T, head size) by angles; float32 inside.

    Args:
        rotary: (2, T, head size / 2), cosines and sines.
    """
    cos, sin = rotary
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query self-attention with normed queries and keys and a sigmoid gate on its output."""

    def __init__(self, features: int, heads: int, kvheads: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.kvheads = kvheads or heads
        self.head_size = features // heads
        self.wq = nn.Linear(features, self.head_size * heads, bias=bias)
        self.wk = nn.Linear(features, self.head_size * self.kvheads, bias=bias)
        self.wv = nn.Linear(features, self.head_size * self.kvheads, bias=bias)
        self.gate = nn.Linear(features, features, bias=bias)
        self.qknorm = QKNorm(self.head_size)
        self.wo = nn.Linear(features, features, bias=bias)

    def forward(self, x: Tensor, bias: Tensor | None = None, rotary: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, T, features).
            bias: additive on the logits, broadcastable to (B, heads, T, T).
            rotary: (2, T, head size / 2), position code of queries and keys; see :func:`rotate_pairs`.
        """

        return self.mixed(x, *self.queries_keys_values(x, rotary), bias)

    def split(self, y: Tensor, heads: int) -> Tensor:
        """(B, T, heads * head size) -> (B, heads, T, head size)."""
        return y.unflatten(-1, (heads, self.head_size)).transpose(1, 2)

    def queries_keys_values(self, x: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each (B, heads or kvheads, T, head size), normed and turned."""
        q, k = self.qknorm(self.split(self.wq(x), self.heads), self.split(self.wk(x), self.kvheads))
        v = self.split(self.wv(x), self.kvheads)
        if rotary is not None:
            q, k = rotate_pairs(q, rotary), rotate_pairs(k, rotary)
        return q, k, v

    def mixed(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Attention's output (B, T, features); there may be more keys than queries."""
        if self.kvheads != self.heads:
            k = k.repeat_interleave(self.heads // self.kvheads, dim=1)
            v = v.repeat_interleave(self.heads // self.kvheads, dim=1)
        mixed = attend(q, k, v, bias).transpose(1, 2).flatten(2)
        return self.wo(mixed * torch.sigmoid(self.gate(x)))


class TextFusionBlock(nn.Module):
    """Pre-norm transformer block without position code (B, T, W) -> (B, T, W)."""

    def __init__(self, features: int, heads: int, multiplier: int) -> None:
        super().__init__()
        self.prenorm = RMSNorm(features)
        self.postnorm = RMSNorm(features)
        self.attn = Attention(features, heads)
        self.mlp = SwiGLU(features, multiplier)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.prenorm(x), bias)
        return x + self.mlp(self.postnorm(x))


HEADS = 20  # of every block of the pooling, in Krea 2 and in ComfyUI's loader


def pooled_width(width: int) -> int:
    """Width of the pooling for hidden states of ``width``: the same, or the next multiple of 160 where 20 heads do not fit."""
    return width if width % HEADS == 0 else -(-width // (8 * HEADS)) * 8 * HEADS


def _input(inputs: int, width: int) -> nn.Linear | None:
    """From hidden states to the pooling's width, where they differ; starts as the identity, with zeros behind."""
    if inputs in (0, width):
        return None
    layer = nn.Linear(inputs, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def _refiner(width: int, heads: int, multiplier: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(TextFusionBlock(width, heads, multiplier) for _ in range(blocks))


def _refine(blocks: nn.ModuleList, x: Tensor, key_bias: Tensor | None) -> Tensor:
    bias = None if key_bias is None else key_bias.float()[:, None, None, :]
    for block in blocks:
        x = block(x, bias)
    return x


class LayerwiseAttentionPooling(nn.Module):
    """LAP and its refiner: UniFusion section 3.2, in the layout of Krea 2's ``txtfusion``.

    Args:
        taps: N, number of tapped layers.
        width: W, width of the pooling; a multiple of ``heads``.
        heads: attention heads of every block. ComfyUI's Krea 2 loader always uses 20.
        multiplier: of the SwiGLU's inner width.
        refiner: number of refiner blocks; 0 leaves token order bias uncorrected (for comparison).
        inputs: width of the hidden states where it is another; they are projected first. 0 = the same.
    """

    def __init__(
        self, taps: int, width: int, heads: int = HEADS, multiplier: int = 4, refiner: int = 2, inputs: int = 0
    ) -> None:
        super().__init__()
        self.input = _input(inputs, width)
        self.layerwise_blocks = nn.ModuleList(TextFusionBlock(width, heads, multiplier) for _ in range(2))
        self.projector = nn.Linear(taps, 1, bias=False)
        self.refiner_blocks = _refiner(width, heads, multiplier, refiner)

    def forward(self, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """
        Args:
            states: (B, T, N, W), or of width ``inputs``; gains of single layers are factors on these, see ``layer_gains``.
            key_bias: (B, T), added to the logits of each token's key in the refiner: log(w) counts
                a token w times, -inf leaves it out. None is bit-equal to all zeros being absent.

        Returns:
            (B, T, W), in the dtype of the blocks.
        """
        if self.input is not None:
            states = self.input(states)
        batch, tokens, taps, width = states.shape
        x = states.reshape(batch * tokens, taps, width)
        for block in self.layerwise_blocks:
            x = block(x)
        x = self.projector(x.unflatten(0, (batch, tokens)).transpose(2, 3)).squeeze(-1)
        return _refine(self.refiner_blocks, x, key_bias)


class FixedPooling(nn.Module):
    """A fixed sum over the tapped layers in place of LAP, with the same refiner: for comparison.

    Args:
        weights: one number for each tapped layer.
        width, heads, multiplier, refiner, inputs: as in :class:`LayerwiseAttentionPooling`.
    """

    def __init__(
        self,
        weights: list[float],
        width: int,
        heads: int = HEADS,
        multiplier: int = 4,
        refiner: int = 2,
        inputs: int = 0,
    ) -> None:
        super().__init__()
        self.input = _input(inputs, width)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.refiner_blocks = _refiner(width, heads, multiplier, refiner)

    def forward(self, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(B, T, N, W) and (B, T) or None -> (B, T, W)."""
        pooled = torch.einsum("btnw,n->btw", states.float(), self.weights.float()).to(states.dtype)
        if self.input is not None:
            pooled = self.input(pooled)
        return _refine(self.refiner_blocks, pooled, key_bias)


class ConcatenationPooling(nn.Module):
    """The tapped layers of a token side by side, then one linear, then the same refiner: for comparison.

    Args:
        taps, width, heads, multiplier, refiner, inputs: as in :class:`LayerwiseAttentionPooling`.
    """

    def __init__(
        self, taps: int, width: int, heads: int = HEADS, multiplier: int = 4, refiner: int = 2, inputs: int = 0
    ) -> None:
        super().__init__()
        self.joined = nn.Linear(taps * (inputs or width), width, bias=False)
        self.refiner_blocks = _refiner(width, heads, multiplier, refiner)

    def forward(self, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(B, T, N, W) and (B, T) or None -> (B, T, W)."""
        return _refine(self.refiner_blocks, self.joined(states.flatten(2)), key_bias)


class RefinedLayers(nn.Module):
    """Some of the tapped layers, each by itself through one and the same refiner: for models that do not pool.

    Args:
        layers: places among the taps.
        width, heads, multiplier, refiner, inputs: as in :class:`LayerwiseAttentionPooling`.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        width: int,
        heads: int = HEADS,
        multiplier: int = 4,
        refiner: int = 2,
        inputs: int = 0,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.input = _input(inputs, width)
        self.refiner_blocks = _refiner(width, heads, multiplier, refiner)

    def forward(self, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(B, T, N, W) and (B, T) or None -> (B, layers, T, W)."""
        x = states[:, :, list(self.layers)].transpose(1, 2).flatten(0, 1)
        if self.input is not None:
            x = self.input(x)
        bias = None if key_bias is None else key_bias.repeat_interleave(len(self.layers), dim=0)
        return _refine(self.refiner_blocks, x, bias).unflatten(0, (-1, len(self.layers)))


def build_pooling(
    kind: str, taps: int, width: int, heads: int = HEADS, multiplier: int = 4, refiner: int = 2, inputs: int = 0
) -> nn.Module:
    """The pooling named ``kind``.

    Args:
        kind: ``lap``; ``last``, the last tapped layer; ``average`` of all; ``tap:i``, one of them; ``concatenation`` of all.

    Raises:
        ValueError: for another name, or a tap that is not there.
    """
    if kind == "lap":
        return LayerwiseAttentionPooling(taps, width, heads, multiplier, refiner, inputs)
    if kind == "concatenation":
        return ConcatenationPooling(taps, width, heads, multiplier, refiner, inputs)
    if kind == "average":
        weights = [1.0 / taps] * taps
    elif kind == "last":
        weights = [0.0] * (taps - 1) + [1.0]
    elif kind.startswith("tap:") and kind[4:].isdigit() and int(kind[4:]) < taps:
        weights = [float(i == int(kind[4:])) for i in range(taps)]
    else:
        raise ValueError(
            f"There is no pooling {quoted(kind)}; use lap, last, average, concatenation or tap:i with i below {taps}."
        )
    return FixedPooling(weights, width, heads, multiplier, refiner, inputs)
