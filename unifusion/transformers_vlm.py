"""Any language or vision-language model of transformers as the frozen encoder: chats to states of its layers, and writing.

Plain PyTorch and transformers, without ComfyUI: the trainer caches states with it, and ``comfy_bridge/encoders/folder_clip.py``
puts the same model behind a ``CLIP``. Template, roles and selection are those of the nodes (``messages``, ``selection``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chat_templates import BARE, INTERNVL, LLAMA3, MISTRAL, QWEN, QWEN_NO_THINKING, SMOLVLM, Template
from .folder_words import FolderWords, read_tokenizer
from .hidden_states import GENERATED, PADDING
from .limits import check_tokens
from .messages import IMAGE_PAD, Segment, Tokens, chat, remove_control_tokens, token_bytes, tokenize
from .miniature import SIDE
from .miniature_words import load_words
from .profiles import PROFILES, Profile
from .quoting import printable, quoted
from .references import Reference, prepare_as
from .selection import selection_mask
from .verifi import Decoding
from .vlm_folders import KINDS, Kind, check_shapes, kind_of, read_json, shapes_in, weight_files

ENDED, AT_LIMIT = "ended by itself", "stopped at the limit"
_FEW_TAPS = 4
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def default_taps(layers: int) -> tuple[int, ...]:
    """Layers that are tapped where a folder does not say: every third one, as in the paper and Krea 2.

    At least four of a model that has them, evenly spread and ending with the last layer: 8 layers give 1, 3, 5, 7.
    """
    if layers >= 3 * _FEW_TAPS:
        return tuple(range(2, layers, 3))
    count = min(_FEW_TAPS, layers)
    return tuple((index + 1) * layers // count - 1 for index in range(count))


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What one sequence says.

    Attributes:
        instruction: the user's words.
        system: the system prompt.
        views: for each picture its views, each ``(1, height, width, 3)`` in 0..1, from :meth:`TransformersVLM.prepare`.
        labels: words in front of each picture, or empty.
        answer: words of the assistant that are given.
    """

    instruction: str
    system: str = ""
    views: Sequence[Sequence[Tensor]] = ()
    labels: Sequence[str] = ()
    answer: str = ""


class Embedded(NamedTuple):
    """Chats as input embeddings, padded on the right, pictures expanded.

    Attributes:
        embeds: ``(batch, tokens, width)``.
        positions: ``(batch, tokens)``, or ``(3, batch, tokens)`` for models that place pictures in a plane.
        pictures: ``(batch, tokens)`` bool, tokens of pictures.
        deepstack: features that are added to picture tokens behind the first layers; empty for most models.
        ids: ``(batch, tokens)`` int64; a picture's tokens have the id of the model's token for pictures.
        roles: ``(batch, tokens)`` int16, ``PADDING`` where padded.
        weights: ``(batch, tokens)`` float32.
        pieces: text of every token, for each row.
        openers: first token of the assistant's turn, for each row.
        grids: for each row, for each picture, (rows, columns) of tokens of each view.
    """

    embeds: Tensor
    positions: Tensor
    pictures: Tensor
    deepstack: list[Tensor]
    ids: Tensor
    roles: Tensor
    weights: Tensor
    pieces: list[list[str]]
    openers: list[int]
    grids: list[tuple[tuple[tuple[int, int], ...], ...]]


@dataclass(frozen=True)
class Encoded:
    """States of a batch of chats.

    Attributes:
        states: ``(batch, tokens, taps, width)`` float32, not normalised; without meaning where padded.
        taps: layers whose inputs they are.
        read: what was read; its ``roles`` are ``PADDING`` where padded.
    """

    states: Tensor
    taps: tuple[int, ...]
    read: Embedded

    def selected(self, selection: str) -> Tensor:
        """``(batch, tokens)`` bool: the tokens that condition the picture, by the nodes' own rule."""
        rows = [
            selection_mask(roles, selection, opener) & (roles != PADDING)
            for roles, opener in zip(self.read.roles, self.read.openers, strict=True)
        ]
        return torch.stack(rows)

    def compact(self, selection: str, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Selected tokens alone, in order.

        Args:
            selection: one of ``selection.SELECTIONS``.
            length: tokens to pad to; None takes the longest selection.

        Returns:
            ``(batch, length, taps, width)`` with zeros as padding, and a bool mask ``(batch, length)``.

        Raises:
            ValueError: if a selection is longer than ``length``.
        """
        selected = self.selected(selection).to(self.states.device)
        counts = selected.sum(1)
        longest = int(counts.max())
        length = longest if length is None else length
        if longest > length:
            raise ValueError(
                f"A selection has {longest} tokens, more than the {length} asked for. Shorten the text or raise "
                f"the length."
            )
        mask = torch.arange(length, device=counts.device) < counts[:, None]
        states = self.states.new_zeros(*mask.shape, *self.states.shape[2:])
        states[mask] = self.states[selected]
        return states, mask


@dataclass(frozen=True)
class Written:
    """What the model wrote.

    Attributes:
        text: the given words of the answer and what was written.
        ids: token ids without the one that ended the text.
        states: ``(1, tokens read + tokens written, taps, width)`` float32, or None if no layer was tapped.
        roles: one per token of ``states``.
        opener: first token of the assistant's turn.
        ending: :data:`ENDED` or :data:`AT_LIMIT`.
    """

    text: str
    ids: list[int]
    states: Tensor | None
    roles: Tensor
    opener: int
    ending: str


class DeepestTapReached(Exception):
    """Ends a pass at the deepest tap."""


@contextmanager
def tapped(decoder: nn.Module, taps: Sequence[int], stop: bool) -> Iterator[dict[int, Tensor]]:
    """Collect the inputs of the tapped layers of a decoder with ``layers`` and ``norm``.

    Args:
        taps: layers; their number itself is the end of the last one, behind the final norm.
        stop: end the pass at the deepest tap.
    """
    caught: dict[int, Tensor] = {}

    def caught_at(layer: int, value: Tensor) -> None:
        caught[layer] = value
        if stop and layer == max(taps):
            raise DeepestTapReached

    def before(layer: int):
        return lambda _module, args, kwargs: caught_at(layer, args[0] if args else kwargs["hidden_states"])

    handles = []
    for tap in taps:
        if tap < len(decoder.layers):
            handles.append(decoder.layers[tap].register_forward_pre_hook(before(tap), with_kwargs=True))
        else:
            handles.append(decoder.norm.register_forward_hook(lambda _m, _a, out, tap=tap: caught_at(tap, out)))
    try:
        yield caught
    except DeepestTapReached:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Modules made here have their parameters on the meta device; what they compute at the start (rotary "
    "tables) is real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _build(kind: Kind, values: dict, name: str, meta: bool) -> nn.Module:
    """The class of transformers with the sizes of config.json, without weights."""
    import transformers

    architecture = getattr(transformers, kind.architecture, None)
    if architecture is None:
        raise ValueError(
            f"The installed transformers {transformers.__version__} does not know {kind.title}. Update it with: "
            f"pip install -U "
            f"transformers."
        )
    values = {
        key: value
        for key, value in values.items()
        if key not in ("auto_map", "architectures", "taps", "torch_dtype", "dtype")
    }
    try:
        config = architecture.config_class.from_dict(values)
        with torch.device("meta") if meta else _parameters_without_memory():
            return architecture(config).eval().requires_grad_(False)
    except Exception as error:  # whatever a contradiction in config.json raises there
        reason = printable(" ".join(str(error).split()) or type(error).__name__)[:160].rstrip(".")
        raise ValueError(
            f"config.json in {quoted(name)} is not usable for {kind.title} ({reason}). Take the config.json "
            f"that came with the "
            f"weights."
        ) from None


def _bytes_there() -> int:
    try:
        import psutil
    except ImportError:
        return 2**62
    return psutil.virtual_memory().total


def _load_weights(model: nn.Module, found: dict, dtype: torch.dtype | None, device, name: str) -> None:
    from safetensors import safe_open

    size = 0
    for _, _, shape in found.values():
        size += math.prod(shape) * (dtype.itemsize if dtype is not None else 1)
    there = _bytes_there()
    if torch.device(device).type == "cpu" and size > there:
        raise ValueError(
            f"The weights in {quoted(name)} need {size / 2**30:,.0f} GB, more than the {there / 2**30:,.0f} GB of "
            f"this machine's memory. Take a smaller model, or bfloat16 in place of float32."
        )
    by_file: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for own, (path, name_there, _) in found.items():
        by_file[path].append((own, name_there))
    for path, names in by_file.items():
        with safe_open(path, "pt") as file:
            for own, name_there in names:
                tensor = file.get_tensor(name_there)
                if not tensor.is_floating_point():
                    raise ValueError(
                        f"{quoted(name_there)} in {quoted(path.name)} of {quoted(name)} holds {tensor.dtype} "
                        f"numbers, a quantised form "
                        f"that is not read. Take the folder with bf16, fp16 or fp32 weights."
                    )
                owner, _, leaf = own.rpartition(".")
                weight = tensor.to(device=device, dtype=dtype or tensor.dtype)
                model.get_submodule(owner)._parameters[leaf] = nn.Parameter(weight, requires_grad=False)


def _numbers(values: dict, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    found: object = values.get(name)
    if not isinstance(found, list) or len(found) != 3:
        return default
    good = all(isinstance(number, (int, float)) and abs(number) < 1e3 for number in found)
    return tuple(float(number) for number in found) if good else default


class TransformersVLM:
    """A frozen model of a folder.

    Attributes:
        model: the class of transformers.
        kind: row of ``vlm_folders.KINDS``.
        name: of the folder.
        words: its tokenizer.
        taps: layers that are tapped unless others are named.
        taps_named: whether the folder's config.json names them.
        template: how a chat is written down.
        stops: ids that end a written text.
        casts: whether its layers cast their weights as they are used, as ComfyUI's do.
    """

    casts = False

    def __init__(
        self,
        model: nn.Module,
        kind: Kind,
        words,
        name: str,
        *,
        taps: tuple[int, ...] = (),
        stops: Sequence[int] = (),
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ):
        self.model, self.kind, self.words, self.name = model, kind, words, name
        self.taps, self.taps_named = taps or default_taps(self.layers), bool(taps)
        self.template = template_for(kind, words)
        closing = [self._own_id(token) for token in ("<|im_end|>", "<end_of_utterance>", "<|eot_id|>")]
        self.stops = {number for number in (*stops, *closing) if number is not None}
        self.mean, self.std = mean or kind.mean, std or kind.std

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = torch.float32,
        device: str | torch.device = "cpu",
        *,
        weights: bool = True,
    ) -> TransformersVLM:
        """A folder with config.json, safetensors and tokenizer.json, as ``save_pretrained`` of transformers leaves it.

        No code of the folder is run. A miniature's folder (vocab.json, merges.txt, its own names of weights) loads too.

        Args:
            folder: of one of ``vlm_folders.KINDS``; config.json may name ``taps``.
            dtype: of the weights; None keeps the file's.
            device: where they are put.
            weights: False leaves them away: sizes, words and template are known, and nothing can be read or written.

        Raises:
            ValueError: of one sentence or two, for whatever is missing, damaged, unknown or does not belong together.
        """
        folder = Path(folder)
        kind, values = kind_of(folder)
        found = shapes_in(weight_files(folder), kind)
        sketch = _build(kind, values, folder.name, meta=True)
        expected = {name: tuple(tensor.shape) for name, tensor in sketch.named_parameters(remove_duplicate=False)}
        tied = _tied(sketch)
        check_shapes(expected, found, tied, folder.name)
        rows = sketch.get_submodule(kind.decoder).embed_tokens.weight.shape[0]
        words = _read_words(folder, kind, values, rows)
        model = _build(kind, values, folder.name, meta=False) if weights else sketch
        if weights:
            _load_weights(model, found, dtype, device, folder.name)
            if tied - found.keys():
                model.lm_head.weight = model.get_submodule(kind.decoder).embed_tokens.weight
            model.to(device)
        pixels = (
            read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
        )
        return cls(
            model,
            kind,
            words,
            folder.name,
            taps=_named_taps(values, folder.name, len(model.get_submodule(kind.decoder).layers)),
            stops=_stops(folder, values),
            mean=_numbers(pixels, "image_mean", kind.mean),
            std=_numbers(pixels, "image_std", kind.std),
        )

    # what it is

    @property
    def decoder(self) -> nn.Module:
        """The language model, with ``embed_tokens``, ``layers`` and ``norm``."""
        return self.model.get_submodule(self.kind.decoder)

    @property
    def config(self):
        """Sizes of the language model."""
        return self.decoder.config

    @property
    def layers(self) -> int:
        return len(self.decoder.layers)

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def context(self) -> int:
        """Tokens the model was made for."""
        return int(getattr(self.config, "max_position_embeddings", 0) or 2048)

    @property
    def device(self) -> torch.device:
        return self.decoder.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.embed_tokens.weight.dtype

    @property
    def reads_pictures(self) -> bool:
        return bool(self.kind.vision)

    @property
    def in_a_plane(self) -> bool:
        """Whether a picture's tokens have rows and columns as positions (Qwen's models)."""
        return hasattr(self.model, "model") and hasattr(self.model.model, "get_rope_index")

    @property
    def _vision(self):
        return self.model.config.vision_config

    @cached_property
    def picture_side(self) -> int:
        """Pixels of both sides of every view, where the model knows one size alone; 0 = any."""
        if hasattr(self.words, "normal_form") and not isinstance(self.words, FolderWords):
            return SIDE  # the miniature has learned one size
        size = 0 if self.in_a_plane or not self.reads_pictures else self._vision.image_size
        return int(size[0]) if isinstance(size, (list, tuple)) else int(size)

    @cached_property
    def token_side(self) -> int:
        """Pixels along one side of a token of a picture; 32 for models without pictures."""
        if not self.reads_pictures:
            return 32
        patch = self._vision.patch_size
        patch = int(patch[0]) if isinstance(patch, (list, tuple)) else int(patch)
        if self.in_a_plane:
            return patch * self._vision.spatial_merge_size
        if hasattr(self.model.config, "scale_factor"):
            return patch * int(self.model.config.scale_factor)
        return patch * round(1 / self.model.config.downsample_ratio)

    @cached_property
    def profile(self) -> Profile:
        """How the nodes and the trainer ask this model: the general row of ``profiles`` with its own taps and "
        "template."""
        # What Qwen3 is to write without thinking aloud; its vision models' chat has no such place.
        thinks = self.kind.title == "Qwen3" and self._own_id("<think>") is not None
        return replace(
            PROFILES["qwen3vl"],
            key="folder",
            title=self.name,
            taps=self.taps,
            chat=self.template,
            writing_chat=QWEN_NO_THINKING if thinks and self.template is QWEN else self.template,
            pictures=self.reads_pictures,
        )

    def _own_id(self, token: str) -> int | None:
        return self.words.get_added_vocab().get(token)

    # reading

    def prepare(self, picture: Tensor, tiles: int = 1, tokens: int = 0) -> tuple[Tensor, ...]:
        """Views of a picture as the nodes make them.

        Args:
            picture: ``(1, height, width, 3)`` in 0..1.
            tiles: views besides the whole picture, at most.
            tokens: of each view, for models that read any size; 0 = the profile's.
        """
        reference = Reference(picture, tiles=tiles, tokens=tokens)
        return prepare_as(reference, self.profile, 1, self.token_side, self.picture_side).views

    def segments(self, said: Chat) -> list[Segment]:
        """The chat with its roles, as ``messages.chat`` writes it for every model."""
        return chat(
            said.system,
            said.instruction,
            [len(views) for views in said.views],
            said.labels,
            said.answer,
            template=self.template,
        )

    def clean(self, text: str) -> str:
        """A text without this model's control tokens."""
        return remove_control_tokens(text, self.words)[0]

    def tokenize(self, said: Chat | Sequence[Segment]) -> Tokens:
        """Ids and roles; a view of a picture is one token here.

        Args:
            said: a chat, or segments of ``messages.chat``.
        """
        segments = self.segments(said) if isinstance(said, Chat) else said
        if isinstance(self.words, FolderWords):
            return self.words.tokens_of(segments, self.template.opener)
        return tokenize(segments, self.words, self.template.opener)

    @torch.no_grad()
    def features(
        self, view: Tensor, device: torch.device | None = None
    ) -> tuple[Tensor, tuple[int, int], list[Tensor]]:
        """What the vision tower makes of one view.

        Args:
            view: ``(1, height, width, 3)`` in 0..1.
            device: where it computes; None = where its weights are.

        Returns:
            ``(tokens, width)``, (rows, columns) of them, and features for DeepStack, each ``(tokens, width)``.

        Raises:
            ValueError: if the model reads text alone.
        """
        if not self.reads_pictures:
            raise ValueError(
                f"The model {quoted(self.name)} reads text alone, so it cannot see the pictures. Leave them "
                f"out, or take a model "
                f"that sees."
            )
        height, width = view.shape[1:3]
        side = self.token_side
        rows, columns = (
            (self.picture_side // side,) * 2
            if self.picture_side
            else (max(1, round(n / side)) for n in (height, width))
        )
        pixels = view[..., :3].movedim(-1, 1).float()
        if (height, width) != (rows * side, columns * side):
            pixels = F.interpolate(pixels, (rows * side, columns * side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(numbers, device=view.device).view(1, 3, 1, 1) for numbers in (self.mean, self.std))
        device = device or self.device
        pixels = ((pixels - mean) / std).to(device)
        if not self.in_a_plane:
            if hasattr(self.model.config, "scale_factor"):
                pixels = pixels[:, None]  # SmolVLM: pictures of one text stand on an axis of their own
            with self._exact(pixels):
                found = self.model.model.get_image_features(pixels, return_dict=True).pooler_output
            return found[0].flatten(0, -2), (rows, columns), []
        grid = torch.tensor([[1, rows * self._vision.spatial_merge_size, columns * self._vision.spatial_merge_size]])
        pixels = _patches(pixels, self._vision)
        with self._exact(pixels):
            found = self.model.model.get_image_features(pixels, grid.to(device), return_dict=True)
        deepstack = [level[0] for level in getattr(found, "deepstack_features", None) or ()]
        return found.pooler_output[0], (rows, columns), deepstack

    @torch.no_grad()
    def embed(self, chats: Sequence[tuple[Tokens, Sequence[Sequence[tuple]]]]) -> Embedded:
        """Tokenised chats as padded input embeddings.

        Args:
            chats: for each row its tokens and, for each picture, :meth:`features` of its views.
        """
        pad = self.words.convert_tokens_to_ids(IMAGE_PAD) if self.reads_pictures else None
        rows = []
        for tokens, pictures in chats:
            flat = [view for views in pictures for view in views]
            queue = iter(flat)
            ids, roles, weights, pieces, opener, spans = [], [], [], [], None, []
            for index, token in enumerate(tokens.ids):
                if index == tokens.opener:
                    opener = len(ids)
                view = next(queue) if token == pad else None
                count = 1 if view is None else len(view[0])
                if view is not None:
                    spans.append((len(ids), view))
                ids += [token] * count
                roles += [tokens.roles[index]] * count
                weights += [tokens.weights[index]] * count
                pieces += [tokens.pieces[index]] if view is None else [""] * count
            grids = tuple(tuple(view[1] for view in views) for views in pictures)
            rows.append((ids, roles, weights, pieces, len(ids) if opener is None else opener, spans, grids))
        longest = max(len(row[0]) for row in rows)
        check_tokens(longest, self.context, quoted(self.name))
        device, batch = self.device, len(rows)
        ids = torch.zeros(batch, longest, dtype=torch.int64)
        roles = torch.full((batch, longest), PADDING, dtype=torch.int16)
        weights = torch.ones(batch, longest)
        seen = torch.zeros(batch, longest, dtype=torch.bool)
        positions = torch.arange(longest).repeat(3, batch, 1)
        for index, row in enumerate(rows):
            count = len(row[0])
            ids[index, :count] = torch.tensor(row[0])
            roles[index, :count] = torch.tensor(row[1], dtype=torch.int16)
            weights[index, :count] = torch.tensor(row[2])
            places = [(start, *view[1]) for start, view in row[5]]
            for start, tall, wide in places:
                seen[index, start : start + tall * wide] = True
            if self.in_a_plane:
                positions[:, index] = positions_of(longest, places)
        embeds = self.decoder.embed_tokens(ids.to(device))
        views = [view for row in rows for _, view in row[5]]
        deepstack: list[Tensor] = []
        if views:
            embeds = embeds.clone()
            embeds[seen.to(device)] = torch.cat([view[0] for view in views]).to(device, embeds.dtype)
            levels = len(views[0][2])
            deepstack = [torch.cat([view[2][level] for view in views]).to(device) for level in range(levels)]
        return Embedded(
            embeds,
            positions.to(device) if self.in_a_plane else positions[0].to(device),
            seen.to(device),
            deepstack,
            ids,
            roles,
            weights,
            [row[3] + [""] * (longest - len(row[0])) for row in rows],
            [row[4] for row in rows],
            [row[6] for row in rows],
        )

    def forward(self, embedded: Embedded, cache=None) -> Tensor:
        """One pass of the language model; causal, so that padding on the right is never seen.

        Returns:
            ``(batch, tokens, width)`` behind the final norm.
        """
        extra = {}
        if embedded.deepstack:
            extra = {"visual_pos_masks": embedded.pictures, "deepstack_visual_embeds": embedded.deepstack}
        return self.decoder(
            inputs_embeds=embedded.embeds,
            position_ids=embedded.positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **extra,
        ).last_hidden_state

    def read(self, chats: Sequence[Chat]) -> Embedded:
        """:meth:`tokenize`, :meth:`features` and :meth:`embed` of several chats."""
        return self.embed(
            [(self.tokenize(said), [[self.features(view) for view in views] for views in said.views]) for said in chats]
        )

    @torch.no_grad()
    def states(self, chats: Sequence[Chat], taps: Sequence[int] = ()) -> Encoded:
        """Inputs of the tapped layers of teacher-forced chats: one pass, up to the deepest tap.

        Args:
            chats: of any lengths, with any number of pictures each.
            taps: rising layers; their number itself is the end of the last one, behind the final norm. Empty: the model's own.
        """
        taps = tuple(taps) or self.taps
        embedded = self.read(chats)
        with tapped(self.decoder, taps, stop=True) as caught:
            self.forward(embedded)
        return Encoded(torch.stack([caught[tap] for tap in taps], dim=2).float(), taps, embedded)

    @contextmanager
    def _exact(self, pixels: Tensor) -> Iterator[None]:
        """The first layer of the vision tower gets the pixels as they are, not rounded to the dtype its weights lie in.

        transformers rounds them in front of it; where weights are cast as they are used (ComfyUI), that is not wanted.
        """
        if pixels.dtype == self.dtype or not self.casts:
            yield
            return
        first = next(
            part for part in self.model.get_submodule(self.kind.vision).modules() if isinstance(part, _CONVOLUTIONS)
        )
        hook = first.register_forward_pre_hook(lambda _module, args: (pixels.reshape(args[0].shape),))
        try:
            yield
        finally:
            hook.remove()

    # writing

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """UTF-8 bytes of every token."""
        return self.words.bytes_of(ids) if isinstance(self.words, FolderWords) else token_bytes(self.words, ids)

    @cached_property
    def never_written(self) -> set[int]:
        """Ids that are no text: control tokens other than those that end it, and rows of the table without a token."""
        rows = self.decoder.embed_tokens.weight.shape[0]
        added = {number for number in self.words.get_added_vocab().values() if number < rows}
        return added.union(range(len(self.words), rows)) - self.stops

    @torch.no_grad()
    def write(self, said: Chat, settings: Decoding | None = None, taps: Sequence[int] = ()) -> Written:
        """Continue the assistant's turn: one prefill, then one step a token on a KV cache.

        Args:
            said: system prompt, pictures, instruction and the first words of the answer.
            settings: how to draw; None is greedy, at most 256 tokens.
            taps: layers whose inputs are kept of the same passes; empty for text alone.
        """
        from transformers import DynamicCache

        settings = settings or Decoding()
        embedded = self.read([said])
        check_tokens(embedded.embeds.shape[1] + settings.max_length, self.context, quoted(self.name))
        cache = DynamicCache(config=self.config)
        generator = torch.Generator(self.device).manual_seed(settings.seed) if settings.sample else None
        following = embedded.positions.max() + 1
        kept: list[Tensor] = []
        ids: list[int] = []

        def run(part: Embedded, stop: bool = False) -> Tensor | None:
            if not taps:
                return self.forward(part, cache)[:, -1:]
            hidden = None
            with tapped(self.decoder, taps, stop=stop) as caught:
                hidden = self.forward(part, cache)[:, -1:]
            kept.append(torch.stack([caught[tap] for tap in taps], dim=2).float())
            return hidden

        def step(stop: bool = False) -> Tensor | None:
            token = torch.tensor([[ids[-1]]], device=self.device)
            place = (following + len(ids) - 1).reshape(1, 1)
            part = embedded._replace(
                embeds=self.decoder.embed_tokens(token),
                positions=place.expand(3, 1, 1) if self.in_a_plane else place,
                deepstack=[],
            )
            return run(part, stop)

        hidden, ending = run(embedded), AT_LIMIT
        while True:
            forbidden = self.never_written | (self.stops if len(ids) < settings.min_length else set())
            drawn = draw_token(self.model.lm_head(hidden)[:, -1].float(), settings, ids, generator, forbidden)
            if drawn in self.stops:
                ending = ENDED
                break
            ids.append(drawn)
            if len(ids) == settings.max_length:
                if taps:  # the state of a token exists once it has been fed
                    step(stop=True)
                break
            hidden = step()
        text = said.answer + b"".join(self.bytes_of(ids)).decode("utf-8", "ignore")
        roles = torch.cat([embedded.roles[0], torch.full((len(ids),), GENERATED, dtype=torch.int16)])
        return Written(text, ids, torch.cat(kept, dim=1) if taps else None, roles, embedded.openers[0], ending)


def positions_of(count: int, places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Positions of Qwen's vision-language models: a picture's tokens have its row and column, text goes on behind.

    Args:
        count: tokens of the sequence.
        places: (first token, rows, columns) of every view, in order.

    Returns:
        ``(3, count)`` int64: time, height, width.
    """
    out = torch.empty(3, count, dtype=torch.int64)
    token = position = 0
    for start, rows, columns in places:
        out[:, token:start] = torch.arange(position, position + start - token)
        position += start - token
        grid = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(rows), torch.arange(columns), indexing="ij"))
        out[:, start : start + rows * columns] = grid.flatten(1) + position
        token, position = start + rows * columns, position + max(rows, columns)
    out[:, token:] = torch.arange(position, position + count - token)
    return out


def _patches(pixels: Tensor, vision) -> Tensor:
    """``(1, 3, height, width)`` as the rows that Qwen's vision tower reads: merged squares together, a still "
    "twice in time."""
    patch, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = (size // (patch * merge) for size in pixels.shape[-2:])
    x = pixels[0].expand(times, *pixels.shape[1:]).reshape(times, 3, rows, merge, patch, columns, merge, patch)
    return x.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns * merge**2, -1)


def draw_token(
    logits: Tensor, settings: Decoding, written: Sequence[int], generator: torch.Generator | None, forbidden: set[int]
) -> int:
    """The next token; ranges and meanings as in ``verifi.Decoding``.

    Args:
        logits: ``(1, vocabulary)`` float32; changed in place.
        written: ids so far, for the repetition penalty.
        forbidden: ids that are not drawn.
    """
    if forbidden:
        logits[:, sorted(forbidden)] = float("-inf")
    if not settings.sample or settings.temperature == 0:
        return int(logits.argmax())
    if written and settings.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(written)), device=logits.device)
        some = logits[:, seen]
        logits[:, seen] = torch.where(some < 0, some * settings.repetition_penalty, some / settings.repetition_penalty)
    logits = logits / settings.temperature
    order = torch.arange(logits.shape[-1], device=logits.device)[None]
    if settings.top_k:
        logits, order = torch.topk(logits, min(settings.top_k, logits.shape[-1]))
    if settings.min_p:
        chances = logits.softmax(-1)
        logits = logits.masked_fill(chances < settings.min_p * chances.amax(-1, keepdim=True), float("-inf"))
    if settings.top_p < 1:
        ranked, places = logits.sort(descending=True)
        beyond = ranked.softmax(-1).cumsum(-1) > settings.top_p
        beyond[..., 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, places, beyond), float("-inf"))
    index = torch.multinomial(logits.softmax(-1), 1, generator=generator)
    return int(order.gather(1, index))


def template_for(kind: Kind, words) -> Template:
    """How this model writes a chat down, by the control tokens that its tokenizer has; a model without any "
    "reads bare text."""
    known = words.get_added_vocab()
    if kind.title == "SmolVLM2":
        return SMOLVLM
    if {"<|im_start|>", "<|im_end|>"} <= known.keys():
        return INTERNVL if kind.title == "InternVL" else QWEN
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= known.keys():
        return LLAMA3
    if {"[INST]", "[/INST]", "[SYSTEM_PROMPT]"} <= known.keys():
        return MISTRAL
    return replace(BARE, image=INTERNVL.image) if kind.title == "InternVL" else BARE


def _tied(model: nn.Module) -> set[str]:
    tied = getattr(model.config, "tie_word_embeddings", False)
    inner = getattr(getattr(model.config, "text_config", None), "tie_word_embeddings", False)
    return {"lm_head.weight"} if tied or inner else set()


def _named_taps(values: dict, name: str, layers: int) -> tuple[int, ...]:
    """Taps that config.json names, or none."""
    taps = values.get("taps")
    if taps is None:
        return ()
    good = isinstance(taps, list) and taps and all(type(tap) is int and 0 <= tap < layers for tap in taps)
    if not good or taps != sorted(set(taps)):
        raise ValueError(
            f"config.json in {quoted(name)} names taps {quoted(taps)}; expected are rising layer numbers from 0 "
            f"to {layers - 1}. "
            f"Correct or remove the entry."
        )
    return tuple(taps)


def _stops(folder: Path, values: dict) -> list[int]:
    """Ids that end a text, by config.json and generation_config.json."""
    tables = [values, values.get("text_config", {})]
    if (folder / "generation_config.json").is_file():
        tables.append(read_json(folder / "generation_config.json"))
    found = []
    for table in tables:
        value = table.get("eos_token_id") if isinstance(table, dict) else None
        found += [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]
    return found


def _image_token(kind: Kind, values: dict) -> int | None:
    number = values.get("image_token_id", values.get("image_token_index"))
    return number if kind.vision and type(number) is int else None


def _read_words(folder: Path, kind: Kind, values: dict, rows: int):
    """The tokenizer of a folder.

    Raises:
        ValueError: if it is damaged, has more tokens than the model, or no token for pictures.
    """
    about = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file() and about.is_file() and "world_words" in read_json(about):
        try:
            words = load_words(folder)
        except Exception as error:  # whatever transformers raises for a damaged vocabulary
            raise ValueError(
                f"The tokenizer in {quoted(folder.name)} cannot be read ({printable(error)[:120].rstrip('.')}). "
                f"Take it from the "
                f"training of its weights."
            ) from None
        highest = len(words) - 1
    else:
        tokenizer = read_tokenizer(folder)
        number = _image_token(kind, values)
        image = tokenizer.id_to_token(number) if number is not None and 0 <= number < 2**31 else None
        if kind.vision and not image:
            raise ValueError(
                f"The tokenizer in {quoted(folder.name)} has no token for pictures (image_token_id in config.json is "
                f"{quoted(number)}). Take both files from the same download."
            )
        words = FolderWords(tokenizer, folder.name, image or "", number if image else None)
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < rows:
        raise ValueError(
            f"The tokenizer in {quoted(folder.name)} counts to {highest}, but the model has {rows} rows. Take "
            f"both from the same "
            f"download or training."
        )
    return words


__all__ = ["KINDS", "Chat", "Embedded", "Encoded", "TransformersVLM", "Written", "default_taps"]
