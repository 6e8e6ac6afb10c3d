"""The drawing model as a configuration wants it: from nothing or from a file, what is trained, how the rest is kept."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..dit import DiTConfig, SingleStreamDiT
from ..miniature import DIT_FILE
from ..pooling import pooled_width
from ..quoting import quoted
from .config import BUNDLED, Config
from .examples import Contract
from .frozen_linear import FrozenLinear
from .krea2_files import Krea2File
from .lora import add_lora, targets_in

POOLING_TARGETS = ("txtfusion.layerwise_blocks.*", "txtfusion.refiner_blocks.*")


def start_file(config: Config) -> Path | None:
    """The file that training goes on from, or None."""
    if not config.model.start:
        return None
    return DIT_FILE if config.model.start == BUNDLED else config.resolve(config.model.start)


def sizes(config: Config, contract: Contract) -> DiTConfig:
    """Sizes of the drawing model, checked against the encoder.

    Raises:
        ValueError: if the model takes other hidden states than the encoder gives.
    """
    path = start_file(config)
    if path is None:
        m = config.model
        return DiTConfig(
            features=m.features,
            heads=m.features // 128,
            kvheads=m.kvheads,
            layers=m.layers,
            txtdim=pooled_width(contract.width),
            txtlayers=len(contract.taps),
            txtinput=0 if pooled_width(contract.width) == contract.width else contract.width,
        )
    file = Krea2File(path)
    found = file.config()
    if (found.states_width, found.txtlayers) != (contract.width, len(contract.taps)):
        raise ValueError(
            f"{quoted(path.name)} takes {found.txtlayers} layers of width {found.states_width}, and {contract.vlm} gives "
            f"{len(contract.taps)} of width {contract.width}. Name the VLM and the taps it was made for."
        )
    trained = file.metadata.get("unifusion.taps", "")
    if trained and trained != ", ".join(map(str, contract.taps)):
        raise ValueError(
            f"{quoted(path.name)} was trained with the layers {trained}, and vlm.taps are "
            f"{', '.join(map(str, contract.taps))}; leave vlm.taps empty or name the same."
        )
    return found


def kind_of(name: str, base: str) -> str:
    """How a frozen matrix is kept: only those of blocks in 8 bits."""
    if base in ("fp8", "int8") and not name.startswith("blocks."):
        return "bf16"
    return base


def is_frozen(name: str, what: str) -> bool:
    """Whether a weight is not trained; LoRA adds its own."""
    return what == "lora" or (what == "pooling" and not name.startswith("txtfusion."))


def stays(name: str, blocks_on_cpu: int, layers: int) -> bool:
    """Whether a matrix stays in main memory: those of the last blocks."""
    return name.startswith("blocks.") and int(name.split(".")[1]) >= layers - blocks_on_cpu


def build(config: Config, contract: Contract) -> SingleStreamDiT:
    """The model on the CPU, ready to be trained; weights of a file are packed one by one as they are read.

    Raises:
        ValueError: if the file does not fit.
    """
    made = sizes(config, contract)
    path, train = start_file(config), config.train
    if path is None:
        dit = SingleStreamDiT(made).initialise(torch.Generator().manual_seed(config.seed))
    else:
        with torch.device("meta"):
            dit = SingleStreamDiT(made)
        _fill(dit, Krea2File(path), config)
    dit.gradient_checkpointing = train.checkpointing
    return freeze(dit, config)


def freeze(dit: SingleStreamDiT, config: Config) -> SingleStreamDiT:
    """Leave trainable what is trained, and put the adapters on."""
    train = config.train
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_(not is_frozen(name, train.what))
    if train.what == "lora":
        patterns = [*train.targets, *(POOLING_TARGETS if train.pooling else ())]
        add_lora(dit, targets_in(dit, patterns), train.rank, train.alpha or float(train.rank), config.seed)
    return dit


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(value.view(old.shape), requires_grad=old.requires_grad))


def _fill(dit: SingleStreamDiT, file: Krea2File, config: Config) -> None:
    """Weights of a file into a model on the meta device."""
    file.check(dict(dit.named_parameters()))
    for path, module in list(dit.named_modules()):
        for name, _ in list(module.named_parameters(recurse=False)):
            _set(module, name, file.read(f"{path}.{name}" if path else name))
        if isinstance(module, nn.Linear) and is_frozen(path, config.train.what):
            parent, _, last = path.rpartition(".")
            kept = FrozenLinear(
                module, kind_of(path, config.model.base), stays(path, config.train.blocks_on_cpu, dit.config.layers)
            )
            setattr(dit.get_submodule(parent) if parent else dit, last, kept)


def load_pooling(config: Config, contract: Contract, device: torch.device) -> nn.Module:
    """LAP and refiner of the file that training goes on from, to be applied once.

    Raises:
        ValueError: if the file does not fit.
    """
    path = start_file(config)
    if path is None:
        raise ValueError(f"{config.path.name}: data.cache_pooled needs model.start, whose pooling it applies.")
    with torch.device("meta"):
        dit = SingleStreamDiT(sizes(config, contract))
    file = Krea2File(path)
    for prefix, module in dit.txtfusion.named_modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            _set(module, name, file.read(".".join(part for part in ("txtfusion", prefix, name) if part)))
    return dit.txtfusion.to(device).requires_grad_(False)


def place(dit: SingleStreamDiT, device: torch.device) -> None:
    """Bring frozen matrices to the device."""
    for module in dit.modules():
        if isinstance(module, FrozenLinear):
            module.place(device)


def base_weights(config: Config, names: list[str]) -> dict[str, Tensor]:
    """Weights as they were before training."""
    path = start_file(config)
    if path is None:
        return {}
    file = Krea2File(path)
    return {name: file.read(name) for name in names}
