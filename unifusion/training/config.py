"""The file that says what is trained on what: every key with its default, its unit and what it allows.

Read with tomllib, checked with pydantic. :func:`load` turns what pydantic finds into sentences that name the file, the
key, what was found and what is allowed.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..profiles import PROFILES
from ..quoting import printable, quoted
from ..selection import SELECTIONS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

BUNDLED = "bundled"
AUTO = "auto"
PROFILE_KEYS = (AUTO, *PROFILES)
SELECTION_KEYS = ("", *SELECTIONS)


def key(default: Any, says: str, unit: str = "", **bounds) -> Any:
    """A key with its default, its sentence for the documentation, and its unit."""
    return Field(default, description=says, json_schema_extra={"unit": unit} if unit else None, **bounds)


class Section(BaseModel):
    """Unknown keys and other types are errors; a whole number may stand for any number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class VLM(Section):
    """The frozen vision-language model."""

    folder: str = key(BUNDLED, "`bundled`, or a folder in transformers' form")
    profile: Literal[PROFILE_KEYS] = key(AUTO, "row of docs/models.md that says how it is asked")  # type: ignore[valid-type]
    taps: list[int] = key([], "layers whose inputs are read; empty: what the folder or the profile names")
    precision: Literal["fp32", "bf16"] = key("fp32", "of its forward pass; the nodes use fp32")
    system: str = key("", "system prompt; empty: the profile's")
    selection: Literal[SELECTION_KEYS] = key("", "tokens that condition; empty: the profile's")  # type: ignore[valid-type]


class VAE(Section):
    """The frozen autoencoder."""

    file: str = key(BUNDLED, "`bundled`, or a safetensors file in Wan 2.1's layout (Krea 2, Qwen-Image)")


class Model(Section):
    """The drawing model, in Krea 2's layout."""

    start: str = key(
        "", "empty: from nothing; `bundled`; or a safetensors file in Krea 2's layout, whose sizes then count"
    )
    features: int = key(256, "width of a block", "a multiple of 128", ge=128, multiple_of=128)
    layers: int = key(6, "blocks", "blocks", ge=1)
    kvheads: int = key(1, "heads of keys and values; must divide features / 128", "heads", ge=1)
    base: Literal["fp32", "bf16", "fp8", "int8"] = key(
        "fp32", "how weights that are not trained are kept; fp8 and int8 are for the blocks"
    )


class Train(Section):
    """What is trained, and how it fits into memory."""

    what: Literal["everything", "pooling", "lora"] = key("everything", "all weights, LAP and refiner alone, or a LoRA")
    rank: int = key(16, "of the LoRA", "columns", ge=1)
    alpha: float = key(0.0, "of the LoRA, which counts alpha / rank; 0: the rank", ge=0)
    targets: list[str] = key(
        ["blocks.*.attn.*", "blocks.*.mlp.*"], "names of the matrices with a LoRA; `*` stands for any part of a name"
    )
    pooling: bool = key(False, "put a LoRA on LAP and refiner (`txtfusion`) too")
    checkpointing: bool = key(False, "compute blocks again in the backward pass: less memory, about a third slower")
    blocks_on_cpu: int = key(
        0, "blocks whose frozen weights stay in main memory and are copied when used", "blocks", ge=0
    )
    ema: float = key(0.0, "decay of averaged weights, which are then exported; 0: off", ge=0, lt=1)
    shard: bool = key(False, "spread weights and optimizer over all processes (FSDP2)")
    compile: bool = key(False, "compile the blocks with torch.compile; wants few shapes")


class DataSource(Section):
    """One source of pictures and words."""

    kind: Literal["captions", "pairs", "jsonl", "musubi", "datasets", "webdataset"] = key(
        "captions",
        "`captions`: pictures with .txt; `pairs`: target/ with control/; `jsonl`; `musubi`: its TOML; `datasets`: "
        "Hugging Face; `webdataset`: tar shards",
    )
    path: str = key(..., "folder, file or name; of webdataset shards a pattern such as `shards/*.tar`")
    repeats: float = key(1.0, "how often each picture comes in an epoch; 0.5: every second", "times", gt=0)
    share: float = key(0.0, "part of all batches, whatever the size of the source; 0: by size", "0..1", ge=0, le=1)
    split: str = key("train", "of a Hugging Face data set")
    target: str = key("image", "column with the finished picture (datasets, webdataset)")
    references: list[str] = key([], "columns with pictures to edit (datasets, webdataset)")
    caption: str = key("caption", "column with the words (datasets); ending of the text file (webdataset)")


class Data(Section):
    """Pictures and words."""

    sources: list[DataSource] = key([], "one `[[data.sources]]` each")
    pixels: int = key(16384, "area of a finished picture; its sides keep the shape of the file", "pixels", ge=1024)
    bucket_step: int = key(16, "sides of finished pictures are multiples of this", "pixels", ge=16, multiple_of=16)
    labels: list[str] = key([], "words in front of each reference, such as `Image 1`; empty: the profile's")
    reconstruct: float = key(
        0.03, "part of the examples that draw the finished picture again from itself", "0..1", ge=0, le=1
    )
    unconditional: float = key(0.1, "part of the examples without words", "0..1", ge=0, le=1)
    rewrite: bool = key(
        False, "let the VLM rewrite every prompt (VERIFI) and train on what it wrote; texts stay in the cache"
    )
    heldout: int = key(0, "examples kept away from training, to measure the loss on", "examples", ge=0)
    longest: int = key(0, "conditions with more tokens are left out and counted; 0: none are", "tokens", ge=0)
    cache_pooled: bool = key(
        False,
        "keep what LAP and refiner make of the states: a twelfth of the room for Krea 2; for LoRAs without `pooling`",
    )
    cache: str = key("", "folder of encoded states and latents; empty: `cache` in the run's folder")


class Schedule(Section):
    """Steps and rates."""

    steps: int = key(1000, "optimizer steps", "steps", ge=1)
    batch: int = key(4, "examples in one part of a step, of one process", "examples", ge=1)
    parts: int = key(1, "parts of a step whose gradients are added up", "parts", ge=1)
    levels: int = key(1, "noise levels drawn for every example", "levels", ge=1)
    optimizer: Literal["adamw", "muon", "adamw8bit"] = key(
        "adamw", "`muon` for the blocks' matrices; `adamw8bit` needs bitsandbytes and a GPU"
    )
    lr: float = key(1e-3, "peak learning rate", gt=0)
    pooling_lr: float = key(0.0, "of LAP and refiner; 0: the same", ge=0)
    weight_decay: float = key(0.01, "decoupled", ge=0)
    warmup: int = key(20, "steps to the peak", "steps", ge=0)
    decay: float = key(0.3, "last part of the run over which the rate falls to a twentieth", "0..1", ge=0, le=1)
    clip: float = key(1.0, "largest norm of the gradient", gt=0)
    level_mean: float = key(0.5, "of the logit-normal noise level; higher trains more on noise")
    level_deviation: float = key(1.1, "of the same", gt=0)


class Edit(Section):
    """An edit that is previewed."""

    instruction: str = key(..., "what is to be changed")
    pictures: list[str] = key(..., "files, in order")


class Watch(Section):
    """What is looked at on the way."""

    log_every: int = key(10, "between lines of the log", "steps", ge=1)
    keep_every: int = key(500, "between checkpoints; 0: at the end alone", "steps", ge=0)
    look_every: int = key(500, "between held-out losses, previews and exports; 0: at the end alone", "steps", ge=0)
    prompts: list[str] = key([], "drawn as a grid")
    edits: list[Edit] = key([], "one `[[watch.edits]]` each, drawn as a grid")
    preview_steps: int = key(16, "of a preview's sampler", "steps", ge=1)
    guidance: float = key(2.0, "of a preview (CFG); 1: off", ge=1)
    tensorboard: bool = key(False, "write TensorBoard's files too")


class Config(Section):
    """A whole file."""

    out: str = key("runs/mine", "folder of the run; a run found there goes on")
    device: Literal["auto", "cpu", "cuda"] = key(AUTO, "`auto`: a GPU where there is one")
    processes: int = key(1, "started on this machine; several GPUs, or cores of a CPU", "processes", ge=1)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = key(AUTO, "of the forward pass; `auto`: bf16 on a GPU")
    threads: int = key(0, "of one process on a CPU; 0: PyTorch's choice", "threads", ge=0)
    seed: int = key(0, "of all that is random")
    vlm: VLM = VLM()
    vae: VAE = VAE()
    model: Model = Model()
    train: Train = Train()
    data: Data = Data()
    schedule: Schedule = Schedule()
    watch: Watch = Watch()

    _path: Path = Path("config.toml")

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def resolve(self, text: str) -> Path:
        """A path of the file, which counts from the file's own folder."""
        return Path(os.path.normpath(self._path.parent / Path(text).expanduser()))

    @property
    def out_folder(self) -> Path:
        return self.resolve(self.out)

    @property
    def cache_folder(self) -> Path:
        return self.resolve(self.data.cache) if self.data.cache else self.out_folder / "cache"


class ConfigError(ValueError):
    """What is wrong with a configuration: one sentence or two for each key."""


def load(path: str | Path) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: naming file, key, what was found and what is allowed.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {quoted(path)}; copy one of training_configs/ and change it.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} is no TOML file that can be read: {printable(error).rstrip('.')}.") from None
    return from_values(values, path)


def from_values(values: dict, path: Path) -> Config:
    """:func:`load` of what was read already."""
    try:
        config = Config(**values)
    except ValidationError as error:
        found = [_sentence(path.name, line, values) for line in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(found))) from None
    config._path = path.resolve()
    _check_whole(config)
    return config


def _check_whole(config: Config) -> None:
    """What no single key can show."""
    name, model, train, data = config.path.name, config.model, config.train, config.data
    if (model.features // 128) % model.kvheads:
        raise ConfigError(
            f"{name}: model.kvheads is {model.kvheads}, which does not divide features / 128 = {model.features // 128}; "
            "take a divisor."
        )
    if train.what != "everything" and not model.start:
        raise ConfigError(
            f'{name}: train.what is "{train.what}" and model.start is empty; name the model to go on from, or train '
            '"everything".'
        )
    if model.base != "fp32" and train.what == "everything":
        raise ConfigError(
            f'{name}: model.base is "{model.base}", which is how frozen weights are kept, and train.what is "everything"; '
            'take "lora" or "pooling", or the base "fp32".'
        )
    if train.shard and train.what != "everything":
        raise ConfigError(
            f'{name}: train.shard spreads weights that are trained, and train.what is "{train.what}"; leave it out, or '
            'train "everything".'
        )
    if train.blocks_on_cpu and train.what == "everything":
        raise ConfigError(
            f"{name}: train.blocks_on_cpu is {train.blocks_on_cpu}, which moves frozen weights, and train.what is "
            '"everything"; take "lora" or "pooling", or 0.'
        )
    if data.cache_pooled and (train.what != "lora" or train.pooling):
        raise ConfigError(
            f"{name}: data.cache_pooled is true, which fixes LAP and refiner, and they are trained; leave it out, or take "
            'train.what = "lora" without train.pooling.'
        )
    if data.reconstruct + data.unconditional > 1:
        raise ConfigError(
            f"{name}: data.reconstruct and data.unconditional are {data.reconstruct:g} and {data.unconditional:g}, "
            "together more than 1; lower them."
        )
    if sum(source.share for source in data.sources) > 1 + 1e-9:
        raise ConfigError(f"{name}: the shares of data.sources are together more than 1; lower them.")
    if not data.sources:
        raise ConfigError(f"{name}: data.sources is empty; add a [[data.sources]] with a kind and a path.")


def _dotted(place: tuple) -> str:
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _section_at(place: tuple) -> tuple[type[Section], str]:
    """The class that holds a key, and the key."""
    section: Any = Config
    for part in place[:-1]:
        fields = getattr(section, "model_fields", {})
        if isinstance(part, str) and part in fields:
            annotation = fields[part].annotation
            section = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return section, str(place[-1])


def _sentence(name: str, error: Any, values: dict) -> str:
    place = tuple(part for part in error["loc"])
    where = _dotted(place)
    section, last = _section_at(place)
    fields = getattr(section, "model_fields", {})
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(last, fields, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(fields)}."
        return f"{name}: there is no key {quoted(where)}; {advice}"
    if error["type"] == "missing":
        return f"{name}: the key {quoted(where)} is missing; it takes {allowed(section, last)}."
    parent = section
    key_name = next((part for part in reversed(place) if isinstance(part, str)), last)
    if isinstance(place[-1], int):
        parent, key_name = _section_at(place[: place.index(key_name) + 1])
    found = error["input"]
    shown = quoted(found) if isinstance(found, str) else printable(found)[:60]
    return f"{name}: {where} is {shown}; allowed: {allowed(parent, key_name)}."


_TYPES = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}


def allowed(section: Any, name: str) -> str:
    """What a key takes, in words."""
    field = getattr(section, "model_fields", {}).get(name)
    if field is None:
        return "a table" if isinstance(section, type) else "another value"
    annotation = field.annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(annotation))
    if get_origin(annotation) is list:
        (inner,) = get_args(annotation)
        many = {int: "whole numbers", str: "texts in quotes"}.get(inner)
        return f"a list of {many}, in brackets" if many else f"a list of tables, one [[...{name}]] each"
    if annotation not in _TYPES:
        return "a table"
    bounds = []
    for limit in field.metadata:
        for attribute, words in (("ge", "from {:g}"), ("gt", "above {:g}"), ("le", "up to {:g}"), ("lt", "below {:g}")):
            if getattr(limit, attribute, None) is not None:
                bounds.append(words.format(getattr(limit, attribute)))
        if getattr(limit, "multiple_of", None) is not None:
            bounds.append(f"a multiple of {limit.multiple_of:g}")
    unit = (field.json_schema_extra or {}).get("unit", "")
    if unit in ("0..1", "a multiple of 128"):
        unit = ""
    return " ".join([_TYPES[annotation], *([f"of {unit}"] if unit else []), ", ".join(bounds)]).strip()


def keys_table() -> str:
    """Markdown: every key with default, what it takes, and what it does."""
    lines = []

    def show(default: Any) -> str:
        if isinstance(default, bool):
            return str(default).lower()
        if isinstance(default, str):
            return f'"{default}"'
        return str(default).replace("'", '"')

    def add(section: type[Section], title: str) -> None:
        lines.extend(["", f"### {title}", "", (section.__doc__ or "").strip(), ""])
        lines.extend(["| key | default | takes | what it does |", "|---|---|---|---|"])
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                continue
            default = "needed" if field.is_required() else f"`{show(field.default)}`"
            lines.append(
                f"| `{name}` | {default} | {allowed(section, name)} | {field.description} |".replace("\n", " ")
            )

    add(Config, "At the top")
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            add(field.annotation, f"`[{name}]`")
            for inner, sub in field.annotation.model_fields.items():
                arguments = get_args(sub.annotation)
                if arguments and isinstance(arguments[0], type) and issubclass(arguments[0], Section):
                    add(arguments[0], f"`[[{name}.{inner}]]`")
    return "\n".join(lines).strip() + "\n"
