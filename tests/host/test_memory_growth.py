"""Two hundred queued runs in a real server leave neither memory nor models behind."""

import statistics

import pytest
from harness.krea2_graphs import SMALL_TAPS, encode, loaders, node, pool, write_models

RUNS, LOOK_EVERY = 200, 20


def small(number: int, look: bool) -> dict:
    """Encode, pool, one step, decode; a new prompt, picture and seed every time, so that nothing is cached."""
    graph = {
        **loaders(small=True),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=number % 7),
        "positive": encode(f"fox number {number}", profile="qwen3vl", taps=SMALL_TAPS),
        "pool": pool(["unet", 0], ["positive", 0], ["positive", 1]),
        "latent": node("EmptySD3LatentImage", width=32, height=32, batch_size=1),
        "draw": node(
            "KSampler",
            model=["pool", 0],
            positive=["pool", 1],
            negative=["pool", 2],
            seed=number,
            steps=1,
            latent_image=["latent", 0],
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["draw", 0], vae=["vae", 0]),
        "show": node("PreviewImage", images=["decode", 0]),
    }
    if look:
        graph["look"] = node("TestMemory", after=["decode", 0], number=number)
    graph["positive"]["inputs"]["images.image0"] = ["picture", 0]
    return graph


@pytest.fixture(scope="module")
def looks(server):
    """What TestMemory saw after every twentieth run."""
    write_models(server.base)
    found = []
    for first in range(0, RUNS, LOOK_EVERY):
        numbers = [server.submit(small(first + i, i == LOOK_EVERY - 1)) for i in range(LOOK_EVERY)]
        for number in numbers[:-1]:
            server.finished(number)
        last = server.finished(numbers[-1])
        assert server.errors(last) == []
        found.append(last["outputs"]["look"])
        server.raw("/history", {"clear": True})  # the host keeps about 45 objects of every run there
    return found


def test_resident_memory_does_not_grow(looks):
    """Growth after warming up, per run, below what one run's hidden states would take (about 100 kB here)."""
    rss = [look["rss"][0] for look in looks]
    early, late = statistics.median(rss[2:5]), statistics.median(rss[-3:])
    assert late - early < 0.05 * (RUNS * 0.6), f"resident memory in MB, every {LOOK_EVERY} runs: {rss}"


def test_the_host_holds_the_same_models_at_the_end(looks):
    assert len(set(map(tuple, (look["loaded"] for look in looks[1:])))) == 1
    assert sorted(set(looks[-1]["loaded"])) == looks[-1]["loaded"]  # none twice


def test_python_objects_do_not_pile_up(looks):
    objects = [look["objects"][0] for look in looks]
    assert max(objects[-3:]) - max(objects[2:5]) < 20 * RUNS, objects
