"""The parts that need no training of their own: the shipped weights through the pack's own nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unifusion.tiny.scorer import read_scene
from unifusion.tiny.text import parse_caption

from .graph import Graph
from .part import Part, compared
from .scenes import edit_checks, edits, pairs, picture_checks, pictures, prompts, stated_checks
from .shares import Tally

SEED = 700_000  # of the scenes
TERSE = 0.4  # chance of each attribute to be said
TEXT_ONLY = "rewritten text only"


def verifi_against_raw(graph: Graph, count: int) -> Part:
    """(c)"""
    terse, full = prompts(count, SEED, TERSE), prompts(count, SEED + 1, 1.0)
    tallies = {name: Tally() for name in ("VERIFI, terse", "raw prompt, terse", "VERIFI, everything stated",
                                          "raw prompt, everything stated")}
    for name, tally in tallies.items():
        encode = graph.verifi if name.startswith("VERIFI") else graph.encode
        for seed, asked in enumerate(terse if name.endswith("terse") else full):
            found = read_scene(graph.picture(encode(asked.prompt), seed))
            checks = stated_checks(found, asked.spec)
            tally.add(checks if name.endswith("terse") else picture_checks(found, asked.scene))
    return compared(
        f"The same prompts and noise through VERIFI Rewrite and through VLM Encode. Terse: each attribute is said with "
        f"a chance of {TERSE:.0%}; what was stated is checked in the picture, whatever else was drawn. Everything "
        f"stated: the picture is checked against the whole scene. The drawing model saw raw prompts in a tenth of its "
        f"training.",
        count, tallies, {"VERIFI, terse": "raw prompt, terse",
                         "VERIFI, everything stated": "raw prompt, everything stated"})


def reconstruction_by_tiles(graph: Graph, count: int) -> Part:
    """(d)"""
    tallies = {detail: Tally() for detail in ("one view", "5 tiles", "10 tiles")}
    for detail, tally in tallies.items():
        for seed, asked in enumerate(pictures(count, SEED + 2)):
            drawn = graph.picture(graph.encode("", asked.pictures[0], detail), seed)
            tally.add(picture_checks(read_scene(drawn), asked.scene))
            error = np.square(drawn.astype(np.float64) - asked.pictures[0]).mean()
            tally.add_value("PSNR", 10 * np.log10(255**2 / max(error, 1e-3)), "dB")
    return compared(
        "A picture drawn again from its image tokens alone: Reference with 'one view', '5 tiles' (2 x 2 and the whole) "
        "and '10 tiles' (3 x 3 and the whole), VLM Encode with an empty prompt. The drawing model was trained on one "
        "view only.",
        count, tallies, {"5 tiles": "one view", "10 tiles": "one view"})


def edit_accuracy(graph: Graph, count: int) -> Part:
    """(e)"""
    tallies = {"image tokens and text": Tally(), "text alone": Tally()}
    asked_edits = edits(count, SEED + 3)
    for name, tally in tallies.items():
        selection = "as the profile" if name != "text alone" else TEXT_ONLY
        for seed, asked in enumerate(asked_edits):
            found = read_scene(graph.picture(graph.verifi(asked.prompt, asked.pictures, selection), seed))
            checks = edit_checks(found, asked)
            tally.add(checks | {f"{kind}: {check}": checks[check] if kind == asked.edit.kind else []
                                for kind in ("recolour", "replace", "add", "remove", "move", "background")
                                for check in ("change made", "rest kept")})
    return compared(
        "A picture and an instruction through VERIFI Rewrite; no VAE latents of the picture are given to the drawing "
        "model, in use or in training. 'Text alone' leaves the image tokens out of the conditioning and keeps what the "
        "VLM wrote. 'Rest kept' is strict: every attribute of everything else.",
        count, tallies, {"image tokens and text": "text alone"})


def two_references(graph: Graph, count: int) -> Part:
    """(f)"""
    tallies = {"image tokens and text": Tally(), "text alone": Tally()}
    asked_pairs = pairs(count, SEED + 4)
    for name, tally in tallies.items():
        selection = "as the profile" if name != "text alone" else TEXT_ONLY
        for seed, asked in enumerate(asked_pairs):
            condition = graph.verifi(asked.prompt, asked.pictures, selection)
            checks = picture_checks(read_scene(graph.picture(condition, seed)), asked.scene)
            tally.add(checks | {"caption of the result right": [parse_caption(condition.text) == asked.scene]})
    return compared(
        "Two pictures and an instruction through VERIFI Rewrite. The drawing model was trained on no picture or on "
        "one; the VLM was trained to caption the result of two. 'Text alone' leaves the image tokens out of the "
        "conditioning.",
        count, tallies, {"image tokens and text": "text alone"})


def before_editing(graph: Graph, count: int, folder: Path, before: Path) -> Part:
    """(g)"""
    graphs = {"after": graph, "before": Graph(folder, before)}
    tallies = {name: Tally() for name in graphs}
    for name, tally in tallies.items():
        for seed, asked in enumerate(prompts(count, SEED + 1, 1.0)):
            found = read_scene(graphs[name].picture(graphs[name].verifi(asked.prompt), seed))
            tally.add(picture_checks(found, asked.scene))
    return compared(
        "Text to image through VERIFI with the weights before and after the stage in which edits joined the training. "
        "The later weights have also trained longer; there is no run of the same length without edits, so the "
        "difference is of both together.", count, tallies, {"after": "before"})


def layer_dropout(graph: Graph, count: int) -> Part:
    """(h)"""
    layers = graph.verifi("a red circle").states.taps
    gains = {"all layers": ""}
    for index, layer in enumerate(layers):
        gains[f"without layer {layer}"] = ", ".join("0" if i == index else "1" for i in range(len(layers)))
    for index, layer in enumerate(layers):
        gains[f"layer {layer} alone"] = ", ".join("1" if i == index else "0" for i in range(len(layers)))
    tallies = {name: Tally() for name in gains}
    for seed, asked in enumerate(prompts(count, SEED + 1, 1.0)):
        condition = graph.verifi(asked.prompt)
        for name, values in gains.items():
            tallies[name].add(picture_checks(read_scene(graph.picture(condition, seed, values)), asked.scene))
    return compared(
        "Text to image through VERIFI; in Layerwise Attention Pool a custom gain of 0 silences layers of the VLM, of "
        "both positive and negative, with keep_rms on as by default. Nothing is trained again.",
        count, tallies, {name: "all layers" for name in gains if name != "all layers"})
