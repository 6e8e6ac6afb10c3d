"""Linear layers that are not trained: in bf16, fp8 or int8, on the device or in main memory, read when they are used.

No product keeps the unpacked weight for the backward pass: it is unpacked again there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "int8": torch.int8}
LARGEST = {"fp8": 448.0, "int8": 127.0}


def pack(weight: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """A weight (outputs, inputs) as ``kind``, and the scale (outputs,) bfloat16 of its rows, or None.

    Packed values and scales are exact in bfloat16, so a product in it adds no error of its own.
    """
    if kind not in LARGEST:
        return weight.to(KINDS[kind]), None
    weight = weight.float()
    scale = (weight.abs().amax(dim=1).clamp(min=1e-12) / LARGEST[kind]).bfloat16()
    scaled = (weight / scale.float()[:, None]).clamp(-LARGEST[kind], LARGEST[kind])
    return (scaled.round() if kind == "int8" else scaled).to(KINDS[kind]), scale


class _Product(torch.autograd.Function):
    """``x W^T`` times the scale of each output; the weight is brought over and unpacked in both directions."""

    @staticmethod
    def forward(ctx, x: Tensor, packed: Tensor, scale: Tensor | None) -> Tensor:
        ctx.packed, ctx.scale = packed, scale
        y = x @ packed.to(x.device, non_blocking=True).to(x.dtype).t()
        return y if scale is None else y.mul_(scale.to(y.device, y.dtype))

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.scale is not None:
            grad = grad * ctx.scale.to(grad.device, grad.dtype)
        return grad @ ctx.packed.to(grad.device, non_blocking=True).to(grad.dtype), None, None


class FrozenLinear(nn.Module):
    """A linear layer whose weight is never trained.

    The weight is no parameter and no buffer: ``.to()``, data parallelism and checkpoints leave it alone.

    Args:
        linear: the layer it replaces.
        kind: a key of :data:`KINDS`.
        stays: whether the weight stays where it is (main memory) when the rest moves to a device.
    """

    def __init__(self, linear: nn.Linear, kind: str, stays: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind, self.stays = kind, stays
        self.packed, self.scale = pack(linear.weight.detach(), kind)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().float(), requires_grad=False)

    def place(self, device: torch.device) -> None:
        """Bring the weight to a device, unless it stays."""
        if self.stays:
            if device.type == "cuda":
                self.packed = self.packed.pin_memory()
            return
        self.packed = self.packed.to(device)
        self.scale = None if self.scale is None else self.scale.to(device)

    def weight_in(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight unpacked, on the CPU."""
        weight = self.packed.cpu().to(dtype)
        return weight if self.scale is None else weight * self.scale.cpu().to(dtype)[:, None]

    def nbytes(self) -> int:
        """Bytes of the packed weight and its scale."""
        parts = [self.packed] + ([] if self.scale is None else [self.scale])
        return sum(part.numel() * part.element_size() for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y = _Product.apply(x, self.packed, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)
