"""Through a real server's /prompt: neutral settings give the stock graph's pixels, and nothing outlives /free."""

import io
import urllib.parse

import numpy as np
import pytest
from harness.krea2_graphs import node, stock, unifusion, write_models
from PIL import Image


@pytest.fixture(scope="module")
def krea2(server):
    write_models(server.base)
    return server


def pixels(server, graph) -> np.ndarray:
    history = server.queue(graph)
    assert server.errors(history) == []
    saved = history["outputs"]["save"]["images"][0]
    return np.asarray(Image.open(io.BytesIO(server.raw("/view?" + urllib.parse.urlencode(saved)))))


SHORT, LONG = "a red fox in the snow", "blurry, dark, and much longer than the prompt it stands beside, with many words"


@pytest.mark.parametrize(
    "sampler, lora, negative",
    [
        ("euler", False, "a red cat in the snow"),
        ("euler", True, LONG),
        ("dpmpp_2m", False, LONG),
        ("dpmpp_2m", True, ""),
        ("heun", False, ""),
        ("heun", True, LONG),
    ],
)
def test_the_picture_is_the_stock_graphs_pixel_by_pixel(krea2, sampler, lora, negative):
    settings = dict(sampler=sampler, lora=lora)
    ours = pixels(krea2, unifusion(SHORT, negative, **settings))
    theirs = pixels(krea2, stock(SHORT, negative, **settings))
    assert theirs.std() > 3
    assert np.array_equal(ours, theirs)


def test_a_lora_changes_the_picture(krea2):
    assert not np.array_equal(pixels(krea2, unifusion(SHORT, "", lora=True)), pixels(krea2, unifusion(SHORT, "")))


def test_nothing_of_the_pack_holds_a_model_after_free(krea2):
    import time

    krea2.queue(unifusion(SHORT, "", seed=77))
    krea2.raw("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.5)
    seen = krea2.queue(
        {"number": node("PrimitiveInt", value=1), "look": node("TestMemory", after=["number", 0], number=1)}
    )
    assert seen["outputs"]["look"]["loaded"] == []


def test_the_conditioning_handed_on_is_twelve_times_smaller(krea2):
    report = krea2.queue({**unifusion(SHORT, "", seed=78), "text": node("PreviewAny", source=["pool", 4])})
    text = report["outputs"]["text"]["text"][0]
    assert "12 layers joined into one" in text
