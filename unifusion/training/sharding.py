"""Weights spread over processes (FSDP2), and tensors that may or may not be spread, handled alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .objective import FlowMatching

try:
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # a PyTorch without distributed
    DTensor = distribute_tensor = None


def is_spread(tensor: Tensor) -> bool:
    return DTensor is not None and isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; shares its memory."""
    return tensor.to_local() if is_spread(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor; every process has to ask."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def whole_of_part(part: Tensor, like: Tensor) -> Tensor:
    """The whole of what every process has a part of, spread as ``like`` is."""
    if not is_spread(like):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def part_of_whole(tensor: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor that is spread as ``like`` is."""
    if not is_spread(like):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def spread_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the form of ``like``."""
    if not is_spread(like):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def shard(objective: FlowMatching, device: torch.device) -> FlowMatching:
    """Spread a model over all processes, part by part, so that no device holds the whole; each gathers what it runs."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    dit = objective.dit
    fusion = dit.txtfusion
    units: list[nn.Module] = [*dit.blocks, *fusion.children()]
    units = [unit for part in units for unit in (part if isinstance(part, nn.ModuleList) else [part])]
    for unit in [*units, *objective.heads]:
        fully_shard(unit, mesh=mesh)
    fully_shard(dit, mesh=mesh, reshard_after_forward=True)
    for name in ("condition", "denoise"):
        register_fsdp_forward_method(dit, name)
    return objective


def set_sync(objective: nn.Module, sync: bool) -> None:
    """Whether the next backward pass exchanges gradients."""
    for module in objective.modules():
        if hasattr(module, "set_requires_gradient_sync"):
            module.set_requires_gradient_sync(sync, recurse=False)
