"""A ComfyUI text encoder (``CLIP``) as the VLM of the method: tokenise, embed, states of taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import comfy.model_management
import torch

from ...folder_words import FolderWords
from ...hidden_states import SYSTEM, TEMPLATE, HiddenStates, make_hidden_states
from ...limits import check_tokens
from ...messages import IMAGE_PAD, OPENER, Segment, Tokens
from ...profiles import NOT_SERVED, PROFILES, Profile, profile_of_encoder
from ...quoting import quoted
from ...references import TOKEN
from .clip_hooks import check_hooks
from .kept import KeptStates, states_key, states_store
from .picture_features import image_features
from .prefix import Prefix, embed_in_parts, read_rest
from .tokenizers import adapted, bytes_of, tokenize

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LaidOut(NamedTuple):
    """What is known of every token of a chat once pictures are expanded to their tokens.

    Attributes:
        roles, weights, pieces: one per expanded token.
        opener: first token of the assistant's turn.
    """

    roles: list[int]
    weights: list[float]
    pieces: list[str]
    opener: int


class Embedded(NamedTuple):
    """A chat as input embeddings, images expanded.

    Attributes:
        embeds: ``(1, tokens, width)`` float32 on the encoder's device.
        mask: ``(1, tokens)`` int64, ones.
        info: ComfyUI's list of image spans with grid and DeepStack features.
        roles, weights, pieces, opener: as in :class:`LaidOut`.
        grids: for each picture, (rows, columns) of tokens of each view.
        prefix: first tokens that were read already; then ``embeds``, ``mask`` and ``info`` are those of the rest alone.
    """

    embeds: torch.Tensor
    mask: torch.Tensor
    info: list[dict]
    roles: list[int]
    weights: list[float]
    pieces: list[str]
    opener: int
    grids: tuple[tuple[tuple[int, int], ...], ...]
    prefix: Prefix | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of every view."""
        return self.prefix.sizes if self.prefix else tuple(span["size"] for span in self.info)

    @property
    def tokens(self) -> int:
        return self.embeds.shape[1] + (self.prefix.count if self.prefix else 0)


# Text encoders of ComfyUI 0.30 that have decoder layers, but no row.
_WHY_NOT = {
    "Gemma": "belongs to a model whose conditioning has not been compared with ComfyUI's own",
    "Qwen35": "keeps a recurrent state in most layers, and ComfyUI builds no picture positions for it",
    "Qwen": "belongs to a model whose conditioning has not been compared with ComfyUI's own",
    "Ministral": "belongs to a model whose conditioning has not been compared with ComfyUI's own",
    "Mistral": "belongs to a model whose conditioning has not been compared with ComfyUI's own",
}


def why_not(transformer: type) -> str:
    """Why a class of text encoder cannot be used, as the end of a sentence that begins with its name."""
    names = [parent.__name__ for parent in transformer.__mro__]
    for family, reason in _WHY_NOT.items():
        if any(name.startswith(family) for name in names):
            return reason
    return "is not a language model whose layers can be tapped"


def grid_of(extra) -> torch.Tensor:
    """``(1, 3)`` patches of a picture along time, height and width, as the encoder's own code keeps it."""
    return extra["grid"] if isinstance(extra, dict) else extra


def picture_inputs(transformer, embeds: torch.Tensor, info: list[dict]) -> dict:
    """What the decoder wants to know of pictures: positions, where they are, and their DeepStack features.

    ComfyUI's own forward pass finds it out by itself from 0.27 on only; Qwen2.5-VL's always did.
    """
    if not hasattr(transformer, "build_image_inputs"):
        return {}
    positions, pictures, deepstack = transformer.build_image_inputs(embeds, info) if info else (None, None, None)
    return {"position_ids": positions, "visual_pos_masks": pictures, "deepstack_embeds": deepstack}


class _DeepestTapReached(Exception):
    pass


def _stop_if_asked_to(*_layer) -> None:
    """In front of a decoder layer: over a book one layer takes seconds, and a creator's cancel counts between two."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def _classes(module) -> list[type]:
    """Classes of a CLIP's module, the nearest first.

    ComfyUI makes the last class anew for every file, with an underscore behind its name, and that name may be another
    model's: HunyuanImage's is called after Qwen-Image's.
    """
    return [parent for parent in type(module).__mro__ if not parent.__name__.endswith("_")]


def _refusal(module, transformer) -> str:
    """The beginning of a sentence that says which text encoder this is and why it cannot be used."""
    for parent in _classes(module):
        for model in NOT_SERVED:
            if parent.__name__ == model.encoder:
                return f"This text encoder ({parent.__name__}) belongs to {model.title}, which {model.reason}"
    return f"This text encoder ({_classes(module)[0].__name__}) {why_not(type(transformer))}"


def _row_of(module) -> Profile | None:
    """The row of a CLIP's module: the nearest of its classes that says how it encodes."""
    for parent in _classes(module):
        row = profile_of_encoder(parent.__name__, getattr(module, "clip", ""))
        if row is not None or "encode_token_weights" in vars(parent):
            return row
    return None


class VLM:
    """The text encoder of one ``CLIP``, seen as a stack of decoder layers.

    Raises:
        ValueError: if the text encoder has no decoder layers that can be tapped, or no row of ``profiles`` knows it.
    """

    def __init__(self, clip):
        check_hooks(clip)
        self.clip = clip
        model = clip.cond_stage_model
        self.encoder = getattr(model, getattr(model, "clip", ""), None)
        transformer = getattr(self.encoder, "transformer", None)
        decoder = getattr(transformer, "model", None)
        self.wrapper = getattr(clip.tokenizer, getattr(clip.tokenizer, "clip", ""), None)
        self.tokenizer = adapted(getattr(self.wrapper, "tokenizer", None))
        kind = _classes(model)[0].__name__
        self.row = getattr(model, "unifusion_row", None) or _row_of(model)  # a folder brings its own
        if not hasattr(decoder, "layers") or (self.row is None and not hasattr(transformer, "build_image_inputs")):
            raise ValueError(
                f"{_refusal(model, transformer)}. Load a Qwen3-VL encoder "
                f"(CLIPLoader, type 'krea2'), the UniFusion miniature, or an encoder of docs/models.md."
            )
        self.decoder = decoder
        self.transformer = transformer
        self.kind = kind
        self.device = clip.patcher.load_device
        self.computed = self.reused = 0  # sequences, by this node's run
        self.in_front_read = self.in_front_reused = 0  # of what stands in front of their words

    @property
    def name(self) -> str:
        """Name kept with hidden states; the same for every clone of the encoder, with or without LoRA."""
        model = self.clip.cond_stage_model
        return f"{getattr(model, 'unifusion_name', model.clip)} ({self.layers} layers, width {self.width})"

    @property
    def layers(self) -> int:
        return len(self.decoder.layers)

    @property
    def width(self) -> int:
        return self.decoder.config.hidden_size

    @property
    def profile(self) -> Profile:
        """The profile this encoder belongs to."""
        row = self.row or PROFILES["qwen3vl"]
        own = getattr(self.clip.cond_stage_model, "unifusion_taps", None)  # a folder's, in place of the table's
        return row if own is None or own == row.taps else replace(row, taps=own)

    def check_profile(self, profile: Profile) -> None:
        """Refuse a chat whose control tokens the encoder does not have; each would be read as several pieces of text.

        Raises:
            ValueError: naming the first of them.
        """
        if not isinstance(self.tokenizer, FolderWords):
            return
        known = self.tokenizer.get_added_vocab()
        for template in (profile.chat, profile.writing_chat):
            for token in template.control_tokens():
                if token not in known:
                    raise ValueError(
                        f"The profile '{profile.key}' writes {quoted(token)}, which {self.name} does not know. Set profile to "
                        f"'auto', or load the text encoder that belongs to {profile.title}."
                    )

    @property
    def reads_pictures(self) -> bool:
        """Whether the encoder has a vision tower."""
        return hasattr(self.transformer, "visual") and hasattr(self.transformer, "preprocess_embed")

    @property
    def picture_side(self) -> int:
        """Pixels of both sides of every view, where the encoder has learned one size alone; 0 = any."""
        return getattr(self.clip.cond_stage_model, "unifusion_side", 0)

    @property
    def token_side(self) -> int:
        """Pixels along one side of a token of a picture."""
        own = getattr(self.clip.cond_stage_model, "unifusion_token_side", 0)
        return own or 2 * getattr(getattr(self.transformer, "visual", None), "patch_size", TOKEN // 2)

    def tokenize(self, segments: Sequence[Segment], *, opener: str = OPENER, pad: bool = False) -> Tokens:
        """Tokens of a chat.

        Args:
            segments: from ``messages.chat``.
            opener: text of the segment that opens the assistant's turn.
            pad: whether to pad as the stock encode does.
        """
        return tokenize(segments, self.wrapper, self.tokenizer, opener=opener, pad=pad)

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """UTF-8 bytes of every token."""
        return bytes_of(self.tokenizer, ids)

    def load(self, tokens: int, taps: int, precision: str = "fp32", rows: int = 1) -> None:
        """Ask ComfyUI to bring the encoder to its device with room for ``rows`` sequences of ``tokens``.

        ComfyUI has no estimate of its own for these encoders. Counted: KV cache or activations of one layer, the
        causal mask, and the tapped states.
        """
        size = torch.finfo(PRECISIONS[precision]).bits // 8
        config = self.decoder.config
        cache = 2 * self.layers * config.num_key_value_heads * config.head_dim * size
        activations = 4 * (config.hidden_size + config.intermediate_size) * size
        need = tokens * (rows * (cache + taps * self.width * 4) + activations) + 2 * tokens * tokens * size
        comfy.model_management.load_models_gpu([self.clip.patcher], memory_required=need)
        self.clip.cond_stage_model.reset_clip_options()
        self.clip.cond_stage_model.set_clip_options({"execution_device": self.device})

    def embed(self, tokens: Tokens, pictures: Sequence[Sequence[torch.Tensor]] = ()) -> Embedded:
        """Input embeddings of a chat; pictures' features are reused when the same picture was seen before.

        Args:
            tokens: from :meth:`tokenize`, with one ``<|image_pad|>`` per view.
            pictures: for each picture its views, each ``(1, height, width, 3)`` in 0..1.

        Raises:
            ValueError: if there are pictures and the encoder cannot see.
        """
        views = [view for picture in pictures for view in picture]
        if views and not self.reads_pictures:
            raise ValueError(
                f"This text encoder ({self.kind}, {self.name}) reads text alone, so it cannot see the pictures. "
                f"Disconnect them, or load an encoder that sees, such as Qwen3-VL-4B (CLIPLoader, type 'krea2')."
            )
        features = [image_features(self, view) for view in views]
        queue = iter(features)
        pad = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD) if views else None
        row = [{"type": "embedding", "data": next(queue)[0]} if token == pad else token for token in tokens.ids]
        embeds, mask, _, info = self.encoder.process_tokens([row], self.device)
        sizes = []
        for span, (_, extra) in zip(info, features, strict=True):
            span.update(type="image", extra=extra)
            grid = grid_of(extra)
            sizes.append((int(grid[0][1]) // 2, int(grid[0][2]) // 2))
        laid = self.lay_out(tokens, [span["size"] for span in info])
        grids, rest = [], iter(sizes)
        for picture in pictures:
            grids.append(tuple(next(rest) for _ in picture))
        return Embedded(embeds, mask, info, *laid, tuple(grids))

    def lay_out(self, tokens: Tokens, sizes: Sequence[int]) -> LaidOut:
        """Roles, weights and pieces of a chat whose views take ``sizes`` tokens each; nothing is computed for it."""
        pad = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD) if sizes else None
        roles, weights, pieces, opener, lengths = [], [], [], tokens.opener, iter(sizes)
        for index, token in enumerate(tokens.ids):
            if index == tokens.opener:
                opener = len(roles)
            count = next(lengths) if token == pad else 1
            roles += [tokens.roles[index]] * count
            weights += [tokens.weights[index]] * count
            pieces += [""] * count if token == pad else [tokens.pieces[index]]
        return LaidOut(roles, weights, pieces, opener)

    def kept(
        self,
        key: tuple,
        make: Callable[[], KeptStates],
        serves: Callable[[KeptStates], bool] = lambda _kept: True,
    ) -> KeptStates:
        """Kept states that serve, or what ``make`` computes, which is then kept; both are counted for the report."""
        return self.kept_of_several([key], lambda _missing: [make()], serves)[0]

    def kept_of_several(
        self,
        keys: Sequence[tuple],
        make: Callable[[list[int]], list[KeptStates]],
        serves: Callable[[KeptStates], bool] = lambda _kept: True,
    ) -> list[KeptStates]:
        """:meth:`kept` for each key; ``make`` is given the numbers of those that are missing, and computes them at once."""
        store = states_store(self)
        found = [store.find(key, serves) for key in keys]
        missing = [index for index, kept in enumerate(found) if kept is None]
        self.reused += len(keys) - len(missing)
        self.computed += len(missing)
        for index, made in zip(missing, make(missing) if missing else (), strict=True):
            found[index] = made
            store.put(keys[index], made, made.nbytes)
        return found

    @contextmanager
    def tapped(self, taps: Sequence[int], stop: bool, into: torch.Tensor | None = None):
        """Collect the inputs of the tapped layers; yields a dict layer -> ``(1, tokens, width)``.

        Args:
            taps: layers; their number itself is the end of the last one, behind the final norm where the row says so.
            stop: end the forward pass at the deepest tap; what lies behind it is not needed for conditioning.
            into: ``(1, tokens, taps, width)`` for the last tokens of the pass, filled in place of the dict; no layer's input
                is held any longer than it is needed.
        """
        caught: dict[int, torch.Tensor] = {}
        deepest = max(taps)
        columns = {tap: column for column, tap in enumerate(taps)}

        def caught_at(layer, value):
            if into is None:
                caught[layer] = value
            else:
                into[:, :, columns[layer]] = value[:, value.shape[1] - into.shape[1] :]
            if stop and layer == deepest:
                raise _DeepestTapReached

        def before(layer):
            return lambda _module, args, kwargs: caught_at(layer, kwargs["x"] if "x" in kwargs else args[0])

        norm, layers = self.decoder.norm, self.decoder.layers
        handles = [layer.register_forward_pre_hook(_stop_if_asked_to) for layer in layers]
        for tap in taps:
            if tap < len(layers):
                handles.append(layers[tap].register_forward_pre_hook(before(tap), with_kwargs=True))
            elif norm is None:
                handles.append(layers[-1].register_forward_hook(lambda _m, _a, out, tap=tap: caught_at(tap, out[0])))
            elif self.profile.final_norm:
                handles.append(norm.register_forward_hook(lambda _m, _a, out, tap=tap: caught_at(tap, out)))
            else:
                handles.append(norm.register_forward_pre_hook(before(tap), with_kwargs=True))
        try:
            yield caught
        except _DeepestTapReached:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def states(self, embedded: Embedded, taps: Sequence[int], precision: str = "fp32") -> torch.Tensor:
        """One forward pass up to the deepest tap.

        Equal to the tail of ComfyUI's own encoding bit for bit in fp32, which is how ComfyUI encodes.

        Returns:
            ``(1, tokens, taps, width)`` float32 on ComfyUI's intermediate device.
        """
        embeds = embedded.embeds.to(PRECISIONS[precision])
        if embedded.prefix:
            return self._states_in_parts(embedded, embedded.prefix, taps, PRECISIONS[precision])
        with comfy.model_management.cuda_device_context(self.device), self.tapped(taps, stop=True) as caught:
            self.transformer(
                None,
                embedded.mask if self.encoder.enable_attention_masks else None,
                embeds=embeds,
                num_tokens=[embedded.tokens],
                embeds_info=embedded.info,
                dtype=torch.float32,
                **picture_inputs(self.transformer, embeds, embedded.info),
            )
        return stack(caught, taps)

    def _states_in_parts(
        self, embedded: Embedded, prefix: Prefix, taps: Sequence[int], dtype: torch.dtype
    ) -> torch.Tensor:
        """As :meth:`states`; equal to it up to rounding."""
        cache = prefix.cache(self.transformer, embedded.embeds.shape[1], self.device, dtype)
        with comfy.model_management.cuda_device_context(self.device), self.tapped(taps, stop=True) as caught:
            read_rest(self, embedded, cache, dtype)
        rest = stack(caught, taps)
        assert prefix.states is not None  # it was read for states
        return torch.cat([prefix.states.to(rest), rest], dim=1)

    @staticmethod
    def dtype_of(precision: str) -> torch.dtype:
        """What a precision computes in."""
        return PRECISIONS[precision]


def stack(caught: dict[int, torch.Tensor], taps: Sequence[int]) -> torch.Tensor:
    """``(1, tokens, taps, width)`` float32 from caught layer inputs, on ComfyUI's intermediate device."""
    states = torch.stack([caught[tap] for tap in taps], dim=2)
    return states.float().to(comfy.model_management.intermediate_device())


def encode(
    vlm: VLM,
    segments: Sequence[Segment],
    taps: Sequence[int],
    pictures=(),
    precision: str = "fp32",
    *,
    opener: str = OPENER,
    pad: bool = False,
    drop: int = 0,
    in_parts: bool = True,
    **about,
) -> tuple[HiddenStates, int]:
    """Teacher-forced pass over a chat, or the kept states of the same one.

    Args:
        opener, pad: as in :meth:`VLM.tokenize`.
        drop: tokens at the beginning that count as system, and no others before the user's words.
        in_parts: whether a chat with pictures may be read in parts (see ``prefix``).

    Returns:
        (hidden states of every token, index of the first token of the assistant's turn)
    """
    tokens = vlm.tokenize(segments, opener=opener, pad=pad)
    if drop:
        roles = [TEMPLATE if role == SYSTEM else role for role in tokens.roles]
        tokens = tokens._replace(roles=[SYSTEM] * drop + roles[drop:])
    seen = sum(view.shape[1] * view.shape[2] // vlm.token_side**2 for views in pictures for view in views)
    check_tokens(len(tokens.ids) + seen, vlm.decoder.config.max_position_embeddings, vlm.name)

    def read() -> KeptStates:
        vlm.load(len(tokens.ids) + seen, len(taps), precision)
        embedded = embed_in_parts(vlm, tokens, pictures, taps, precision) if in_parts else vlm.embed(tokens, pictures)
        return KeptStates(vlm.states(embedded, taps, precision).cpu(), embedded.sizes, embedded.grids)

    kept = vlm.kept(states_key(vlm, tokens.ids, pictures, taps, precision, in_parts), read)
    laid = vlm.lay_out(tokens, kept.sizes)
    return make_hidden_states(
        kept.handed_out(),
        laid.roles,
        laid.pieces,
        taps,
        vlm.name,
        grids=kept.grids,
        weights=torch.tensor(laid.weights),
        **about,
    ), laid.opener
