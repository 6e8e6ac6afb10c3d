"""The parts that need no training of their own: the shipped weights through the pack's own nodes.

Every scene is drawn in all variants with the same noise before the next one, so that they can be compared in pairs and
a run that is cut short is even.
"""

from __future__ import annotations

import numpy as np

from recipes.miniature.captions import parse_caption
from recipes.miniature.scene import EDIT_KINDS
from recipes.miniature.scorer import read_scene

from .part import Part, compared
from .scenes import edit_checks, edits, pairs, picture_checks, pictures, prompts, stated_checks, within
from .shares import Tally
from .through_nodes import Graph

SEED = 700_000  # of the scenes
TERSE = 0.4  # chance of each attribute to be said
SELECTIONS = {"image tokens and text": "as the profile", "text alone": "rewritten text only"}


class Shipped:
    """The parts on one model.

    Args:
        graph: the nodes with the weights.
        count: scenes of each variant.
        minutes: after which a part ends with the scenes done by then; None for no limit.
    """

    def __init__(self, graph: Graph, count: int, minutes: float | None = None) -> None:
        self.graph, self.count, self.minutes = graph, count, minutes

    def verifi_against_raw(self) -> Part:
        """(c)"""
        tallies = {
            name: Tally()
            for name in (
                "VERIFI, terse",
                "raw prompt, terse",
                "VERIFI, everything stated",
                "raw prompt, everything stated",
            )
        }
        both = zip(prompts(self.count, SEED, TERSE), prompts(self.count, SEED + 1, 1.0))
        for seed, (terse, full) in within(self.minutes, both):
            for name, encode in (("VERIFI", self.graph.verifi), ("raw prompt", self.graph.encode)):
                found = read_scene(self.graph.picture(encode(terse.prompt), seed))
                tallies[f"{name}, terse"].add(stated_checks(found, terse.spec))
                found = read_scene(self.graph.picture(encode(full.prompt), seed))
                tallies[f"{name}, everything stated"].add(picture_checks(found, full.scene))
        return compared(
            f"The same prompts and noise through VERIFI Rewrite and through VLM Encode. Terse: each attribute is said "
            f"with a chance of {TERSE:.0%}; what was stated is checked in the picture, whatever else was drawn. "
            f"Everything stated: the picture is checked against the whole scene. The drawing model saw raw prompts in "
            f"a tenth of its training.",
            tallies,
            {f"VERIFI, {kind}": f"raw prompt, {kind}" for kind in ("terse", "everything stated")},
        )

    def reconstruction_by_tiles(self) -> Part:
        """(d)"""
        tallies = {detail: Tally() for detail in ("one view", "5 tiles", "10 tiles")}
        for seed, asked in within(self.minutes, pictures(self.count, SEED + 2)):
            for detail, tally in tallies.items():
                drawn = self.graph.picture(self.graph.encode("", asked.pictures[0], detail), seed)
                tally.add(picture_checks(read_scene(drawn), asked.scene))
                error = np.square(drawn.astype(np.float64) - asked.pictures[0]).mean()
                tally.add_value("PSNR", 10 * np.log10(255**2 / max(error, 1e-3)), "dB")
        return compared(
            "A picture drawn again from its image tokens alone: Reference with 'one view', '5 tiles' (2 x 2 and the "
            "whole) and '10 tiles' (3 x 3 and the whole), VLM Encode with an empty prompt. The drawing model was "
            "trained on one view only.",
            tallies,
            {"5 tiles": "one view", "10 tiles": "one view"},
        )

    def edit_accuracy(self) -> Part:
        """(e)"""
        tallies = {name: Tally() for name in SELECTIONS}
        for seed, asked in within(self.minutes, edits(self.count, SEED + 3)):
            for name, selection in SELECTIONS.items():
                condition = self.graph.verifi(asked.prompt, asked.pictures, selection)
                checks = edit_checks(read_scene(self.graph.picture(condition, seed)), asked)
                by_kind = {
                    f"{kind}: {check}": checks[check] if kind == asked.edit.kind else []
                    for kind in EDIT_KINDS
                    for check in ("change made", "rest kept")
                }
                tallies[name].add(checks | by_kind)
        return compared(
            "A picture and an instruction through VERIFI Rewrite; no VAE latents of the picture are given to the "
            "drawing model, in use or in training. 'Text alone' leaves the image tokens out of the conditioning and "
            "keeps what the VLM wrote. 'Rest kept' is strict: every attribute of everything else.",
            tallies,
            {"image tokens and text": "text alone"},
        )

    def two_references(self) -> Part:
        """(f)"""
        tallies = {name: Tally() for name in SELECTIONS}
        for seed, asked in within(self.minutes, pairs(self.count, SEED + 4)):
            for name, selection in SELECTIONS.items():
                condition = self.graph.verifi(asked.prompt, asked.pictures, selection)
                checks = picture_checks(read_scene(self.graph.picture(condition, seed)), asked.scene)
                caption = {"caption of the result right": [parse_caption(condition.text) == asked.scene]}
                tallies[name].add(checks | caption)
        return compared(
            "Two pictures and an instruction through VERIFI Rewrite. The drawing model was trained on no picture or on "
            "one; the VLM was trained to caption the result of two. 'Text alone' leaves the image tokens out of the "
            "conditioning.",
            tallies,
            {"image tokens and text": "text alone"},
        )

    def layer_dropout(self) -> Part:
        """(h)"""
        layers = self.graph.verifi("a red circle").states.taps
        gains = {"all layers": ""}
        gains |= {f"without layer {layer}": ", ".join("01"[other != layer] for other in layers) for layer in layers}
        gains |= {f"layer {layer} alone": ", ".join("01"[other == layer] for other in layers) for layer in layers}
        tallies = {name: Tally() for name in gains}
        for seed, asked in within(self.minutes, prompts(self.count, SEED + 1, 1.0)):
            condition = self.graph.verifi(asked.prompt)
            for name, values in gains.items():
                tallies[name].add(picture_checks(read_scene(self.graph.picture(condition, seed, values)), asked.scene))
        return compared(
            "Text to image through VERIFI; in Layerwise Attention Pool a custom gain of 0 silences layers of the VLM, "
            "of both positive and negative, with keep_rms on as by default. Nothing is trained again.",
            tallies,
            {name: "all layers" for name in gains if name != "all layers"},
        )
