"""One setting of a graph over several values: what the Compare node does.

ComfyUI lets a node put further nodes into the running graph. For every value the nodes between the setting and the picture
are put there once more, with that value; everything else is linked to the nodes that are there, so it runs once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from comfy_execution.graph_utils import GraphBuilder, is_link

from ...layer_gains import CUSTOM, PRESETS
from ...own_presets import OWN
from ...picture_grid import MOST_SOCKETS
from ...quoting import quoted
from ...system_prompts import AS_PROFILE, SYSTEM_PROMPTS
from . import presets

STRENGTH, GAINS, LEFT_OUT, SYSTEM, SEED, ANY = (
    "strength",
    "layer gains",
    "layer left out",
    "system prompt",
    "seed",
    "any input",
)
# What can be swept -> inputs that hold it, by what they are called.
SETTINGS: dict[str, tuple[str, ...]] = {
    STRENGTH: ("strength",),
    GAINS: ("gains",),
    LEFT_OUT: ("gains",),
    SYSTEM: ("custom_system_prompt", "system_prompt"),
    SEED: ("noise_seed", "seed"),
    ANY: (),
}
NUMBERS = (STRENGTH, LEFT_OUT, SEED)  # written with commas between them; the others stand one to a line
MOST_VALUES = MOST_SOCKETS
_LABEL = 60  # characters of a value below its picture


class Target(NamedTuple):
    """The input that is swept: a node's number and the input's name."""

    number: str
    name: str


class Graph:
    """The running graph, read only.

    Args:
        node_of: number -> {"class_type", "inputs"}; raises for a number that is not there.
        end: number of the node whose picture is compared.
    """

    def __init__(self, node_of: Callable[[str], dict], end: str):
        self.node_of = node_of
        self.above = self._above(end)

    def _above(self, end: str) -> dict[str, dict]:
        """Everything that the picture depends on, the nearest first."""
        found: dict[str, dict] = {}
        waiting = [end]
        while waiting:
            number = waiting.pop(0)
            if number not in found:
                found[number] = self.node_of(number)
                waiting += sources(found[number])
        return found

    def between(self, number: str) -> list[str]:
        """Nodes that depend on ``number``, itself included, among those above the picture."""
        affected = {number}
        grown = True
        while grown:
            more = {n for n, node in self.above.items() if n not in affected and affected & set(sources(node))}
            affected |= more
            grown = bool(more)
        return [number for number in self.above if number in affected]

    def find(self, setting: str, which: str) -> Target:
        """The input to sweep.

        Args:
            which: empty for the nearest node with the setting; a node's number; or number and input, as in ``"5.cfg"``.

        Raises:
            ValueError: if there is none.
        """
        number, _, name = which.strip().lstrip("#").partition(".")
        if setting == ANY and not (number and name):
            raise ValueError(
                f"To compare any input, write its node's number and its name into 'which', as in '5.cfg'; found "
                f"{quoted(which)}."
            )
        if not number:
            for above, node in self.above.items():
                for called in SETTINGS[setting]:
                    if called in node["inputs"]:
                        return Target(above, called)
            raise ValueError(
                f"No node in front of the picture has the setting '{setting}'. Wire Compare behind the VAE Decode of the "
                f"graph that has it, or choose another setting."
            )
        if number not in self.above:
            raise ValueError(
                f"'which' names node {quoted(number)}, but the picture does not depend on such a node. Numbers of nodes "
                f"are shown in their titles' badges (Settings, Node ID badge)."
            )
        inputs = self.above[number]["inputs"]
        for called in (name,) if name else SETTINGS[setting]:
            if called in inputs:
                return Target(number, called)
        wanted = name or " or ".join(SETTINGS[setting])
        raise ValueError(f"Node {number} has no input {quoted(wanted)}; it has: {', '.join(sorted(inputs))[:300]}.")


def sources(node: dict) -> list[str]:
    """Numbers of the nodes that a node is linked to."""
    return [value[0] for value in node["inputs"].values() if is_link(value)]


def read_values(setting: str, text: str) -> list[str]:
    """Values as they are written: numbers with commas or lines between them, texts one to a line.

    Raises:
        ValueError: if there is none, there are too many, or a number is none.
    """
    parts = text.replace(",", "\n").replace(";", "\n") if setting in NUMBERS else text
    values = [part.strip() for part in parts.splitlines() if part.strip()]
    if not 0 < len(values) <= MOST_VALUES:
        raise ValueError(
            f"Compare needs 1 to {MOST_VALUES} values, found {len(values)}. Write numbers with commas between them, and "
            f"texts one to a line."
        )
    for value in values if setting in NUMBERS else ():
        _number(value, whole=setting != STRENGTH)
    return values


def _number(text: str, whole: bool) -> float | int:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"A value to compare must be a {'whole ' if whole else ''}number, found {quoted(text)}.")
    return value


def settings_for(setting: str, name: str, value: str, before: object, known: tuple | None) -> dict:
    """Inputs of the target's node for one value.

    Args:
        name: of the input.
        value: as written.
        before: what the graph holds there.
        known: (type, options) of the input as its node declares it, or None.

    Raises:
        ValueError: if the value is not one for this input.
    """
    if setting == GAINS:
        named = value in PRESETS or value.startswith(OWN)
        return {"gain_preset": value} if named else {"gain_preset": CUSTOM, "gains": value}
    if setting == LEFT_OUT:
        return {"gain_preset": CUSTOM, "gains": f"{value}=0" if _number(value, whole=True) else "1=1"}
    if setting == SYSTEM:
        if name == "custom_system_prompt":
            named = value in (AS_PROFILE, *SYSTEM_PROMPTS) or value.startswith(OWN)
            return {"system_prompt": value} if named else {"system_prompt": CUSTOM, name: value}
        return {
            name: presets.system_prompt(value, "")[1] if value.startswith(OWN) else SYSTEM_PROMPTS.get(value, value)
        }
    return {name: _fitting(value, name, before, known)}


def _fitting(value: str, name: str, before: object, known: tuple | None) -> object:
    """A written value in the type of its input, within the bounds that its node declares."""
    kind, options = (known[0], known[1] if len(known) > 1 else {}) if known else (None, {})
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    if isinstance(choices, list):
        for choice in choices:
            if str(choice) == value:
                return choice
        shown = ", ".join(map(str, choices))
        raise ValueError(f"'{name}' has no choice {quoted(value)}; it has: {quoted(shown, 300)[1:-1]}.")
    if kind == "BOOLEAN" or isinstance(before, bool):
        if value.lower() not in ("true", "false", "on", "off", "yes", "no", "1", "0"):
            raise ValueError(f"'{name}' is on or off, found {quoted(value)}.")
        return value.lower() in ("true", "on", "yes", "1")
    if kind in ("INT", "FLOAT") or (kind is None and isinstance(before, (int, float))):
        number = _number(value, whole=kind == "INT" or isinstance(before, int) and kind is None)
        lowest, highest = options.get("min", -math.inf), options.get("max", math.inf)
        if not lowest <= number <= highest:
            raise ValueError(f"'{name}' runs from {lowest:g} to {highest:g}, found {quoted(value)}.")
        return number
    if kind == "STRING" or isinstance(before, str):
        return value
    raise ValueError(f"'{name}' is a connection, not a value that can be compared. Choose an input that is typed in.")


class Sweep(NamedTuple):
    """The nodes for a comparison.

    Attributes:
        nodes: to be put into the running graph.
        pictures: for each value the link to its picture.
        labels: for each value the line below it.
        report: what is varied, what runs again and what is shared.
    """

    nodes: GraphBuilder
    pictures: list[list]
    labels: list[str]
    report: str


def sweep(
    link: Sequence,
    node_of: Callable[[str], dict],
    *,
    setting: str,
    values: str,
    which: str = "",
    declared: Callable[[str, str], tuple | None] = lambda _class, _name: None,
    title_of: Callable[[str], str] = str,
) -> Sweep:
    """Clone what a setting changes, once for every value.

    Args:
        link: [number, output] of the picture.
        node_of: number of a node -> {"class_type", "inputs"}.
        values, which: as :func:`read_values` and :meth:`Graph.find` take them.
        declared: (class of a node, input) -> (type, options), or None.
        title_of: class of a node -> what creators call it.

    Raises:
        ValueError: if the setting is not in the graph or a value does not fit.
    """
    if setting not in SETTINGS:
        raise ValueError(f"There is no setting {quoted(setting)} to compare; choose one of: {', '.join(SETTINGS)}.")
    written = read_values(setting, values)
    graph = Graph(node_of, str(link[0]))
    target = graph.find(setting, which)
    again = graph.between(target.number)
    swept = graph.above[target.number]
    known = declared(swept["class_type"], target.name)
    builder = GraphBuilder()
    pictures = []
    for index, value in enumerate(written):
        changed = settings_for(setting, target.name, value, swept["inputs"].get(target.name), known)
        copies = {number: builder.node(graph.above[number]["class_type"], f"{index}.{number}") for number in again}
        for number, copy in copies.items():
            inputs = dict(graph.above[number]["inputs"]) | (changed if number == target.number else {})
            copy.inputs = {name: _relinked(value, copies) for name, value in inputs.items()}
        pictures.append(copies[str(link[0])].out(link[1]))
    name = target.name if setting == ANY else setting
    labels = [f"{name} {value}" if len(value) <= _LABEL else f"{name} {quoted(value, _LABEL)}" for value in written]
    report = (
        f"{name} of node {target.number} ({title_of(swept['class_type'])}) over {len(written)} values: "
        f"{'; '.join(quoted(value)[1:-1] for value in written)}\n"
        f"run once for each value: {', '.join(dict.fromkeys(title_of(graph.above[n]['class_type']) for n in again))}\n"
        f"run once for all: {len(graph.above) - len(again)} of {len(graph.above)} nodes"
    )
    return Sweep(builder, pictures, labels, report)


def _relinked(value: Any, copies: dict) -> Any:
    return copies[value[0]].out(value[1]) if is_link(value) and value[0] in copies else value
