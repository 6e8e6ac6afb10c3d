"""The frozen vision-language model (VLM) that training reads: a folder in transformers' form, without ComfyUI.

How a prompt becomes tokens, roles and a selection is the nodes' own code (:mod:`unifusion.conditions`); here is what is
left: ids and pictures to the inputs of the tapped layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ..conditions import dropped_tokens, encode_segments, selected_tokens
from ..hidden_states import SYSTEM, TEMPLATE, HiddenStates, make_hidden_states
from ..messages import IMAGE_PAD, Tokens, tokenize
from ..miniature import SIDE
from ..miniature_words import load_words
from ..profiles import PROFILES, Profile, taps_for
from ..quoting import printable, quoted
from ..references import TOKEN, PreparedReference, Reference, prepare_as

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PIECE = 2**16  # bytes; files are told apart by 64 such pieces and their size


class FrozenEncoder(Protocol):
    """What the trainer asks of a VLM.

    Attributes:
        name: kept with hidden states.
        identity: the same for the same weights and words; part of the cache's keys.
        layers, width: of the decoder.
        profile: how a drawing model asks it.
        side: pixels of both sides of every view where one size alone was learned; 0 = any.
        token: pixels along one side of a token of a picture.
        tokenizer: transformers', byte-level.
    """

    name: str
    identity: str
    layers: int
    width: int
    profile: Profile
    side: int
    token: int
    tokenizer: object

    def states(self, tokens: Tokens, views: Sequence[Sequence[Tensor]], taps: Sequence[int]) -> HiddenStates:
        """Hidden states of every token of one chat; ``views`` of each picture, each (1, H, W, 3) in 0..1."""

    def release(self) -> None:
        """Let go of the weights' memory; they are read again when they are needed."""


class _DeepestTapReached(Exception):
    pass


@contextmanager
def tapped(layers: nn.ModuleList, taps: Sequence[int]):
    """Collect the inputs of layers, and end the forward pass at the deepest; yields a dict layer -> (B, T, W)."""
    caught: dict[int, Tensor] = {}

    def before(layer: int):
        def hook(_module, positional, named):
            caught[layer] = positional[0] if positional else named["hidden_states"]
            if layer == max(taps):
                raise _DeepestTapReached

        return hook

    handles = [layers[tap].register_forward_pre_hook(before(tap), with_kwargs=True) for tap in taps]
    try:
        yield caught
    except _DeepestTapReached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def patch_rows(view: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """One view as Qwen3-VL's vision tower takes it.

    Args:
        view: (1, H, W, 3) in 0..1; sides that are no multiple of 32 are brought to one, as ComfyUI does.

    Returns:
        (patches, 1536) in rows of 2 x 2 patches, and the grid (1, H / 16, W / 16).
    """
    picture = view.movedim(-1, 1).float()
    height, width = (max(TOKEN, round(side / TOKEN) * TOKEN) for side in picture.shape[-2:])
    if picture.shape[-2:] != (height, width):
        picture = F.interpolate(picture, (height, width), mode="bilinear", align_corners=False)
    frames = (2.0 * picture - 1.0).expand(2, -1, -1, -1)  # Qwen shows a still picture twice
    rows, columns = height // 16, width // 16
    x = frames.reshape(2, 3, rows // 2, 2, 16, columns // 2, 2, 16).permute(2, 5, 3, 6, 1, 0, 4, 7)
    return x.reshape(rows * columns, -1), (1, rows, columns)


class Qwen3VLFolder:
    """Qwen3-VL from a folder: that of the miniature, or one in transformers' form. A :class:`FrozenEncoder`.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        device: where it computes.
        precision: ``fp32``, as the nodes encode, or ``bf16``: half the memory, states about 1% off.

    Raises:
        ValueError: naming the folder and what is wrong with it.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", precision: str = "fp32") -> None:
        folder = Path(folder)
        values = read_json(folder / "config.json")
        if values.get("model_type") != "qwen3_vl":
            raise ValueError(
                f"The folder {quoted(folder.name)} holds a model of the kind {quoted(values.get('model_type'))}; the "
                "trainer reads qwen3_vl folders. Choose Qwen3-VL or the bundled miniature."
            )
        self.folder, self.device, self.precision = folder, torch.device(device), precision
        own_taps = values.pop("taps", None)
        self._values = values
        try:
            text = values["text_config"]
            self.layers, self.width = int(text["num_hidden_layers"]), int(text["hidden_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"config.json in {quoted(folder.name)} does not say the sizes of the language model ({printable(error)}); "
                "copy the folder again."
            ) from None
        self.token = TOKEN
        self.side = SIDE if own_taps else 0
        if own_taps:
            self.profile, kind = PROFILES["miniature"], "unifusion_miniature"
            self.tokenizer = load_words(folder)
        else:
            from transformers import AutoTokenizer

            four = (self.layers, self.width) == (36, 2560)
            self.profile = PROFILES["krea2" if four else "qwen3vl"]
            kind = "qwen3vl_4b" if four else "qwen3vl"
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        self.own_taps = tuple(own_taps) if own_taps else None
        self.name = f"{kind} ({self.layers} layers, width {self.width})"
        self.identity = folder_identity(folder, precision)
        self.image_pad = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)

    @cached_property
    def model(self) -> nn.Module:
        """The weights, read when they are first needed: a second start needs none."""
        loaded = _load_qwen3vl(self.folder, self._values)
        return loaded.to(self.device, PRECISIONS[self.precision]).eval().requires_grad_(False)

    def release(self) -> None:
        """See :class:`FrozenEncoder`."""
        self.__dict__.pop("model", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def states(self, tokens: Tokens, views: Sequence[Sequence[Tensor]], taps: Sequence[int]) -> HiddenStates:
        """See :class:`FrozenEncoder`."""
        prepared = [patch_rows(view) for picture in views for view in picture]
        counts = iter([rows * columns // 4 for _, (_, rows, columns) in prepared])
        repeats = [next(counts) if token == self.image_pad else 1 for token in tokens.ids]

        def spread(values: Sequence) -> list:
            return [value for value, count in zip(values, repeats) for _ in range(count)]

        ids = torch.tensor([spread(tokens.ids)], device=self.device)
        inputs = {"input_ids": ids}
        if prepared:
            inputs |= {
                "pixel_values": torch.cat([rows for rows, _ in prepared]).to(self.device),
                "image_grid_thw": torch.tensor([grid for _, grid in prepared], device=self.device),
                "mm_token_type_ids": (ids == self.image_pad).int(),
            }
        with tapped(self.model.model.language_model.layers, taps) as caught:
            self.model(**inputs, use_cache=False)
        sizes = iter([(rows // 2, columns // 2) for _, (_, rows, columns) in prepared])
        return make_hidden_states(
            torch.stack([caught[tap] for tap in taps], dim=2).float().cpu(),
            spread(tokens.roles),
            [piece if count == 1 else "" for piece, count in zip(spread(tokens.pieces), spread(repeats))],
            taps,
            self.name,
            grids=tuple(tuple(next(sizes) for _ in picture) for picture in views),
        )


def _load_qwen3vl(folder: Path, values: dict) -> nn.Module:
    """Weights under transformers' names, or under ComfyUI's, which the miniature's folder has."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.initialization import no_init_weights

    files = sorted(folder.glob("*.safetensors"))
    weights: dict[str, Tensor] = {}
    try:
        config = Qwen3VLConfig(**{k: v for k, v in values.items() if k not in ("architectures", "model_type")})
        with no_init_weights():
            model = Qwen3VLForConditionalGeneration(config)
        for path in files:
            with safe_open(path, "pt") as file:
                weights |= {_transformers_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except Exception as error:  # whatever transformers, safetensors or torch raise for a damaged folder
        reason = printable(error).strip()[:200].rstrip(".")
        raise ValueError(f"The VLM in {quoted(folder.name)} cannot be read: {reason}. Copy the folder again.") from None
    if config.text_config.tie_word_embeddings or config.tie_word_embeddings:
        missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unexpected:
        raise ValueError(
            f"The weights in {quoted(folder.name)} do not belong to its config.json: {len(missing)} missing, "
            f"{len(unexpected)} unknown (the first is {quoted((missing or unexpected)[0])}). Take both from one place."
        )
    return model


def _transformers_name(name: str) -> str:
    if name == "model.lm_head.weight":
        return "lm_head.weight"
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
        return "model.language_model." + name.removeprefix("model.")
    return name


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        ValueError: naming the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else printable(error)[:160]
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read: {reason.rstrip('.')}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.parent.name}/{path.name} is no JSON object; copy the file again.")
    return values


def file_identity(path: Path) -> str:
    """Hash of a file's size and of 64 pieces spread evenly over it; all of it where it is small."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for index in range(64):
            if size > 64 * _PIECE:
                file.seek(index * (size - _PIECE) // 63)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def folder_identity(folder: Path, *more: str) -> str:
    """Hash of a model's folder: its weights, config and words."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".txt"))
    parts = [*more, *(f"{path.name} {file_identity(path)}" for path in paths)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def layers_read(encoder: FrozenEncoder, taps: Sequence[int] = ()) -> tuple[int, ...]:
    """The layers that are tapped: those given, those the folder names, or the profile's.

    Raises:
        ValueError: if one is not there.
    """
    chosen = tuple(taps) or getattr(encoder, "own_taps", None) or taps_for(encoder.profile, encoder.layers)
    if list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < encoder.layers:
        raise ValueError(
            f"The taps {', '.join(map(str, chosen))} are not rising layers from 0 to {encoder.layers - 1}, which "
            f"{encoder.name} has."
        )
    return chosen


def prepare(encoder: FrozenEncoder, profile: Profile, pictures: Sequence[Tensor], labels: Sequence[str] = ()):
    """Pictures (1, H, W, 3) in 0..1 as the nodes give them to this encoder, in the profile's size."""
    return [
        prepare_as(
            Reference(picture, labels[index] if index < len(labels) else ""),
            profile,
            index + 1,
            encoder.token,
            encoder.side,
        )
        for index, picture in enumerate(pictures)
    ]


def condition(
    encoder: FrozenEncoder,
    profile: Profile,
    taps: Sequence[int],
    prompt: str,
    references: Sequence[PreparedReference] = (),
    *,
    system: str = "",
    answer: str = "",
    selection: str = "",
) -> HiddenStates:
    """Selected hidden states of one condition, as VLM Encode gives them.

    Args:
        prompt: the words, without control tokens.
        references: from :func:`prepare`.
        system: another system prompt than the profile's.
        answer: what the VLM wrote; then the selection is the rewrite's.
        selection: another selection than the profile's.
    """
    system = system or profile.system_for(prompt, bool(references))
    opener = profile.writing_chat.opener if answer else profile.chat.opener
    tokens = tokenize(encode_segments(profile, system, prompt, references, answer), encoder.tokenizer, opener)
    drop = 0 if answer else dropped_tokens(profile, system, prompt, bool(references))
    if drop:
        roles = [TEMPLATE if role == SYSTEM else role for role in tokens.roles]
        tokens = tokens._replace(roles=[SYSTEM] * drop + roles[drop:])
    everything = encoder.states(tokens, [reference.views for reference in references], taps)
    first = _expanded(tokens, everything)
    chosen = selection or (profile.rewrite_selection if answer else profile.encode_selection)
    return selected_tokens(everything, chosen, first)._replace(prompt=prompt, text=answer)


def _expanded(tokens: Tokens, everything: HiddenStates) -> int:
    """Where the assistant's turn opens once every view has all its tokens: they all stand before it."""
    return tokens.opener + everything.tokens - len(tokens.ids)
