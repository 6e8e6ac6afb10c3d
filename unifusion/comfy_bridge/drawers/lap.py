"""Drawing models with Layerwise Attention Pooling inside, behind the same door as all others."""

from __future__ import annotations

from ...hidden_states import HiddenStates
from .conditioning import no_negative, pair_to_conditioning, to_conditioning
from .fusion_model import FusionModel
from .pooled_context import accepting_pooled


class LapDrawer:
    """A MODEL that pools the layers itself (Krea 2's layout)."""

    def __init__(self, model):
        self.fusion = FusionModel(model)

    def check(self, hidden: HiddenStates, which: str) -> None:
        """Refuse hidden states of another encoder, and values that would turn the picture black."""
        self.fusion.check(hidden, which)

    def to_conditioning(self, hidden: HiddenStates, which: str, gains: list[float], keep_rms: bool) -> list:
        """Pooled conditioning."""
        return to_conditioning(self.fusion, hidden, which, gains, keep_rms)

    def pair(
        self, positive: HiddenStates, negative: HiddenStates, gains: list[float], keep_rms: bool
    ) -> tuple[list, list]:
        """Positive and negative, pooled together where the stock sampler would evaluate them together."""
        return pair_to_conditioning(self.fusion, positive, negative, gains, keep_rms)

    def no_negative(self, positive: list) -> list:
        """Zeros in the shape of the positive, marked as not given."""
        return no_negative(positive)

    def ready(self):
        """A MODEL that takes pooled conditioning."""
        return accepting_pooled(self.fusion.patcher)

    def note(self, hidden: HiddenStates) -> str:
        """What the report says of the combination."""
        return f"{len(hidden.taps)} layers joined into one by the model's own pooling"
