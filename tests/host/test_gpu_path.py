"""The way of every node on a GPU, at Krea 2's own sizes, on a GPU that has neither values nor memory (harness.fake_cuda).

What meets on two devices raises there as on a real one, so that the nodes run at all is half of what is shown. The other
half: what is copied between main memory and the device, where the host waits for a value, and what stays behind.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import HOST, PACK

GIB = 2**30
TEXT_ENCODER, MODEL = 8.27 * GIB, 23.9 * GIB  # their weights in bf16


def drive(*parts):
    done = subprocess.run(
        [sys.executable, str(PACK / "tools" / "harness" / "real_size.py"), *parts],
        env={**os.environ, "COMFYUI_PATH": str(HOST)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def seen():
    return drive("encoding", "writing", "drawing")


def names(places, kind):
    """Functions of the pack that caused one kind of event."""
    return {place.split(":")[1].removesuffix(f" ({kind})") for place in places if place.endswith(f"({kind})")}


def test_every_node_ran(seen):
    assert {
        "encode",
        "verifi",
        "pool",
        "region",
        "inspect",
        "draw",
        "guider",
        "save states",
        "load conditioning",
    } <= seen.keys()


def test_a_text_is_encoded_with_one_copy_back_for_each_sequence(seen):
    assert seen["encode"]["ours"] == {"unifusion/comfy_bridge/encoders/text_encoder.py:stack (to main memory)": 2}


def test_pictures_cost_a_copy_of_what_is_kept_and_nothing_when_only_the_words_change(seen):
    first, again = seen["encode, 3 pictures"]["ours"], seen["encode, 3 pictures, another prompt"]["ours"]
    assert names(first, "wait for a value") == {"_read"}  # the position behind the pictures
    assert names(again, "wait for a value") == set()
    assert names(again, "to device") <= {"cache", "_states_in_parts"} and names(again, "to main memory") == {"stack"}
    host = seen["encode, 3 pictures, another prompt"]["host"]
    assert not any("qwen35" in place or "preprocess_embed" in place for place in host)  # the vision tower did not run


def test_a_token_that_is_written_costs_its_own_id_and_nothing_else(seen):
    short, long = seen["verifi"]["ours"], seen["verifi, twice the tokens"]["ours"]
    more = {place: count - short.get(place, 0) for place, count in long.items() if count > short.get(place, 0)}
    assert more == {"unifusion/comfy_bridge/encoders/writing.py:draw_all (wait for a value)": 4}
    per_step = seen["verifi, sampled"]["host"]
    assert set(per_step) - set(seen["verifi"]["host"]) == {"comfy/text_encoders/llama.py:sample_token (to device)"}


@pytest.mark.parametrize("what", ["weights", "region", "schedule"])
def test_a_further_step_of_sampling_copies_nothing_of_ours(seen, what):
    one, two = (seen[f"draw, {what}, {steps}"]["ours"] for steps in (1, 2))
    more = {place: two[place] - one.get(place, 0) for place in two if two[place] > one.get(place, 0)}
    # Words that count for a part of the schedule need the noise level of the step.
    level = {"unifusion/comfy_bridge/drawers/pooled_context.py:at_this_step (wait for a value)": 1}
    assert more == (level if what == "schedule" else {})


def test_sampling_without_weights_copies_the_latent_alone(seen):
    for what in ("draw", "draw, image guidance", "draw, loaded again"):
        ours = {place for place in seen[what]["ours"] if "at_this_step" not in place and "_bias" not in place}
        assert ours == {"unifusion/comfy_bridge/drawers/flow_sampling.py:sample (to main memory)"}
    assert seen["guider"]["ours"] == {}


def test_files_and_regions_stay_in_main_memory(seen):
    for what in ("region", "save states", "load states", "save conditioning", "load conditioning"):
        assert not seen[what]["ours"] and not seen[what]["host"], what


def test_unloading_leaves_nothing_on_the_device_and_loading_again_works(seen):
    assert seen["encoder unloaded"]["live"] < GIB // 100 and seen["model unloaded"]["live"] < GIB // 100
    assert seen["encode, loaded again"]["weights"] > 700 and seen["draw, loaded again"]["weights"] > 400


def test_peaks_leave_room_beside_the_weights(seen):
    """Bytes alive beside the weights, computed: what a card must have free."""
    assert seen["encode"]["peak"] < TEXT_ENCODER + 0.2 * GIB
    assert seen["encode, 3 pictures"]["peak"] < TEXT_ENCODER + 2.2 * GIB
    assert seen["verifi"]["peak"] < TEXT_ENCODER + 0.2 * GIB
    assert seen["pool"]["peak"] < TEXT_ENCODER + MODEL + 0.2 * GIB
