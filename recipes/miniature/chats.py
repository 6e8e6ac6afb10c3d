"""Chats of the miniature VLM as padded tensors: token roles, selection, MRoPE positions.

Template, roles and selection are the nodes' own (``unifusion.messages``, ``chat_templates``, ``selection``). With no system
prompt the first turn is left away (ComfyUI's own text generation does that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unifusion.chat_templates import QWEN, QWEN_USER_ONLY
from unifusion.hidden_states import TEMPLATE, image_role
from unifusion.messages import IMAGE_PAD, Segment, spelled_as_meant
from unifusion.messages import chat as write_chat
from unifusion.miniature import IMAGE_TOKENS
from unifusion.selection import selection_mask
from unifusion.system_prompts import MINIATURE_SYSTEM as VERIFI_SYSTEM

from .vlm_model import mrope_positions

PADDING = -1  # role of the padding
END = QWEN.close.rstrip("\n")
CONDITIONS = "images and rewritten text"  # where there is no text, the tokens that open the answer too


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
    """Chats to token ids and roles: the nodes' own template (``messages.chat``), segment by segment.

    No token of this tokenizer spans a border of two segments (specials, line ends and full words separate them), so
    the ids equal those of the chat tokenised as one string (``messages.tokenize``), and a segment's are kept.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.pad, self.end, self.image_pad = tokenizer.convert_tokens_to_ids(["<|endoftext|>", END, IMAGE_PAD])
        self.ids = lru_cache(maxsize=65536)(lambda text: tuple(tokenizer(text)["input_ids"]) if text else ())
        self.opening = len(self.ids(QWEN.opener))

    def segments(self, chat: Chat) -> list[Segment]:
        """What is said, each piece with its role; a given answer is ended."""
        written = write_chat(
            chat.system,
            spelled_as_meant(chat.instruction, self.tokenizer),
            [len(views) for views in chat.pictures],
            chat.labels,
            chat.answer or "",
            template=QWEN if chat.system else QWEN_USER_ONLY,
        )
        return written if chat.answer is None else [*written, Segment(END, TEMPLATE)]

    def __call__(self, chat: Chat) -> tuple[list[int], list[int], int]:
        """(ids with 16 image tokens per view, roles, index of the answer's first token)."""
        ids: list[int] = []
        roles: list[int] = []
        start = 0
        for segment in self.segments(chat):
            new = (self.image_pad,) * IMAGE_TOKENS if segment.text == IMAGE_PAD else self.ids(segment.text)
            ids.extend(new)
            roles.extend([segment.role] * len(new))
            if segment.text == QWEN.opener:
                start = len(ids)
        return ids, roles, start

    def selected(self, chat: Chat, roles: list[int], start: int, selection: str = CONDITIONS) -> Tensor:
        """``(tokens,)`` bool by the nodes' own rule (``selection_mask``); the token that ends an answer is never among them.

        Args:
            chat, roles, start: what :meth:`__call__` was given and returned.
            selection: one of ``selection.SELECTIONS``.
        """
        mask = torch.zeros(len(roles), dtype=torch.bool)
        count = len(roles) - (chat.answer is not None)
        mask[:count] = selection_mask(torch.tensor(roles[:count]), selection, start - self.opening)
        return mask

    def collate(self, chats: list[Chat], length: int | None = None, selections: Sequence[str] | None = None) -> Batch:
        """Padded tensors of several chats; ``length`` fixes the padded length (None: the longest).

        Args:
            selections: what conditions the picture, for each chat; None: its pictures and its answer.

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
            selection = CONDITIONS if selections is None else selections[index]
            selected[index, : len(row)] = self.selected(chats[index], row_roles, start, selection)
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
