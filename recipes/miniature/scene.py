"""The miniature world: what a picture may hold, how it may be changed, and what training never sees.

A scene is a background and one to three things in distinct cells of a 3x3 grid.  Cells are numbered in
reading order, 0 (top left) to 8 (bottom right).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
NEUTRALS = ("white", "black")
PAINTS = COLORS + NEUTRALS  # of things; the first world has COLORS alone
SIZES = ("large", "small")
TEXTURES = ("solid", "striped", "dotted")
BACKGROUNDS = ("white", "gray", "black", "beige", "navy")
POSITIONS = (
    "top left",
    "top center",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom center",
    "bottom right",
)
MAX_THINGS = 3
UNSEEN = (("white", "white"), ("black", "black"), ("black", "navy"))  # (paint, background) nobody can tell apart
EDIT_KINDS = ("recolour", "replace", "add", "remove", "move", "background")


@dataclass(frozen=True)
class Thing:
    """One drawn object.  ``cell`` is 0..8 in reading order."""

    shape: str
    color: str
    size: str
    texture: str
    cell: int


@dataclass(frozen=True)
class Scene:
    """A background and its things, kept in reading order so that equal pictures are equal scenes."""

    background: str
    things: tuple[Thing, ...]

    def __post_init__(self):
        ordered = tuple(sorted(self.things, key=lambda thing: thing.cell))
        if len({thing.cell for thing in ordered}) != len(ordered):
            raise ValueError("two things share a cell")
        object.__setattr__(self, "things", ordered)

    @property
    def free_cells(self) -> list[int]:
        taken = {thing.cell for thing in self.things}
        return [cell for cell in range(9) if cell not in taken]


@dataclass(frozen=True)
class Edit:
    """One change.  ``target`` indexes ``scene.things`` (None for add and background).

    ``value`` is a colour (recolour), a shape or a (shape, colour) pair (replace), a Thing (add), a cell (move),
    a background (background) or None (remove).
    """

    kind: str
    target: int | None
    value: object = None

    def apply(self, scene: Scene) -> Scene:
        """The scene after the change; raises ValueError when the cell it needs is taken."""
        if self.kind == "background":
            return replace(scene, background=self.value)
        if self.kind == "add":
            return replace(scene, things=scene.things + (self.value,))
        others = scene.things[: self.target] + scene.things[self.target + 1 :]
        if self.kind == "remove":
            return replace(scene, things=others)
        if self.kind == "replace" and isinstance(self.value, tuple):
            changes = dict(zip(("shape", "color"), self.value))
        else:
            changes = {{"recolour": "color", "replace": "shape", "move": "cell"}[self.kind]: self.value}
        return replace(scene, things=others + (replace(scene.things[self.target], **changes),))


@dataclass(frozen=True)
class Composition:
    """A picture made from several: which things come from which, and whose background it has.

    ``picks`` holds (number of the picture from 0, index of the thing there, cell in the result); ``background`` is the
    number of a picture.
    """

    picks: tuple[tuple[int, int, int], ...]
    background: int

    def apply(self, *scenes: Scene) -> Scene:
        things = tuple(replace(scenes[picture].things[index], cell=cell) for picture, index, cell in self.picks)
        return Scene(scenes[self.background].background, things)


def thing_is_held_out(thing: Thing) -> bool:
    """Whether training never shows this (shape, colour, texture).

    A Latin rule instead of a hash: each shape lacks exactly one colour per texture and each colour one shape
    (24 of 192 combinations), so no single attribute is rarer than another.  White and black things lack none.
    """
    if thing.color in NEUTRALS:
        return False
    index = SHAPES.index(thing.shape) + COLORS.index(thing.color) + 3 * TEXTURES.index(thing.texture)
    return index % len(COLORS) == 0


def is_held_out(scene: Scene) -> bool:
    """Whether any thing of the scene is a combination that training never shows."""
    return any(thing_is_held_out(thing) for thing in scene.things)


def sample_thing(rng, cells, held_out: bool | None = False) -> Thing:
    """A random thing in one of ``cells``; ``held_out`` True or False forces the split, None takes any."""
    while True:
        thing = Thing(
            SHAPES[rng.integers(len(SHAPES))],
            COLORS[rng.integers(len(COLORS))],
            SIZES[rng.integers(len(SIZES))],
            TEXTURES[rng.integers(len(TEXTURES))],
            int(cells[rng.integers(len(cells))]),
        )
        if held_out is None or thing_is_held_out(thing) == held_out:
            return thing


def sample_scene(rng, held_out: bool = False, count: int | None = None) -> Scene:
    """A random scene of 1..3 things (``rng`` is a numpy Generator).

    ``held_out=False`` gives a training scene (no held-out combination), True a test scene (at least one).
    """
    count = int(rng.integers(1, MAX_THINGS + 1)) if count is None else count
    cells = rng.permutation(9)[:count]
    forced = int(rng.integers(count)) if held_out else -1
    things = [
        sample_thing(rng, [cell], True if i == forced else (None if held_out else False))
        for i, cell in enumerate(cells)
    ]
    return Scene(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], tuple(things))


def stands_out(paint: str, background: str) -> bool:
    """Whether a paint can be told from a background."""
    return (paint, background) not in UNSEEN


def can_be_seen(scene: Scene) -> bool:
    """Whether every thing stands out from the background."""
    return all(stands_out(thing.color, scene.background) for thing in scene.things)


def with_neutral_things(rng, scene: Scene, chance: float) -> Scene:
    """The scene with each thing white or black with a ``chance``, where that can be seen."""
    things = []
    for thing in scene.things:
        paints = [paint for paint in NEUTRALS if stands_out(paint, scene.background)]
        neutral = rng.random() < chance and bool(paints)
        things.append(replace(thing, color=paints[rng.integers(len(paints))]) if neutral else thing)
    return Scene(scene.background, tuple(things))


def sample_edit(rng, scene: Scene, kind: str | None = None, held_out: bool | None = False) -> Edit:
    """A random edit that changes the scene.

    ``held_out=False`` keeps every thing it makes inside the training combinations; None does not care.
    ``kind=None`` picks among the kinds that the scene allows.
    """
    possible = [
        k
        for k in EDIT_KINDS
        if not (k == "add" and len(scene.things) >= MAX_THINGS) and not (k == "remove" and len(scene.things) < 2)
    ]
    if kind is None:
        kind = possible[rng.integers(len(possible))]
    elif kind not in possible:
        raise ValueError(f"a scene of {len(scene.things)} things does not allow the edit {kind!r}")
    if kind == "background":
        others = [name for name in BACKGROUNDS if name != scene.background]
        return Edit(kind, None, others[rng.integers(len(others))])
    if kind == "add":
        return Edit(kind, None, sample_thing(rng, scene.free_cells, held_out))
    target = int(rng.integers(len(scene.things)))
    thing = scene.things[target]
    if kind == "remove":
        return Edit(kind, target)
    if kind == "move":
        return Edit(kind, target, int(rng.choice(scene.free_cells)))
    if kind == "replace" and rng.random() < 0.3:
        other = thing
        while other.shape == thing.shape:
            other = sample_thing(rng, [thing.cell], held_out=None)
            if held_out is False and thing_is_held_out(replace(thing, shape=other.shape, color=other.color)):
                other = thing
        return Edit(kind, target, (other.shape, other.color))
    field, values = ("color", COLORS) if kind == "recolour" else ("shape", SHAPES)
    values = [
        value
        for value in values
        if value != getattr(thing, field)
        and not (held_out is False and thing_is_held_out(replace(thing, **{field: value})))
    ]
    return Edit(kind, target, values[rng.integers(len(values))])


def sample_composition(rng, first: Scene, second: Scene) -> Composition:
    """One thing of each picture, a thing of one put into the other, or a thing of one on the other's background.

    A thing keeps its cell unless the cell is taken, then it moves to a free one (the instruction says where).
    """
    scenes = (first, second)
    base = int(rng.integers(2))
    other = 1 - base
    guest = int(rng.integers(len(scenes[other].things)))
    guest_cell = scenes[other].things[guest].cell
    kind = rng.random()
    if kind < 0.25:
        return Composition(((other, guest, guest_cell),), base)
    hosts = list(range(len(scenes[base].things)))
    if kind < 0.75 or len(hosts) == MAX_THINGS:
        hosts = [int(rng.integers(len(hosts)))]
    picks = [(base, host, scenes[base].things[host].cell) for host in hosts]
    taken = {cell for _, _, cell in picks}
    if guest_cell in taken:
        guest_cell = int(rng.choice([cell for cell in range(9) if cell not in taken]))
    picks.append((other, guest, guest_cell))
    background = int(rng.integers(2)) if len(hosts) < len(scenes[base].things) else base
    return Composition(tuple(sorted(picks)), background)


def sample_gathering(rng, scenes) -> Composition:
    """One thing of each picture on the background of one; cells as in :func:`sample_composition`."""
    picks, taken = [], set()
    for picture in rng.permutation(len(scenes)):
        index = int(rng.integers(len(scenes[picture].things)))
        cell = scenes[picture].things[index].cell
        if cell in taken:
            cell = int(rng.choice([free for free in range(9) if free not in taken]))
        taken.add(cell)
        picks.append((int(picture), index, cell))
    return Composition(tuple(sorted(picks)), int(rng.integers(len(scenes))))
