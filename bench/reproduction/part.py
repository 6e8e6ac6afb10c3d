"""One part of the reproduction: what was compared, its figures, and the differences between its variants."""

from __future__ import annotations

from dataclasses import dataclass, field

from .shares import Measured, Tally, differences

TITLES = {
    "a": "LAP against the last tapped layer, the plain average and single taps",
    "b": "with and without refiner",
    "c": "VERIFI against the raw prompt, on terse prompts",
    "d": "reconstruction against number of tiles",
    "e": "edits with tokens of the VLM alone",
    "f": "two references, never trained on",
    "g": "text to image before and after the editing stage",
    "h": "layer dropout at pooling",
}


@dataclass
class Part:
    """The result of one part.

    Attributes:
        about: what was done, and with what budget.
        scenes: number of scenes of each variant.
        figures: of every variant; differences: between variants on the same scenes.
    """

    about: str
    scenes: int
    figures: list[Measured] = field(default_factory=list)
    differences: list[Measured] = field(default_factory=list)

    def as_dict(self) -> dict:
        return {
            "about": self.about,
            "scenes": self.scenes,
            "figures": [f.as_dict() for f in self.figures],
            "differences": [f.as_dict() for f in self.differences],
        }


def compared(about: str, tallies: dict[str, Tally], against: dict[str, str]) -> Part:
    """A part from the tallies of its variants; ``against`` names variant -> the variant it is compared with."""
    figures = [figure for variant, tally in tallies.items() for figure in tally.figures(variant)]
    gaps = [gap for one, other in against.items() for gap in differences((one, tallies[one]), (other, tallies[other]))]
    scenes = max(len(outcomes) for tally in tallies.values() for outcomes in tally.outcomes.values())
    return Part(about, scenes, figures, gaps)
