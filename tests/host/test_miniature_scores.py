"""What the shipped miniature writes and draws, through the pack's own nodes at default settings.

The figures with intervals are in docs/reproduction.md; here stands what holds with a wide margin on few scenes.
"""

import pytest

from unifusion.tiny import MINIATURE
from unifusion.tiny.text import keeps_attributes, parse_caption
from unifusion.tiny.vlm import BUNDLED

COUNT = 10
SHIPPED = MINIATURE

pytestmark = pytest.mark.skipif(
    not ((SHIPPED / "dit.safetensors").is_file() and (BUNDLED / "model.safetensors").is_file()),
    reason="the bundled weights are not here")


@pytest.fixture(scope="module")
def graph(pack):
    from bench.reproduction.graph import Graph

    return Graph(SHIPPED)


@pytest.fixture(scope="module")
def drawn(graph):
    """(what was asked, what VERIFI wrote, what the scorer reads from the picture) of held-out scenes."""
    from bench.reproduction.scenes import prompts
    from unifusion.tiny.scorer import read_scene

    made = []
    for seed, asked in enumerate(prompts(COUNT, seed=1, detail=1.0)):
        condition = graph.verifi(asked.prompt)
        made.append((asked, condition.text, read_scene(graph.picture(condition, seed))))
    return made


def test_what_is_written_is_a_caption_of_the_asked_background(drawn):
    scenes = [(asked, parse_caption(text)) for asked, text, _ in drawn]
    assert sum(scene is not None and scene.background == asked.spec.background for asked, scene in scenes) >= 7


def test_rewrites_keep_every_stated_attribute_far_above_chance(drawn):
    scenes = [(asked, parse_caption(text)) for asked, text, _ in drawn]
    assert sum(scene is not None and keeps_attributes(asked.spec, scene) for asked, scene in scenes) >= 3


def test_the_background_is_the_asked_one(drawn):
    assert sum(found.background == asked.scene.background for asked, _, found in drawn) >= 7  # by chance 2 of 10


def test_the_seed_decides_the_picture(graph):
    condition = graph.verifi("a large red solid circle at the center on a white background")
    first = graph.picture(condition, 3)
    assert (graph.picture(condition, 3) == first).all() and (graph.picture(condition, 4) != first).any()
