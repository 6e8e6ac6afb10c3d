"""Memory of a training step, found by taking one on PyTorch's meta device: every tensor that would be there is counted.

Nothing is computed and nothing allocated, so a model of 12.8 billion weights takes seconds on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .. import pooling
from ..dit import DiTConfig, SingleStreamDiT
from .config import Config
from .frozen_linear import FrozenLinear
from .lora import add_lora, targets_in
from .models import POOLING_TARGETS, is_frozen, kind_of, stays
from .objective import Batch, FlowMatching
from .trainer import TrainingSettings

GB = 1e9


class LiveBytes(TorchDispatchMode):
    """Counts the storages of tensors that operations make while it is on; ``peak`` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def add_weights(self, module: nn.Module) -> None:
        """Count what is there before the first operation: a view of a weight is no new tensor."""
        for part in module.modules():
            if isinstance(part, FrozenLinear):
                self.add(part.packed)
        for p in module.parameters():
            self.add(p.detach())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output and a number for every query."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, sums = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`unifusion.pooling.attend` on a CPU."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits.float() + bias
    return logits.softmax(-1).to(v.dtype) @ v


@contextmanager
def attention_of(device: str):
    """Attention on the meta device keeps what it would keep on ``device``."""
    before = pooling.attend
    fused = lambda q, k, v, bias: _FusedAttention.apply(q, k, v)
    pooling.attend = _written_out if device == "cpu" else fused
    try:
        yield
    finally:
        pooling.attend = before


@dataclass
class Memory:
    """Bytes of a training step by part.

    Attributes:
        trained, frozen: weights on the device; gradients; optimizer; averages (EMA).
        step: activations and what products need for a moment, at the worst time of a step.
        main_memory: frozen weights of blocks that stay there.
        parameters, parameters_trained: counts.
    """

    trained: int = 0
    frozen: int = 0
    gradients: int = 0
    optimizer: int = 0
    averages: int = 0
    step: int = 0
    main_memory: int = 0
    parameters: int = 0
    parameters_trained: int = 0

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return self.trained + self.frozen + self.gradients + self.optimizer + self.averages + self.step

    def lines(self) -> list[str]:
        """For a plan."""
        parts = [
            ("trained weights", self.trained),
            ("frozen weights", self.frozen),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("averaged weights", self.averages),
            ("activations and products", self.step),
            ("together", self.total),
        ]
        lines = [f"  {name:<26}{size / GB:8.3f} GB" for name, size in parts if size]
        if self.main_memory:
            lines.append(f"  {'in main memory':<26}{self.main_memory / GB:8.3f} GB")
        return lines


def on_meta(config: Config, sizes: DiTConfig, dtype: torch.dtype) -> SingleStreamDiT:
    """The model as :func:`~.models.build` makes it, without any weight; ``dtype`` is that of its products."""
    train = config.train
    with torch.device("meta"):
        dit = SingleStreamDiT(sizes)
        dit.gradient_checkpointing = train.checkpointing
        for path, module in list(dit.named_modules()):
            if isinstance(module, nn.Linear) and is_frozen(path, train.what):
                parent, _, last = path.rpartition(".")
                kept = FrozenLinear(
                    module, kind_of(path, config.model.base), stays(path, train.blocks_on_cpu, sizes.layers)
                )
                setattr(dit.get_submodule(parent) if parent else dit, last, kept)
        for name, parameter in dit.named_parameters():
            parameter.requires_grad_(not is_frozen(name, train.what))
        if train.what == "lora":
            targets = targets_in(dit, [*train.targets, *(POOLING_TARGETS if train.pooling else ())])
            add_lora(dit, targets, train.rank, train.alpha or float(train.rank))
    return dit.to(dtype)


def measure(
    config: Config,
    sizes: DiTConfig,
    settings: TrainingSettings,
    latent: tuple[int, int],
    tokens: int,
    device: str,
    processes: int = 1,
) -> Memory:
    """Memory of the worst moment of a training step.

    Args:
        sizes: of the drawing model.
        latent: (height, width) of the largest latent; tokens: of the longest condition.
        device: ``cpu`` or ``cuda``.
        processes: over which weights are spread, where they are.
    """
    mixed = settings.mixed_precision != "no"
    dtype = torch.bfloat16 if mixed else torch.float32
    objective = FlowMatching(on_meta(config, sizes, dtype))
    found = _weights(objective.dit, config)
    batch = config.schedule.batch
    width = (sizes.txtdim,) if config.data.cache_pooled else (sizes.txtlayers, sizes.states_width)
    with torch.device("meta"):
        inputs = Batch(
            torch.empty(batch, sizes.channels, *latent, dtype=dtype),
            torch.empty(batch, tokens, *width, dtype=dtype),
            torch.zeros(batch, tokens),
        )
        noise = torch.empty(batch, settings.levels, sizes.channels, *latent, dtype=dtype)
        t = torch.empty(batch, settings.levels, dtype=dtype)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    with attention_of(device), LiveBytes() as live:
        live.add_weights(objective)
        weights = live.now
        objective(inputs, noise, t)["loss"].backward()
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in parameters if p.grad is not None)
    # gradients grow while activations go: what is left of the peak without them is the step's own
    found.step = max(0, live.peak - weights - gradients)
    if mixed:  # autocast's copies of trained matrices
        found.step += sum(2 * p.numel() for p in parameters if p.ndim > 1)
    shares = processes if settings.shard else 1
    for name in ("trained", "gradients", "optimizer", "averages"):
        setattr(found, name, getattr(found, name) // shares)
    if shares > 1:  # the block at work is whole
        found.step += 8 * max(sum(p.numel() for p in block.parameters()) for block in objective.dit.blocks)
    return found


def _weights(dit: SingleStreamDiT, config: Config) -> Memory:
    """All that does not depend on pictures and words."""
    found = Memory()
    for module in dit.modules():
        if isinstance(module, FrozenLinear):
            found.parameters += module.packed.numel()
            if module.stays:
                found.main_memory += module.nbytes()
            else:
                found.frozen += module.nbytes()
    matrices = 0
    for name, p in dit.named_parameters():
        found.parameters += p.numel()
        if p.requires_grad:
            found.parameters_trained += p.numel()
            matrices += p.numel() * (p.ndim > 1 and ".blocks." in f".{name}" and "txtfusion" not in name)
        else:
            found.frozen += 4 * p.numel()
    count, optimizer = found.parameters_trained, config.schedule.optimizer
    found.trained = found.gradients = 4 * count
    found.optimizer = {"adamw": 8 * count, "adamw8bit": 2 * count, "muon": 8 * count - 4 * matrices}[optimizer]
    if optimizer == "muon" and config.train.what == "lora":
        found.optimizer = 8 * count
    found.averages = 4 * count if config.train.ema else 0
    return found


def room(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total


def advice(config: Config, found: Memory) -> list[str]:
    """What to change where memory is short, by what takes it."""
    train, out = config.train, []
    if found.step > 0.3 * found.total:
        if not train.checkpointing:
            out.append("train.checkpointing = true")
        if config.schedule.batch > 1:
            out.append("a smaller schedule.batch with more schedule.parts")
        if config.schedule.levels > 1:
            out.append("fewer schedule.levels")
        out.append("fewer data.pixels")
    if found.frozen > 0.3 * found.total:
        if config.model.base in ("fp32", "bf16"):
            out.append('model.base = "fp8"')
        out.append("a larger train.blocks_on_cpu")
    if found.trained + found.gradients + found.optimizer > 0.3 * found.total:
        out.append('train.what = "lora"' if train.what == "everything" else "a smaller train.rank")
        if train.what == "everything" and not train.shard:
            out.append("train.shard = true with more processes")
        if config.schedule.optimizer == "adamw":
            out.append('schedule.optimizer = "adamw8bit"')
    return out


KREA2_SETTINGS = (
    ("LoRA on bf16", dict(base="bf16"), {}),
    ("LoRA on fp8", dict(base="fp8"), {}),
    ("LoRA on fp8, checkpointing", dict(base="fp8"), dict(checkpointing=True)),
    (
        "LoRA on int8, checkpointing, 14 blocks in main memory",
        dict(base="int8"),
        dict(checkpointing=True, blocks_on_cpu=14),
    ),
    ("LAP and refiner on fp8, checkpointing", dict(base="fp8"), dict(what="pooling", checkpointing=True)),
    ("everything, checkpointing", dict(base="fp32"), dict(what="everything", checkpointing=True)),
)


def krea2_table(measured: Callable[..., Memory] = measure) -> list[str]:
    """Markdown: memory of Krea 2 itself (12.8 billion weights) by settings, computed without it."""
    from pathlib import Path

    from ..dit import KREA2
    from .config import from_values
    from .runs import settings_of

    lines = [
        "| what | side | trained | weights | gradients, optimizer | step | together | in main memory |",
        "|" + "---|" * 8,
    ]
    for title, model, train in KREA2_SETTINGS:
        for side in (512, 1024):
            values = {
                "mixed_precision": "bf16",
                "model": {"start": "krea2.safetensors", **model},
                "train": {"what": "lora", "rank": 32, **train},
                "data": {"sources": [{"path": "x"}], "pixels": side * side},
                "schedule": {"batch": 1},
            }
            config = from_values(values, Path("krea2.toml"))
            m = measured(config, KREA2, settings_of(config), (side // 8, side // 8), 512, "cuda")
            numbers = (m.trained + m.frozen, m.gradients + m.optimizer, m.step, m.total, m.main_memory)
            cells = " | ".join(f"{n / GB:.1f} GB" if n else "-" for n in numbers)
            lines.append(f"| {title} | {side} | {m.parameters_trained / 1e6:,.0f} M | {cells} |")
    return lines
