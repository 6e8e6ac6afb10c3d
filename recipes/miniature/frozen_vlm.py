"""The frozen miniature VLM for training use: load it, save it, read its tapped states for whole batches.

The rule of what conditions a picture (paper, VERIFI): image tokens and the caption's tokens (not ``<|im_end|>``) are
selected; system prompt, template and instruction are masked out, though the selected tokens have attended to them.
With an empty caption and no picture (the unconditional or negative case) the assistant's opener,
``<|im_start|>assistant\\n``, is selected instead, so that a selection is never empty.

Files of a folder: ``model.safetensors`` (bfloat16, parameter names of ComfyUI's ``Qwen3VL``: ``model.*`` with
``model.lm_head``, and ``visual.*``), ``config.json`` (transformers' form, plus ``taps``), the tokenizer's files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unifusion.miniature import VLM_FOLDER, VLMConfig, read_config

from .chats import Chat, ChatTokenizer
from .vlm_model import Qwen3VL
from .vocabulary import FILES as TOKENIZER_FILES
from .vocabulary import build_tokenizer, load_tokenizer


@dataclass
class Encoded:
    """Teacher-forced states of a batch of chats.

    Attributes:
        states: (batch, tokens, taps, width) float32, not normalised; garbage where padded.
        roles: (batch, tokens) int64, roles of ``unifusion.hidden_states``, -1 where padded.
        selected: (batch, tokens) bool, the tokens that condition a picture.
    """

    states: Tensor
    roles: Tensor
    selected: Tensor

    def compact(self, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Selected tokens alone, in order: (batch, length, taps, width) with zeros as padding, and a bool mask.

        ``length`` None takes the longest selection.  Raises ValueError when one is longer.
        """
        counts = self.selected.sum(1)
        length = int(counts.max()) if length is None else length
        if counts.max() > length:
            raise ValueError(f"a selection has {int(counts.max())} tokens, more than the {length} asked for")
        mask = torch.arange(length, device=counts.device) < counts[:, None]
        states = self.states.new_zeros(*mask.shape, *self.states.shape[2:])
        states[mask] = self.states[self.selected]
        return states, mask


class FrozenVLM:
    """Weights and tokenizer of a frozen miniature VLM (``model`` is a :class:`~.qwen3vl.Qwen3VL`).

    Its states need no rescaling: training holds them near RMS 1 at every tap (``SCALE`` in ``vlm_train``).
    """

    def __init__(self, model: Qwen3VL, tokenizer: ChatTokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    @property
    def taps(self) -> tuple[int, ...]:
        return self.model.config.taps

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @torch.no_grad()
    def encode(
        self,
        chats: list[Chat],
        length: int | None = None,
        autocast: bool = False,
        selections: Sequence[str] | None = None,
    ) -> Encoded:
        """States of teacher-forced chats (an ``answer`` of None or "" gives the unconditional selection).

        ``length`` fixes the padded length; ``autocast`` computes in bfloat16 (faster, about 1% off); ``selections`` as in
        :meth:`ChatTokenizer.collate`.
        """
        device = self.model.model.embed_tokens.weight.device
        batch = self.tokenizer.collate(chats, length, selections)
        pictures = None if batch.pictures is None else batch.pictures.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            _, tapped, _ = self.model(
                batch.ids.to(device),
                batch.positions.to(device),
                batch.image_mask.to(device),
                pictures,
                last_layer=max(self.taps),
            )
        return Encoded(torch.stack(tapped, 2).float(), batch.roles.to(device), batch.selected.to(device))


def encode_batch(vlm: FrozenVLM, items, length: int | None = None, autocast: bool = False) -> Encoded:
    """States of (pictures, instruction, caption) triples; see :meth:`FrozenVLM.encode`.

    ``pictures``: a list of uint8 (128, 128, 3) arrays (one view each), maybe empty; ``caption``: "" for the
    unconditional case.
    """
    chats = [
        Chat(instruction, [[picture] for picture in pictures], caption) for pictures, instruction, caption in items
    ]
    return vlm.encode(chats, length, autocast)


def transformers_config(config: VLMConfig, tokenizer) -> dict:
    """config.json in transformers' ``qwen3_vl`` form; ``taps`` is ours."""
    ids = dict(
        zip(
            ("image_token_id", "vision_start_token_id", "vision_end_token_id", "pad_token_id", "eos_token_id"),
            tokenizer.convert_tokens_to_ids(
                ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>", "<|im_end|>"]
            ),
        )
    )
    text = dict(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        hidden_act="silu",
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        attention_bias=False,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=ids["pad_token_id"],
        rope_parameters=dict(
            rope_type="default",
            rope_theta=config.rope_theta,
            mrope_interleaved=True,
            mrope_section=list(config.rope_dims),
        ),
    )
    vision = dict(
        depth=config.vision_depth,
        hidden_size=config.vision_hidden_size,
        num_heads=config.vision_heads,
        intermediate_size=config.vision_intermediate_size,
        out_hidden_size=config.hidden_size,
        in_channels=3,
        patch_size=16,
        temporal_patch_size=2,
        spatial_merge_size=2,
        hidden_act="gelu_pytorch_tanh",
        num_position_embeddings=config.num_position_embeddings,
        deepstack_visual_indexes=list(config.deepstack_visual_indexes),
    )
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"],
        model_type="qwen3_vl",
        tie_word_embeddings=False,
        text_config=text,
        vision_config=vision,
        taps=list(config.taps),
        **ids,
    )


def load_vlm(folder: str | Path = VLM_FOLDER, device: str | torch.device = "cpu") -> FrozenVLM:
    """A frozen VLM in float32 from a folder of :func:`save_vlm`."""
    model = Qwen3VL(read_config(folder))
    model.load_state_dict({name: p.float() for name, p in load_file(Path(folder) / "model.safetensors").items()})
    return FrozenVLM(model.to(device), ChatTokenizer(load_tokenizer(folder)))


def copy_tokenizer(source: str | Path, folder: str | Path) -> None:
    """Copies the files of :func:`~.tokenizer.build_tokenizer` and nothing else."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(Path(source) / name, Path(folder) / name)


def save_vlm(model: Qwen3VL, folder: str | Path, tokenizer_folder: str | Path | None = None) -> None:
    """Writes weights in bfloat16, configuration and tokenizer.

    ``tokenizer_folder`` holds the tokenizer of the training (``<out>/tokenizer``); None builds it anew, which is the
    same one only as long as the world's words are.
    """
    folder = Path(folder)
    if tokenizer_folder is None:
        build_tokenizer(folder)
    else:
        copy_tokenizer(tokenizer_folder, folder)
    save_file(
        {name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.state_dict().items()},
        folder / "model.safetensors",
    )
    config = transformers_config(model.config, load_tokenizer(folder))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def as_transformers(vlm: FrozenVLM):
    """The same weights in transformers' ``Qwen3VLForConditionalGeneration`` (float32)."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    values = transformers_config(vlm.model.config, vlm.tokenizer.tokenizer)
    config = Qwen3VLConfig(**{k: v for k, v in values.items() if k not in ("architectures", "model_type", "taps")})
    twin = Qwen3VLForConditionalGeneration(config).eval()
    renamed = {}
    for name, p in vlm.model.state_dict().items():
        if name == "model.lm_head.weight":
            name = "lm_head.weight"
        elif name.startswith("model."):
            name = "model.language_model." + name.removeprefix("model.")
        else:
            name = "model." + name
        renamed[name] = p
    twin.load_state_dict(renamed)
    return twin
