"""Save, restart, load, draw: another process draws from the file what this one drew, bit for bit, on every row."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from harness.tapped_drawers import LATENTS, make_drawer
from harness.tapped_models import KEYS, make_encoder
from safetensors.torch import load_file, save_file

from unifusion.profiles import PROFILES

encoder, drawer = cache(make_encoder), cache(make_drawer)


def latent(key, model, positive, negative):
    import nodes

    start = {"samples": torch.zeros(LATENTS[key])}
    drawn = nodes.common_ksampler(model, 3, 2, 2.0, "euler", "simple", positive, negative, start)
    return drawn[0]["samples"].contiguous()


def prompts(bridge, key):
    """Hidden states with a weight where one is carried, and a part of the schedule."""
    hidden, below = (bridge("actions.encode").run(encoder(key), text)[0] for text in ("a red fox in snow", "dark"))
    spans = hidden.spans.clone()
    spans[-1] = torch.tensor([0.0, 0.5])
    return hidden._replace(spans=spans), below


def test_after_a_restart_the_same_latent_is_drawn_from_the_file(pack, bridge, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    files, pool = bridge("actions.stored_files"), bridge("actions.pool").run
    from unifusion_pack.unifusion.hidden_states import with_weight

    assert LATENTS.keys() == set(KEYS)
    drawn = {}
    for key in LATENTS:
        hidden, below = prompts(bridge, key)
        if PROFILES[key.removesuffix("-lm")].weights:
            hidden = with_weight(hidden, hidden.roles == 2, 1.5)
        model, positive, negative, *_ = pool(drawer(key), hidden, negative=below)
        drawn[key] = latent(key, model, positive, negative)
        files.save(hidden, below, f"{key}/states", None, None)
        files.save(positive, negative, f"{key}/conditioning", None, None)
    save_file(drawn, str(tmp_path / "drawn.safetensors"))
    here = Path(__file__)
    environment = os.environ | {"UNIFUSION_RESTARTED": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here), "-k", "in_the_other_process"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=here.parents[2],
        timeout=1500,
    )
    assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout[-3000:] + run.stderr[-1000:]


def test_what_was_saved_in_the_other_process(pack, bridge, monkeypatch):
    """Runs inside the test above, in a process of its own."""
    if not (folder := os.environ.get("UNIFUSION_RESTARTED")):
        pytest.skip("runs in a second process of the test above")
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", folder)
    files, pool = bridge("actions.stored_files"), bridge("actions.pool").run
    drawn = load_file(f"{folder}/drawn.safetensors")
    assert drawn.keys() == LATENTS.keys()
    for key, before in drawn.items():
        given, positive, negative, *_ = files.load(f"{key}/conditioning_00001_.safetensors [output]", drawer(key))
        assert torch.equal(latent(key, given, positive, negative), before), key
        given, _, _, hidden, below, _ = files.load(f"{key}/states_00001_.safetensors [output]", drawer(key))
        model, positive, negative, *_ = pool(given, hidden, negative=below)
        assert torch.equal(latent(key, model, positive, negative), before), key
