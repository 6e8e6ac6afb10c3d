"""The two rivals of pooling that the paper measured: every block of the drawing model gets one layer of its own.

*Key-value fusion*: text does not travel through the blocks; each attends to keys and values made from its layer.
*Hidden-state injection*: text tokens travel with the patches, and in front of each block they receive its layer's states.
Neither has public code; both here take the same refiner as the pooled variants, one for all layers, so that what is compared
is the way the layers take. Shapes as in :mod:`.dit`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .dit import DiTConfig, SingleStreamBlock, SingleStreamDiT, text_projection
from .pooling import Attention, RefinedLayers, RMSNorm

KEY_VALUE_FUSION, INJECTION = "key-value fusion", "injection"


def layers_of_blocks(taps: int, blocks: int) -> tuple[int, ...]:
    """Which tap each block reads: spread evenly in their order; a single block reads the last."""
    if blocks == 1:
        return (taps - 1,)
    return tuple(round(index * (taps - 1) / (blocks - 1)) for index in range(blocks))


class LayersToBlocks(nn.Module):
    """For each block a way of its own into it (B, blocks, T, W) -> (B, blocks, T, outputs)."""

    def __init__(self, ways: list[nn.Module]) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, layers: Tensor) -> Tensor:
        return torch.stack([way(layer) for way, layer in zip(self.ways, layers.unbind(1), strict=True)], dim=1)


class AttentionToText(Attention):
    """Self-attention whose keys and values stand behind those of a text."""

    def forward(
        self, x: Tensor, bias: Tensor | None = None, rotary: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: (B, P, D); ``rotary``: of these alone.
            bias: broadcastable to (B, heads, P, T + P).
            text: (B, T, 2 kvheads * head size), keys, then values; they have no position.
        """
        q, k, v = self.queries_keys_values(x, rotary)
        if text is not None:
            keys, values = (self.split(part, self.kvheads) for part in text.chunk(2, dim=-1))
            k, v = torch.cat([self.qknorm.knorm(keys), k], dim=2), torch.cat([values, v], dim=2)
        return self.mixed(x, q, k, v, bias)


class BlockWithText(SingleStreamBlock):
    """A block that attends to keys and values of a text beside its own sequence (B, P, D)."""

    def __init__(self, features: int, heads: int, multiplier: int, kvheads: int) -> None:
        super().__init__(features, heads, multiplier, kvheads)
        self.attn = AttentionToText(features, heads, kvheads)

    def forward(
        self, x: Tensor, modulation: Tensor, bias: Tensor | None, rotary: Tensor, text: Tensor | None = None
    ) -> Tensor:
        prescale, preshift, pregate, postscale, postshift, postgate = self.mod(modulation)
        x = x + pregate * self.attn((1 + prescale) * self.prenorm(x) + preshift, bias, rotary, text)
        return x + postgate * self.mlp((1 + postscale) * self.postnorm(x) + postshift)


class LayerToBlockDiT(SingleStreamDiT):
    """What both share: the layers of the blocks, refined; a way of its own into each."""

    @staticmethod
    def fusion(c: DiTConfig) -> nn.Module:
        layers = layers_of_blocks(c.txtlayers, c.layers)
        return RefinedLayers(layers, c.txtdim, c.txtheads, c.multiplier, c.refiner, c.txtinput)


class KeyValueFusionDiT(LayerToBlockDiT):
    """Each block attends to keys and values made from one layer of its own."""

    block = BlockWithText

    @staticmethod
    def into_blocks(c: DiTConfig) -> nn.Module:
        outputs = 2 * c.kvheads * (c.features // c.heads)
        return LayersToBlocks([nn.Sequential(RMSNorm(c.txtdim), nn.Linear(c.txtdim, outputs)) for _ in range(c.layers)])

    def opened(self, text: Tensor, image: Tensor) -> Tensor:
        return image

    def passed(
        self, index: int, x: Tensor, text: Tensor, modulation: Tensor, bias: Tensor | None, rotary: Tensor
    ) -> Tensor:
        return self.blocks[index](x, modulation, bias, rotary, text[:, index])


class InjectionDiT(LayerToBlockDiT):
    """In front of each block the text tokens receive the states of one layer of its own."""

    @staticmethod
    def into_blocks(c: DiTConfig) -> nn.Module:
        return LayersToBlocks([text_projection(c) for _ in range(c.layers)])

    def opened(self, text: Tensor, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(text[:, 0]), image], dim=1)

    def passed(
        self, index: int, x: Tensor, text: Tensor, modulation: Tensor, bias: Tensor | None, rotary: Tensor
    ) -> Tensor:
        own = text[:, index]
        x = torch.cat([x[:, : own.shape[1]] + own, x[:, own.shape[1] :]], dim=1)
        return self.blocks[index](x, modulation, bias, rotary)


def build_dit(config: DiTConfig) -> SingleStreamDiT:
    """The drawing model that ``config.pooling`` asks for: one of :func:`.pooling.build_pooling`, or of the two here."""
    kinds = {KEY_VALUE_FUSION: KeyValueFusionDiT, INJECTION: InjectionDiT}
    return kinds.get(config.pooling, SingleStreamDiT)(config)
