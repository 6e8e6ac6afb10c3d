"""Hidden states that nothing may ask for: the usual negative, an output of its own, costs a pass only where it is taken."""

from __future__ import annotations

from collections.abc import Callable

from ...hidden_states import HiddenStates

NOT_YET = "negative: read when a node takes it"


class Later:
    """Computes hidden states when a node's input first asks for them (``nodes/checked.py``), and keeps them.

    ComfyUI caches a node's outputs by its inputs alone, whatever is linked behind it. So what an unlinked output would hold
    cannot be left out of a run, but put off.
    """

    unifusion_later = True

    def __init__(self, clip, make: Callable[[], HiddenStates]):
        self._clip = clip
        self._make: Callable[[], HiddenStates] | None = make
        self._value: HiddenStates | None = None

    @property
    def patcher(self):
        """The encoder that is still needed, by which ComfyUI counts what an output holds; None once it is not."""
        return None if self._make is None else self._clip.patcher

    def value(self) -> HiddenStates:
        """The hidden states."""
        if self._make is not None:
            self._value = self._make()
            self._clip = self._make = None
        assert self._value is not None
        return self._value

    def __reduce__(self):
        return _as_it_is, (self.value(),)


def _as_it_is(value: HiddenStates) -> HiddenStates:
    return value
