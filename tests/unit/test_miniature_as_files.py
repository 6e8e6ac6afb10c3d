"""The miniature's world through everyone's trainer: the same chats, the same states, a few steps from its own file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from recipes.miniature.as_files import write
from recipes.miniature.chats import CONDITIONS
from recipes.miniature.dit_data import EDIT_STAGE, WITH_INSTRUCTION, draw_example
from recipes.miniature.frozen_vlm import load_vlm
from unifusion.training import runs
from unifusion.training.__main__ import main
from unifusion.training.config import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The recipe's own file with other paths and few steps."""
    folder = tmp_path_factory.mktemp("miniature")
    write(folder / "files", 14)
    text = (ROOT / "recipes/miniature/refine.toml").read_text()
    text = text.replace("../../runs/miniature_files", "files").replace("../../runs/miniature_refined", "run")
    text = (
        text.replace("heldout = 32", "heldout = 3")
        .replace("steps = 500", "steps = 2")
        .replace("batch = 16", "batch = 2")
    )
    path = folder / "refine.toml"
    path.write_text(text)
    return path


def test_the_trainer_reads_the_states_that_the_recipe_trains_on(config):
    run = runs.prepare(load(config), say=lambda _: None)
    lines = [json.loads(line) for line in (config.parent / "files/examples.jsonl").read_text().splitlines()]
    rng, drawn = np.random.default_rng(0), []
    shares = {task: share for task, share in vars(EDIT_STAGE).items() if task != "empty" and share}
    share = np.array(list(shares.values()))
    while len(drawn) < len(lines):
        example = draw_example(rng, str(rng.choice(list(shares), p=share / share.sum())))
        if example.chat.instruction:
            drawn.append(example)
    frozen = load_vlm()
    kinds = set()
    for example, made in zip(drawn, run.examples, strict=True):
        task = "edit" if example.chat.pictures else "text"
        ours = made.conditions[task].encode(run.encoder, run.contract)
        selection = WITH_INSTRUCTION if example.instruction else CONDITIONS
        chosen = frozen.tokenizer.collate([example.chat], selections=[selection]).selected[0]
        theirs = frozen.encode([example.chat])
        kinds.add((task, bool(example.chat.answer)))
        assert ours.roles.tolist() == theirs.roles[0][chosen].tolist()
        torch.testing.assert_close(ours.states[0], theirs.states[0][chosen], atol=5e-4, rtol=1e-3)
    assert len(kinds) >= 3


def test_the_miniature_goes_on_from_its_own_configuration(config):
    assert main(["run", str(config)]) == 0
    log = [json.loads(line) for line in (config.parent / "run/log.jsonl").read_text().splitlines()]
    assert [line["held-out"] for line in log if "held-out" in line][-1] < 0.5  # of a trained model
    assert (config.parent / "run/model/dit.safetensors").is_file()
