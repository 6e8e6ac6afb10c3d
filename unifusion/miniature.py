"""The bundled miniature as ComfyUI needs it: where its weights lie, its sizes, the form of its texts.

How it was made (world, words, training, scores) is ``recipes/miniature`` in the repository; nothing here rests on it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .quoting import printable, quoted

# The bundled weights. A stock loader lists every file below the roots of its kind (``folder_paths.recursive_search``), so
# each file that one may load has a root of its own; the name below it is what saved graphs have: unifusion_miniature/...
MINIATURE = Path(__file__).resolve().parent / "weights" / "unifusion_miniature"
VLM_FOLDER = MINIATURE / "vlm"
ROOTS = {kind: MINIATURE / kind for kind in ("diffusion_models", "vae")}
DIT_FILE = ROOTS["diffusion_models"] / MINIATURE.name / "dit.safetensors"
VAE_FILE = ROOTS["vae"] / MINIATURE.name / "vae.safetensors"
SIDE = 128  # pixels; the vision tower has learned pictures of this size only
IMAGE_TOKENS = 16  # of one view of that size: patches of 16, merged 2x2

LARGEST_CONFIG = 2**20  # bytes of config.json; the real one has 2,000
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def part_of(folder: str | Path, name: str) -> Path:
    """Where ``dit.safetensors``, ``vae.safetensors`` or ``vlm/...`` of a model's folder lies: in it, but for the bundled one."""
    bundled = {"dit.safetensors": DIT_FILE, "vae.safetensors": VAE_FILE}
    return bundled[name] if Path(folder) == MINIATURE and name in bundled else Path(folder) / name


@dataclass(frozen=True)
class VLMConfig:
    """Sizes of the miniature VLM.  ``taps``: layers whose inputs condition the diffusion transformer."""

    vocab_size: int
    hidden_size: int = 240
    intermediate_size: int = 432
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 10000.0
    rope_dims: tuple[int, int, int] = (12, 10, 10)
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 384
    vision_depth: int = 4
    vision_heads: int = 4
    deepstack_visual_indexes: tuple[int, ...] = (1, 2)
    num_position_embeddings: int = 64
    taps: tuple[int, ...] = (1, 3, 5, 7)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> VLMConfig:
        names = cls.__dataclass_fields__
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}
        return cls(**known)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ValueError(f"{name} must be a whole number above 0, found {quoted(value)}")
    return value


def _layers(name: str, value: object, layers: int) -> tuple[int, ...]:
    """Rising layer numbers, each once."""
    good = isinstance(value, list) and value and all(type(layer) is int and 0 <= layer < layers for layer in value)
    if not isinstance(value, list) or not good or value != sorted(set(value)):
        raise ValueError(f"{name} must be rising layer numbers from 0 to {layers - 1}, found {quoted(value)}")
    return tuple(value)


def read_config(folder: str | Path) -> VLMConfig:
    """Sizes from a VLM folder's config.json.

    Raises:
        ValueError: naming the folder and what is wrong.
    """
    path = Path(folder) / "config.json"
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it is larger than {LARGEST_CONFIG} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        text, vision = values["text_config"], values["vision_config"]
        sizes = {name: text[name] for name in _TEXT_SIZES} | {
            "vision_heads": vision["num_heads"],
            "vision_hidden_size": vision["hidden_size"],
            "vision_intermediate_size": vision["intermediate_size"],
            "vision_depth": vision["depth"],
            "num_position_embeddings": vision["num_position_embeddings"],
        }
        sizes = {name: _whole(name, value) for name, value in sizes.items()}
        rope = text["rope_parameters"]["mrope_section"]
        if not isinstance(rope, list) or len(rope) != 3 or sum(rope) * 2 != sizes["head_dim"]:
            raise ValueError(f"mrope_section must be three numbers whose sum is half of head_dim, found {quoted(rope)}")
        return VLMConfig(
            **sizes,
            rope_theta=float(text["rope_theta"]),
            rms_norm_eps=float(text["rms_norm_eps"]),
            rope_dims=(
                _whole("mrope_section", rope[0]),
                _whole("mrope_section", rope[1]),
                _whole("mrope_section", rope[2]),
            ),
            deepstack_visual_indexes=_layers(
                "deepstack_visual_indexes", vision["deepstack_visual_indexes"], sizes["vision_depth"]
            ),
            taps=_layers("taps", values["taps"], sizes["num_hidden_layers"]),
        )
    except KeyError as error:
        reason = f"{quoted(error.args[0])} is missing"
    except (ValueError, TypeError, OSError, RecursionError) as error:
        reason = printable(error).rstrip(".")[:200]
    raise ValueError(
        f"config.json in {quoted(Path(folder).name)} is not the miniature's: {reason}. Take the config.json that was "
        f"saved with these weights."
    )


def sizes_in_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of a VLM as its weights have them; what is not there is 0.

    Args:
        shapes: of every tensor of model.safetensors.
    """

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

    def side(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else 0

    head_size = max(1, side("model.layers.0.self_attn.q_norm.weight", 0))
    return {
        "num_attention_heads": side("model.layers.0.self_attn.q_proj.weight", 0) // head_size,
        "num_key_value_heads": side("model.layers.0.self_attn.k_proj.weight", 0) // head_size,
        "vocab_size": side("model.embed_tokens.weight", 0),
        "hidden_size": side("model.embed_tokens.weight", 1),
        "intermediate_size": side("model.layers.0.mlp.gate_proj.weight", 0),
        "num_hidden_layers": count("model.layers."),
        "head_dim": side("model.layers.0.self_attn.q_norm.weight", 0),
        "vision_depth": count("visual.blocks."),
        "vision_hidden_size": side("visual.pos_embed.weight", 1),
        "vision_intermediate_size": side("visual.blocks.0.mlp.linear_fc1.weight", 0),
        "num_position_embeddings": side("visual.pos_embed.weight", 0),
    }


def check_weights(config: VLMConfig, shapes: dict[str, tuple[int, ...]], name: str) -> None:
    """Refuse weights of other sizes than config.json says, before memory is asked for.

    Raises:
        ValueError: naming the size.
    """
    for size, found in sizes_in_weights(shapes).items():
        if getattr(config, size) != found:
            raise ValueError(
                f"model.safetensors in {quoted(name)} does not belong to its config.json: {size} is {found} in the "
                f"weights and {getattr(config, size)} in the config. Take both from the same training."
            )


_CAPTION = re.compile(r"on an? \w+ background: (an? [\w ]+ at the [a-z ]+(?:, an? [\w ]+ at the [a-z ]+)*)\.")


def broken_caption(text: str, ended: bool) -> str | None:
    """What is wrong with a text in the miniature's one style, e.g. ``on a white background: a ... at the center.``

    Returns:
        The end of a sentence that begins with "The text ...", or None.
    """
    if not ended:
        return "does not end"
    whole = _CAPTION.fullmatch(text.strip())
    if whole is None:
        return "is no description in the model's style"
    places = [phrase.rsplit(" at the ", 1)[1] for phrase in whole[1].split(", ")]
    for place in places:
        if places.count(place) > 1:
            return f"puts two things at the {place}"
    return None
