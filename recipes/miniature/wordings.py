"""What a creator might type: prompts, edit instructions and instructions about two pictures, in varied English.

Every table has wordings for training and wordings that only tests use, so that a score can be given for
paraphrases never seen.  ``split`` is ``"train"`` or ``"test"`` (prompts also have ``"fresh"``, a second set of
tests); ``rng`` is a numpy Generator.
"""

from __future__ import annotations

from collections import Counter

from .captions import PromptSpec, Stated, caption
from .scene import POSITIONS, Composition, Edit, Scene, Thing

SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop", "donut"),
    "heart": ("heart",),
    "crescent": ("crescent", "moon"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
COLOR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white",),
    "black": ("black",),
}
SIZE_WORDS = {"large": ("large", "big", "huge"), "small": ("small", "little", "tiny")}
TEXTURE_WORDS = {"solid": ("solid", "plain"), "striped": ("striped", "stripy"), "dotted": ("dotted", "spotted")}
TEXTURE_TAILS = {"solid": ("in one color",), "striped": ("with stripes",), "dotted": ("with dots", "with polka dots")}
BACKGROUND_WORDS = {
    "white": ("white",),
    "gray": ("gray", "grey"),
    "black": ("black",),
    "beige": ("beige", "cream"),
    "navy": ("navy", "dark blue"),
}
ANY_NOUN = ("thing", "object", "shape")
NUMBERS = {2: ("two", "2"), 3: ("three", "3")}
ROWS, COLUMNS = (("top", "upper"), ("middle", "center"), ("bottom", "lower")), ("left", "center", "right")

PROMPTS = {  # without a background / with one
    "train": (
        (
            "{things}",
            "{things}",
            "a picture of {things}",
            "an image with {things}",
            "draw {things}",
            "i want {things}",
            "show me {things}",
            "please paint {things}",
            "create an image of {things}",
            "a drawing of {things}",
            "a photo of {things}",
            "make a picture with {things}",
            "there is {things}",
            "give me {things}",
            "please show {things}",
            "i want to see {things}",
            "now draw {things}",
            "the picture should show {things}",
            "let there be {things}",
            "a picture with {things}, please",
        ),
        (
            "{things} on a {b} background",
            "{things}, {b} background",
            "{things} on {b}",
            "a picture of {things} on a {b} background",
            "a {b} background with {things}",
            "draw {things} on a {b} background",
            "on a {b} background there is {things}",
            "{b} background: {things}",
            "an image with {things} and a {b} background",
            "please paint {things} on {b}",
            "on {b}, {things}",
            "show me {things} in front of a {b} background",
            "a {b} picture with {things}",
            # Words like "and", "on it" or "in front" may join a background and things as well as two things.
            "a {b} background and {things}",
            "{b} background with {things} on it",
            "{b} background and {things}",
            "make a {b} background and put {things} on top",
            "use a {b} background and draw {things}",
            "a {b} background and on top of it {things}",
            "draw a {b} background with {things} in front",
            "create a {b} background and place {things} in front of it",
            "i want a {b} background and {things}",
            "take a {b} background, add {things}",
            "there is a {b} background with {things} on top of it",
            "let the background be {b} and draw {things}",
            "the background is {b} and on it there is {things}",
            "background {b}, {things}",
            "make the background {b} and show {things}",
            "first a {b} background and {things} on it",
            "{things}, the background is {b}",
            "{things} and a {b} background",
            "{things} with a {b} background",
            "draw {things}, use {b} for the background",
            "show {things} and let the background be {b}",
            "i want {things} and i want the background to be {b}",
            "{things}, and the background should be {b}",
        ),
    ),
    "test": (
        ("let me see {things}", "can you draw {things}?", "generate {things}", "there should be {things}"),
        (
            "{things} against a {b} background",
            "paint a {b} background and on it {things}",
            "please draw {things} and make the background {b}",
            "an image of {things} in front of {b}",
        ),
    ),
    # A second set of tests, written before the wordings of training were extended and tried once, at the end.
    "fresh": (
        (
            "could you paint {things} for me?",
            "a scene with {things}",
            "please show {things} in the image",
            "i need {things}",
        ),
        (
            "a {b} background, in front of it {things}",
            "{things}, all on a {b} background",
            "let me see {things} on a {b} background",
            "i need a {b} background and there should be {things} on it",
        ),
    ),
}
RECOLOUR = {
    "train": (
        "make {t} {c}",
        "paint {t} {c}",
        "recolor {t} to {c}",
        "change the color of {t} to {c}",
        "turn {t} {c}",
        "{t} should be {c}",
        "change {t} to {c}",
        "i want {t} in {c}",
        "color {t} {c}",
        "let {t} be {c}",
        "make the color of {t} {c}",
        "use {c} for {t}",
        "please change {t} to {c}",
        "now make {t} {c}",
        "set the color of {t} to {c}",
        "{t} in {c}, please",
    ),
    "test": ("give {t} a {c} color", "please make {t} {c}", "the color of {t} should be {c}", "can you paint {t} {c}?"),
}
REPLACE = {
    "train": (
        "replace {t} with {s}",
        "turn {t} into {s}",
        "change {t} into {s}",
        "swap {t} for {s}",
        "make {t} {s}",
        "{t} should be {s}",
        "put {s} in the place of {t}",
        "i want {s} instead of {t}",
        "replace {t} by {s}",
        "please replace {t} with {s}",
        "remove {t} and put {s} there",
        "now make {t} {s}",
        "show {s} in the place of {t}",
        "instead of {t} draw {s}",
    ),
    "test": ("use {s} instead of {t}", "please turn {t} into {s}", "let {t} be {s}", "exchange {t} for {s}"),
}
ADD = {
    "train": (
        "add {a}",
        "put {a}",
        "place {a}",
        "draw {a} too",
        "also show {a}",
        "there should also be {a}",
        "add {a} to the picture",
        "insert {a}",
        "i also want {a}",
        "and now {a} too",
        "add another thing: {a}",
        "now add {a}",
        "please put {a} there too",
        "give me {a} too",
        "i want to see {a} too",
        "also {a}",
    ),
    "test": ("please add {a}", "can you put {a} into the picture?", "also draw {a}", "include {a}"),
}
REMOVE = {
    "train": (
        "remove {t}",
        "delete {t}",
        "erase {t}",
        "take {t} away",
        "get rid of {t}",
        "{t} should go",
        "take away {t}",
        "i want the picture without {t}",
        "remove {t} from the picture",
        "no {t_bare}",
        "please remove {t}",
        "show it without {t}",
        "do not show {t}",
        "i want no {t_bare}",
        "let {t} go",
        "please take {t} away",
        "the picture without {t}",
        "now without {t}",
    ),
    "test": ("please delete {t}", "can you remove {t}?", "the same without {t}", "i do not want {t}"),
}
MOVE = {
    "train": (
        "move {t} {p}",
        "put {t} {p}",
        "shift {t} {p}",
        "place {t} {p}",
        "{t} should be {p}",
        "change the position of {t}: {p}",
        "i want {t} {p}",
        "bring {t} {p}",
        "move {t} so that it is {p}",
        "please put {t} {p}",
        "now move {t} {p}",
        "set {t} {p}",
        "take {t} and put it {p}",
        "show {t} {p}",
    ),
    "test": ("please move {t} {p}", "can you shift {t} {p}?", "let {t} be {p}", "{t} belongs {p}"),
}
BACKGROUND = {
    "train": (
        "change the background to {b}",
        "make the background {b}",
        "use a {b} background",
        "put it on a {b} background",
        "{b} background",
        "the background should be {b}",
        "turn the background {b}",
        "i want a {b} background",
        "replace the background with {b}",
        "the same on {b}",
        "please use a {b} background",
        "let the background be {b}",
        "color the background {b}",
        "put everything on {b}",
        "now on a {b} background",
        "recolor the background to {b}",
    ),
    "test": (
        "please make the background {b}",
        "paint the background {b}",
        "set the background to {b}",
        "the same picture on a {b} background",
    ),
}
TWO_BACKGROUND = {
    "train": (
        "put {g} of {pg} on the background of {pb}",
        "{g} of {pg} on the background of {pb}",
        "show {g} from {pg} with the background of {pb}",
        "use the background of {pb} for {g} of {pg}",
        "only {g} from {pg}, background from {pb}",
        "place {g} from {pg} on the background from {pb}",
        "use {g} of {pg} and the background from {pb}",
        "i want {g} of {pg} on the background of {pb}",
        "the background of {pb} with {g} from {pg}",
        "take the background of {pb} and put {g} of {pg} on it",
    ),
    "test": ("take {g} of {pg} and the background of {pb}", "draw {g} from {pg} on the background from {pb}"),
}
TWO_INSERT = {
    "train": (
        "put {g} of {pg} into {pb}",
        "add {g} of {pg} to {pb}",
        "insert {g} from {pg} into {pb}",
        "{pb} with {g} from {pg}",
        "keep {pb} and add {g} of {pg}",
        "place {g} of {pg} in {pb}",
        "i want {g} from {pg} in {pb}",
        "bring {g} of {pg} into {pb}",
        "show {pb} with {g} of {pg}",
        "use {pb} and insert {g} from {pg}",
        "move {g} of {pg} to {pb}",
    ),
    "test": ("please put {g} from {pg} in {pb}", "take {g} of {pg} and put it into {pb}"),
}
TWO_PAIR = {
    "train": (
        "put {g} of {pg} and {h} of {ph} on the background of {pb}",
        "combine {g} from {pg} with {h} from {ph}, background of {pb}",
        "{g} of {pg} and {h} of {ph} on the background of {pb}",
        "show {g} from {pg} together with {h} from {ph} and use the background of {pb}",
        "a picture with {g} of {pg} and {h} of {ph}, background from {pb}",
        "place {g} from {pg} and {h} from {ph} on the background of {pb}",
        "use {g} of {pg}, {h} of {ph} and the background of {pb}",
        "take the background of {pb} and put {g} of {pg} and {h} of {ph} on it",
        "i want {g} from {pg} together with {h} of {ph} on the background from {pb}",
    ),
    "test": (
        "take {g} of {pg} and {h} of {ph} and put both on the background of {pb}",
        "draw {g} from {pg} and {h} from {ph} with the background of {pb}",
    ),
}
PICTURE_NAMES = (
    ("image 1", "picture 1", "the first picture", "the first image"),
    ("image 2", "picture 2", "the second picture", "the second image"),
    ("image 3", "picture 3", "the third picture", "the third image"),
)
THREE = {
    "train": (
        "put {a} of {pa}, {b} of {pb} and {c} of {pc} on the background of {pd}",
        "combine {a} from {pa} with {b} from {pb} and {c} from {pc}, background of {pd}",
        "{a} of {pa}, {b} of {pb}, {c} of {pc}, background of {pd}",
        "show {a} from {pa} together with {b} from {pb} and {c} from {pc} on the background of {pd}",
        "a picture with {a} of {pa}, {b} of {pb} and {c} of {pc} and the background of {pd}",
        "use the background of {pd} and put {a} of {pa}, {b} of {pb} and {c} of {pc} on it",
        "i want {a} from {pa}, {b} from {pb} and {c} from {pc} on the background from {pd}",
        "add {a} of {pa} and {b} of {pb} to {c} of {pc}, on the background of {pd}",
    ),
    "test": (
        "take {a} of {pa}, {b} of {pb} and {c} of {pc} and put them on the background of {pd}",
        "draw {a} from {pa}, {b} from {pb} and {c} from {pc} with the background of {pd}",
    ),
}
CAPTION_REQUESTS = {
    "train": (
        "",
        "",
        "describe the picture",
        "what do you see?",
        "caption",
        "describe this image",
        "the same picture",
        "the same image again",
        "keep everything",
    ),
    "test": ("describe this picture", "what do you see in the picture?", "the same again"),
}


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeio" else "a ") + phrase


def plural(noun: str) -> str:
    """``boxes`` of ``box``."""
    return PLURALS.get(noun, noun + "s")


def position_phrase(cell: int, rng) -> str:
    """Words for one cell, e.g. ``in the upper left corner``."""
    row, column = divmod(cell, 3)
    if cell == 4:
        return pick(rng, ("at the center", "in the center", "in the middle"))
    name = f"{pick(rng, ROWS[row])} {COLUMNS[column]}"
    if row == 1 or column == 1:
        return pick(rng, ("at the ", "in the ", "on the ")) + (POSITIONS[cell] if rng.random() < 0.5 else name)
    return pick(rng, ("at the {}", "in the {}", "in the {} corner", "at the {}")).format(name)


def vague_position(cell: int, rng) -> tuple[str, frozenset[int]]:
    """Words that only say a row, a column or "a corner", with the cells they allow."""
    row, column = divmod(cell, 3)
    options = []
    if row != 1:
        options.append((pick(rng, ("at the ", "on the ")) + ROWS[row][0], frozenset(range(3 * row, 3 * row + 3))))
    if column != 1:
        options.append(
            (
                pick(rng, ("on the ", "to the ")) + COLUMNS[column] + pick(rng, ("", " side")),
                frozenset(range(column, 9, 3)),
            )
        )
    if row != 1 and column != 1:
        options.append(("in a corner", frozenset((0, 2, 6, 8))))
    return pick(rng, options) if options else (position_phrase(cell, rng), frozenset((cell,)))


def noun_phrase(stated: Stated, rng, count: int = 1, article: bool = True) -> str:
    """Words for the attributes stated, without position; ``article=False`` leaves ``a`` and the number away."""
    words = []
    if stated.size:
        words.append(pick(rng, SIZE_WORDS[stated.size]))
    paint = [pick(rng, COLOR_WORDS[stated.color])] if stated.color else []
    tail = ""
    if stated.texture:
        if rng.random() < 0.2:
            tail = " " + pick(rng, TEXTURE_TAILS[stated.texture])
        else:
            paint.insert(int(rng.integers(2)), pick(rng, TEXTURE_WORDS[stated.texture]))
    words += paint
    noun = pick(rng, SHAPE_WORDS[stated.shape] if stated.shape else ANY_NOUN)
    words.append(plural(noun) if count > 1 else noun)
    phrase = " ".join(words)
    if not article:
        return phrase + tail
    return (pick(rng, NUMBERS[count]) + " " + phrase if count > 1 else _article(phrase)) + tail


def _join(parts: list[str], rng) -> str:
    if len(parts) == 1:
        return parts[0]
    return pick(rng, (", ", " and ")).join(parts[:-1]) + pick(rng, (" and ", ", ", ", and ")) + parts[-1]


def _finish(text: str, rng) -> str:
    """Random capital letter and full stop, as people type."""
    if text and rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    if text and text[-1] not in ".?" and rng.random() < 0.3:
        text += "."
    return text


def user_prompt(scene: Scene, rng, split: str = "train", detail: float | None = None) -> tuple[str, PromptSpec]:
    """A text-to-image prompt and what it states.

    ``detail`` in 0..1 is the chance of each attribute to be said (1: everything); None draws it, so that about
    a fifth of the prompts say everything.
    """
    if detail is None:
        detail = 1.0 if rng.random() < 0.2 else float(rng.uniform(0.1, 0.9))
    if detail == 1.0 and split == "train" and rng.random() < 0.2:
        return caption(scene), exact_spec(scene)
    said = lambda: rng.random() < detail
    things = []
    for thing in scene.things:
        attributes = {field: getattr(thing, field) for field in ("color", "size", "texture") if said()}
        if rng.random() < 0.5 + detail:  # people seldom leave the shape away
            attributes["shape"] = thing.shape
        words, cells = "", None
        if said():
            words, cells = position_phrase(thing.cell, rng), frozenset((thing.cell,))
            if rng.random() < 0.15 * (detail < 1):
                words, cells = vague_position(thing.cell, rng)
        things.append((Stated(cells=cells, **attributes), words))
    rng.shuffle(things)
    groups = Counter(stated for stated, words in things if not words)
    bare = rng.random() < 0.2  # "red circle, blue star"
    parts = []
    for stated, words in things:
        if words:
            parts.append(f"{noun_phrase(stated, rng, article=not bare)} {words}")
        elif stated in groups:
            count = groups.pop(stated)
            parts.append(noun_phrase(stated, rng, count, article=count > 1 or not bare))
    background = scene.background if said() else None
    templates = PROMPTS[split][background is not None]
    text = pick(rng, templates).format(
        things=_join(parts, rng), b=pick(rng, BACKGROUND_WORDS[background]) if background else ""
    )
    return _finish(text, rng), PromptSpec(tuple(stated for stated, _ in things), background)


def exact_spec(scene: Scene) -> PromptSpec:
    """The specification that only this scene meets."""
    return PromptSpec(
        tuple(Stated(t.shape, t.color, t.size, t.texture, frozenset((t.cell,))) for t in scene.things), scene.background
    )


def refer(scene: Scene, index: int, rng, article: str = "the ") -> str:
    """Words that mean exactly one thing of a scene, e.g. ``the red star`` or ``the thing at the top left``."""
    thing = scene.things[index]
    if len(scene.things) == 1 and article and rng.random() < 0.15:
        return pick(rng, ("it", "the thing", "the object", "the shape"))
    fields = ["shape", "color", "size", "texture", "cells"]
    start = int(rng.choice(4, p=(0.55, 0.3, 0.1, 0.05))) + 1
    for number in [start] * 4 + [3, 4, 5]:
        weights = (0.42, 0.26, 0.08, 0.08, 0.16)
        chosen = set(rng.choice(fields, size=number, replace=False, p=weights))
        stated = Stated(
            *(getattr(thing, f) if f in chosen else None for f in fields[:4]),
            frozenset((thing.cell,)) if "cells" in chosen else None,
        )
        if sum(stated.allows(other) for other in scene.things) == 1:
            break
    phrase = article + noun_phrase(stated, rng, article=False)
    return f"{phrase} {position_phrase(thing.cell, rng)}" if stated.cells else phrase


def _thing_in_full(thing: Thing, rng, terse: bool) -> str:
    stated = Stated(
        thing.shape,
        thing.color,
        None if terse and rng.random() < 0.7 else thing.size,
        None if terse and rng.random() < 0.7 else thing.texture,
    )
    phrase = noun_phrase(stated, rng)
    return phrase if terse and rng.random() < 0.4 else f"{phrase} {position_phrase(thing.cell, rng)}"


def edit_instruction(scene: Scene, edit: Edit, rng, split: str = "train", terse: bool = False) -> str:
    """An instruction for an edit of ``scene``; ``terse`` lets an added thing be described in part only."""
    if edit.kind == "background":
        text = pick(rng, BACKGROUND[split]).format(b=pick(rng, BACKGROUND_WORDS[edit.value]))
    elif edit.kind == "add":
        text = pick(rng, ADD[split]).format(a=_thing_in_full(edit.value, rng, terse))
    else:
        table = {"recolour": RECOLOUR, "replace": REPLACE, "remove": REMOVE, "move": MOVE}[edit.kind]
        template = pick(rng, table[split])
        words = (
            {"t": refer(scene, edit.target, rng)}
            if "{t}" in template
            else {"t_bare": refer(scene, edit.target, rng, article="")}
        )
        if edit.kind == "recolour":
            words["c"] = pick(rng, COLOR_WORDS[edit.value])
        elif edit.kind == "replace":
            shape, color = edit.value if isinstance(edit.value, tuple) else (edit.value, None)
            words["s"] = noun_phrase(Stated(shape, color), rng)
        elif edit.kind == "move":
            words["p"] = position_phrase(edit.value, rng)
            if any(verb in template for verb in ("move {t} {p}", "shift", "bring")):  # not "move it at the top"
                words["p"] = words["p"].replace("at the", "to the").replace("in the", pick(rng, ("in the", "to the")))
        text = template.format(**words)
    return _finish(text, rng)


def two_picture_instruction(first: Scene, second: Scene, composition: Composition, rng, split: str = "train") -> str:
    """An instruction about two pictures that makes ``composition``."""
    scenes = (first, second)
    base = composition.background
    name = lambda picture: pick(rng, PICTURE_NAMES[picture])

    def words(picture: int, index: int, cell: int) -> str:
        phrase = refer(scenes[picture], index, rng)
        return phrase if phrase != "it" else "the thing"

    def place(picture: int, index: int, cell: int) -> str:
        moved = cell != scenes[picture].things[index].cell
        return f"{name(picture)} {position_phrase(cell, rng)}" if moved else name(picture)

    guests = [p for p in composition.picks if p[0] != base]
    hosts = [p for p in composition.picks if p[0] == base]
    if not hosts:
        text = pick(rng, TWO_BACKGROUND[split]).format(g=words(*guests[0]), pg=place(*guests[0]), pb=name(base))
    elif len(hosts) == len(scenes[base].things) and (len(hosts) > 1 or rng.random() < 0.5):
        text = pick(rng, TWO_INSERT[split]).format(g=words(*guests[0]), pg=place(*guests[0]), pb=name(base))
    else:
        one, two = composition.picks if rng.random() < 0.7 else composition.picks[::-1]
        text = pick(rng, TWO_PAIR[split]).format(
            g=words(*one), pg=place(*one), h=words(*two), ph=place(*two), pb=name(base)
        )
    return _finish(text, rng)


def three_picture_instruction(scenes, composition: Composition, rng, split: str = "train") -> str:
    """An instruction about three pictures that makes ``composition``, one thing of each."""
    name = lambda picture: pick(rng, PICTURE_NAMES[picture])
    fields = {"pd": name(composition.background)}
    picks = composition.picks if rng.random() < 0.7 else [composition.picks[i] for i in rng.permutation(3)]
    for key, (picture, index, cell) in zip("abc", picks):
        phrase = refer(scenes[picture], index, rng)
        moved = cell != scenes[picture].things[index].cell
        fields[key] = "the thing" if phrase == "it" else phrase
        fields[f"p{key}"] = f"{name(picture)} {position_phrase(cell, rng)}" if moved else name(picture)
    return _finish(pick(rng, THREE[split]).format(**fields), rng)


def described_edit(scene: Scene, instruction: str, rng) -> str:
    """A text-only edit: a described scene, then the instruction."""
    text, _ = user_prompt(scene, rng, detail=1.0)
    return f"{text.rstrip('.')}. {instruction}"


def caption_request(rng, split: str = "train") -> str:
    """What may stand beside a picture that is only to be described; often nothing."""
    return _finish(pick(rng, CAPTION_REQUESTS[split]), rng)
