"""Results kept while the encoder stays: features of pictures, and hidden states of empty prompts (the negatives).

The stores live on the encoder's module and go with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

FEATURE_LIMIT = 512 * 2**20  # bytes of features kept per encoder
NEGATIVE_LIMIT = 256 * 2**20  # bytes of hidden states of empty prompts kept per encoder


class Store:
    """The most recently used results, at most ``limit`` bytes; a single larger result is not kept.

    Attributes:
        hits, misses: how often :meth:`get` found something, and did not.
        nbytes: bytes kept now.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.hits = self.misses = self.nbytes = 0
        self._kept: OrderedDict[object, tuple[object, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key, make: Callable[[], object], size: Callable[[object], int]):
        """What is kept under ``key``, or what ``make`` returns, whose bytes ``size`` counts."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][0]
        self.misses += 1
        value = make()
        if (count := size(value)) <= self.limit:
            self._kept[key] = (value, count)
            self.nbytes += count
            while self.nbytes > self.limit:
                self.nbytes -= self._kept.popitem(last=False)[1][1]
        return value


def _store(vlm, name: str, limit: int) -> Store:
    module = vlm.clip.cond_stage_model
    if not hasattr(module, name):
        setattr(module, name, Store(limit))
    return getattr(module, name)


def feature_store(vlm) -> Store:
    """Features of views, of this encoder."""
    return _store(vlm, "unifusion_features", FEATURE_LIMIT)


def negative_store(vlm) -> Store:
    """Hidden states of empty prompts, of this encoder."""
    return _store(vlm, "unifusion_negatives", NEGATIVE_LIMIT)
