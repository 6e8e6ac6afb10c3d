"""Flow matching of LAP, refiner and DiT against hidden states of a frozen VLM.

Shapes: B pictures, K noise levels of each, C x H x W latent, T tokens, N taps, W width, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dit import SingleStreamDiT


@dataclass
class Batch:
    """Encoded pictures and their conditions; everything a step needs.

    Attributes:
        latents: (B, C, H, W) float32, about unit variance.
        states: (B, T, N, W), hidden states of the chosen tokens, padded to T; or (B, T, W), pooled already.
        key_bias: (B, T) float32, 0 for tokens and -inf for padding; None without padding.
        weight: (B, 1, H, W) float32, loss weight of each latent pixel; None for even.
        labels: (B, P, heads) int64, what a patch of the finished picture shows; -100 is ignored. See
            :class:`FlowMatching`.
    """

    latents: Tensor
    states: Tensor
    key_bias: Tensor | None = None
    weight: Tensor | None = None
    labels: Tensor | None = None

    def check(self) -> None:
        """Find what would make the loss NaN.

        Raises:
            ValueError: a condition has tokens and all of them are masked.
        """
        if self.key_bias is not None and self.key_bias.shape[1]:
            empty = torch.isneginf(self.key_bias).all(dim=1).nonzero().flatten().tolist()
            if empty:
                raise ValueError(
                    f"All tokens are masked in {len(empty)} of {len(self.key_bias)} conditions (the first is "
                    f"number {empty[0]} of its batch); leave at least one token of every caption unmasked."
                )

    def to(self, device) -> Batch:
        return Batch(**{k: None if v is None else v.to(device, non_blocking=True) for k, v in vars(self).items()})


def noise_levels(count: int, levels: int, mean: float, deviation: float, generator: torch.Generator) -> Tensor:
    """Logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206), ``levels`` strata for each picture.

    Strata make the levels of one picture differ, which lowers the variance of its gradient.

    Returns:
        (count, levels) in (0, 1), 1 is noise.
    """
    strata = torch.rand(count, levels, generator=generator).argsort(dim=1)
    uniform = (strata + torch.rand(count, levels, generator=generator)) / levels
    return torch.sigmoid(mean + deviation * torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))


class FlowMatching(nn.Module):
    """A DiT with its training loss; pooling runs once per condition and serves K noise levels.

    ``token_classes`` adds deep supervision: linear heads on the patches' features after block
    ``features_at`` say what the patch of the finished picture shows. Like aligning features with a
    pretrained encoder (REPA, Yu et al. 2024, arXiv 2410.06940) it tells early blocks what to look
    for long before the pixels' loss does; the heads are dropped when weights are exported.

    Args:
        dit: the model to train.
        token_classes: number of classes of each head; empty for none.
        features_at: block after which the heads read.
        token_weight: weight of the heads' mean cross-entropy.
    """

    def __init__(
        self, dit: SingleStreamDiT, token_classes: tuple[int, ...] = (), features_at: int = 4, token_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.dit = dit
        self.features_at = features_at
        self.token_weight = token_weight
        width = dit.config.features
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in token_classes)
        self.head_norm = nn.LayerNorm(width, elementwise_affine=False) if token_classes else None

    def check(self, batch: Batch) -> None:
        """Find what this model cannot take, before torch does.

        Raises:
            ValueError: naming the shape found and the one expected.
        """
        config = self.dit.config
        batch.check()
        taps, width = batch.states.shape[2:] if batch.states.ndim == 4 else (config.txtlayers, config.states_width)
        if batch.states.ndim == 3 and batch.states.shape[2] != config.txtdim:
            raise ValueError(
                f"The pooled states have the width {batch.states.shape[2]} and the model takes {config.txtdim}; encode again."
            )
        if config.pooling == "lap" and (taps, width) != (config.txtlayers, config.states_width):
            raise ValueError(
                f"The hidden states have {taps} taps of width {width} and the model takes {config.txtlayers} of "
                f"width {config.states_width}; choose the VLM and the taps that the model was made for."
            )
        channels, *sides = batch.latents.shape[1:]
        if channels != config.channels or any(side % config.patch for side in sides):
            raise ValueError(
                f"The latents have {channels} channels and sides {sides}; the model takes {config.channels} channels "
                f"and sides that {config.patch} divides."
            )
        if self.heads and batch.labels is None:
            raise ValueError(
                f"The model has {len(self.heads)} heads for patch labels and the batch has no labels; "
                "give labels or leave token_classes empty."
            )

    def forward(self, batch: Batch, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """
        Args:
            batch: see :class:`Batch`.
            noise: (B, K, C, H, W).
            t: (B, K).

        Returns:
            ``loss``, to minimise, and its parts ``flow`` and ``tokens``, float32 scalars.
        """
        levels = t.shape[1]
        text = self.dit.condition(batch.states, batch.key_bias).repeat_interleave(levels, dim=0)
        bias = None if batch.key_bias is None else batch.key_bias.repeat_interleave(levels, dim=0)
        picture = batch.latents[:, None]
        level = t[:, :, None, None, None]
        noised = (level * noise + (1.0 - level) * picture).flatten(0, 1)
        velocity, features = self.dit.denoise(noised, t.flatten(), text, bias, features_at=self.features_at)

        error = (velocity.float() - (noise - picture).flatten(0, 1)).square()
        if batch.weight is not None:
            error = error * (batch.weight / batch.weight.mean()).repeat_interleave(levels, dim=0)
        parts = {"flow": error.mean()}
        parts["loss"] = parts["flow"]
        if self.head_norm is not None and batch.labels is not None:
            features = self.head_norm(features.float())
            labels = batch.labels.repeat_interleave(levels, dim=0)
            losses = [
                F.cross_entropy(head(features).float().flatten(0, 1), labels[..., i].flatten())
                for i, head in enumerate(self.heads)
            ]
            parts["tokens"] = torch.stack(losses).mean()
            parts["loss"] = parts["flow"] + self.token_weight * parts["tokens"]
        return parts
