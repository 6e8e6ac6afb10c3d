"""Which words the bundled miniature's reports pass over, and which they never take for a slip of the fingers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from unifusion.miniature_words import normal_form, slip_among, words_of

from . import newcomer_edits, newcomers, wordings, words_around
from .languages import ANY, CONCEPT_WORDS, NUMBERS, TABLES, meanings

# Words that name nothing to draw: pronouns, articles, prepositions, auxiliaries, politeness, talk about pictures.
FUNCTION_WORDS = """
a about above after again ago all almost alone along already also although always am among an and another any
anyone
anything anyway are around art artwork as ask asked at away back bad be beautiful because been before behind
being below
best better between beyond birthday both but by call called came can cannot canvas card cheers clear clearly
come
completely could day dear definitely did different do does doing done down draw drawing drawn each easy either
else end
enough equal even evening ever every everybody everyone everything exact exactly example except excuse far few
figure fill
fine finally first following for forget forward free from front full fun further get give given go goes going
good got great greetings
had half hand happy has hate have having he hello help her here hers hey hi high him his hold hope how however
idea if in
inside instead into is isn it its itself just keep kind know last later least left less let like likes little ll
look looking
lot lots love loves made make makes making many may maybe me mean middle might mine more morning most much multi
must my name nearly near
need needed needs never new next nice no nobody none nor not nothing now number of off often ok okay old on once
one only
onto opposite or order other others our out outside over own page pair part particular people per perhaps piece
place placed please point
poster possible prefer pretty print prompt put quality quick quickly quite rather re really regards request
right said same save say
second see seem seems seen send separate several shall she should show shown shows side simple simply since
single
sit sits sitting slightly so some somebody somehow someone something sometimes somewhere soon sorry sort
standing start still
stop stuff style such suggest sure surely surprise take tell test than thank thanks that the their them then
there these they think
this those though thought through time title to today together tomorrow tonight too tool total touch touching
tried true try
trying type under underneath until up upon us use used using usually ve very via view visible wait want wanted
wants was
way we week well were what whatever when where whether which while who whole whose why will wish with within
without
won wonder wondering word words work would wow write wrong yeah yes yesterday yet you your yours sign sky zero don doesn
didn
couldn wouldn d m s t re isn aren weren hang friend daughter son mother father teacher anna tom maria party shop
rain raining rainy
colored coloured colour color colours colors shaped size sized position positions picture pictures image images
photo photos illustration
render sketch masterpiece resolution k hd detailed pattern patterns touch touches facing gap dimension
dimensions row rows column columns line lines
diagonal diagonally corner corners edge edges centered centred vertical horizontal vertically horizontally
multiple identical similar various
none double triple dozen single object shape thing things objects shapes geometric basic bit somewhat
"""
FUNCTION_WORDS_ELSEWHERE = """
aber alle alles als also am an andere anderen auch auf aus außen außer außerdem bei beide beiden beim bild
bilder bin bis bitte bist da dabei dafür damit danach
dann daneben darauf darüber darunter das dass davon davor dazu dein deine dem den denn der des deshalb die dies
diese
diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer eines einfach einmal einzige er
erste es etwas euch farbe form
für ganz gar geben gern gerne gibt gut gute guten habe haben hallo hast hat hätte hier hinter hintergrund ich
ihm ihn ihr ihre im
immer in innen ins ist ja jede jedem jeden jeder jedes jetzt jemand kann kannst kein keine keinen könnte könnten
können könntest lass lieber links machen mal man mehr mein
meine meinem meinen mich mir mit möchte möchten muss nach neben nein nicht nichts noch nun nur ob oben oder ohne
perfekt rechts schön schöne schönes
schon sehr sein seine seiten sich sie siehst sind so soll sollen sollte sondern sonst statt und uns unten unter
viel viele vielleicht vom von vor
wäre war warum was weil wenn wer werden wie wieder will wir wird wo wollen würde würden zu zum zur zwischen
zusammen danke vielen dank grüße liebe
zeichnung zeichne ecke ecken mitte rand seite größe muster lediglich anstelle orangefarben orangefarbene
orangefarbener orangefarbenes orangefarbenen weiss gruen gross grosser grosse grosses
à ai aime au aussi autre autres aux avec avez avoir bien bon bonjour ça car ce cela ces cet cette chaque comme
contre
côté dans de des deux dit du elle elles en encore entre est et être eux fait faites fois font grand il ils image
je jour
juste la le les leur leurs lui ma mais me même merci mes moi moins mon ne non nos notre nous on ou où par
parce pas peu peut peux plus plusieurs pour pourquoi pourrais pourriez pouvez près puis qu quand que quel quelle
quelques qui quoi rien
sa sans se sera ses seul seule si sois son sont sous sur ta te tes toi ton tous tout toute toutes très trop tu
un une vers veux voici voilà voir vos votre voudrais vous y plaît svp salut couleur forme dessin moi côte haut
bas coin fond milieu lune
aunque algo alguna algunas alguno algunos ahora al allí antes aquí así aún bien bueno cada casi como con cosa
cosas cual
cuando da de del desde después dibujo donde dos el ella ellas ellos en encima entonces entre era eres es esa
esas ese
eso esos esta está están estas este esto estos fue ha hace hacer hacia han hasta hay hola la las le les lo los
más me
mejor menos mi mientras mis mismo mucha muchas mucho muchos muy nada ni no nos nosotros nuestra nuestro o otra
otras otro
otros para pero poco por porque puede puedes puedo pues que qué quien quiero se ser si sí sido sin sobre son soy
su sus
también tan tanto te tiene tienen toda todas todo todos tu tus un una unas uno unos usted van veces ver vez y ya
yo
gracias favor color forma tamaño fondo esquina lado centro arriba abajo gustaría podrías imagen perdón
"""
GERMAN_GROUNDS = "schwarzer weißer grauer cremefarbener dunkelblauer hellblauer silberner beiger"
CHINESE = (
    "的了是在有和与一个我你您请给要把让也再上下左右中间大小着这那只不没很点张幅图片"
    "画换到成为从里外边面角处想能可以吗呢吧来做颗张只列行排"
)
JAPANESE = "上下左右中央真ん中角隅横縦隣個枚本色形絵画像描見変追加消移動置"
# Common words near a known one, which would pass for a typo of it.
LOOK_ALIKES = """
bell bull bill hall hole cart stair stairs stare steer stern heat head heard bread braid tree trees three plane
plant plate rain brain train
crown crow clown brown cow cows boss frost crisp gross grass glass brick black-smith bike cake lake rake book
look boot boat bear beard pear
ship shirt skirt store stone storm stove spoon spear sport shark sheep sheet shell screen scarf sail snail snake
stick string spring
moose mouse house horse nose hose goose tower flower power rope robe role roof room root rat bat hat mat ant pan
pen pin king wing
bag bed bug bow boy bud cap cub cup egg fan gun hen ice jar jet key leg lip
log map mug net nut oak owl pie pig pot rug saw tie toy
van web zoo
dove doll wolf golf gulf dress bus bush brush beach peach bench branch leaf loaf lips lamb lamp light knife wife
cliff
"""

# More of them, from a dictionary: python -m recipes.miniature.known_words DICTIONARY (one word a line; the list was made
# of SCOWL's "american-english-small", (c) Kevin Atkinson and others, free to use, copy, change and give away).
ENGLISH_LOOK_ALIKES = Path(__file__).with_name("english_look_alikes.txt")

_PLACEHOLDER = re.compile(r"\{\w*\}")


def _texts(value) -> list[str]:
    """Every string in nested tuples, lists and dictionaries; keys of dictionaries are names of concepts."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [text for item in items for text in _texts(item)]


def _templates() -> list[str]:
    around = (
        *(words_around.WRAPPERS, words_around.RELATION_WORDS, words_around.NEGATIONS, words_around.LETTERS),
        *(newcomers.ON_GROUND, newcomers.LAYOUT_WORDS, newcomers.CORRECTIONS, newcomers.VAGUE_NUMBERS, newcomers.JOINS),
        newcomers.ALL_OF_COLOR,
        wordings.THREE,
        *(newcomer_edits.TEMPLATES, newcomer_edits.POLITE),
        *(wordings.PROMPTS, wordings.RECOLOUR, wordings.REPLACE, wordings.ADD, wordings.REMOVE, wordings.MOVE),
        *(wordings.BACKGROUND, wordings.TWO_BACKGROUND, wordings.TWO_INSERT, wordings.TWO_PAIR),
        *(wordings.CAPTION_REQUESTS, wordings.PICTURE_NAMES),
    )
    return [_PLACEHOLDER.sub(" ", text) for text in _texts(around)]


def _words(texts) -> set[str]:
    return {normal_form(word) for text in texts for word in words_of(text)}


def _hand_made_lists() -> tuple[set[str], set[str], set[str]]:
    """(content, passed, other) words as the constants of this recipe say them."""
    content = _words([word for word, _ in meanings()]) | _words(CONCEPT_WORDS)
    content |= _words(_texts(list(TABLES.values())))
    content |= _words(_texts([NUMBERS, ANY]))
    content |= _words([GERMAN_GROUNDS])
    passed = _words([FUNCTION_WORDS, FUNCTION_WORDS_ELSEWHERE, *_templates(), *CHINESE, *JAPANESE]) - content
    others = _words([LOOK_ALIKES, *_texts(words_around.THINGS_OF_THE_WORLD)]) - content - {"kind"}
    common = {"a", "an", "and", "the", "in", "on", "at", "of", "to", "with", "no", "only", "one", "two", "three"}
    content -= _words([FUNCTION_WORDS_ELSEWHERE]) | common
    passed |= common | _words([FUNCTION_WORDS_ELSEWHERE])
    return content, passed - content - others, others


def _nearest(words) -> dict[str, str]:
    """Words of a dictionary that would pass for slips, each with the known word it is near; stems are left to slips."""
    content, passed, others = _hand_made_lists()
    near = {}
    for word in words:
        plain = normal_form(word)
        if plain != word or not word.isalpha() or word in content | passed | others:
            continue
        meant = slip_among(word, content, passed)
        if meant and not (abs(len(word) - len(meant)) < 3 and (word.startswith(meant) or meant.startswith(word))):
            near[word] = meant
    return near


def word_lists() -> dict[str, list[str]]:
    """Words of the tokenizer's configuration, by what the nodes make of them.

    ``content_words`` name what can be drawn or changed, ``passed_words`` nothing, ``other_words`` other things.
    ``common_words`` name nothing either, but no slip of the fingers stands for them.
    """
    content, passed, others = _hand_made_lists()
    near = _nearest(ENGLISH_LOOK_ALIKES.read_text(encoding="utf-8").split())
    others |= {word for word, meant in near.items() if meant in content}
    return {
        "content_words": sorted(content),
        "passed_words": sorted(passed),
        "common_words": sorted(word for word, meant in near.items() if meant not in content),
        "other_words": sorted(others),
    }


if __name__ == "__main__":
    found = _nearest(Path(sys.argv[1]).read_text(encoding="utf-8").split())
    ENGLISH_LOOK_ALIKES.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
    print(len(found), "words")
