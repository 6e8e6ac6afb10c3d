"""The comparison of eight ways to use layers: fair, resumable, and careful about what it claims."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("resvg_py")
pytest.importorskip("accelerate")

from bench.emoji import __main__ as command
from bench.emoji import emoji_report, emoji_runs, emoji_set
from bench.emoji.emoji_reading import COLOURS, main_colours, mean_colours, ridge_r2
from bench.emoji.emoji_runs import (
    DONE,
    VARIANTS,
    Batches,
    better_rate,
    config_of,
    finished,
    parameters,
    queue,
    train,
    trained,
)
from bench.emoji.emoji_scores import Silenced, WithoutWords, items
from bench.emoji.emoji_set import Comparison, EmojiSet, prepare
from bench.emoji.emoji_statistics import difference, figure
from recipes.emoji.emoji_words import TEST, TRAINING, Named, part_of_word, words_of
from recipes.emoji.icon_sets import STYLES
from unifusion.layers_to_blocks import build_dit

CONFIG = Path(emoji_set.__file__).parents[2] / "recipes" / "emoji" / "layers.toml"
TWO = dict(rounds=(2, 6), seeds_in_round=(2, 2))
WIDTH = 36  # 18 heads of 2


class Drawer:
    """In place of a set of icons: a square whose colour the name says."""

    def draw(self, name, side, background):
        picture = np.full((side, side, 3), 255, np.uint8)
        picture[side // 4 : -side // 4, side // 4 : -side // 4] = [hash_of(name) % 200, 80, 40]
        return picture


def hash_of(text):
    return sum(map(ord, text))


def encode(folder, texts, taps):
    """In place of the language model: states that follow from the text, one token a word."""
    counts = [len(text.split()) for text in texts]
    rows = [
        torch.randn(count, len(taps), WIDTH, generator=torch.Generator().manual_seed(hash_of(text)))
        for text, count in zip(texts, counts)
    ]
    return 3 + 5 * torch.cat(rows).bfloat16(), torch.tensor([0, *np.cumsum(counts)])


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    small = dict(
        taps=(2, 5, 8), side=8, patch=4, features=64, blocks=2, rounds=(4,), conditions=4, levels=2, seeds=(0, 1)
    )
    queued = dict(pooling_rates=(1e-3,), seeds_in_round=(2,), rates_at=4)
    return dataclasses.replace(Comparison.read(CONFIG, runs), **queued, **small)


@pytest.fixture(scope="module")
def emoji(comparison):
    with pytest.MonkeyPatch.context() as patch:
        names = [f"{'abcdefghijklmnopqrstuvwxyz'[i % 26] * 2}{'klmnopqrst'[i // 26] * 2}-thing" for i in range(120)]
        things = [Named(name, name.replace("-", " "), ()) for name in names]
        groups = [("Food & Drink", "Objects")[i % 2] for i in range(120)]
        patch.setattr(emoji_set, "things_of", lambda archives: (things, {s: Drawer() for s in STYLES}, groups))
        patch.setattr(emoji_set, "encode", encode)
        return EmojiSet(prepare(comparison))


def test_the_shipped_file_is_read_and_a_wrong_key_is_named(tmp_path):
    comparison = Comparison.read(CONFIG)
    assert comparison.taps[-1] == 30 and len(comparison.seeds) >= 3 and comparison.runs.name == "runs"
    other = tmp_path / "c.toml"
    other.write_text(CONFIG.read_text().replace("rounds =", "roundz ="))
    with pytest.raises(ValueError, match="c.toml: the key round. is"):
        Comparison.read(other)
    other.write_text(CONFIG.read_text().replace("seeds_in_round = [1, ", "seeds_in_round = ["))
    with pytest.raises(ValueError, match="c.toml: seeds_in_round must have a number"):
        Comparison.read(other)


def test_states_have_mean_0_and_deviation_1_over_the_tokens_of_training(emoji):
    states, bias = emoji.states_of(
        [t for t in emoji.of(TRAINING) for _ in STYLES], [0, 1, 2, 3] * len(emoji.of(TRAINING))
    )
    tokens = states[bias == 0]
    torch.testing.assert_close(tokens.mean(0), torch.zeros_like(tokens[0]), atol=0.02, rtol=0)
    torch.testing.assert_close(tokens.std(0), torch.ones_like(tokens[0]), atol=0.02, rtol=0)


def test_pictures_come_back_from_what_the_model_sees(emoji):
    back = emoji.shown(emoji.latents([0, 1], [0, 3]))
    assert np.abs(back.astype(int) - emoji.pictures[[0, 1], [0, 3]].numpy().astype(int)).max() <= 1


def test_training_sees_no_held_out_word(emoji):
    batches = Batches(emoji, 8, 0)
    seen = {thing for step in range(60) for thing in batches.chosen(step)[0]}
    assert len(seen) > 0.9 * len(emoji.of(TRAINING))
    assert {part_of_word(word) for thing in seen for word in words_of(emoji.labels[thing])} == {TRAINING}
    assert {emoji.parts[thing] for thing in items(emoji)[0]} == {TEST}


def test_variants_of_a_seed_see_the_same_data_and_seeds_see_other(emoji):
    one, same, other = (Batches(emoji, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one(3, 0, 0).latents, same(3, 0, 0).latents)
    assert one.chosen(3) != other.chosen(3) and one.chosen(3) != one.chosen(4)
    silent = [named for step in range(200) for named in one.chosen(step)[2]]
    assert 0.05 < sum(thing < 0 for thing in silent) / len(silent) < 0.16


def test_the_queue_finishes_all_variants_of_a_seed_before_the_next(comparison):
    runs = list(
        queue(dataclasses.replace(comparison, pooling_rates=(1e-3, 1e-4), rounds=(2, 4, 8), seeds_in_round=(1, 2, 2)))
    )
    order = [(r.steps, r.pooling_rate, r.seed) for r in runs[:: len(VARIANTS)]]
    assert order == [(2, 1e-3, 0), (4, 1e-3, 0), (4, 1e-3, 1), (4, 1e-4, 0), (8, 1e-3, 0), (8, 1e-3, 1)]
    assert len({(r.folder, r.steps) for r in runs}) == len(runs) == 6 * len(VARIANTS)
    assert [r.variant for r in runs[: len(VARIANTS)]] == list(VARIANTS)


def test_sizes_are_the_same_but_for_the_way_layers_take():
    comparison = Comparison.read(CONFIG)
    with torch.device("meta"):
        models = {v.name: build_dit(config_of(v, comparison, 576, 1)) for v in VARIANTS}
    blocks = {
        name: parameters(dit.blocks) + parameters(dit.last) + parameters(dit.first) for name, dit in models.items()
    }
    assert len(set(blocks.values())) == 1
    whole = {name: parameters(dit) for name, dit in models.items()}
    assert whole["LAP"] - whole["last layer, more refiner"] == len(comparison.taps)
    assert whole["last layer"] == whole["mean of layers"] == whole["best single layer"] < whole["LAP"]


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(comparison, emoji, tmp_path, monkeypatch):
    run = next(queue(comparison))
    weights, whole_run = [], emoji_runs.Trainer.run

    def killed(trainer):
        whole_run(trainer, 2)
        trainer.close()
        raise KeyboardInterrupt

    for folder, first in (("whole", 0), ("killed", 2)):
        own = dataclasses.replace(comparison, runs=tmp_path / folder)
        if first:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(emoji_runs.Trainer, "run", killed)
                train(run, own, emoji, 0)
            assert not finished(own)
        train(run, own, emoji, 0)
        done = json.loads(run.file(own.out, DONE).read_text())
        assert done["from_step"] == first and finished(own) == [run]
        assert [path.name for path in (own.out / run.folder / "checkpoints").iterdir()] == ["step_4"]
        weights.append(trained(own.out / run.folder, config_of(run.variant, own, WIDTH, 0)).state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=0, rtol=0)


def test_silenced_and_wordless_sets_change_what_they_say_and_nothing_else(emoji):
    states, _ = emoji.states_of([1], [2])
    silenced, _ = Silenced(emoji, 1).states_of([1], [2])
    assert torch.equal(silenced[:, :, [0, 2]], states[:, :, [0, 2]]) and not silenced[:, :, 1].any()
    assert torch.equal(WithoutWords(emoji).states_of([1], [2])[0], emoji.states_of([-1], [0])[0])
    assert torch.equal(emoji.states_of([1], [2])[0], states)


def test_one_command_runs_the_queue_and_another_prints_what_is_there(comparison, emoji, tmp_path, monkeypatch, capsys):
    few = dataclasses.replace(comparison, seeds=(0,))
    monkeypatch.setattr(command.Comparison, "read", classmethod(lambda cls, path, runs: few))
    monkeypatch.setattr(emoji_report, "LEAST_OF_A_CATEGORY", 5)

    def said(*arguments):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
        command.main()
        return capsys.readouterr().out

    assert "side by side" in said("prepare", CONFIG)
    said("run", CONFIG, "--minutes", "0")
    assert not finished(few)
    said("run", CONFIG)
    assert len(finished(few)) == len(VARIANTS)
    stamps = {path: path.stat().st_mtime_ns for path in few.out.rglob("scores_*.json")}
    said("run", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in few.out.rglob("scores_*.json")} == stamps
    text = said("report", CONFIG, "--out", tmp_path / "report")
    assert "| flow loss, less is better | LAP |" in text and "| flow loss | injection - LAP | 1 |" in text
    assert "| variant | 4 steps |" in text
    assert "yes" not in text.split("claimed |")[1].split("| layer |")[0] and "one seed" in text
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "curves.png",
        "words.png",
        "layers.png",
        "inspector.png",
        "emoji.json",
        "emoji.md",
    }
    kept = json.loads((tmp_path / "report" / "emoji.json").read_text())
    assert kept["figures"]["flow loss"]["LAP"]["seeds"] == [None, None]


def test_a_difference_has_to_survive_items_and_seeds():
    rng = np.random.default_rng(0)
    clear = 1 + 0.1 * rng.standard_normal((3, 50))
    assert figure(clear).clear and figure(-clear).clear
    assert not figure(clear[:2]).clear  # too few seeds
    by_seed = clear + np.array([[-3.0], [0.0], [3.0]])
    assert figure(by_seed).items[0] > 0 and not figure(by_seed).clear
    by_item = np.tile(np.array([60.0] + [-1.0] * 49), (3, 1))
    assert figure(by_item).seeds[0] > 0 and not figure(by_item).clear
    holes = clear.copy()
    holes[:, 0] = np.nan
    assert figure(holes).value == pytest.approx(clear[:, 1:].mean())


def test_differences_are_of_the_seeds_that_both_have():
    one, other = {0: np.ones(4), 2: np.full(4, 3.0)}, {2: np.ones(4), 5: np.zeros(4)}
    found = difference(one, other)
    assert (found.value, found.count) == (2.0, 1)
    assert difference({0: np.ones(4)}, {1: np.ones(4)}) is None


def test_the_better_rate_of_the_first_seed_on_validation_goes_on(comparison, tmp_path):
    two = dataclasses.replace(comparison, runs=tmp_path, pooling_rates=(1e-3, 1e-4), rates_at=2, **TWO)
    lap, losses = VARIANTS[0], {(1e-3, 0): 0.5, (1e-3, 1): 0.1, (1e-4, 0): 0.4}
    runs = [run for run in queue(two) if (run.variant, run.steps) == (lap, 2)]
    chosen = [better_rate(two, lap)]
    for run in runs:
        (two.out / run.folder).mkdir(parents=True)
        lines = [{"step": 1, "loss": 9.0}, {"step": 2, "held-out": losses[run.pooling_rate, run.seed]}]
        (two.out / run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.file(two.out, DONE).write_text("{}")
        chosen.append(better_rate(two, lap))
    assert chosen == [1e-3, 1e-3, 1e-3, 1e-4]
    later = [run for run in queue(two) if (run.variant, run.steps) == (lap, 6)]
    assert [(run.pooling_rate, run.seed) for run in later] == [(1e-4, 0), (1e-4, 1)]
    # of the first round both seeds are shown, of the next the better rate
    assert [r.pooling_rate for r in emoji_report.rounds_of(two, runs)[2]["LAP"]] == [1e-3, 1e-3]
    assert emoji_report.rounds_of(two, later)[6]["LAP"] == later


def test_the_report_shows_the_longest_round_that_all_variants_have(comparison, tmp_path):
    two = dataclasses.replace(comparison, runs=tmp_path, rates_at=6, **TWO)
    runs = list(queue(two))
    assert emoji_report.shown_round(emoji_report.rounds_of(two, runs)) == 6
    assert emoji_report.shown_round(emoji_report.rounds_of(two, [r for r in runs if r != runs[-1]])) == 6
    short = [r for r in runs if r.steps == 2 or r.variant != VARIANTS[3]]
    assert emoji_report.shown_round(emoji_report.rounds_of(two, short)) == 2
    with pytest.raises(ValueError, match="No run in"):
        emoji_report.write(two, None, {}, tmp_path / "report")


def test_a_run_goes_on_into_the_next_round(comparison, emoji, tmp_path):
    two = dataclasses.replace(comparison, runs=tmp_path, **TWO)
    runs = [run for run in queue(two) if run.variant == VARIANTS[1] and run.seed == 0]
    for run in runs:
        train(run, two, emoji, 0)
    assert [json.loads(run.file(two.out, DONE).read_text())["from_step"] for run in runs] == [0, 2]


def test_colours_are_read_from_things_not_from_the_white_behind_them():
    pictures = np.full((3, 8, 8, 3), 255, np.uint8)
    pictures[0, 2:6, 2:6] = COLOURS["green"]
    pictures[1, 2:6, 2:6], pictures[1, 2, 2:5] = COLOURS["red"], COLOURS["blue"]
    assert [list(COLOURS)[i] if i >= 0 else None for i in main_colours(pictures)] == ["green", "red", None]
    np.testing.assert_allclose(mean_colours(pictures)[[0, 2]], [COLOURS["green"], (255, 255, 255)])


def test_a_ridge_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(300, 10, generator=generator) for _ in range(2))
    turn = torch.randn(10, 3, generator=generator)
    assert ridge_r2(x, x @ turn, other, other @ turn, 1.0) > 0.99
    assert ridge_r2(x, torch.randn(300, 3, generator=generator), other, other @ turn, 1.0) < 0.1
