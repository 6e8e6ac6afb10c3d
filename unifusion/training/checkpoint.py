"""Complete checkpoints of what is trained: weights, optimizer, averages. Whole tensors, so any number of processes reads them.

Frozen weights are not in them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..quoting import quoted
from .ema import EMA
from .sharding import own_part, part_of_whole, spread_as, whole

STATE = "state.pt"


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _out(value, keep: bool):
    """A value for a file; every process has to ask, ``keep`` says who gets it."""
    if not isinstance(value, Tensor):
        return value
    full = whole(value.detach())
    return full.to("cpu", copy=True) if keep else None


def gather(module: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None, keep: bool) -> dict:
    """The state of a run; every process has to call it, those with ``keep`` get it."""
    names = {id(p): name for name, p in trained(module).items()}
    state: dict = {"weights": {name: _out(p, keep) for name, p in trained(module).items()}, "ema": None}
    state["optimizer"] = {
        names[id(p)]: {key: _out(value, keep) for key, value in values.items()} for p, values in optimizer.state.items()
    }
    if ema is not None:
        averages = {names[id(p)]: _out(a, keep) for p, a in zip(ema.parameters, ema.averages)}
        state["ema"] = {"updates": ema.updates, "averages": averages}
    return state


def read(folder: Path) -> dict:
    """The state in a checkpoint.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch raise their own kinds
        raise ValueError(
            f"The checkpoint {quoted(folder.name)} in {quoted(folder.parent.parent.name)} is damaged "
            f"({type(error).__name__}); delete it to go on from the one before."
        ) from None


@torch.no_grad()
def restore(state: dict, module: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> None:
    """Put a state back, on any number of processes.

    Raises:
        ValueError: if it belongs to another model.
    """
    own = trained(module)
    found = {name: tuple(value.shape) for name, value in state["weights"].items()}
    wanted = {name: tuple(p.shape) for name, p in own.items()}
    if found != wanted:
        other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ValueError(
            f"The run in this folder trains other weights: {quoted(other[0])} has the shape {found.get(other[0], 'none')} "
            f"in its checkpoint and {wanted.get(other[0], 'none')} now ({len(other)} differ). Set model and train back as "
            "they were, or choose another folder."
        )
    for name, p in own.items():
        own_part(p).copy_(part_of_whole(state["weights"][name].to(own_part(p).device), p))
    for name, values in state["optimizer"].items():
        p = own[name]
        optimizer.state[p] = {key: _in(value, p) for key, value in values.items()}
    if ema is not None and state["ema"] is not None:
        ema.updates = state["ema"]["updates"]
        names = {id(p): name for name, p in own.items()}
        for p, average in zip(ema.parameters, ema.averages):
            value = state["ema"]["averages"][names[id(p)]]
            own_part(average).copy_(part_of_whole(value.to(own_part(average).device), p))


def _in(value, p: nn.Parameter):
    """A value of the optimizer for a parameter, which may be spread over processes."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:  # the count of steps
        return value.clone()
    value = value.to(own_part(p).device, copy=True)
    return spread_as(value, p) if value.shape == p.shape else value
