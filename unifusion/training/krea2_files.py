"""Files in Krea 2's layout: their sizes, their weights for training, and what is written."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from ..dit import DiTConfig
from ..quoting import printable, quoted

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
SCALES = (".scale_weight", ".weight_scale")
NOTES = (".scale_input", ".input_scale", "scaled_fp8", ".comfy_quant")
KNOWN_BY = "txtfusion.projector.weight"


class Krea2File:
    """A safetensors file in Krea 2's layout.

    Raises:
        ValueError: if it is not one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"There is no drawing model {quoted(path, 120)}; correct model.start.")
        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                self.metadata = dict(file.metadata() or {})
        except Exception as error:  # safetensors raises its own kinds
            raise ValueError(
                f"The drawing model {quoted(path.name)} cannot be read: {printable(error)[:120].rstrip('.')}."
            ) from None
        found = [prefix for prefix in PREFIXES if prefix + KNOWN_BY in shapes]
        if not found:
            raise ValueError(
                f"{quoted(path.name)} is no diffusion transformer in Krea 2's layout ({KNOWN_BY} is what it is known by); "
                "name one in model.start."
            )
        self.prefix = found[0]
        cut = len(self.prefix)
        self.shapes = {name[cut:]: shape for name, shape in shapes.items() if name.startswith(self.prefix)}

    def config(self) -> DiTConfig:
        """Sizes as ComfyUI reads them from the tensors.

        Raises:
            ValueError: if a tensor that tells a size is missing.
        """
        try:
            features, token = self.shapes["first.weight"]
            blocks = {name.split(".")[1] for name in self.shapes if name.startswith("blocks.")}
            return DiTConfig(
                features=features,
                heads=features // 128,
                kvheads=self.shapes["blocks.0.attn.wk.weight"][0] // 128,
                layers=len(blocks),
                txtdim=self.shapes["txtfusion.layerwise_blocks.0.attn.wq.weight"][1],
                txtlayers=self.shapes[KNOWN_BY][-1],
                channels=token // 4,
                txtinput=self.shapes.get("txtfusion.input.weight", (0, 0))[1],
            )
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{quoted(self.path.name)} lacks tensors of Krea 2's layout ({printable(error)[:80]}); take the whole file."
            ) from None

    def names(self) -> list[str]:
        """Weights, without the notes of quantised files."""
        return [name for name in self.shapes if not name.endswith((*SCALES, *NOTES))]

    def read(self, name: str) -> Tensor:
        """One weight, float32; scaled 8-bit weights are unpacked."""
        with safe_open(self.path, "pt") as file:
            value = file.get_tensor(self.prefix + name).float()
            stem = name.removesuffix(".weight")
            for scale in SCALES:
                if stem + scale in self.shapes:
                    factor = file.get_tensor(self.prefix + stem + scale).float()
                    value = value * (factor.view(-1, *[1] * (value.ndim - 1)) if factor.numel() > 1 else factor)
        return value

    def check(self, own: dict[str, nn.Parameter]) -> None:
        """Compare with the weights of a model.

        Raises:
            ValueError: naming a tensor that is missing, unknown or of another shape.
        """
        for name in self.names():
            shape, target = self.shapes[name], own.get(name)
            if target is None or math.prod(shape) != target.numel():
                raise ValueError(
                    f"{quoted(self.path.name)} holds {quoted(name)} with the shape {shape}, which "
                    + ("the layout does not know." if target is None else f"should be {tuple(target.shape)}.")
                )
        if missing := own.keys() - set(self.names()):
            raise ValueError(
                f"{quoted(self.path.name)} lacks {len(missing)} tensors, such as {quoted(sorted(missing)[0])}; take the "
                "whole file."
            )
