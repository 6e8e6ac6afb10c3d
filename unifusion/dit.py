"""Krea 2's single-stream diffusion transformer, for training and for sampling without ComfyUI.

Parameter names are those of Krea 2's own files (github.com/krea-ai/krea-2, ``mmdit.py``) and of
ComfyUI's ``comfy/ldm/krea2/model.py``: weights trained here load in the stock UNETLoader.

Pooled text tokens and latent patches form one sequence through shared blocks. Text tokens all sit
at rotary position zero, so their order carries nothing after pooling; this is what makes a bias
of log(w) on a text key equal to giving that token w times.

Shapes: B batch, T text tokens, N tapped layers, W their width, D features, P patches = (H/2)(W/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .pooling import Attention, RMSNorm, SwiGLU, build_pooling


@dataclass(frozen=True)
class DiTConfig:
    """What a Krea-2-layout DiT is made of.

    ComfyUI reads features, heads, kvheads, layers, channels, txtdim and txtlayers from the tensors
    of a file and takes the rest at Krea 2's values: head size 128, patch 2, tdim 256, multiplier
    4, txtheads 20, theta 1000. A model that keeps these loads there.

    ``txtinput`` is the width of the hidden states where it is not ``txtdim``, because the heads do not divide it (see
    :func:`unifusion.pooling.pooled_width`): a projection ``txtfusion.input`` then stands in front of the pooling. Stock
    loaders do not know it; Load UniFusion Model does. 0 = the same width, and no such weight.

    ``pooling`` and ``refiner`` other than the defaults exist for comparison; see
    :func:`unifusion.pooling.build_pooling`.
    """

    features: int
    heads: int
    kvheads: int
    layers: int
    txtdim: int
    txtlayers: int
    channels: int = 16
    patch: int = 2
    tdim: int = 256
    multiplier: int = 4
    txtheads: int = 20
    theta: float = 1000.0
    pooling: str = "lap"
    refiner: int = 2
    txtinput: int = 0

    @property
    def states_width(self) -> int:
        """Width of the hidden states that the model takes."""
        return self.txtinput or self.txtdim


KREA2 = DiTConfig(features=6144, heads=48, kvheads=12, layers=28, txtdim=2560, txtlayers=12)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of ``1000 t`` at ``dim / 2`` frequencies from 1 to 1e-4.

    Args:
        t: (B,), noise level from 0 (picture) to 1 (noise).

    Returns:
        (B, dim), float32.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(1e4) / half))
    angles = 1000.0 * t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(rows: int, columns: int, text: int, head_size: int, theta: float, device=None) -> Tensor:
    """Cosines and sines for text tokens at (0, 0, 0) followed by patches at (0, row, column).

    The head is split into pairs of neighbours; 1/4 of it serves the first axis, 3/8 each of the
    others (Krea 2: 32, 48, 48 of 128).

    Returns:
        (2, text + rows * columns, head_size / 2), float32.
    """
    side = 6 * (head_size // 16)
    grid = torch.zeros(rows, columns, 3, dtype=torch.float64, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    position = torch.cat([grid.new_zeros(text, 3), grid.reshape(-1, 3)])
    angles = []
    for axis, size in enumerate((head_size - 2 * side, side, side)):
        rate = theta ** (-torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
        angles.append(position[:, axis, None] * rate)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()]).float()


def patchify(latent: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, H W / patch^2, C patch^2), channel slowest within a token."""
    batch, channels, height, width = latent.shape
    x = latent.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def unpatchify(tokens: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`patchify` for a grid of ``rows`` x ``columns`` tokens."""
    x = tokens.unflatten(-1, (-1, patch, patch)).unflatten(1, (rows, columns))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class DoubleSharedModulation(nn.Module):
    """Six vectors of the shared time modulation, shifted by this block's own (B, 1, 6 D)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lin = nn.Parameter(torch.zeros(6 * features))

    def forward(self, modulation: Tensor) -> tuple[Tensor, ...]:
        return (modulation + self.lin.to(modulation.dtype)).chunk(6, dim=-1)


class SimpleModulation(nn.Module):
    """Scale and shift from the time vector (B, 1, D) plus learned offsets."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lin = nn.Parameter(torch.zeros(2, features))

    def forward(self, time: Tensor) -> tuple[Tensor, Tensor]:
        return (time + self.lin.to(time.dtype)).chunk(2, dim=1)


class SingleStreamBlock(nn.Module):
    """Time-modulated transformer block over text and patches (B, T + P, D)."""

    def __init__(self, features: int, heads: int, multiplier: int, kvheads: int) -> None:
        super().__init__()
        self.mod = DoubleSharedModulation(features)
        self.prenorm = RMSNorm(features)
        self.postnorm = RMSNorm(features)
        self.attn = Attention(features, heads, kvheads)
        self.mlp = SwiGLU(features, multiplier)

    def forward(self, x: Tensor, modulation: Tensor, bias: Tensor | None, rotary: Tensor) -> Tensor:
        prescale, preshift, pregate, postscale, postshift, postgate = self.mod(modulation)
        x = x + pregate * self.attn((1 + prescale) * self.prenorm(x) + preshift, bias, rotary)
        return x + postgate * self.mlp((1 + postscale) * self.postnorm(x) + postshift)


class LastLayer(nn.Module):
    """Time-modulated norm and the projection to a patch of velocity."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.norm = RMSNorm(features)
        self.linear = nn.Linear(features, outputs)
        self.modulation = SimpleModulation(features)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)
        return self.linear((1 + scale) * self.norm(x) + shift)


def text_projection(c: DiTConfig) -> nn.Sequential:
    """(B, T, W) -> (B, T, D)."""
    return nn.Sequential(
        RMSNorm(c.txtdim),
        nn.Linear(c.txtdim, c.features),
        nn.GELU(approximate="tanh"),
        nn.Linear(c.features, c.features),
    )


class SingleStreamDiT(nn.Module):
    """The whole of Krea 2's transformer, its text fusion included.

    Call :meth:`condition` once for a prompt and :meth:`denoise` at every step; ``forward`` is
    both. With ``gradient_checkpointing`` set, blocks are recomputed in the backward pass.
    :mod:`.layers_to_blocks` overrides how text enters.
    """

    block = SingleStreamBlock

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.gradient_checkpointing = False
        token = c.channels * c.patch**2
        self.first = nn.Linear(token, c.features)
        self.blocks = nn.ModuleList(self.block(c.features, c.heads, c.multiplier, c.kvheads) for _ in range(c.layers))
        self.tmlp = nn.Sequential(
            nn.Linear(c.tdim, c.features), nn.GELU(approximate="tanh"), nn.Linear(c.features, c.features)
        )
        self.txtfusion = self.fusion(c)
        self.txtmlp = self.into_blocks(c)
        self.last = LastLayer(c.features, token)
        self.tproj = nn.Sequential(nn.GELU(approximate="tanh"), nn.Linear(c.features, 6 * c.features))

    @staticmethod
    def fusion(c: DiTConfig) -> nn.Module:
        """From the hidden states of the taps to what :meth:`into_blocks` takes."""
        return build_pooling(c.pooling, c.txtlayers, c.txtdim, c.txtheads, c.multiplier, c.refiner, c.txtinput)

    @staticmethod
    def into_blocks(c: DiTConfig) -> nn.Module:
        """From the width of the hidden states to that of the blocks."""
        return text_projection(c)

    def condition(self, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, N, W), or what the pooling made of them (B, T, W), -> text tokens (B, T, D).

        ``key_bias`` as in :meth:`forward`.
        """
        return self.txtmlp(states if states.ndim == 3 else self.txtfusion(states, key_bias))

    def opened(self, text: Tensor, image: Tensor) -> Tensor:
        """The sequence in front of the first block: text, if it travels through the blocks, then patches (B, P, D)."""
        return torch.cat([text, image], dim=1)

    def passed(
        self, index: int, x: Tensor, text: Tensor, modulation: Tensor, bias: Tensor | None, rotary: Tensor
    ) -> Tensor:
        """The sequence behind block ``index``; ``text`` is there for models that give every block its own."""
        return self.blocks[index](x, modulation, bias, rotary)

    def denoise(
        self, latent: Tensor, t: Tensor, text: Tensor, key_bias: Tensor | None = None, features_at: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Velocity of the flow at noise level ``t``.

        Args:
            latent: (B, C, H, W), ``(1 - t) picture + t noise``; H and W divisible by ``patch``.
            t: (B,), from 0 (picture) to 1 (noise).
            text: (B, T, D), from :meth:`condition`.
            key_bias: (B, T), added to the logits of each text key in every block.
            features_at: also return the patches' features after this many blocks, (B, P, D).

        Returns:
            (B, C, H, W), noise minus picture; with ``features_at`` a pair.
        """
        patch = self.config.patch
        rows, columns = latent.shape[-2] // patch, latent.shape[-1] // patch
        image = self.first(patchify(latent, patch))
        time = self.tmlp(timestep_embedding(t, self.config.tdim)[:, None].to(image.dtype))
        modulation = self.tproj(time)

        x = self.opened(text, image)
        count = x.shape[1] - image.shape[1]
        head_size = self.config.features // self.config.heads
        rotary = rotary_table(rows, columns, count, head_size, self.config.theta, latent.device)
        bias = None
        if key_bias is not None:
            bias = F.pad(key_bias.float(), (0, image.shape[1]))[:, None, None, :]

        features = None
        for index in range(len(self.blocks)):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(self.passed, index, x, text, modulation, bias, rotary, use_reentrant=False)
            else:
                x = self.passed(index, x, text, modulation, bias, rotary)
            if index + 1 == features_at:
                features = x[:, count:]
        velocity = unpatchify(self.last(x[:, count:], time), patch, rows, columns)
        return velocity if features_at is None else (velocity, features)

    def forward(self, latent: Tensor, t: Tensor, states: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """:meth:`condition`, then :meth:`denoise`.

        Args:
            latent: (B, C, H, W).
            t: (B,).
            states: (B, T, N, W), hidden states of the chosen tokens.
            key_bias: (B, T) or None, the same bias in the refiner and in every block: log(w) counts
                a token w times, -inf marks padding.

        Returns:
            (B, C, H, W), the velocity.
        """
        return self.denoise(latent, t, self.condition(states, key_bias), key_bias)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> SingleStreamDiT:
        """Starting weights for training from nothing.

        Every matrix gets variance 1 / inputs. Outputs of residual branches are smaller, LAP's by a
        lot: its residual carries the VLM's states, and branches that soon outgrew it were measured
        to wipe out the shape of an object (miniature: 97% readable before, 66% after). The sum
        over layers starts as the average, gates open, the velocity at zero.
        """
        for name, weight in self.named_parameters():
            if name == "txtfusion.input.weight":
                nn.init.eye_(weight)  # the states come in as they are
            elif weight.ndim == 2 and name.endswith(".weight"):
                std = weight.shape[1] ** -0.5
                if name.endswith((".wo.weight", ".down.weight")):
                    std *= 0.1 if "txtfusion" in name else (2 * self.config.layers) ** -0.5
                if name.startswith("tproj"):
                    std *= 0.1
                nn.init.normal_(weight, std=std, generator=generator)
            else:
                nn.init.zeros_(weight)
        for block in self.blocks:
            gates = block.mod.lin.view(6, -1)
            gates[2].fill_(1.0)
            gates[5].fill_(1.0)
        nn.init.zeros_(self.last.linear.weight)
        if self.config.pooling == "lap":
            nn.init.constant_(self.txtfusion.projector.weight, 1.0 / self.config.txtlayers)
        return self
