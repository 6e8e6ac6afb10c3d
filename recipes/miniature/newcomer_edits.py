"""Changes of a picture as a newcomer asks for them: also size, texture, swap, "all", in six languages."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .languages import PHRASES, TABLES, Item, color_word, ground, pick, place
from .newcomers import EAST, NEUTRAL, paint, with_typos
from .scene import (
    BACKGROUNDS,
    SHAPES,
    SIZES,
    TEXTURES,
    Edit,
    Scene,
    Thing,
    can_be_seen,
    sample_scene,
    thing_is_held_out,
    with_neutral_things,
)

SHARES = {
    "recolour": 0.1,
    "replace": 0.08,
    "add": 0.07,
    "add beside": 0.1,
    "remove": 0.06,
    "move": 0.08,
    "background": 0.04,
    "size": 0.11,
    "texture": 0.1,
    "swap": 0.14,
    "all": 0.09,
    "only": 0.03,
}
TEMPLATES = {
    "en": {
        "recolour": (
            "make {t} {c}",
            "{t} {c}",
            "{t} should be {c}",
            "turn {t} {c}",
            "paint {t} {c}",
            "color {t} {c}",
            "colour {t} {c}",
            "change the color of {t} to {c}",
            "change the colour of {t} to {c}",
            "i want {t} to be {c}",
            "{t} in {c}",
            "{c} instead of {o} for {t}",
            "can you make {t} {c}?",
            "could {t} be {c}",
            "change {t} to {c}",
            "{t} -> {c}",
            "give {t} a {c} color",
            "recolour {t} {c}",
        ),
        "replace": (
            "replace {t} with {s}",
            "turn {t} into {s}",
            "{s} instead of {t}",
            "swap {t} for {s}",
            "change {t} to {s}",
            "make {t} {s}",
            "i want {s} instead of {t}",
            "{t} should become {s}",
            "{t} -> {s}",
            "exchange {t} with {s}",
            "can you turn {t} into {s}",
        ),
        "add": (
            "add {s} {p}",
            "put {s} {p}",
            "{s} {p} too",
            "also {s} {p}",
            "and {s} {p}",
            "i also want {s} {p}",
            "draw {s} {p}",
            "plus {s} {p}",
            "can you add {s} {p}?",
            "place {s} {p}",
            "there should be {s} {p} as well",
        ),
        "add beside": (
            "add {s} {r}",
            "put {s} {r}",
            "{s} {r}",
            "also {s} {r}",
            "place {s} {r}",
            "i want {s} {r}",
            "can you add {s} {r}",
        ),
        "remove": (
            "remove {t}",
            "delete {t}",
            "without {t}",
            "take {t} away",
            "no {n}",
            "erase {t}",
            "get rid of {t}",
            "{t} must go",
            "drop {t}",
            "i don't want {t}",
            "can you remove {t}?",
            "{t} should disappear",
            "clear {t}",
        ),
        "move": (
            "move {t} {p}",
            "put {t} {p}",
            "{t} {p}",
            "{t} should be {p}",
            "place {t} {p}",
            "shift {t} {p}",
            "i want {t} {p}",
            "can you move {t} {p}?",
            "bring {t} {p}",
        ),
        "background": (
            "{b} background",
            "make the background {b}",
            "change the background to {b}",
            "background {b}",
            "the background should be {b}",
            "put it on {b}",
            "use a {b} backdrop",
            "on a {b} background",
            "i want a {b} background",
            "background: {b}",
            "background -> {b}",
        ),
        "larger": (
            "make {t} bigger",
            "make {t} larger",
            "{t} bigger",
            "enlarge {t}",
            "make {t} big",
            "{t} should be large",
            "make {t} huge",
            "i want {t} bigger",
            "increase the size of {t}",
            "scale {t} up",
            "grow {t}",
            "a bigger {n}",
            "can you make {t} bigger",
        ),
        "smaller": (
            "make {t} smaller",
            "{t} smaller",
            "shrink {t}",
            "make {t} small",
            "{t} should be small",
            "make {t} tiny",
            "i want {t} smaller",
            "reduce the size of {t}",
            "scale {t} down",
            "a smaller {n}",
            "make {t} little",
            "can you make {t} smaller",
        ),
        "solid": (
            "make {t} solid",
            "make {t} plain",
            "remove the pattern from {t}",
            "{t} without a pattern",
            "{t} in one color",
            "{t} should be solid",
            "remove the pattern of {t}",
            "no pattern on {t}",
        ),
        "striped": (
            "make {t} striped",
            "add stripes to {t}",
            "give {t} stripes",
            "{t} with stripes",
            "{t} should be striped",
            "put stripes on {t}",
            "stripes on {t}",
            "{t} should have stripes",
        ),
        "dotted": (
            "make {t} dotted",
            "add dots to {t}",
            "give {t} dots",
            "{t} with dots",
            "{t} should be dotted",
            "put dots on {t}",
            "give {t} polka dots",
            "make {t} spotted",
            "dots on {t}",
            "{t} should have dots",
        ),
        "swap": (
            "swap {t} and {u}",
            "swap the positions of {t} and {u}",
            "exchange {t} and {u}",
            "switch {t} and {u}",
            "let {t} and {u} change places",
            "{t} and {u} should swap places",
            "switch the places of {t} and {u}",
            "{t} where {u} is and {u} where {t} is",
            "put {t} where {u} is and the other way round",
            "trade places: {t} and {u}",
            "{t} and {u} swapped",
            "{t} should be where {u} is and vice versa",
            "interchange {t} and {u}",
            "flip the positions of {t} and {u}",
            "swap {t} with {u}",
        ),
        "all color": (
            "make everything {c}",
            "all {c}",
            "make them all {c}",
            "everything should be {c}",
            "paint everything {c}",
            "all things {c}",
            "turn all of them {c}",
        ),
        "all larger": (
            "make everything bigger",
            "everything larger",
            "make them all large",
            "all bigger",
            "make everything big",
        ),
        "all smaller": (
            "make everything smaller",
            "everything small",
            "make them all small",
            "all smaller",
            "make everything tiny",
        ),
        "all solid": ("make everything solid", "no patterns", "make them all plain", "everything solid"),
        "all striped": ("make everything striped", "stripes on everything", "make them all striped", "all striped"),
        "all dotted": ("make everything dotted", "dots on everything", "make them all dotted", "all dotted"),
        "all of": ("make {a} {c}", "{a} should be {c}", "paint {a} {c}", "turn {a} {c}", "{a} {c}"),
        "only": (
            "only {t}",
            "keep only {t}",
            "remove everything but {t}",
            "just {t}",
            "remove everything except {t}",
            "leave only {t}",
            "delete all except {t}",
        ),
        "beside": {
            "above": "above {t}",
            "below": "below {t}|under {t}|underneath {t}",
            "left": "to the left of {t}|left of {t}|on the left of {t}",
            "right": "to the right of {t}|right of {t}|on the right of {t}",
        },
    },
    "de": {
        "recolour": (
            "mach {t} {c}",
            "färbe {t} {c}",
            "{t} soll {c} sein",
            "{t} in {c}",
            "ändere die farbe von {t} zu {c}",
            "male {t} {c} an",
            "{t} {c}",
        ),
        "replace": (
            "ersetze {t} durch {s}",
            "mach aus {t} {s}",
            "{s} statt {t}",
            "{s} anstelle von {t}",
            "tausche {t} gegen {s}",
        ),
        "add": (
            "füge {s} {p} hinzu",
            "zeichne {s} {p}",
            "noch {s} {p}",
            "auch {s} {p}",
            "ergänze {s} {p}",
            "und {s} {p}",
        ),
        "add beside": ("füge {s} {r} hinzu", "zeichne {s} {r}", "noch {s} {r}", "{s} {r}"),
        "remove": (
            "entferne {t}",
            "lösche {t}",
            "ohne {t}",
            "{t} weg",
            "nimm {t} weg",
            "{t} soll weg",
            "{t} entfernen",
        ),
        "move": ("verschiebe {t} nach {p}", "bewege {t} nach {p}", "{t} {p}", "{t} soll {p} sein", "setze {t} {p}"),
        "background": (
            "hintergrund {b}",
            "der hintergrund soll {b} sein",
            "mach den hintergrund {b}",
            "ändere den hintergrund zu {b}",
        ),
        "larger": ("mach {t} größer", "{t} größer", "vergrößere {t}", "{t} soll groß sein"),
        "smaller": ("mach {t} kleiner", "{t} kleiner", "verkleinere {t}", "{t} soll klein sein"),
        "solid": ("mach {t} einfarbig", "{t} ohne muster", "{t} soll einfarbig sein"),
        "striped": ("mach {t} gestreift", "{t} mit streifen", "{t} soll gestreift sein", "gib {t} streifen"),
        "dotted": ("mach {t} gepunktet", "{t} mit punkten", "{t} soll gepunktet sein", "gib {t} punkte"),
        "swap": ("vertausche {t} und {u}", "tausche {t} und {u}", "tausche die plätze von {t} und {u}"),
        "all color": ("mach alles {c}", "alles {c}", "alles soll {c} sein"),
        "all larger": ("mach alles größer", "alles größer"),
        "all smaller": ("mach alles kleiner", "alles kleiner"),
        "all solid": ("alles einfarbig",),
        "all striped": ("alles gestreift", "mach alles gestreift"),
        "all dotted": ("alles gepunktet", "mach alles gepunktet"),
        "all of": ("mach {a} {c}", "{a} sollen {c} sein", "{a} {c}"),
        "only": ("nur {t}", "entferne alles außer {t}", "behalte nur {t}"),
        "beside": {
            "above": "über {t}",
            "below": "unter {t}",
            "left": "links von {t}|links neben {t}",
            "right": "rechts von {t}|rechts neben {t}",
        },
    },
    "fr": {
        "recolour": (
            "mets {t} en {c}",
            "rends {t} {c}",
            "{t} en {c}",
            "change la couleur de {t} en {c}",
            "colorie {t} en {c}",
            "peins {t} en {c}",
        ),
        "replace": ("remplace {t} par {s}", "{s} à la place de {t}", "change {t} en {s}", "transforme {t} en {s}"),
        "add": ("ajoute {s} {p}", "mets {s} {p}", "aussi {s} {p}", "et {s} {p}"),
        "add beside": ("ajoute {s} {r}", "mets {s} {r}", "{s} {r}"),
        "remove": ("enlève {t}", "supprime {t}", "sans {t}", "retire {t}", "efface {t}"),
        "move": ("déplace {t} {p}", "mets {t} {p}", "{t} {p}"),
        "background": ("fond {b}", "mets le fond en {b}", "change le fond en {b}", "un fond {b}"),
        "larger": ("agrandis {t}", "{t} plus grand", "mets {t} en plus grand"),
        "smaller": ("réduis {t}", "{t} plus petit", "mets {t} en plus petit"),
        "solid": ("{t} sans motif", "enlève le motif de {t}"),
        "striped": ("{t} à rayures", "ajoute des rayures à {t}"),
        "dotted": ("{t} à pois", "ajoute des pois à {t}"),
        "swap": ("échange {t} et {u}", "inverse {t} et {u}"),
        "all color": ("tout en {c}", "mets tout en {c}"),
        "all larger": ("tout plus grand",),
        "all smaller": ("tout plus petit",),
        "all solid": ("tout sans motif",),
        "all striped": ("tout à rayures",),
        "all dotted": ("tout à pois",),
        "all of": ("mets {a} en {c}", "{a} en {c}"),
        "only": ("seulement {t}", "garde seulement {t}", "enlève tout sauf {t}"),
        "beside": {
            "above": "au-dessus de {t}",
            "below": "en dessous de {t}|sous {t}",
            "left": "à gauche de {t}",
            "right": "à droite de {t}",
        },
    },
    "es": {
        "recolour": (
            "haz {t} {c}",
            "pinta {t} de {c}",
            "cambia el color de {t} a {c}",
            "{t} en {c}",
            "colorea {t} de {c}",
        ),
        "replace": (
            "reemplaza {t} por {s}",
            "cambia {t} por {s}",
            "{s} en lugar de {t}",
            "sustituye {t} por {s}",
            "convierte {t} en {s}",
        ),
        "add": ("añade {s} {p}", "agrega {s} {p}", "pon {s} {p}", "también {s} {p}", "y {s} {p}"),
        "add beside": ("añade {s} {r}", "pon {s} {r}", "{s} {r}"),
        "remove": ("quita {t}", "elimina {t}", "borra {t}", "sin {t}"),
        "move": ("mueve {t} {p}", "pon {t} {p}", "{t} {p}"),
        "background": ("fondo {b}", "cambia el fondo a {b}", "pon el fondo {b}", "un fondo {b}"),
        "larger": ("agranda {t}", "{t} más grande", "haz {t} más grande"),
        "smaller": ("reduce {t}", "{t} más pequeño", "haz {t} más pequeño"),
        "solid": ("{t} sin dibujo", "{t} liso"),
        "striped": ("{t} a rayas", "pon rayas a {t}"),
        "dotted": ("{t} con puntos", "pon puntos a {t}"),
        "swap": ("intercambia {t} y {u}", "cambia de lugar {t} y {u}"),
        "all color": ("todo {c}", "pinta todo de {c}"),
        "all larger": ("todo más grande",),
        "all smaller": ("todo más pequeño",),
        "all solid": ("todo liso",),
        "all striped": ("todo a rayas",),
        "all dotted": ("todo con puntos",),
        "all of": ("pinta {a} de {c}", "{a} de {c}"),
        "only": ("solo {t}", "deja solo {t}", "quita todo menos {t}"),
        "beside": {
            "above": "encima de {t}",
            "below": "debajo de {t}",
            "left": "a la izquierda de {t}",
            "right": "a la derecha de {t}",
        },
    },
    "ja": {
        "recolour": ("{t}を{c}にして", "{t}を{c}に変えて", "{t}を{c}色にして", "{t}の色を{c}に変更して"),
        "replace": ("{t}を{s}に変えて", "{t}を{s}に置き換えて", "{t}の代わりに{s}", "{t}を{s}にして"),
        "add": ("{p}に{s}を追加して", "{p}に{s}を描いて", "{p}にも{s}", "{p}に{s}を加えて"),
        "add beside": ("{r}に{s}を追加して", "{r}に{s}を描いて", "{r}に{s}"),
        "remove": ("{t}を消して", "{t}を削除して", "{t}を取り除いて", "{t}なし"),
        "move": ("{t}を{p}に移動して", "{t}を{p}に動かして", "{t}を{p}に"),
        "background": ("背景を{b}にして", "背景を{b}に変えて", "背景は{b}"),
        "larger": ("{t}を大きくして", "{t}をもっと大きく"),
        "smaller": ("{t}を小さくして", "{t}をもっと小さく"),
        "solid": ("{t}を無地にして", "{t}の模様を消して"),
        "striped": ("{t}を縞模様にして", "{t}をストライプにして"),
        "dotted": ("{t}を水玉にして", "{t}を水玉模様にして"),
        "swap": ("{t}と{u}を入れ替えて", "{t}と{u}の位置を交換して"),
        "all color": ("全部{c}にして", "すべて{c}にして"),
        "all larger": ("全部大きくして",),
        "all smaller": ("全部小さくして",),
        "all solid": ("全部無地にして",),
        "all striped": ("全部縞模様にして",),
        "all dotted": ("全部水玉にして",),
        "all of": ("{a}を{c}にして",),
        "only": ("{t}だけ残して", "{t}だけにして"),
        "beside": {"above": "{t}の上", "below": "{t}の下", "left": "{t}の左", "right": "{t}の右"},
    },
    "zh": {
        "recolour": ("把{t}变成{c}", "把{t}改成{c}", "{t}改为{c}", "让{t}变成{c}", "把{t}涂成{c}"),
        "replace": ("把{t}换成{s}", "用{s}替换{t}", "把{t}变成{s}", "把{t}替换成{s}"),
        "add": ("在{p}添加{s}", "在{p}加{s}", "{p}再画{s}", "在{p}画{s}"),
        "add beside": ("在{r}添加{s}", "在{r}加{s}", "{r}画{s}"),
        "remove": ("去掉{t}", "删除{t}", "移除{t}", "不要{t}", "把{t}去掉"),
        "move": ("把{t}移到{p}", "把{t}移动到{p}", "{t}放在{p}"),
        "background": ("把背景改成{b}", "背景换成{b}", "背景改为{b}", "{b}背景"),
        "larger": ("把{t}变大", "放大{t}", "{t}大一点"),
        "smaller": ("把{t}变小", "缩小{t}", "{t}小一点"),
        "solid": ("把{t}变成纯色", "去掉{t}的花纹"),
        "striped": ("把{t}变成条纹", "给{t}加条纹"),
        "dotted": ("把{t}变成波点", "给{t}加圆点"),
        "swap": ("交换{t}和{u}", "把{t}和{u}交换位置"),
        "all color": ("全部变成{c}", "把所有东西变成{c}"),
        "all larger": ("全部变大",),
        "all smaller": ("全部变小",),
        "all solid": ("全部变成纯色",),
        "all striped": ("全部变成条纹",),
        "all dotted": ("全部变成波点",),
        "all of": ("把{a}变成{c}",),
        "only": ("只保留{t}", "只留下{t}"),
        "beside": {"above": "{t}上面", "below": "{t}下面", "left": "{t}左边", "right": "{t}右边"},
    },
}
BESIDE = {"above": (-1, 0), "below": (1, 0), "left": (0, -1), "right": (0, 1)}
LANGUAGES = {"en": 0.5, "de": 0.12, "fr": 0.09, "es": 0.09, "ja": 0.1, "zh": 0.1}
FIELDS = ("shape", "color", "size", "texture")


@dataclass
class Change:
    """A picture's scene, what it becomes, the words, and the :class:`Edit` if it is one of the first world's."""

    before: Scene
    after: Scene
    text: str
    kind: str
    language: str
    edit: Edit | None = None


def _item(thing: Thing, fields) -> Item:
    return Item(**{name: getattr(thing, name) for name in fields})


def refer(key: str, scene: Scene, index: int, rng, article: str = "the") -> str:
    """Words that mean one thing of a scene."""
    thing = scene.things[index]
    if key == "en" and len(scene.things) == 1 and article == "the" and rng.random() < 0.15:
        return pick(rng, ("it", "this", "that", "the thing"))
    for fields in (("shape",), ("shape", "color"), ("shape", "size"), ("color",), FIELDS[:3], FIELDS):
        if fields == ("shape", "size") and rng.random() < 0.6 or fields == ("shape",) and rng.random() < 0.3:
            continue
        alike = [t for t in scene.things if all(getattr(t, f) == getattr(thing, f) for f in fields)]
        if len(alike) == 1:
            return PHRASES[key](_item(thing, fields), rng, article)
    fields = ("shape", "color") if rng.random() < 0.5 else ("shape",)
    phrase, where = PHRASES[key](_item(thing, fields), rng, article), place(key, thing.cell, rng)
    return {"ja": f"{where}の{phrase}", "zh": f"{where}的{phrase}"}.get(key, f"{phrase} {where}")


def _new_thing(rng, cell: int) -> Thing:
    while True:
        thing = Thing(pick(rng, SHAPES), paint(rng), pick(rng, SIZES), pick(rng, TEXTURES), cell)
        if not thing_is_held_out(thing):
            return thing


def _said_of_new(thing: Thing, rng, held_out: bool) -> tuple[Thing, Item]:
    """A new thing and what is said of it; what is not said is large and solid where the split has it so."""
    said = {"shape", "color"} | {name for name in ("size", "texture") if rng.random() < 0.25}
    wanted = thing.texture if "texture" in said else "solid"
    for texture in (wanted, *(() if "texture" in said else ("striped", "dotted"))):
        made = replace(thing, size=thing.size if "size" in said else "large", texture=texture)
        if held_out or not thing_is_held_out(made):
            return made, _item(made, [name for name in FIELDS if name in said])
    return thing, _item(thing, FIELDS)


def _with(scene: Scene, index: int, **changes) -> Scene:
    things = list(scene.things)
    things[index] = replace(things[index], **changes)
    return Scene(scene.background, tuple(things))


def _try(rng, key: str, kind: str, held_out: bool) -> Change | None:  # noqa: C901, PLR0911, PLR0912
    tables, phrase = TEMPLATES[key], PHRASES[key]
    scene = sample_scene(rng, count=int(rng.choice((1, 2, 3, 4), p=(0.25, 0.35, 0.3, 0.1))))
    scene = with_neutral_things(rng, scene, NEUTRAL)
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    words, name, edit = {"t": refer(key, scene, index, rng)}, kind, None
    if kind == "recolour":
        color = paint(rng)
        words |= {"c": color_word(key, color, rng), "o": color_word(key, thing.color, rng)}
        edit, after = Edit(kind, index, color), _with(scene, index, color=color)
    elif kind == "replace":
        shape = pick(rng, [s for s in SHAPES if s != thing.shape])
        color = paint(rng) if rng.random() < 0.4 else None
        words["s"] = phrase(Item(shape, color), rng)
        edit = Edit(kind, index, (shape, color) if color else shape)
        after = edit.apply(scene)
    elif kind == "add":
        if len(scene.things) > 3:
            return None
        made, item = _said_of_new(_new_thing(rng, int(rng.choice(scene.free_cells))), rng, held_out)
        words |= {"s": phrase(item, rng), "p": place(key, made.cell, rng)}
        edit, after = Edit(kind, None, made), Scene(scene.background, scene.things + (made,))
    elif kind == "add beside":
        side = pick(rng, tuple(BESIDE))
        row, column = thing.cell // 3 + BESIDE[side][0], thing.cell % 3 + BESIDE[side][1]
        if len(scene.things) > 3 or not (0 <= row < 3 and 0 <= column < 3) or 3 * row + column not in scene.free_cells:
            return None
        made, item = _said_of_new(_new_thing(rng, 3 * row + column), rng, held_out)
        words |= {"s": phrase(item, rng), "r": pick(rng, tables["beside"][side].split("|")).format(t=words["t"])}
        edit, after = Edit("add", None, made), Scene(scene.background, scene.things + (made,))
    elif kind == "remove":
        if len(scene.things) < 2:
            return None
        words["n"] = refer(key, scene, index, rng, "")
        edit, after = Edit(kind, index), Scene(scene.background, scene.things[:index] + scene.things[index + 1 :])
    elif kind == "move":
        cell = int(rng.choice(scene.free_cells))
        words["p"] = place(key, cell, rng)
        if key == "en" and rng.random() < 0.4:
            words["p"] = words["p"].replace("at the", "to the").replace("in the", "to the").replace("on the", "to the")
        edit, after = Edit(kind, index, cell), _with(scene, index, cell=cell)
    elif kind == "background":
        background = pick(rng, [b for b in BACKGROUNDS if b != scene.background])
        word = ground(key, background, rng)
        if key == "ja":
            word = word.removesuffix("い").removesuffix("の")
        words["b"] = word
        edit, after = Edit(kind, None, background), Scene(background, scene.things)
    elif kind == "size":
        large = thing.size == "small"
        name, after = ("larger" if large else "smaller"), _with(scene, index, size="large" if large else "small")
        words["n"] = refer(key, scene, index, rng, "")
    elif kind == "texture":
        name = pick(rng, [t for t in TEXTURES if t != thing.texture])
        after = _with(scene, index, texture=name)
    elif kind == "swap":
        if len(scene.things) < 2:
            return None
        other = pick(rng, [i for i in range(len(scene.things)) if i != index])
        words["u"] = refer(key, scene, other, rng)
        cells = {index: scene.things[other].cell, other: thing.cell}
        after = Scene(
            scene.background, tuple(replace(t, cell=cells.get(i, t.cell)) for i, t in enumerate(scene.things))
        )
    elif kind == "all":
        if len(scene.things) < 2:
            return None
        way = rng.random()
        if way < 0.35:
            color = paint(rng)
            name, changes = "all color", {"color": color}
            words["c"] = color_word(key, color, rng)
        elif way < 0.5:
            size = pick(rng, SIZES)
            name, changes = ("all larger" if size == "large" else "all smaller"), {"size": size}
        elif way < 0.65:
            texture = pick(rng, TEXTURES)
            name, changes = f"all {texture}", {"texture": texture}
        else:  # all circles
            color = paint(rng)
            name, changes = "all of", {"color": color}
            others = list(scene.things)
            others[(index + 1) % len(others)] = replace(others[(index + 1) % len(others)], shape=thing.shape)
            scene = Scene(scene.background, tuple(others))
            words |= {"c": color_word(key, color, rng), "a": phrase(Item(thing.shape), rng, "all")}
            if key == "en" and rng.random() < 0.4:
                words["a"] = words["a"].replace("all ", "the ")
        hit = lambda t: name != "all of" or t.shape == thing.shape
        after = Scene(scene.background, tuple(replace(t, **changes) if hit(t) else t for t in scene.things))
    else:  # only
        if len(scene.things) < 2:
            return None
        after = Scene(scene.background, (thing,))
    held = not held_out and any(thing_is_held_out(t) for t in (*scene.things, *after.things))
    if after == scene or held or not (can_be_seen(scene) and can_be_seen(after)):
        return None
    return Change(scene, after, pick(rng, tables[name]).format(**words), kind, key, edit)


POLITE = {
    "en": ("please {x}", "{x} please", "{x}, thanks", "hi, {x}", "now {x}", "ok, {x}", "great! now {x}"),
    "de": ("bitte {x}", "{x}, bitte", "jetzt {x}", "{x}, danke"),
    "fr": ("{x}, s'il te plaît", "maintenant {x}", "{x}, merci"),
    "es": ("{x}, por favor", "ahora {x}", "{x}, gracias"),
    "ja": ("{x}ください", "次は{x}"),
    "zh": ("请{x}", "现在{x}", "{x}，谢谢"),
}


def newcomer_edit(rng, kind: str | None = None, key: str | None = None, held_out: bool = False) -> Change:
    """A change that a newcomer asks for; ``held_out`` False keeps it within the combinations of training."""
    while True:
        language = key or str(rng.choice(list(LANGUAGES), p=list(LANGUAGES.values())))
        change = _try(rng, language, kind or str(rng.choice(list(SHARES), p=list(SHARES.values()))), held_out)
        if change is None:
            continue
        if rng.random() < 0.25:
            change.text = pick(rng, POLITE[language]).format(x=change.text)
        if language not in EAST and rng.random() < 0.12:
            change.text = with_typos(change.text, rng, 1)
        if rng.random() < 0.25 and change.text[-1] not in ".!?":
            change.text += "。" if language in EAST else pick(rng, (".", "!", "."))
        return change


assert set(TEMPLATES) == set(TABLES)
