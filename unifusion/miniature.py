"""The bundled miniature as ComfyUI needs it: where its weights lie, its sizes, its words.

How it was made (world, words, training, scores) is ``recipes/miniature`` in the repository; nothing here rests on it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

# The bundled weights; ComfyUI's stock loaders list them under the folder's name.
MINIATURE = Path(__file__).resolve().parent / "weights" / "unifusion_miniature"
VLM_FOLDER = MINIATURE / "vlm"
SIDE = 128  # pixels; the vision tower has learned pictures of this size only
IMAGE_TOKENS = 16  # of one view of that size: patches of 16, merged 2x2

_WORD = re.compile(r"[^\W\d_]+")


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
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})


def read_config(folder: str | Path) -> VLMConfig:
    """Sizes from a VLM folder's config.json."""
    values = json.loads((Path(folder) / "config.json").read_text())
    text, vision = values["text_config"], values["vision_config"]
    return VLMConfig.from_dict(
        {
            **text,
            "rope_dims": text["rope_parameters"]["mrope_section"],
            "taps": values["taps"],
            "deepstack_visual_indexes": vision["deepstack_visual_indexes"],
            "vision_heads": vision["num_heads"],
            "vision_hidden_size": vision["hidden_size"],
            "vision_intermediate_size": vision["intermediate_size"],
            "vision_depth": vision["depth"],
            "num_position_embeddings": vision["num_position_embeddings"],
        }
    )


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, as the miniature's vocabulary counts them."""
    return _WORD.findall(text.lower())


def unknown_words(text: str, folder: str | Path = VLM_FOLDER) -> list[str]:
    """Words of ``text`` outside the miniature's world, each once, in order, lower case.

    ``folder`` holds the tokenizer's files.
    """
    world = set(json.loads((Path(folder) / "tokenizer_config.json").read_text())["world_words"])
    return list(dict.fromkeys(word for word in words_of(text) if word not in world))
