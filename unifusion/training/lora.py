"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on a Krea-2-layout model, in names that ComfyUI reads."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..quoting import quoted
from .frozen_linear import FrozenLinear

PREFIX = "diffusion_model."


class LoRALinear(nn.Module):
    """``base(x) + alpha / rank * B A x``; B starts at zero.

    Args:
        base: the layer below, which is not trained.
        rank, alpha: of the adapter.
        generator: of A.
    """

    def __init__(self, base: nn.Linear | FrozenLinear, rank: int, alpha: float, generator=None) -> None:
        super().__init__()
        self.base, self.alpha = base, alpha
        self.factor = alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.normal_(self.lora_A, std=base.in_features**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + self.factor * nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B)


def targets_in(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of linear layers that a pattern fits; ``*`` stands for any text.

    Raises:
        ValueError: if a pattern fits none.
    """
    names = [name for name, child in module.named_modules() if isinstance(child, (nn.Linear, FrozenLinear))]
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            shown = ", ".join(names[:4])
            raise ValueError(
                f"train.targets holds {quoted(pattern)}, which fits no matrix of the model; names are such as {shown}."
            )
        found |= dict.fromkeys(fitting)
    return list(found)


def add_lora(module: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int = 0) -> None:
    """Put an adapter on each of the layers named; nothing else stays trainable."""
    module.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in targets:
        parent_name, _, last = name.rpartition(".")
        parent = module.get_submodule(parent_name)
        setattr(parent, last, LoRALinear(getattr(parent, last), rank, alpha, generator))


def lora_file(state: dict[str, Tensor], alpha: float, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Trained tensors, named ``blocks.0.attn.wq.lora_A``, as a LoRA's file for ComfyUI's stock loader."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        path, _, part = name.rpartition(".")
        out[f"{PREFIX}{path}.{part}.weight"] = value.to(dtype).contiguous()
        if part == "lora_A":
            out[f"{PREFIX}{path}.alpha"] = torch.tensor(float(alpha))
    return out


def difference_file(state: dict[str, Tensor], base: dict[str, Tensor], dtype=torch.bfloat16) -> dict[str, Tensor]:
    """Whole weights as what they add to the base, in the names of ComfyUI's stock LoRA loader (``diff``)."""
    out = {}
    for name, value in state.items():
        path = name.removesuffix(".weight")
        change = (value.float() - base[name].float()).to(dtype).contiguous()
        if name.endswith(".bias"):
            out[f"{PREFIX}{name.removesuffix('.bias')}.diff_b"] = change
        else:
            out[f"{PREFIX}{path}.diff"] = change
    return out
