"""Folders of language and vision-language models as transformers writes them: which are known, and what is checked first.

Nothing of a folder is run: its configuration, the names and shapes of its weights and its tokenizer are read as data. Every
contradiction is found from the files' headers, before memory is asked for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .miniature import LARGEST_CONFIG
from .quoting import printable, quoted

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
LARGEST_INDEX = 64 * 2**20  # bytes; a model of 400 GB has 10 million
MOST_LAYERS = 512
MOST_SHARDS = 1000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of model.

    Attributes:
        title: name in sentences.
        architecture: class of transformers.
        decoder: path of the language model inside it.
        renames: (pattern, replacement) that bring names of other writers to those of the class.
        text_kinds: ``model_type`` that the language model inside may have; empty where the class says it.
        vision: path of the part that sees; empty for text alone.
        mean, std: of pixels, where preprocessor_config.json says nothing.
    """

    title: str
    architecture: str
    decoder: str = "model"
    renames: tuple[tuple[str, str], ...] = ()
    text_kinds: tuple[str, ...] = ()
    vision: str = ""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


_QWEN_NAMES = (
    (r"^visual\.", "model.visual."),
    (r"^model\.lm_head\.", "lm_head."),
    (r"^model\.(?!language_model\.|visual\.)", "model.language_model."),
)
_TEXT_NAMES = ((r"^(layers|embed_tokens|norm)\.", r"model.\1."),)
_DECODERS = ("llama", "qwen2", "qwen3")

KINDS: dict[str, Kind] = {
    "qwen3_vl": Kind(
        title="Qwen3-VL",
        architecture="Qwen3VLForConditionalGeneration",
        decoder="model.language_model",
        renames=_QWEN_NAMES,
        vision="model.visual",
    ),
    "qwen2_5_vl": Kind(
        title="Qwen2.5-VL",
        architecture="Qwen2_5_VLForConditionalGeneration",
        decoder="model.language_model",
        renames=_QWEN_NAMES,
        vision="model.visual",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "internvl": Kind(
        title="InternVL",
        architecture="InternVLForConditionalGeneration",
        decoder="model.language_model",
        renames=(
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^language_model\.model\.", "model.language_model."),
            (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        ),
        text_kinds=_DECODERS,
        vision="model.vision_tower",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "smolvlm": Kind(
        title="SmolVLM2",
        architecture="SmolVLMForConditionalGeneration",
        decoder="model.text_model",
        text_kinds=("llama",),
        vision="model.vision_model",
    ),
    "llama": Kind(title="Llama", architecture="LlamaForCausalLM", renames=_TEXT_NAMES),
    "mistral": Kind(title="Mistral", architecture="MistralForCausalLM", renames=_TEXT_NAMES),
    "qwen2": Kind(title="Qwen2", architecture="Qwen2ForCausalLM", renames=_TEXT_NAMES),
    "qwen3": Kind(title="Qwen3", architecture="Qwen3ForCausalLM", renames=_TEXT_NAMES),
}
_DEPTHS = ("num_hidden_layers", "num_layers", "depth")
_SIZE = re.compile(
    r"(vocab|hidden|intermediate|image|patch|spatial_merge|temporal_patch|out_hidden)_size|head_dim|depth|"
    r"num_(hidden_layers|layers|heads|attention_heads|key_value_heads|position_embeddings)|max_position_embeddings"
)
# Buffers that older versions of transformers wrote down and today's compute.
_COMPUTED = re.compile(r"(rotary_emb\.(original_)?inv_freq|position_ids)$")


def read_json(path: Path, largest: int = LARGEST_CONFIG) -> dict:
    """A table of a JSON file.

    Raises:
        ValueError: if it is missing, larger than ``largest`` bytes, or no table.
    """
    try:
        if path.stat().st_size > largest:
            raise ValueError(f"it is larger than {largest} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no table")
        return values
    except FileNotFoundError:
        reason = "it is missing"
    except (ValueError, OSError, RecursionError) as error:
        reason = printable(error).rstrip(".")[:160]
    raise ValueError(
        f"{path.name} in {quoted(path.parent.name)} cannot be read: {reason}. Copy or download the folder again."
    )


def kind_of(folder: Path) -> tuple[Kind, dict]:
    """(kind, values of config.json) of a folder.

    Raises:
        ValueError: if the folder holds no model of a known kind, would need code of its own, or its sizes make no sense.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {quoted(folder.name)} with a language model. Choose one that is there.")
    values = read_json(folder / "config.json")
    found = values.get("model_type")
    kind = KINDS.get(found) if isinstance(found, str) else None
    known = ", ".join(sorted(KINDS))
    if kind is None:
        needs_code = "auto_map" in values or found in ("internvl_chat", "InternVLChatModel")
        reason = "needs code that comes with it, which is never run" if needs_code else "is of a kind that is not known"
        raise ValueError(
            f"{quoted(folder.name)} (model_type {quoted(found)}) {reason}. Take a folder in transformers' own "
            f"layout of one of: "
            f"{known}; InternVL has it under names that end with -hf."
        )
    if values.get("quantization_config"):
        raise ValueError(
            f"The weights in {quoted(folder.name)} are quantised (quantization_config in config.json), which is "
            f"not read. Take the "
            f"folder with bf16, fp16 or fp32 weights."
        )
    _check_sizes(folder, kind, values)
    return kind, values


def _check_sizes(folder: Path, kind: Kind, values: dict) -> None:
    """Refuse numbers that would cost time or memory before the weights can contradict them."""

    def refuse(name: str, value: object, expected: str) -> NoReturn:
        raise ValueError(
            f"config.json in {quoted(folder.name)} is not usable: {name} must be {expected}, found "
            f"{quoted(value)}. Take the "
            f"config.json that came with the weights."
        )

    text = values.get("text_config", values)
    if not isinstance(text, dict):
        refuse("text_config", text, "a table")
    vision = values.get("vision_config") if kind.vision else {}
    if not isinstance(vision, dict):
        refuse("vision_config", vision, "a table")
    named = text.get("model_type")
    if kind.text_kinds and named is not None and named not in kind.text_kinds:
        refuse("model_type of text_config", named, f"one of {', '.join(kind.text_kinds)}")
    for table in (text, vision):
        for name, value in table.items():
            if isinstance(value, list) and len(value) > MOST_LAYERS:
                refuse(name, f"a list of {len(value)}", f"a list of at most {MOST_LAYERS}")
            if _SIZE.fullmatch(name) and value is not None:
                most = MOST_LAYERS if name in _DEPTHS else 2**31
                for size in value if isinstance(value, list) else [value]:
                    if type(size) is not int or not 0 < size <= most:
                        refuse(name, size, f"a whole number from 1 to {most}")
    _check_sections(text, refuse)
    scale, ratio = values.get("scale_factor", 1), values.get("downsample_ratio", 1)
    if type(scale) is not int or not 0 < scale <= 64:
        refuse("scale_factor", scale, "a whole number from 1 to 64")
    if not isinstance(ratio, (int, float)) or not 1 / 64 <= ratio <= 1:
        refuse("downsample_ratio", ratio, "a number from 1/64 to 1")


def _check_sections(text: dict, refuse) -> None:
    """The parts of a head that turn with time, row and column fill half of it; transformers does not look."""
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    sections = rope.get("mrope_section") if isinstance(rope, dict) else None
    heads, width = text.get("num_attention_heads"), text.get("hidden_size")
    if sections is None or type(heads) is not int or type(width) is not int:
        return
    half = (text.get("head_dim") or width // heads) // 2
    good = isinstance(sections, list) and len(sections) == 3 and all(type(n) is int and n >= 0 for n in sections)
    if not good or sum(sections) != half:
        refuse("mrope_section", sections, f"three numbers whose sum is {half}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, whole or in shards.

    Raises:
        ValueError: if there are none, some are missing, or there are pickles alone.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        places = read_json(folder / INDEX, LARGEST_INDEX).get("weight_map")
        names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
        if not names or len(names) > MOST_SHARDS:
            raise ValueError(
                f"{INDEX} in {quoted(folder.name)} names {len(names)} files in weight_map, where 1 to "
                f"{MOST_SHARDS} are expected. "
                f"Copy or download the folder again."
            )
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors") or "\\" in name:
                raise ValueError(
                    f"{INDEX} in {quoted(folder.name)} names {quoted(name)}, which is no safetensors file of "
                    f"this folder. Take the "
                    f"index that came with the weights."
                )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(names)} weight files are missing in {quoted(folder.name)}, first "
                f"{quoted(missing[0])}. Copy "
                f"or download them."
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(
            f"{quoted(folder.name)} has its weights as {quoted(pickles[0])} alone, a pickle, which can run code "
            f"when it is opened. "
            f"Take a folder with {WHOLE}, or save the weights as safetensors."
        )
    raise ValueError(f"{quoted(folder.name)} has no {WHOLE} and no {INDEX}. Copy or download the weights.")


def shapes_in(files: list[Path], kind: Kind) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """Name in the class -> (file, name in the file, shape), from the files' headers alone.

    Raises:
        ValueError: if a file is damaged or half written, or two weights have one name.
    """
    from safetensors import safe_open

    found: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # whatever the library raises for damage
            raise ValueError(
                f"{quoted(path.name)} in {quoted(path.parent.name)} is damaged or only half there "
                f"({printable(error)[:120].rstrip('.')}). Copy or download it again."
            ) from None
        for name, shape in shapes.items():
            own = name
            for pattern, replacement in kind.renames:
                own, changed = re.subn(pattern, replacement, own)
                if changed:
                    break
            if _COMPUTED.search(own):
                continue
            if own in found:
                raise ValueError(
                    f"{quoted(name)} is in {quoted(path.name)} and in {quoted(found[own][0].name)} of "
                    f"{quoted(path.parent.name)}. "
                    f"Remove the weights that do not belong to this model."
                )
            found[own] = (path, name, shape)
    return found


def check_shapes(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[Path, str, tuple[int, ...]]], tied: set[str], name: str
) -> None:
    """Refuse weights that are not those of config.json.

    Args:
        expected: shapes that the class has.
        found: from :func:`shapes_in`.
        tied: names that may be missing because another weight stands for them.
        name: of the folder.

    Raises:
        ValueError: naming the first weight that is missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - found.keys() - tied)
    unknown = sorted(found.keys() - expected.keys())
    other = sorted(key for key in expected.keys() & found.keys() if tuple(expected[key]) != found[key][2])
    if other:
        key = other[0]
        problem = f"{quoted(key)} has the shape {list(found[key][2])}, where config.json asks for {list(expected[key])}"
    elif missing:
        problem = f"{len(missing)} weights are missing, first {quoted(missing[0])}"
    elif unknown:
        problem = f"{len(unknown)} weights are unknown, first {quoted(found[unknown[0]][1])}"
    else:
        return
    raise ValueError(
        f"The weights in {quoted(name)} do not belong to its config.json: {problem}. Take both from the same "
        f"download or training."
    )
