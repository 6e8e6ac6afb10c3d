"""Results kept while the encoder stays: features of pictures, and hidden states of what was read or written.

A strength, a schedule, the weight of a word, layer gains and the selection of tokens change nothing that the encoder
computes, so moving one of them needs no forward pass. The stores live on the encoder's module, in main memory, and go
with it: when the graph is closed, another encoder is loaded, or ComfyUI is told to free its memory (``/free``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import comfy.model_management
import torch

from .clip_hooks import weights_key
from .picture_fingerprint import fingerprint

FEATURE_LIMIT = 512 * 2**20  # bytes of features kept per encoder
STATES_LIMIT = 512 * 2**20  # bytes of hidden states kept per encoder
# Bytes of what stands before the words.
PREFIX_LIMIT = min(2 * 2**30, int(comfy.model_management.total_ram * 2**20) // 8)
MOST_SEQUENCES = 16  # sequences whose states are kept: a graph of a few regions, with their negatives


# Every store of every encoder that is still there: what is kept in all.
ALIVE: WeakSet[Store] = WeakSet()


class Store:
    """The most recently used results, at most ``limit`` bytes and ``most`` of them; a single larger one is not kept.

    Attributes:
        hits, misses: how often something was found, and was not.
        nbytes: bytes kept now.
    """

    def __init__(self, limit: int, most: int | None = None):
        self.limit = limit
        self.most = most
        self.hits = self.misses = self.nbytes = 0
        self._kept: OrderedDict[object, tuple[object, int]] = OrderedDict()
        ALIVE.add(self)

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key, serves: Callable[[Any], bool] = lambda _value: True):
        """What is kept under ``key`` if it ``serves``, or None."""
        if key in self._kept and serves(self._kept[key][0]):
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][0]
        self.misses += 1
        return None

    def put(self, key, value, count: int) -> None:
        """Keep ``value`` of ``count`` bytes in place of what was kept under ``key``."""
        self.nbytes -= self._kept.pop(key, (None, 0))[1]
        if count > self.limit:
            return
        self._kept[key] = (value, count)
        self.nbytes += count
        while self.nbytes > self.limit or (self.most is not None and len(self._kept) > self.most):
            self.nbytes -= self._kept.popitem(last=False)[1][1]

    def forget(self, which: Callable[[Any], bool]) -> None:
        """Let go of what ``which`` says."""
        for key in [key for key, (value, _) in self._kept.items() if which(value)]:
            self.nbytes -= self._kept.pop(key)[1]

    def get(self, key, make: Callable[[], object], size: Callable[[object], int]):
        """What is kept under ``key``, or what ``make`` returns, whose bytes ``size`` counts."""
        found = self.find(key)
        if found is None:
            found = make()
            self.put(key, found, size(found))
        return found


class KeptStates(NamedTuple):
    """What the encoder computed for one sequence, without any setting that comes after it.

    Attributes:
        states: ``(1, tokens, taps, width)`` float32 in main memory, or None where no layer was tapped.
        sizes: tokens of every view, in the order of the chat.
        grids: for each picture, (rows, columns) of tokens of each view.
        written: ids of the text that was written behind what was read.
        ended: whether that text ended by itself.
        limit: most tokens that might have been written.
    """

    states: torch.Tensor | None
    sizes: tuple[int, ...] = ()
    grids: tuple[tuple[tuple[int, int], ...], ...] = ()
    written: tuple[int, ...] = ()
    ended: bool = False
    limit: int = 0

    @property
    def nbytes(self) -> int:
        return 0 if self.states is None else self.states.numel() * self.states.element_size()

    def serves(self, limit: int) -> bool:
        """Whether writing at most ``limit`` tokens would have given the same."""
        return self.limit == limit or (self.ended and len(self.written) < limit)

    def handed_out(self) -> torch.Tensor | None:
        """The states where ComfyUI wants intermediate results."""
        return None if self.states is None else self.states.to(comfy.model_management.intermediate_device())


def _store(vlm, name: str, limit: int, most: int | None = None) -> Store:
    module = vlm.clip.cond_stage_model
    if not hasattr(module, name):
        setattr(module, name, Store(limit, most))
    return getattr(module, name)


def feature_store(vlm) -> Store:
    """Features of views, of this encoder."""
    return _store(vlm, "unifusion_features", FEATURE_LIMIT)


def states_store(vlm) -> Store:
    """Hidden states of sequences, of this encoder."""
    return _store(vlm, "unifusion_states", STATES_LIMIT, MOST_SEQUENCES)


def prefix_store(vlm) -> Store:
    """Keys, values and states of system prompts and pictures, of this encoder."""
    return _store(vlm, "unifusion_prefixes", PREFIX_LIMIT)


def stores(vlm) -> dict[str, Store]:
    """All that is kept of this encoder, by what it is."""
    return {"hidden states": states_store(vlm), "pictures": feature_store(vlm), "read ahead": prefix_store(vlm)}


def states_key(vlm, ids: Sequence[int], pictures, taps: Sequence[int], precision: str, *more) -> tuple:
    """Everything that hidden states depend on: the same key, the same states.

    Args:
        ids: of the whole chat, one for every view.
        pictures: for each picture its views, ``(1, height, width, 3)``.
        more: what writing depends on besides.
    """
    seen = tuple(tuple(map(fingerprint, views)) for views in pictures)
    return (tuple(ids), seen, tuple(taps), precision, weights_key(vlm.clip), *more)
