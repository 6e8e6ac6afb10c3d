"""Chats of the miniature VLM as padded tensors: Qwen's template, token roles, MRoPE positions.

A chat is ``<|im_start|>system ... <|im_start|>user {pictures}{instruction}<|im_end|> <|im_start|>assistant {answer}``;
with no system prompt the first turn is left away (ComfyUI's own text generation does that).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unifusion.hidden_states import GENERATED, INSTRUCTION, SYSTEM, TEMPLATE, image_role
from unifusion.miniature import IMAGE_TOKENS
from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

from .vlm_model import mrope_positions

PADDING = -1  # role of the padding


@dataclass
class Chat:
    """What one sequence says.

    Attributes:
        instruction: the user's words.
        pictures: for each picture its views, each uint8 (128, 128, 3); tiles first, thumbnail last.
        answer: the assistant's words; None leaves the assistant's turn open.
        labels: words before each picture, or empty.
    """

    instruction: str
    pictures: list[list[np.ndarray]] = field(default_factory=list)
    answer: str | None = None
    system: str = VERIFI_SYSTEM
    labels: tuple[str, ...] = ()


@dataclass
class Batch:
    """Padded chats.  Sequences are padded on the right.

    Attributes:
        ids, roles: (batch, tokens) int64; roles as in ``unifusion.hidden_states``, PADDING where padded.
        selected: (batch, tokens) bool: the tokens that condition a picture.
        positions: (3, batch, tokens); image_mask: (batch, tokens) bool; pictures: (views, 128, 128, 3) uint8 or None.
        answer_start: first token after ``<|im_start|>assistant\\n``; lengths: tokens without padding; both (batch,).
    """

    ids: Tensor
    roles: Tensor
    selected: Tensor
    positions: Tensor
    image_mask: Tensor
    pictures: Tensor | None
    answer_start: Tensor
    lengths: Tensor


class ChatTokenizer:
    """Chats to token ids and roles, segment by segment.

    No token of this tokenizer spans a border of two segments (specials, line ends and full words separate them), so
    the ids equal those of the chat tokenised as one string.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.pad, self.end, self.image_pad = tokenizer.convert_tokens_to_ids(
            ["<|endoftext|>", "<|im_end|>", "<|image_pad|>"]
        )
        self.spelled = getattr(tokenizer, "spelled", str)  # as the nodes read a prompt
        self.ids = lru_cache(maxsize=65536)(lambda text: tuple(tokenizer(text)["input_ids"]) if text else ())

    def __call__(self, chat: Chat) -> tuple[list[int], list[int], int]:
        """(ids with 16 image tokens per view, roles, index of the answer's first token)."""
        ids: list[int] = []
        roles: list[int] = []

        def put(text: str, role: int) -> None:
            new = self.ids(text)
            ids.extend(new)
            roles.extend([role] * len(new))

        if chat.system:
            put("<|im_start|>system\n", SYSTEM)
            put(chat.system, SYSTEM)
            put("<|im_end|>\n", SYSTEM)
        put("<|im_start|>user\n", SYSTEM if chat.system else TEMPLATE)
        for index, views in enumerate(chat.pictures):
            if index < len(chat.labels):
                put(chat.labels[index], TEMPLATE)
            for _ in views:
                put("<|vision_start|>", TEMPLATE)
                ids.extend([self.image_pad] * IMAGE_TOKENS)
                roles.extend([image_role(index)] * IMAGE_TOKENS)
                put("<|vision_end|>", TEMPLATE)
        put(self.spelled(chat.instruction), INSTRUCTION)
        put("<|im_end|>\n", TEMPLATE)
        put("<|im_start|>assistant\n", TEMPLATE)
        start = len(ids)
        if chat.answer is not None:
            put(chat.answer, GENERATED)
            ids.append(self.end)
            roles.append(TEMPLATE)
        return ids, roles, start

    def collate(self, chats: list[Chat], length: int | None = None) -> Batch:
        """Padded tensors of several chats; ``length`` fixes the padded length (None: the longest).

        Raises:
            ValueError: if a chat is longer than ``length``.
        """
        rows = [self(chat) for chat in chats]
        longest = max(len(ids) for ids, _, _ in rows)
        if length is not None and longest > length:
            raise ValueError(f"a chat has {longest} tokens, more than the {length} asked for")
        shape = (len(rows), length or longest)
        ids, roles = np.full(shape, self.pad), np.full(shape, PADDING)
        selected = np.zeros(shape, dtype=bool)
        for index, (row, row_roles, start) in enumerate(rows):
            ids[index, : len(row)], roles[index, : len(row)] = row, row_roles
            chosen = (roles[index] == GENERATED) | (roles[index] >= image_role(0))
            if not chosen.any():
                chosen[start - 3 : start] = True  # "<|im_start|>assistant\n": a selection is never empty
            selected[index] = chosen
        views = [view for chat in chats for picture in chat.pictures for view in picture]
        image_mask = torch.from_numpy(roles >= image_role(0))
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(roles),
            torch.from_numpy(selected),
            mrope_positions(image_mask),
            image_mask,
            torch.from_numpy(np.stack(views)) if views else None,
            torch.tensor([start for _, _, start in rows]),
            torch.tensor([len(row) for row, _, _ in rows]),
        )
