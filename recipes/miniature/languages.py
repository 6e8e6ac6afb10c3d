"""Words of the miniature's world in six languages, and how each builds a phrase, a place and a background.

A :class:`Language` makes phrases for :class:`Item`, which says of one kind of thing what a wish states.  The words of
each concept also tell the tokenizer which new words mean what an English one does (:func:`meanings`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .scene import SHAPES


@dataclass(frozen=True)
class Item:
    """What a wish states of ``count`` equal things; None where it says nothing."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    texture: str | None = None
    count: int = 1


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


# --- English -----------------------------------------------------------------------------------------------------
EN_NOUNS = {
    "circle": "circle disc disk dot:dots ball circle round:rounds",
    "square": "square box:boxes block quadrate",
    "triangle": "triangle",
    "star": "star",
    "cross": "cross:crosses plus:pluses",
    "ring": "ring hoop donut doughnut",
    "heart": "heart",
    "crescent": "crescent moon half-moon:half-moons",
}
EN_COLORS = {
    "red": "red red crimson scarlet ruby cherry reddish",
    "orange": "orange orange tangerine",
    "yellow": "yellow yellow golden gold lemon yellowish",
    "green": "green green emerald lime jade greenish",
    "cyan": "cyan cyan turquoise teal aqua light-blue",
    "blue": "blue blue cobalt sapphire azure bluish",
    "purple": "purple purple violet lilac lavender mauve",
    "pink": "pink pink rose magenta fuchsia rosy",
    "white": "white",
    "black": "black",
}
EN_SIZES = {
    "large": "large big huge giant enormous massive gigantic great",
    "small": "small little tiny mini wee minuscule",
}
EN_TEXTURES = {
    "solid": "solid plain filled flat uniform",
    "striped": "striped stripy stripey lined banded",
    "dotted": "dotted spotted polka-dotted speckled dotty",
}
EN_TAILS = {
    "solid": "in one color|in one colour|without a pattern|with no pattern",
    "striped": "with stripes|with lines|that has stripes|with dark stripes|with black stripes",
    "dotted": "with dots|with polka dots|with spots|that has dots|with white dots|with little white dots",
}
EN_BACKGROUNDS = {
    "white": "white|white|snow white",
    "gray": "gray|grey|silver",
    "black": "black|black|jet black",
    "beige": "beige|cream|sand|tan",
    "navy": "navy|navy blue|dark blue|midnight blue",
}
EN_CELLS = {
    0: "top left|upper left|top-left|top left corner|upper left corner|upper-left corner|left top",
    1: "top center|top centre|top middle|upper center|upper middle|middle of the top",
    2: "top right|upper right|top-right|top right corner|upper right corner|upper-right corner",
    3: "middle left|center left|centre left|left center|left middle|middle of the left side",
    4: "center|centre|middle|very center|center of the picture|middle of the image",
    5: "middle right|center right|centre right|right center|right middle|middle of the right side",
    6: "bottom left|lower left|bottom-left|bottom left corner|lower left corner|lower-left corner",
    7: "bottom center|bottom centre|bottom middle|lower center|lower middle|middle of the bottom",
    8: "bottom right|lower right|bottom-right|bottom right corner|lower right corner|lower-right corner",
}
EN_AREAS = {
    "top": "at the top|on top|at the top of the picture|up top|above",
    "bottom": "at the bottom|at the bottom of the picture|down below",
    "left": "on the left|on the left side|to the left|on the left hand side|left",
    "right": "on the right|on the right side|to the right|on the right hand side|right",
    "corner": "in a corner|in the corner|in one corner",
}

# --- German: noun sg:pl:gender; adjectives as stems, "=" keeps its form ------------------------------------------------
DE_NOUNS = {
    "circle": "kreis:kreise:m kreis:kreise:m scheibe:scheiben:f punkt:punkte:m kugel:kugeln:f ball:bälle:m",
    "square": "quadrat:quadrate:n quadrat:quadrate:n viereck:vierecke:n kasten:kästen:m",
    "triangle": "dreieck:dreiecke:n",
    "star": "stern:sterne:m",
    "cross": "kreuz:kreuze:n pluszeichen:pluszeichen:n",
    "ring": "ring:ringe:m reif:reifen:m",
    "heart": "herz:herzen:n",
    "crescent": "mond:monde:m halbmond:halbmonde:m sichel:sicheln:f mondsichel:mondsicheln:f",
}
DE_COLORS = {
    "red": "rot rot knallrot",
    "orange": "orange=",
    "yellow": "gelb gelb golden",
    "green": "grün grün",
    "cyan": "türkis= cyan= hellblau",
    "blue": "blau blau",
    "purple": "lila= violett",
    "pink": "rosa= pink=",
    "white": "weiß",
    "black": "schwarz",
}
DE_SIZES = {"large": "groß riesig", "small": "klein winzig"}
DE_TEXTURES = {
    "solid": "einfarbig einfach",
    "striped": "gestreift",
    "dotted": "gepunktet getupft",
}
DE_TAILS = {
    "solid": "ohne muster",
    "striped": "mit streifen|mit dunklen streifen",
    "dotted": "mit punkten|mit tupfen|mit weißen punkten",
}
DE_BACKGROUNDS = {"white": "weiß", "gray": "grau", "black": "schwarz", "beige": "beige=", "navy": "dunkelblau"}
DE_CELLS = {
    0: "oben links|links oben|in der oberen linken ecke|in der ecke oben links",
    1: "oben in der mitte|oben mittig|in der mitte oben",
    2: "oben rechts|rechts oben|in der oberen rechten ecke|in der ecke oben rechts",
    3: "links in der mitte|mitte links|in der mitte links",
    4: "in der mitte|mittig|im zentrum|in der bildmitte",
    5: "rechts in der mitte|mitte rechts|in der mitte rechts",
    6: "unten links|links unten|in der unteren linken ecke|in der ecke unten links",
    7: "unten in der mitte|unten mittig|in der mitte unten",
    8: "unten rechts|rechts unten|in der unteren rechten ecke|in der ecke unten rechts",
}
DE_AREAS = {
    "top": "oben|am oberen rand",
    "bottom": "unten|am unteren rand",
    "left": "links|auf der linken seite|am linken rand",
    "right": "rechts|auf der rechten seite|am rechten rand",
    "corner": "in einer ecke",
}

# --- French and Spanish: masculine sg, feminine sg, masculine pl, feminine pl by "/" -----------------------------------
FR_NOUNS = {
    "circle": "cercle:cercles:m cercle:cercles:m rond:ronds:m disque:disques:m boule:boules:f",
    "square": "carré:carrés:m",
    "triangle": "triangle:triangles:m",
    "star": "étoile:étoiles:f",
    "cross": "croix:croix:f",
    "ring": "anneau:anneaux:m bague:bagues:f",
    "heart": "cœur:cœurs:m coeur:coeurs:m",
    "crescent": "croissant:croissants:m lune:lunes:f",
}
FR_COLORS = {
    "red": "rouge/rouge/rouges/rouges",
    "orange": "orange/orange/orange/orange",
    "yellow": "jaune/jaune/jaunes/jaunes doré/dorée/dorés/dorées",
    "green": "vert/verte/verts/vertes",
    "cyan": "cyan/cyan/cyan/cyan turquoise/turquoise/turquoise/turquoise",
    "blue": "bleu/bleue/bleus/bleues",
    "purple": "violet/violette/violets/violettes mauve/mauve/mauves/mauves",
    "pink": "rose/rose/roses/roses",
    "white": "blanc/blanche/blancs/blanches",
    "black": "noir/noire/noirs/noires",
}
FR_SIZES = {
    "large": "grand/grande/grands/grandes gros/grosse/gros/grosses énorme/énorme/énormes/énormes",
    "small": "petit/petite/petits/petites minuscule/minuscule/minuscules/minuscules",
}
FR_TEXTURES = {
    "solid": "uni/unie/unis/unies plein/pleine/pleins/pleines",
    "striped": "rayé/rayée/rayés/rayées",
    "dotted": "pointillé/pointillée/pointillés/pointillées",
}
FR_TAILS = {
    "solid": "sans motif",
    "striped": "à rayures|avec des rayures",
    "dotted": "à pois|avec des points|avec des pois",
}
FR_BACKGROUNDS = {"white": "blanc", "gray": "gris", "black": "noir", "beige": "beige", "navy": "bleu marine|bleu foncé"}
FR_CELLS = {
    0: "en haut à gauche|dans le coin en haut à gauche|dans le coin supérieur gauche",
    1: "en haut au centre|en haut au milieu|au milieu en haut",
    2: "en haut à droite|dans le coin en haut à droite|dans le coin supérieur droit",
    3: "au milieu à gauche|à gauche au milieu|au centre à gauche",
    4: "au centre|au milieu|au centre de l'image",
    5: "au milieu à droite|à droite au milieu|au centre à droite",
    6: "en bas à gauche|dans le coin en bas à gauche|dans le coin inférieur gauche",
    7: "en bas au centre|en bas au milieu|au milieu en bas",
    8: "en bas à droite|dans le coin en bas à droite|dans le coin inférieur droit",
}
FR_AREAS = {
    "top": "en haut",
    "bottom": "en bas",
    "left": "à gauche|sur la gauche|du côté gauche",
    "right": "à droite|sur la droite|du côté droit",
    "corner": "dans un coin",
}
ES_NOUNS = {
    "circle": "círculo:círculos:m círculo:círculos:m disco:discos:m bola:bolas:f",
    "square": "cuadrado:cuadrados:m",
    "triangle": "triángulo:triángulos:m",
    "star": "estrella:estrellas:f",
    "cross": "cruz:cruces:f",
    "ring": "anillo:anillos:m aro:aros:m",
    "heart": "corazón:corazones:m",
    "crescent": "luna:lunas:f medialuna:medialunas:f",
}
ES_COLORS = {
    "red": "rojo/roja/rojos/rojas",
    "orange": "naranja/naranja/naranjas/naranjas",
    "yellow": "amarillo/amarilla/amarillos/amarillas dorado/dorada/dorados/doradas",
    "green": "verde/verde/verdes/verdes",
    "cyan": "cian/cian/cian/cian turquesa/turquesa/turquesas/turquesas celeste/celeste/celestes/celestes",
    "blue": "azul/azul/azules/azules",
    "purple": "morado/morada/morados/moradas violeta/violeta/violetas/violetas púrpura/púrpura/púrpuras/púrpuras",
    "pink": "rosa/rosa/rosas/rosas rosado/rosada/rosados/rosadas",
    "white": "blanco/blanca/blancos/blancas",
    "black": "negro/negra/negros/negras",
}
ES_SIZES = {
    "large": "grande/grande/grandes/grandes enorme/enorme/enormes/enormes",
    "small": "pequeño/pequeña/pequeños/pequeñas diminuto/diminuta/diminutos/diminutas",
}
ES_TEXTURES = {
    "solid": "liso/lisa/lisos/lisas",
    "striped": "rayado/rayada/rayados/rayadas",
    "dotted": "punteado/punteada/punteados/punteadas",
}
ES_TAILS = {
    "solid": "sin dibujo|de un solo color",
    "striped": "a rayas|con rayas",
    "dotted": "con puntos|de lunares|con lunares",
}
ES_BACKGROUNDS = {
    "white": "blanco",
    "gray": "gris",
    "black": "negro",
    "beige": "beige|crema",
    "navy": "azul marino|azul oscuro",
}
ES_CELLS = {
    0: "arriba a la izquierda|en la esquina superior izquierda",
    1: "arriba en el centro|arriba en medio|en el centro arriba",
    2: "arriba a la derecha|en la esquina superior derecha",
    3: "en el centro a la izquierda|a la izquierda en el centro|en medio a la izquierda",
    4: "en el centro|en medio|en el centro de la imagen",
    5: "en el centro a la derecha|a la derecha en el centro|en medio a la derecha",
    6: "abajo a la izquierda|en la esquina inferior izquierda",
    7: "abajo en el centro|abajo en medio|en el centro abajo",
    8: "abajo a la derecha|en la esquina inferior derecha",
}
ES_AREAS = {
    "top": "arriba",
    "bottom": "abajo",
    "left": "a la izquierda|en el lado izquierdo",
    "right": "a la derecha|en el lado derecho",
    "corner": "en una esquina",
}

# --- Japanese and Chinese ------------------------------------------------------------------------------------------------
JA_NOUNS = {
    "circle": "丸 丸 円 サークル まる",
    "square": "四角 正方形 四角形",
    "triangle": "三角 三角形",
    "star": "星 星形",
    "cross": "十字 バツ 十字形",
    "ring": "輪 リング 輪っか",
    "heart": "ハート ハート形",
    "crescent": "三日月 月",
}
JA_COLORS = {
    "red": "赤い 赤い 赤 赤色の",
    "orange": "オレンジの オレンジ色の",
    "yellow": "黄色い 黄色の 黄色",
    "green": "緑の 緑色の 緑",
    "cyan": "水色の シアンの",
    "blue": "青い 青い 青 青色の",
    "purple": "紫の 紫色の 紫",
    "pink": "ピンクの ピンク色の ピンク",
    "white": "白い 白",
    "black": "黒い 黒",
}
JA_SIZES = {"large": "大きな 大きい 巨大な", "small": "小さな 小さい ちいさな"}
JA_TEXTURES = {
    "solid": "無地の 単色の",
    "striped": "縞模様の ストライプの しましまの 縞の",
    "dotted": "水玉の 水玉模様の ドットの",
}
JA_BACKGROUNDS = {
    "white": "白い|白|白の",
    "gray": "灰色の|グレーの|灰色",
    "black": "黒い|黒|黒の",
    "beige": "ベージュの|ベージュ|クリーム色の",
    "navy": "紺色の|紺|ネイビーの",
}
JA_CELLS = {
    0: "左上|左上の角",
    1: "中央上|上の真ん中|上中央",
    2: "右上|右上の角",
    3: "左中央|左の真ん中|中央左",
    4: "中央|真ん中|中心",
    5: "右中央|右の真ん中|中央右",
    6: "左下|左下の角",
    7: "中央下|下の真ん中|下中央",
    8: "右下|右下の角",
}
JA_AREAS = {"top": "上|上の方", "bottom": "下|下の方", "left": "左|左側", "right": "右|右側", "corner": "角|隅"}
ZH_NOUNS = {
    "circle": "圆 圆形 圆圈 圆点",
    "square": "正方形 方块 方形",
    "triangle": "三角形 三角",
    "star": "星星 星形 五角星 星",
    "cross": "十字 十字形 加号",
    "ring": "圆环 环 圆环形",
    "heart": "心形 爱心 心",
    "crescent": "月牙 新月 月亮",
}
ZH_COLORS = {
    "red": "红色 红色的 红",
    "orange": "橙色 橙色的 橘色",
    "yellow": "黄色 黄色的 黄",
    "green": "绿色 绿色的 绿",
    "cyan": "青色 青色的 天蓝色",
    "blue": "蓝色 蓝色的 蓝",
    "purple": "紫色 紫色的 紫",
    "pink": "粉色 粉红色 粉色的",
    "white": "白色 白色的 白",
    "black": "黑色 黑色的 黑",
}
ZH_SIZES = {"large": "大 大的 巨大的 很大的", "small": "小 小的 很小的"}
ZH_TEXTURES = {
    "solid": "纯色 纯色的 单色",
    "striped": "条纹 条纹的 带条纹的",
    "dotted": "圆点花纹的 波点 带圆点的 点状的",
}
ZH_BACKGROUNDS = {
    "white": "白色|白",
    "gray": "灰色|灰",
    "black": "黑色|黑",
    "beige": "米色|米黄色",
    "navy": "深蓝色|藏青色",
}
ZH_CELLS = {
    0: "左上角|左上方|左上",
    1: "顶部中间|上方中间|上面中间",
    2: "右上角|右上方|右上",
    3: "左边中间|左侧中间|中间左边",
    4: "中间|中央|正中间|中心",
    5: "右边中间|右侧中间|中间右边",
    6: "左下角|左下方|左下",
    7: "底部中间|下方中间|下面中间",
    8: "右下角|右下方|右下",
}
ZH_AREAS = {
    "top": "上面|上方|顶部",
    "bottom": "下面|下方|底部",
    "left": "左边|左侧",
    "right": "右边|右侧",
    "corner": "角落里|一个角落",
}
NUMBERS = {
    "en": {1: "one 1", 2: "two 2", 3: "three 3", 4: "four 4", 5: "five 5"},
    "de": {1: "ein", 2: "zwei 2", 3: "drei 3", 4: "vier 4", 5: "fünf 5"},
    "fr": {1: "un", 2: "deux 2", 3: "trois 3", 4: "quatre 4", 5: "cinq 5"},
    "es": {1: "un", 2: "dos 2", 3: "tres 3", 4: "cuatro 4", 5: "cinco 5"},
    "ja": {1: "1つ 一つ", 2: "2つ 二つ 2個", 3: "3つ 三つ 3個", 4: "4つ 四つ 4個", 5: "5つ 五つ 5個"},
    "zh": {1: "一个 1个", 2: "两个 2个", 3: "三个 3个", 4: "四个 4个", 5: "五个 5个"},
}
ANY = {
    "en": "thing:things object:objects shape:shapes",
    "de": "ding:dinge:n form:formen:f objekt:objekte:n",
    "fr": "forme:formes:f objet:objets:m",
    "es": "figura:figuras:f objeto:objetos:m forma:formas:f",
    "ja": "形 もの 図形",
    "zh": "图形 东西 形状",
}
TABLES = {
    "en": (EN_NOUNS, EN_COLORS, EN_SIZES, EN_TEXTURES, EN_TAILS, EN_BACKGROUNDS, EN_CELLS, EN_AREAS),
    "de": (DE_NOUNS, DE_COLORS, DE_SIZES, DE_TEXTURES, DE_TAILS, DE_BACKGROUNDS, DE_CELLS, DE_AREAS),
    "fr": (FR_NOUNS, FR_COLORS, FR_SIZES, FR_TEXTURES, FR_TAILS, FR_BACKGROUNDS, FR_CELLS, FR_AREAS),
    "es": (ES_NOUNS, ES_COLORS, ES_SIZES, ES_TEXTURES, ES_TAILS, ES_BACKGROUNDS, ES_CELLS, ES_AREAS),
    "ja": (JA_NOUNS, JA_COLORS, JA_SIZES, JA_TEXTURES, {}, JA_BACKGROUNDS, JA_CELLS, JA_AREAS),
    "zh": (ZH_NOUNS, ZH_COLORS, ZH_SIZES, ZH_TEXTURES, {}, ZH_BACKGROUNDS, ZH_CELLS, ZH_AREAS),
}


def _article_en(phrase: str) -> str:
    return ("an " if phrase[0] in "aeio" else "a ") + phrase


def _noun_en(entry: str, many: bool) -> str:
    one, _, several = entry.partition(":")
    return (several or one + "s") if many else one


def noun_en(shape: str, rng, many: bool = False) -> str:
    """An English noun for a shape."""
    return _noun_en(pick(rng, EN_NOUNS[shape].split()), many)


def phrase_en(item: Item, rng, article: str = "a") -> str:
    many = item.count > 1 or article == "all"
    paint, tail = [], ""
    if item.color:
        paint.append(pick(rng, EN_COLORS[item.color].split()).replace("light-", "light "))
    if item.texture:
        if rng.random() < 0.3:
            tail = " " + pick(rng, EN_TAILS[item.texture].split("|"))
        else:
            paint.insert(int(rng.integers(len(paint) + 1)), pick(rng, EN_TEXTURES[item.texture].split()))
    nouns = EN_NOUNS[item.shape] if item.shape else ANY["en"]
    noun = _noun_en(pick(rng, nouns.split()), many)
    if item.texture == "dotted" and noun in ("dot", "dots"):
        noun = "circles" if many else "circle"
    size = [pick(rng, EN_SIZES[item.size].split())] if item.size else []
    if size and rng.random() < 0.1:
        size.insert(0, pick(rng, ("very", "really")))
    if paint and rng.random() < 0.06 and not tail and item.color and not item.texture:
        phrase = " ".join([*size, noun, "in", *paint])
    else:
        phrase = " ".join([*size, *paint, noun])
    if item.count > 1 and article not in ("the", "all"):
        return pick(rng, NUMBERS["en"][item.count].split()) + " " + phrase + tail
    if article == "a":
        return _article_en(phrase) + tail
    return {"the": "the ", "all": "all ", "": "", "no": "no "}[article] + phrase + tail


_DE_ENDINGS = {  # article -> gender -> (word, ending)
    "a": {"m": (("ein", "er"), ("einen", "en")), "f": (("eine", "e"),), "n": (("ein", "es"),)},
    "the": {"m": (("den", "en"), ("der", "e")), "f": (("die", "e"),), "n": (("das", "e"),)},
    "": {"m": (("", "er"), ("", "en")), "f": (("", "e"),), "n": (("", "es"),)},
    "no": {"m": (("kein", "er"), ("keinen", "en")), "f": (("keine", "e"),), "n": (("kein", "es"),)},
}


def phrase_de(item: Item, rng, article: str = "a") -> str:
    many = item.count > 1 or article == "all"
    one, several, gender = pick(rng, (DE_NOUNS[item.shape] if item.shape else ANY["de"]).split()).split(":")
    if many:
        word, ending = ("die", "en") if article == "the" else ("alle", "en") if article == "all" else ("", "e")
        word = word or (pick(rng, NUMBERS["de"][item.count].split()))
    else:
        word, ending = pick(rng, _DE_ENDINGS[article][gender])

    def inflect(stem: str) -> str:
        return stem[:-1] if stem.endswith("=") else stem + ending

    words, tail = [], ""
    if item.size:
        words.append(inflect(pick(rng, DE_SIZES[item.size].split())))
    if item.color:
        words.append(inflect(pick(rng, DE_COLORS[item.color].split())))
    if item.texture:
        if rng.random() < 0.4:
            tail = " " + pick(rng, DE_TAILS[item.texture].split("|"))
        else:
            words.insert(int(rng.integers(len(words) + 1)), inflect(pick(rng, DE_TEXTURES[item.texture].split())))
    return " ".join(filter(None, [word, *words, several if many else one])) + tail


def _romance(item: Item, rng, article: str, key: str, articles) -> str:
    nouns, colors, sizes, textures, tails, *_ = TABLES[key]
    many = item.count > 1 or article == "all"
    one, several, gender = pick(rng, (nouns[item.shape] if item.shape else ANY[key]).split()).split(":")
    form = 2 * many + (gender == "f")
    choose = lambda table, value: pick(rng, table[value].split()).split("/")[form]
    before, after = [], []
    if item.size:
        word = choose(sizes, item.size)
        (before if key == "fr" and rng.random() < 0.8 else after).append(word)
    if item.color:
        after.append(choose(colors, item.color))
    if item.texture:
        after.append(
            pick(rng, tails[item.texture].split("|")) if rng.random() < 0.6 else choose(textures, item.texture)
        )
    if many and article not in ("the", "all"):
        word = pick(rng, NUMBERS[key][item.count].split())
    else:
        word = articles[article][form]
    return " ".join(filter(None, [word, *before, several if many else one, *after]))


def phrase_fr(item: Item, rng, article: str = "a") -> str:
    articles = {
        "a": ("un", "une"),
        "the": ("le", "la", "les", "les"),
        "": ("", ""),
        "no": ("pas de", "pas de"),
        "all": ("", "", "tous les", "toutes les"),
    }
    text = _romance(item, rng, article, "fr", articles)
    return re.sub(r"\b([ld])[ea] (?=[éo])", r"\1'", text)


def phrase_es(item: Item, rng, article: str = "a") -> str:
    articles = {
        "a": ("un", "una"),
        "the": ("el", "la", "los", "las"),
        "": ("", ""),
        "no": ("ningún", "ninguna"),
        "all": ("", "", "todos los", "todas las"),
    }
    return _romance(item, rng, article, "es", articles)


def _east(item: Item, rng, key: str) -> tuple[str, str]:
    nouns, colors, sizes, textures, *_ = TABLES[key]
    words = [
        pick(rng, table[value].split())
        for table, value in ((sizes, item.size), (colors, item.color), (textures, item.texture))
        if value
    ]
    if len(words) > 1 and rng.random() < 0.3:
        words = [words[i] for i in rng.permutation(len(words))]
    return "".join(words), pick(rng, (nouns[item.shape] if item.shape else ANY[key]).split())


def phrase_ja(item: Item, rng, article: str = "a") -> str:
    words, noun = _east(item, rng, "ja")
    if words and not words.endswith(("い", "な", "の")):
        words += "の"
    if article == "all":
        return pick(rng, ("すべての", "全ての", "全部の")) + words + noun
    if item.count > 1 and article != "the":
        number = pick(rng, NUMBERS["ja"][item.count].split())
        return f"{number}の{words}{noun}" if rng.random() < 0.6 else f"{words}{noun}{number}"
    return words + noun


def phrase_zh(item: Item, rng, article: str = "a") -> str:
    words, noun = _east(item, rng, "zh")
    if words and not words.endswith("的") and rng.random() < 0.4:
        words += "的"
    if article == "all":
        return pick(rng, ("所有", "所有的", "全部")) + words + noun
    if item.count > 1 and article != "the":
        return pick(rng, NUMBERS["zh"][item.count].split()) + words + noun
    if article == "a" and rng.random() < 0.7:
        return pick(rng, ("一个", "一个", "一颗", "一个")) + words + noun
    return ("这个" if article == "the" and rng.random() < 0.2 else "") + words + noun


def _flat(stem: str) -> str:
    return stem.rstrip("=")


def ground(key: str, background: str, rng) -> str:
    return _flat(pick(rng, TABLES[key][5][background].split("|")))


PHRASES: dict[str, Callable] = {
    "en": phrase_en,
    "de": phrase_de,
    "fr": phrase_fr,
    "es": phrase_es,
    "ja": phrase_ja,
    "zh": phrase_zh,
}


def color_word(key: str, color: str, rng) -> str:
    """A colour standing alone: ``blau``, ``azul``, ``青``."""
    word = pick(rng, TABLES[key][1][color].split()).split("/")[0].rstrip("=").replace("light-", "light ")
    return word.removesuffix("の").removesuffix("い") if key == "ja" else word.removesuffix("的")


def place(key: str, cell: int, rng) -> str:
    """Words for a cell, with what they need before them."""
    words = pick(rng, TABLES[key][6][cell].split("|"))
    if key != "en":
        return words
    if rng.random() < 0.15 and "corner" not in words and "of" not in words:
        return words
    if cell == 4 or "corner" in words or "of the" in words:
        return pick(rng, ("in the ", "at the ")) + words
    return pick(rng, ("at the ", "in the ", "on the ")) + words


def area(key: str, name: str, rng) -> str:
    return pick(rng, TABLES[key][7][name].split("|"))


CONCEPT_WORDS = {  # beyond the tables: what a word means in the words the first stage has learned
    "top": "oben obere oberen haut supérieur arriba superior 上 顶部 上面 上方",
    "bottom": "unten untere unteren bas inférieur abajo inferior 下 底部 下面 下方",
    "left": "links linke linken gauche izquierda izquierdo 左 左边 左侧 左側",
    "right": "rechts rechte rechten droite droit derecha derecho 右 右边 右侧 右側",
    "center": "centre mitte mittig zentrum bildmitte milieu centro medio 中央 真ん中 中心 中间 正中间",
    "corner": "corners ecke ecken coin coins esquina esquinas 角 隅 角落",
    "background": "backdrop backgrounds hintergrund fond fondo 背景",
    "and": "und et y と 和 与",
    "with": "mit avec con",
    "without": "ohne sans sin 没有 なし",
    "no": "kein keine keinen pas ningún ninguna nicht aucun 不要",
    "only": "just nothing nur seulement solo sólo だけ 只 只有 のみ",
    "on": "auf sur sobre",
    "in": "im en dans",
    "a": "ein eine einen einer un une una 一个",
    "the": "der die das den dem le la les el los las",
    "two": "zwei deux dos 两个 2つ 二つ 两",
    "three": "drei trois tres 三个 3つ 三つ 三",
    "one": "一つ",
    "remove": "entferne entfernen lösche lösch enlève supprime retire quita elimina borra 消して 削除して 取り除いて "
    "去掉 删除 移除",
    "add": "füge hinzu ergänze ajoute ajouter añade agrega 追加して 加えて 添加 加上 增加",
    "move": "verschiebe bewege schiebe déplace mueve desplaza 移動して 動かして 移到 移动 移动到",
    "make": "mache mach fais rends haz hacer して 変えて 变成 改成 让",
    "change": "ändere ändern change cambia cambiar 変更して 换成 改为",
    "replace": "ersetze tausche remplace reemplaza sustituye 置き換えて 替换 替换成",
    "draw": "zeichne male dessine dibuja 描いて 画",
    "picture": "pic bild image imagen dibujo dessin 絵 画像 图片 图",
    "please": "bitte plaît favor ください 请",
    "show": "zeige zeig montre muestra 見せて 显示",
    "want": "möchte will veux voudrais quiero 想要 要",
    "white": "weiß weißen weißem blanc blanche blanco blanca 白 白色 白い",
    "gray": "silver grau grauen grauem gris 灰色 グレー 灰",
    "black": "schwarz schwarzen schwarzem noir noire negro negra 黒 黑色 黒い",
    "beige": "sand tan crème crema 米色 ベージュ 米黄色",
    "navy": "midnight dunkelblau dunkelblauen dunkelblauem marine foncé marino oscuro 紺 深蓝色 紺色 藏青色",
    "too": "auch aussi también も 也",
    "swap": "vertausche échange intercambia 入れ替えて 交换",
    "all": "every everything alle alles tous toutes todos todas すべて 全部 所有",
    "big": "bigger larger größer grösser agrandis",
    "small": "smaller kleiner",
    "into": "zu",
    "to": "nach",
}


def meanings() -> Iterator[tuple[str, str]]:
    """(new word or run of characters, English word that the first stage has learned)."""
    for key, (nouns, colors, sizes, textures, tails, *_) in TABLES.items():
        for table in (nouns, colors, sizes, textures):
            for concept, words in table.items():
                for entry in words.split():
                    if table is nouns and ":" in entry:
                        one, several, *_ = entry.split(":")
                        yield one, concept
                        yield several, _plural(concept)
                    elif table is nouns and key == "en":
                        yield entry, concept
                        yield entry + "s", _plural(concept)
                    elif key == "de":
                        stem = entry.rstrip("=")
                        for ending in ("",) if entry.endswith("=") else ("", "e", "er", "es", "en"):
                            yield stem + ending, concept
                    else:
                        for form in entry.split("/"):
                            yield form, concept
        for concept, words in tails.items():
            for phrase in words.split("|"):
                if concept != "solid":
                    yield phrase.split()[-1], {"striped": "stripes", "dotted": "dots"}[concept]
    for concept, words in CONCEPT_WORDS.items():
        for word in words.split():
            yield word, concept


def _plural(concept: str) -> str:
    return {"cross": "crosses"}.get(concept, concept + "s")


assert set(EN_NOUNS) == set(SHAPES)
