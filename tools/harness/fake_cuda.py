"""CUDA without a GPU: tensors on "cuda" have a shape, a dtype and a device, but no values and no memory.

What lives in main memory is real, what lives on the device is torch's FakeTensor, and so are weights in main memory (they
would not fit). An operation on tensors of two devices raises as on a GPU. Counted by place in the source: copies between
main memory and device, waits of the host for a value of the device, and the bytes that live on the device.

The module must be installed before ComfyUI is imported, and stays until the process ends.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

PACK = str(Path(__file__).resolve().parents[2])
CUDA = torch.device("cuda", 0)
GIB = 2**30
TO_DEVICE, TO_HOST, WAIT, WEIGHTS = "to device", "to main memory", "wait for a value", "weights"
_aten = torch.ops.aten


@dataclass(frozen=True)
class Event:
    """A copy or a wait, and where in the source it comes from.

    Attributes:
        kind: :data:`TO_DEVICE`, :data:`TO_HOST`, :data:`WAIT`, or :data:`WEIGHTS` for weights that move.
        place: ``file:function``.
        ours: whether the place is in this pack.
    """

    kind: str
    place: str
    ours: bool


@dataclass
class Record:
    """What happened between two marks.

    Attributes:
        events: how often each event happened.
        nbytes: bytes that each event moved.
        peak: most bytes alive on the device at one time, weights included.
        before: bytes alive at the first mark.
    """

    events: Counter = field(default_factory=Counter)
    nbytes: Counter = field(default_factory=Counter)
    peak: int = 0
    before: int = 0

    def of(self, *kinds: str, ours: bool | None = None) -> dict[str, int]:
        """Place -> count, for some kinds of event."""
        found: Counter = Counter()
        for event, count in self.events.items():
            if event.kind in kinds and ours in (None, event.ours):
                found[f"{event.place} ({event.kind})"] += count
        return dict(found)


@functools.cache
def _is_composite(func) -> bool:
    return func.namespace != "prim" and func._can_decompose()


class _Stream:
    cuda_stream = 0
    device = CUDA

    def __init__(self, *_, **__):
        pass

    def wait_stream(self, _other):
        pass

    def synchronize(self):
        pass


class _NoDriver(FakeTensorMode):
    """Never asks the driver, although ComfyUI is told that there is one."""

    avoid_device_init = True


class FakeCuda(TorchDispatchMode):
    """A GPU of ``capacity`` bytes.

    Attributes:
        live: bytes alive on the device now.
        values: place -> value or function of the tensor, for values that the host asks the device for; a place that is not
            listed raises.
        making: while true, tensors in main memory are fake as well: models are made in it.
    """

    def __init__(self, capacity: int = 24 * GIB):
        super().__init__()
        self.capacity = capacity
        self.fake = _NoDriver(allow_non_fake_inputs=True)
        self.fake._allow_unsafe_data_ptr_access = True
        self.live = 0
        self.values: dict[str, object] = {}
        self.making = False
        self.record = Record()
        self._known: dict[int, weakref.ref] = {}

    # -- what is asked -------------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self):
        """Yields a :class:`Record` of what happens inside."""
        outer, self.record = self.record, Record(peak=self.live, before=self.live)
        try:
            yield self.record
        finally:
            self.record = outer

    @contextmanager
    def models(self):
        """Tensors made inside are fake, in main memory too."""
        self.making, before = True, self.making
        try:
            yield
        finally:
            self.making = before

    # -- places --------------------------------------------------------------------------------------------------------

    def _place(self) -> tuple[str, bool]:
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            torch_own = f"{__file__}", "/torch/", "/einops/", "<frozen", "<string>", "contextlib.py"
            if not any(part in name for part in torch_own):
                ours = name.startswith(PACK) and "/.host/" not in name and "/.nox/" not in name
                root = PACK if ours else name.split("/comfy/")[0]
                return f"{name.removeprefix(root).lstrip('/')}:{frame.f_code.co_name}", ours
            frame = frame.f_back
        return "?", False

    def _count(self, kind: str, nbytes: int) -> str:
        place, ours = self._place()
        event = Event(kind, place, ours)
        self.record.events[event] += 1
        self.record.nbytes[event] += nbytes
        return place

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _track(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.record.peak = max(self.record.peak, self.live)

        def gone(_):
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, gone)

    # -- operations ----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        on_device = any(isinstance(value, torch.device) and value.type == "cuda" for value in flat)
        if not fakes and not on_device and not self.making:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if (
            func.namespace != "prim" and func._can_decompose()
        ):  # in inference mode torch hands on composite operations whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if on_device and kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": CUDA}
        if "generator" in kwargs:
            kwargs = {**kwargs, "generator": None}
        if func is _aten._local_scalar_dense.default:
            return self._value(args[0])
        if func is _aten.equal.default:
            return self._value(args[0])
        if func in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
            args = self._without_masks(func, args)
        self._count_copies(func, args, kwargs, tensors)
        if func is _aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0]
        with self.fake:
            out = func(
                *tree_map_only(torch.Tensor, self._as_fake, args), **tree_map_only(torch.Tensor, self._as_fake, kwargs)
            )
        if isinstance(out, torch.Tensor) and not self.making and self._came_back(func, args, out):
            with unset_fake_temporarily():
                return torch.zeros(out.shape, dtype=out.dtype)
        tree_map_only(FakeTensor, self._seen, out)
        return out

    def _as_fake(self, tensor: torch.Tensor) -> FakeTensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _seen(self, tensor: FakeTensor) -> None:
        tensor.constant = None  # torch would carry the values of small constants to a real device
        if tensor.device.type == "cuda":
            self._track(tensor)

    def _value(self, tensor):
        """A value of the device that the host asks for."""
        if tensor.device.type == "cpu":
            raise RuntimeError(f"A value of a weight was asked for at {self._place()}.")
        place = self._count(WAIT, tensor.element_size())
        if place not in self.values:
            raise RuntimeError(f"The host waits for a value of the device at {place}, which is not listed.")
        value = self.values[place]
        return value(tensor) if isinstance(value, Callable) else value

    def to_list(self, tensor: FakeTensor):
        """``tolist`` of a tensor on the device: one wait."""
        value = self._value(tensor)
        for size in reversed(tensor.shape):
            value = [value] * size
        return value

    def _without_masks(self, func, args):
        """Indexing with a mask waits for the number of its true values; the listed number takes its place."""
        if func is not _aten.index.Tensor and args[2].numel() == 1:  # torch fills by the mask itself
            return args
        indices = list(args[1])
        for i, index in enumerate(indices):
            if index is None:
                continue
            if index.device.type == "cpu" and args[0].device.type == "cuda":
                self._count(TO_DEVICE, index.numel() * index.element_size())
            if index.dtype is not torch.bool:
                continue
            place = self._count(WAIT, 8)
            if place not in self.values:
                raise RuntimeError(f"The host waits for a mask of the device at {place}, which is not listed.")
            value = self.values[place]
            count = value(index) if isinstance(value, Callable) else value
            with self.fake:
                rows = [torch.zeros(count, dtype=torch.long, device=args[0].device) for _ in range(index.ndim)]
            indices[i : i + 1] = rows
        return (args[0], indices, *args[2:])

    def _count_copies(self, func, args, kwargs, tensors) -> None:
        if func is _aten.copy_.default:
            target, source = args[0].device.type, args[1].device.type
        elif func in (_aten._to_copy.default, _aten.to.device):
            source = args[0].device.type
            target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else source
        else:
            return
        if source == target:
            return
        moved = args[1] if func is _aten.copy_.default else args[0]
        size = moved.numel() * moved.element_size()
        if target == "cuda":
            self._count(WEIGHTS if isinstance(moved, FakeTensor) else TO_DEVICE, size)
        else:
            self._count(WEIGHTS if self._is_weight() else TO_HOST, size)

    def _is_weight(self) -> bool:
        """Whether ComfyUI's patchers are moving a module."""
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename.endswith(("comfy/model_patcher.py", "torch/nn/modules/module.py")):
                if frame.f_code.co_name in (
                    "_apply",
                    "unpatch_model",
                    "partially_unload",
                    "load",
                    "patch_weight_to_device",
                ):
                    return True
            frame = frame.f_back
        return False

    def _came_back(self, func, args, out) -> bool:
        """Whether a result has left the device; what is on the host is real."""
        if out.device.type != "cpu" or func not in (_aten._to_copy.default,):
            return False
        return args[0].device.type == "cuda" and not self._is_weight()


def _attention(real):
    """torch's attention without the matrix, as its kernels for CUDA work."""

    def attention(query, key, value, attn_mask=None, *args, **kwargs):
        if not isinstance(query, FakeTensor):
            return real(query, key, value, attn_mask, *args, **kwargs)
        devices = {part.device for part in (query, key, value, attn_mask) if part is not None}
        if len(devices) > 1:
            raise RuntimeError(f"Attention found tensors on several devices: {devices}.")
        if attn_mask is not None:
            torch.broadcast_shapes(attn_mask.shape, (*query.shape[:-1], key.shape[-2]))
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    return attention


def _apply(self, fn, recurse=True):
    """``Module._apply`` with new parameters instead of torch's exchange of tensors, which fakes do not take."""
    for module in self.modules() if recurse else [self]:
        if getattr(module, "stays_in_main_memory", False):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and (moved := fn(parameter)) is not parameter:
                module._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def install(capacity: int = 24 * GIB) -> FakeCuda:
    """Make this process believe in a GPU; returns its mode, entered."""
    gpu = FakeCuda(capacity)
    cuda = torch.cuda
    properties = SimpleNamespace(
        major=8, minor=9, name="fake", total_memory=capacity, gcnArchName="", multi_processor_count=128
    )
    fake_tensor.init_gpu_context.cache_clear()
    fake_tensor.init_gpu_context = lambda device: None
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "mem_get_info": lambda device=None: (max(capacity - gpu.live, 0), capacity),
        "memory_stats": lambda device=None: {
            "active_bytes.all.current": gpu.live,
            "reserved_bytes.all.current": gpu.live,
        },
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: "fake",
        "get_allocator_backend": lambda: "fake",
        "is_bf16_supported": lambda *args, **kwargs: True,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "current_stream": lambda device=None: _Stream(),
        "stream": lambda stream: nullcontext(),
        "Stream": _Stream,
    }.items():
        setattr(cuda, name, value)
    for name in ("can_use_flash_attention", "can_use_cudnn_attention", "can_use_efficient_attention"):
        setattr(torch.backends.cuda, name, lambda *args, **kwargs: False)
    torch.backends.cuda.SDPAParams = lambda *args: None
    torch.nn.functional.scaled_dot_product_attention = _attention(torch.nn.functional.scaled_dot_product_attention)
    real_generator = torch.Generator
    torch.Generator = lambda device="cpu": real_generator()  # a generator of the device would ask the driver
    torch.nn.Module._apply = _apply
    FakeTensor.tolist = lambda tensor: gpu.to_list(tensor)
    gpu.fake.__enter__()
    gpu.__enter__()
    return gpu
