"""What a newcomer types: bare nouns, lists, counts, relations, "no ...", letters, six languages, typos.

A :class:`Wish` holds what a prompt states; :func:`realise` chooses what it leaves open, by rules where a rule exists
(one thing goes to the centre, two side by side, "above" is top and bottom), so that the rewrite is sure of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .captions import PromptSpec, Stated
from .languages import ANY, EN_NOUNS, NUMBERS, PHRASES, TABLES, Item, area, color_word, ground, noun_en, pick, place
from .scene import (
    BACKGROUNDS,
    COLORS,
    NEUTRALS,
    PAINTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    can_be_seen,
    thing_is_held_out,
)
from .words_around import LETTERS, NEGATIONS, RELATION_WORDS, THINGS_OF_THE_WORLD, WRAPPERS

MOST_THINGS = 5
NEUTRAL = 0.15  # share of white and black among the colours that are said
LAYOUTS = {1: (4,), 2: (3, 5), 3: (3, 4, 5), 4: (0, 2, 6, 8), 5: (0, 2, 4, 6, 8)}
AREAS = {"top": (1, 0, 2), "bottom": (7, 6, 8), "left": (3, 0, 6), "right": (5, 2, 8), "corner": (0, 2, 6, 8)}
RELATION_CELLS = {"above": (1, 7), "below": (7, 1), "left of": (3, 5), "right of": (5, 3), "next to": (3, 4)}
ROWS_OF = {
    "row": {2: (3, 5), 3: (3, 4, 5)},
    "column": {2: (1, 7), 3: (1, 4, 7)},
    "diagonal": {3: (0, 4, 8)},
    "corners": {4: (0, 2, 6, 8)},
    "top row": {3: (0, 1, 2), 2: (0, 2)},
    "bottom row": {3: (6, 7, 8), 2: (6, 8)},
    "between": {3: (3, 5, 4)},  # two equal things, then the one between them
}
FILL = (4, 3, 5, 1, 7, 0, 2, 6, 8)  # cells for what is not placed, beside things that are


@dataclass
class Part:
    """Equal things of a wish.  ``cell``: where, ``area``: only about where."""

    item: Item
    cell: int | None = None
    area: str | None = None


@dataclass
class Wish:
    """What a prompt states.  ``relation``: between the first and the second part; ``layout``: a key of ROWS_OF."""

    parts: list[Part]
    background: str | None = None
    relation: str | None = None
    layout: str | None = None
    absent: list[Item] = field(default_factory=list)


def stated_of(item: Item, cells=None) -> Stated:
    return Stated(item.shape, item.color, item.size, item.texture, cells)


def specification(wish: Wish) -> PromptSpec:
    """What a picture of the wish must show."""
    things = []
    for part in wish.parts:
        cells = None
        if part.cell is not None:
            cells = frozenset((part.cell,))
        elif part.area:
            cells = frozenset(AREAS[part.area])
        things += [stated_of(part.item, cells)] * part.item.count
    if wish.layout:
        cells = frozenset(ROWS_OF[wish.layout][len(things)])
        things = [stated_of(part.item, cells) for part in wish.parts for _ in range(part.item.count)]
    relations = ((0, wish.relation, 1),) if wish.relation else ()
    return PromptSpec(tuple(things), wish.background, relations, tuple(stated_of(item) for item in wish.absent))


def cells_of(wish: Wish) -> list[int]:
    """The rule's cell of every thing, in the order in which they are said.

    Raises:
        ValueError: if a place is asked for twice.
    """
    count = sum(part.item.count for part in wish.parts)
    if wish.relation:
        cells = list(RELATION_CELLS[wish.relation])
        rest = [cell for cell in FILL if cell not in cells]
        return cells + rest[: count - 2]
    if wish.layout:
        return list(ROWS_OF[wish.layout][count])
    wanted = [part for part in wish.parts for _ in range(part.item.count)]
    if not any(part.cell is not None or part.area for part in wanted):
        return list(LAYOUTS[count])
    taken = [part.cell for part in wanted if part.cell is not None]
    if len(set(taken)) != len(taken):
        raise ValueError("two things share a cell")
    cells: list[int | None] = [part.cell for part in wanted]
    for choose in (lambda part: AREAS[part.area] if part.area else (), lambda part: FILL):
        for index, part in enumerate(wanted):
            if cells[index] is None and choose(part):
                free = [cell for cell in choose(part) if cell not in cells]
                if not free:
                    raise ValueError("an area is full")
                cells[index] = free[0]
    return cells


def _biased(rng, values, first: float):
    """The first value with probability ``first``, another one else."""
    return values[0] if len(values) == 1 or rng.random() < first else values[1 + int(rng.integers(len(values) - 1))]


def realise(wish: Wish, rng, held_out: bool = False) -> Scene:
    """A scene of the wish.  ``held_out`` False keeps it within the combinations of training.

    Raises:
        ValueError: if there is none.
    """
    cells = iter(cells_of(wish))
    size, texture = _biased(rng, SIZES, 0.8), _biased(rng, TEXTURES, 0.8)
    things = []
    for part in wish.parts:
        item = part.item
        for attempt in range(60):
            thing = Thing(
                item.shape or _biased(rng, SHAPES, 0.5),
                item.color or _biased(rng, COLORS, 0.4),
                item.size or size,
                item.texture or (texture if attempt < 6 else TEXTURES[int(rng.integers(3))]),
                0,
            )
            wrong = any(stated_of(no).allows(thing) for no in wish.absent)
            if not wrong and (held_out or not thing_is_held_out(thing)):
                break
        else:
            raise ValueError("no such thing in this split")
        for _ in range(item.count):
            things.append(Thing(thing.shape, thing.color, thing.size, thing.texture, next(cells)))
    wanted = BACKGROUNDS if wish.background is None else (wish.background,)
    scenes = [scene for background in wanted if can_be_seen(scene := Scene(background, tuple(things)))]
    if not scenes:
        raise ValueError("no background shows them all")
    return _biased(rng, scenes, 0.6)


def paint(rng) -> str:
    """A colour that a newcomer says."""
    return pick(rng, NEUTRALS if rng.random() < NEUTRAL else COLORS)


def sample_item(rng, detail: float, count: int = 1, shape: float = 0.93) -> Item:
    """Attributes that are said with chance ``detail`` (the colour more often)."""
    say = lambda values, chance: values[int(rng.integers(len(values)))] if rng.random() < chance else None
    return Item(
        say(SHAPES, shape),
        paint(rng) if rng.random() < 0.5 + 0.5 * detail else None,
        say(SIZES, 0.6 * detail),
        say(TEXTURES, 0.6 * detail),
        count,
    )


# --- sentences -----------------------------------------------------------------------------------------------------------
JOINS = {
    "en": ((", ", " and "), (", ", ", "), (", ", ", and "), (" and ", " and "), (" + ", " + "), (" & ", " & ")),
    "de": ((", ", " und "), (", ", ", "), (" und ", " und ")),
    "fr": ((", ", " et "), (", ", ", "), (" et ", " et ")),
    "es": ((", ", " y "), (", ", ", "), (" y ", " y ")),
    "ja": (("と", "と"), ("、", "、"), ("、", "と")),
    "zh": (("、", "和"), ("，", "，"), ("和", "和")),
}
ON_GROUND = {
    "en": (
        "{x} on a {b} background",
        "{x} on {b}",
        "{x}, {b} background",
        "{b} background, {x}",
        "{x}. {b} background",
        "{x}, background {b}",
        "{x}; background: {b}",
        "{x} on a {b} backdrop",
        "{x} with a {b} background",
        "{x}, the background should be {b}",
        "on a {b} background: {x}",
        "{x} over a {b} background",
        "{x} against {b}",
    ),
    "de": (
        "{x} auf {b}em hintergrund",
        "{x} auf einem {b}en hintergrund",
        "{x}, hintergrund {b}",
        "{x}, der hintergrund ist {b}",
        "{x}, der hintergrund soll {b} sein",
        "auf {b}em hintergrund {x}",
        "{b}er hintergrund mit {x}",
    ),
    "fr": (
        "{x} sur fond {b}",
        "{x} sur un fond {b}",
        "{x}, fond {b}",
        "{x} avec un fond {b}",
        "sur un fond {b}, {x}",
        "fond {b} avec {x}",
    ),
    "es": (
        "{x} sobre fondo {b}",
        "{x} sobre un fondo {b}",
        "{x}, fondo {b}",
        "{x} con fondo {b}",
        "fondo {b} con {x}",
        "en un fondo {b}, {x}",
    ),
    "ja": ("{b}背景に{x}", "{x}、背景は{b}", "{b}背景の{x}", "背景は{b}で{x}"),
    "zh": ("{b}背景上的{x}", "{x}，{b}背景", "{b}背景，{x}", "在{b}背景上，{x}", "{x}，背景是{b}"),
}
EAST = ("ja", "zh")


def on_ground(key: str, text: str, background: str, rng) -> str:
    word = ground(key, background, rng)
    template = pick(rng, ON_GROUND[key])
    if key == "de" and background == "beige":
        template = template.replace("{b}em", "{b}").replace("{b}en", "{b}").replace("{b}er", "{b}")
    if key == "ja":
        bare = "背景は" in template
        word = word.removesuffix("い").removesuffix("の") if bare else word + ("の" if word[-1] not in "いの" else "")
    return template.format(x=text, b=word)


def part_text(key: str, part: Part, rng, article: str = "a") -> str:
    phrase = PHRASES[key](part.item, rng, article)
    where = None
    if part.cell is not None:
        where = place(key, part.cell, rng)
    elif part.area:
        where = area(key, part.area, rng)
    if where is None:
        return phrase
    if key == "ja":
        return f"{where}に{phrase}" if rng.random() < 0.7 else f"{where}の{phrase}"
    if key == "zh":
        return pick(rng, ("{w}{p}", "{w}有{p}", "{w}的{p}", "{p}在{w}")).format(w=where, p=phrase)
    if rng.random() < 0.2:
        return f"{where} {phrase}" if rng.random() < 0.5 else f"{where}: {phrase}"
    return f"{phrase}, {where}" if rng.random() < 0.08 else f"{phrase} {where}"


def joined(key: str, texts: list[str], rng) -> str:
    middle, last = pick(rng, JOINS[key])
    return texts[0] if len(texts) == 1 else middle.join(texts[:-1]) + last + texts[-1]


def bullets(key: str, texts: list[str], rng) -> str:
    mark = pick(rng, ("- ", "* ", "• ", "", "{}. ", "{}) "))
    head = pick(rng, ("", "", {"en": "draw:", "de": "bitte:", "fr": "dessine :", "es": "dibuja:"}.get(key, "")))
    lines = [mark.format(index + 1) + text for index, text in enumerate(texts)]
    return "\n".join(([head] if head else []) + lines)


def typo(word: str, rng) -> str:
    """One slip of the fingers in a word, never in its first letter."""
    at = 1 + int(rng.integers(len(word) - 1))
    kind = int(rng.integers(4))
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    if kind == 2 and at + 1 < len(word):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + chr(97 + int(rng.integers(26))) + word[at + 1 :]


def with_typos(text: str, rng, count: int) -> str:
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isascii() and word.isalpha()]
    for index in rng.permutation(len(places))[:count]:
        words[places[index]] = typo(words[places[index]], rng)
    return " ".join(words)


def wrapped(key: str, text: str, rng) -> str:
    return pick(rng, WRAPPERS[key]).format(x=text)


def lettered(key: str, text: str, rng) -> str:
    before, after = LETTERS[key]
    out = wrapped(key, text, rng) if rng.random() < 0.6 else text
    gap = "" if key in EAST else " "
    stop = "。" if key in EAST else "."
    head = gap.join(pick(rng, before) for _ in range(int(rng.integers(0, 3))))
    tail = gap.join(pick(rng, after) for _ in range(int(rng.integers(0, 3))))
    return (head + gap if head else "") + out + stop + (gap + tail if tail else "")


# --- kinds ----------------------------------------------------------------------------------------------------------------
def _parts(rng, detail, low=1, high=4, placed=0.0) -> list[Part]:
    parts = [Part(sample_item(rng, detail)) for _ in range(int(rng.integers(low, high + 1)))]
    cells = rng.permutation(9)
    areas = list(rng.permutation(list(AREAS)))
    for index, part in enumerate(parts):
        if rng.random() < placed:
            if rng.random() < 0.7:
                part.cell = int(cells[index])
            else:
                part.area = areas.pop()
    return parts


def _bare(key, rng):
    parts = [Part(sample_item(rng, float(rng.uniform(0, 0.8))))]
    return Wish(parts), part_text(key, parts[0], rng, pick(rng, ("", "", "a")))


def _list(key, rng):
    parts = _parts(rng, float(rng.uniform(0, 0.7)), 2, 5, placed=pick(rng, (0.0, 0.0, 0.5)))
    article = pick(rng, ("", "a"))
    texts = [part_text(key, part, rng, article) for part in parts]
    return Wish(parts), bullets(key, texts, rng) if rng.random() < 0.25 else joined(key, texts, rng)


def _placed(key, rng):
    parts = _parts(rng, float(rng.uniform(0, 1)), 1, 3, placed=0.85)
    return Wish(parts), joined(key, [part_text(key, part, rng) for part in parts], rng)


def _counts(key, rng):
    first = int(rng.integers(2, 6))
    parts = [Part(sample_item(rng, float(rng.uniform(0, 0.7)), first, shape=0.9))]
    while sum(p.item.count for p in parts) < MOST_THINGS and rng.random() < 0.4:
        room = MOST_THINGS - sum(p.item.count for p in parts)
        parts.append(Part(sample_item(rng, float(rng.uniform(0, 0.7)), int(rng.integers(1, room + 1)))))
    if rng.random() < 0.3:
        parts.reverse()
    if key in ALL_OF_COLOR and len(parts) == 1 and parts[0].item.color and rng.random() < 0.3:
        bare = Part(replace(parts[0].item, color=None))
        color = color_word(key, parts[0].item.color, rng)
        return Wish(parts), part_text(key, bare, rng) + pick(rng, ALL_OF_COLOR[key]).format(c=color)
    return Wish(parts), joined(key, [part_text(key, part, rng) for part in parts], rng)


ALL_OF_COLOR = {  # the colour of several things, said behind them
    "en": (
        ", all of them {c}",
        ", all {c}",
        ", each of them {c}",
        ", every one {c}",
        " and all of them {c}",
        " in {c}",
    ),
    "de": (", alle in {c}", ", alle {c}", ", jeder {c}"),
}


VAGUE_NUMBERS = {
    "en": (
        ("", 3),
        ("", 3),
        ("a couple of ", 2),
        ("a pair of ", 2),
        ("both ", 2),
        ("some ", 3),
        ("a few ", 3),
        ("several ", 3),
        ("many ", 5),
        ("lots of ", 5),
    ),
    "de": (("ein paar ", 3), ("einige ", 3), ("mehrere ", 3), ("viele ", 5)),
    "fr": (("quelques ", 3), ("plusieurs ", 3), ("beaucoup de ", 5)),
    "es": (("algunos ", 3), ("unos ", 3), ("varios ", 3), ("muchos ", 5)),
    "ja": (("いくつかの", 3), ("たくさんの", 5)),
    "zh": (("几个", 3), ("一些", 3), ("很多", 5)),
}


def _vague_counts(key, rng):
    words, count = pick(rng, VAGUE_NUMBERS[key])
    item = sample_item(rng, float(rng.uniform(0, 0.6)), count)
    phrase = PHRASES[key](item, rng, "all")
    drop = {"en": 4, "de": 5}.get(key)
    if drop:
        phrase = phrase[drop:]
    elif key in ("fr", "es"):
        phrase = phrase.split(" ", 2)[2]
    else:
        for word in ("すべての", "全ての", "全部の", "所有的", "所有", "全部"):
            phrase = phrase.removeprefix(word)
    return Wish([Part(item)]), words + phrase


def _relation(key, rng):
    relation = pick(rng, tuple(RELATION_CELLS))
    parts = [Part(sample_item(rng, float(rng.uniform(0, 0.7)), shape=0.97)) for _ in range(2)]
    one, other = (PHRASES[key](part.item, rng, pick(rng, ("a", "a", "a", "the"))) for part in parts)
    if key == "en" and rng.random() < 0.2:
        one, other = (PHRASES[key](part.item, rng, "") for part in parts)
    return Wish(parts, relation=relation), pick(rng, RELATION_WORDS[key][relation]).format(a=one, b=other)


LAYOUT_WORDS = {
    "en": {
        "row": ("{x} in a row", "a row of {x}", "{x} side by side", "{x} in a line", "{x} next to each other"),
        "column": (
            "{x} in a column",
            "a column of {x}",
            "{x} on top of each other",
            "{x} stacked",
            "{x} one above the other",
        ),
        "diagonal": ("{x} on a diagonal", "{x} diagonally", "a diagonal of {x}"),
        "corners": (
            "{e} in every corner",
            "{e} in each corner",
            "{x} in the corners",
            "{x}, one in each corner",
            "{e} in all four corners",
        ),
        "top row": ("{x} along the top", "{x} in the top row", "{x} in a row at the top"),
        "bottom row": ("{x} along the bottom", "{x} in the bottom row", "{x} in a row at the bottom"),
    },
    "de": {
        "row": ("{x} in einer reihe", "{x} nebeneinander"),
        "column": ("{x} übereinander", "{x} untereinander"),
        "corners": ("{e} in jeder ecke", "{x} in den ecken"),
    },
    "fr": {
        "row": ("{x} en ligne", "{x} côte à côte", "{x} alignés"),
        "column": ("{x} en colonne", "{x} l'un au-dessus de l'autre"),
        "corners": ("{e} dans chaque coin", "{x} dans les coins"),
    },
    "es": {
        "row": ("{x} en fila", "{x} en línea", "{x} uno al lado del otro"),
        "column": ("{x} en columna", "{x} uno encima del otro"),
        "corners": ("{e} en cada esquina", "{x} en las esquinas"),
    },
    "ja": {
        "row": ("{x}を横一列に", "横に並んだ{x}"),
        "column": ("{x}を縦一列に", "縦に並んだ{x}"),
        "corners": ("四隅に{e}",),
    },
    "zh": {"row": ("{x}排成一行", "一排{x}"), "column": ("{x}排成一列",), "corners": ("每个角落{e}", "四个角各{e}")},
}


def _layout(key, rng):
    layout = pick(rng, tuple(LAYOUT_WORDS[key]))
    count = pick(rng, tuple(ROWS_OF[layout]))
    item = sample_item(rng, float(rng.uniform(0, 0.7)), count, shape=1.0)
    template = pick(rng, LAYOUT_WORDS[key][layout])
    if "{e}" in template:
        text = template.format(e=PHRASES[key](Item(item.shape, item.color, item.size, item.texture), rng))
        return Wish([Part(item)], layout=layout), text
    if count == 3 and layout in ("row", "column") and rng.random() < 0.35:
        parts = [Part(sample_item(rng, 0.3, shape=1.0)) for _ in range(3)]
        text = template.format(x=joined(key, [PHRASES[key](p.item, rng) for p in parts], rng))
        return Wish(parts, layout=layout), text
    return Wish([Part(item)], layout=layout), template.format(x=PHRASES[key](item, rng))


def _negation(key, rng):
    parts = [Part(sample_item(rng, float(rng.uniform(0, 0.7)), shape=1.0))]
    if rng.random() < 0.3:
        parts.append(Part(sample_item(rng, 0.4, shape=1.0)))
    texts = [part_text(key, part, rng) for part in parts]
    text = joined(key, texts, rng)
    shapes = {part.item.shape for part in parts}
    other = pick(rng, [shape for shape in SHAPES if shape not in shapes])
    kind = rng.random()
    if kind < 0.45:
        no = Item(other, None if rng.random() < 0.6 else paint(rng))
        words = PHRASES[key](no, rng, "no" if key not in EAST else "")
        bare = PHRASES[key](no, rng, "")
        several = PHRASES["en"](no, rng, "all")[4:] if key == "en" else bare
        return Wish(parts, absent=[no]), pick(rng, NEGATIONS[key]["no"]).format(x=text, no=words, n=bare, ns=several)
    if kind < 0.8:
        return Wish(parts), pick(rng, NEGATIONS[key]["only"]).format(x=text)
    parts = parts[:1]
    item = parts[0].item
    texture = pick(rng, ("striped", "dotted"))
    parts[0].item = said = Item(item.shape, item.color, item.size, None)
    text = PHRASES[key](said, rng)
    wish = Wish([Part(Item(item.shape, item.color, item.size, "solid"))])
    return wish, pick(rng, NEGATIONS[key][texture]).format(x=text)


CORRECTIONS = {
    "en": (
        "don't draw {x}, draw {y}",
        "no {x} please, {y} instead",
        "{y}, not {x}",
        "instead of {x}, {y}",
        "{x} would be wrong, {y}",
        "{x}, no, {y}",
        "{x}... no wait, {y}",
        "{x}. actually {y}",
        "{x}, sorry, i mean {y}",
        "not {x} but {y}",
        "{x}? no, rather {y}",
        "first i wanted {x} but now {y}",
    ),
    "de": (
        "{x}, nein, {y}",
        "statt {x} lieber {y}",
        "{y}, nicht {x}",
        "{x}, nein doch lieber {y}",
        "{x}. ach nein, {y}",
        "{x}, ich meine {y}",
    ),
    "fr": ("{x}, non, {y}", "{y}, pas {x}", "{x}, non plutôt {y}", "{x}. finalement {y}"),
    "es": ("{x}, no, mejor {y}", "{y}, no {x}", "{x}. no, {y}", "{x}, perdón, {y}"),
    "ja": ("{x}、いや、{y}", "{x}ではなく{y}", "{x}じゃなくて{y}"),
    "zh": ("{x}，不，{y}", "不是{x}，而是{y}", "{x}，不对，是{y}"),
}


COLOR_CORRECTIONS = {  # y: the thing without a colour, x: in the wrong one
    "en": (
        "{y}, not {n}, {c}",
        "{y}, {c}, not {n}",
        "{x}, no, {c}",
        "{x}, sorry, {c}",
        "{y}, not {n} but {c}",
        "{x}, make that {c}",
        "not {n}: {y} in {c}",
    ),
    "de": ("{y}, nicht {n}, sondern {c}", "{x}, nein, {c}", "{y}, nicht {n}, {c}"),
    "fr": ("{y}, pas {n} mais {c}", "{x}, non, {c}"),
    "es": ("{y}, no {n} sino {c}", "{x}, no, {c}"),
}


def _contradiction(key, rng):
    before = sample_item(rng, 0.3, shape=1.0)
    last = Part(sample_item(rng, float(rng.uniform(0.2, 0.7)), shape=1.0))
    if key == "en" and rng.random() < 0.25:  # two colours for one thing
        last.item = Item(last.item.shape, paint(rng))
        text = f"a {paint(rng)} {PHRASES[key](last.item, rng, '')}"
        return Wish([last]), text
    if key in COLOR_CORRECTIONS and rng.random() < 0.35:
        no, yes = (PAINTS[index] for index in rng.permutation(len(PAINTS))[:2])
        last.item = replace(last.item, color=yes)
        words = {
            "x": PHRASES[key](replace(last.item, color=no), rng),
            "y": PHRASES[key](replace(last.item, color=None), rng),
        }
        colors = {"n": color_word(key, no, rng), "c": color_word(key, yes, rng)}
        return Wish([last]), pick(rng, COLOR_CORRECTIONS[key]).format(**words, **colors)
    words = [PHRASES[key](item, rng) for item in (before, last.item)]
    return Wish([last]), pick(rng, CORRECTIONS[key]).format(x=words[0], y=words[1])


def _elliptic(key, rng):
    """Words that stand once for two things: "a red and a blue circle", "a circle and a square, both red"."""
    if key not in ELLIPSES:
        return _list(key, rng)
    kind = pick(rng, ELLIPSES[key])
    shape, other = (SHAPES[index] for index in rng.permutation(len(SHAPES))[:2])
    if kind == "between":
        return _between(key, rng)
    if kind in ("both", "shared"):
        return _of_one_color(key, rng, (shape, other), kind)
    colors = [PAINTS[index] for index in rng.permutation(len(PAINTS))[: 3 if rng.random() < 0.3 else 2]]
    wish = Wish([Part(Item(shape, color)) for color in colors])
    words = [color_word(key, color, rng) for color in colors]
    if kind == "plural":
        return wish, _plural_in_colors(shape, words, rng)
    return wish, _noun_said_once(key, shape, colors, rng, at_the_end=kind == "last")


def _between(key, rng):
    middle, side = sample_item(rng, 0.3, shape=1.0), sample_item(rng, 0.3, 2, shape=1.0)
    words = pick(rng, BETWEEN[key]).format(a=PHRASES[key](middle, rng), b=PHRASES[key](side, rng))
    return Wish([Part(side), Part(middle)], layout="between"), words


def _of_one_color(key, rng, shapes, kind):
    color = paint(rng)
    wish = Wish([Part(Item(shape, color)) for shape in shapes])
    word = color_word(key, color, rng)
    if kind == "shared":
        one, two = (noun_en(shape, rng) for shape in shapes)
        return wish, f"a {word} {one} and {two}"
    one, two = (PHRASES[key](Item(shape), rng) for shape in shapes)
    return wish, pick(rng, BOTH[key]).format(a=one, b=two, c=word)


def _plural_in_colors(shape, words, rng) -> str:
    """English: "two stars, one red and one blue"."""
    several, number = noun_en(shape, rng, many=True), {2: "two", 3: "three"}[len(words)]
    listed = lambda parts: " and ".join((", ".join(parts[:-1]), parts[-1]))
    each = listed([f"one {word}" for word in words])
    return pick(rng, (f"{number} {several}, {each}", f"{listed(words)} {several}", f"{several}: {', '.join(words)}"))


def _noun_said_once(key, shape, colors, rng, at_the_end: bool) -> str:
    """ "a red and a blue circle" or "a red circle and a blue one"; one and the same noun for all."""
    while True:
        phrases = [PHRASES[key](Item(shape, color), rng, "a") for color in colors]
        heads = [phrase.split(" ")[1 if key in ("fr", "es") else -1] for phrase in phrases]
        if len(set(heads)) == 1 and all(phrase.split(" ").count(heads[0]) == 1 for phrase in phrases):
            break
    bare = [" ".join(word for word in phrase.split(" ") if word != heads[0]) for phrase in phrases]
    if at_the_end:
        return joined(key, [*bare[:-1], phrases[-1]], rng)
    one = " one" if key == "en" else ""
    return joined(key, [phrases[0], *(text + one for text in bare[1:])], rng)


ELLIPSES = {
    "en": ("last", "last", "first", "both", "shared", "plural", "between"),
    "de": ("last", "first", "both", "between"),
    "fr": ("first", "between"),
    "es": ("first", "between"),
}
BOTH = {
    "en": ("{a} and {b}, both {c}", "{a} and {b}, both of them {c}", "{a} and {b} in {c}", "{c}: {a} and {b}"),
    "de": ("{a} und {b}, beide {c}", "{a} und {b}, beide in {c}"),
}
BETWEEN = {
    "en": ("{a} between {b}", "{b} with {a} between them", "{b}, {a} in between"),
    "de": ("{a} zwischen {b}",),
    "fr": ("{a} entre {b}",),
    "es": ("{a} entre {b}",),
}


def _unknown(key, rng):
    """Things that are not of this world are passed over; with nothing known, one plain thing is drawn."""
    strange = pick(rng, THINGS_OF_THE_WORLD[key])
    article = {"en": "a ", "de": "ein ", "fr": "un ", "es": "un "}.get(key, "")
    kind = rng.random()
    if kind < 0.35:
        return Wish([Part(Item())]), (article if rng.random() < 0.6 else "") + strange
    if kind < 0.55:
        color = paint(rng)
        noun = PHRASES[key](Item(None, color), rng)
        for entry in ANY[key].split():
            for form in entry.split(":"):
                if noun.endswith(form):
                    noun = noun.removesuffix(form) + strange
        if key in ("fr", "es"):
            noun = f"un {strange} {TABLES[key][1][color].split()[0].split('/')[0]}"
        return Wish([Part(Item(None, color))]), noun
    parts = _parts(rng, float(rng.uniform(0, 0.7)), 1, 2)
    texts = [part_text(key, part, rng) for part in parts]
    texts.insert(int(rng.integers(len(texts) + 1)), article + strange)
    return Wish(parts), joined(key, texts, rng)


def _plain(key, rng):
    parts = _parts(rng, float(rng.uniform(0.2, 1)), 1, 3, placed=0.4)
    return Wish(parts), joined(key, [part_text(key, part, rng) for part in parts], rng)


KINDS = {
    "bare": (_bare, 0.13),
    "list": (_list, 0.11),
    "placed": (_placed, 0.1),
    "elliptic": (_elliptic, 0.07),
    "counts": (_counts, 0.14),
    "vague counts": (_vague_counts, 0.03),
    "relation": (_relation, 0.13),
    "layout": (_layout, 0.06),
    "negation": (_negation, 0.08),
    "contradiction": (_contradiction, 0.04),
    "unknown": (_unknown, 0.05),
    "plain": (_plain, 0.06),
}
LANGUAGES = {"en": 0.5, "de": 0.12, "fr": 0.09, "es": 0.09, "ja": 0.1, "zh": 0.1}


def newcomer_prompt(rng, kind: str | None = None, key: str | None = None, held_out: bool = False):
    """(prompt, scene, specification, kind, language) of one newcomer."""
    while True:
        language = key or str(rng.choice(list(LANGUAGES), p=list(LANGUAGES.values())))
        name = kind or str(rng.choice(list(KINDS), p=[share for _, share in KINDS.values()]))
        wish, text = KINDS[name][0](language, rng)
        try:
            if rng.random() < 0.35 and "\n" not in text:
                wish.background = pick(rng, BACKGROUNDS)
                text = on_ground(language, text, wish.background, rng)
            scene = realise(wish, rng, held_out)
        except ValueError:
            continue
        if "\n" not in text:
            way = rng.random()
            if way < 0.25:
                text = wrapped(language, text, rng)
            elif way < 0.33:
                text = lettered(language, text, rng)
        if language not in EAST and rng.random() < 0.22:
            text = with_typos(text, rng, int(rng.integers(1, 3)))
        if rng.random() < 0.25 and text[-1] not in ".!?。":
            text += pick(rng, ("。", "！") if language in EAST else (".", ".", "!", " !", "..", " please", "?"))
        return text, scene, specification(wish), name, language


assert EN_NOUNS.keys() == set(SHAPES) and NUMBERS
