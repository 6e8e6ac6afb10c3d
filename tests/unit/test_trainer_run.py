"""From a folder and a file to trained weights, through the command line's own code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from harness.training_data import captions, lines, pairs, small
from safetensors.torch import load_file

from unifusion.hidden_states import GENERATED
from unifusion.miniature import VAE_FILE, VLM_FOLDER
from unifusion.training import runs
from unifusion.training.__main__ import main
from unifusion.training.cache import Cache
from unifusion.training.cached_source import CachedSource
from unifusion.training.config import load
from unifusion.training.encode_once import Work
from unifusion.training.examples import EDIT, EMPTY, RECONSTRUCT, TEXT, split
from unifusion.training.folder_lock import FolderLock
from unifusion.training.frozen_encoder import FolderEncoder, condition, layers_read

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "unifusion.training", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One world of pictures and one cache for the module."""
    path = tmp_path_factory.mktemp("training")
    captions(path / "cap", 8, sizes=((64, 64), (80, 48)))
    lines(path / "pairs")
    (path / "cap" / "broken.png").write_bytes(b"nothing")
    (path / "cap" / "broken.txt").write_text("a red circle")
    cut = (path / "cap" / "0.png").read_bytes()
    (path / "cap" / "cut.png").write_bytes(cut[: len(cut) // 2])
    (path / "cap" / "cut.txt").write_text("a blue circle")
    return path


BOTH = 'path = "cap"\n[[data.sources]]\nkind = "jsonl"\npath = "pairs/data.jsonl"'


def config_of(folder, name="run", steps=3, source=BOTH, **more):
    more["data"] = f'cache = "cache"\n{more.get("data", "")}'
    path = small(folder, source, steps, **more)
    path.write_text(path.read_text().replace('out = "run"', f'out = "{name}"'))
    target = folder / f"{name}.toml"
    path.rename(target)
    return target


@pytest.fixture(scope="module")
def finished(folder):
    path = config_of(
        folder,
        "finished",
        6,
        data="heldout = 3",
        watch='look_every = 3\nprompts = ["a red circle"]\n[[watch.edits]]\ninstruction = "make it red"\n'
        'pictures = ["pairs/control/0.png"]',
    )
    assert main(["run", str(path)]) == 0
    return path, folder / "finished"


def test_a_folder_becomes_a_model_with_report_previews_and_a_held_out_loss(finished):
    _, out = finished
    assert sorted(p.name for p in (out / "model").iterdir()) == ["dit.safetensors", "vae.safetensors", "vlm"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    held = [line["held-out"] for line in log if "held-out" in line]
    assert len(held) == 2 and held[1] < held[0]
    page = (out / "report.html").read_text()
    for part in ("held-out loss", "make it red", "cannot be decoded", "data:image/png;base64"):
        assert part in page
    assert (out / "samples_6.png").is_file() and (out / "best.safetensors").is_file()


def test_a_second_start_encodes_nothing_and_loads_no_weights_of_the_vlm(finished, capsys, monkeypatch):
    monkeypatch.setattr(FolderEncoder, "states", lambda *_: pytest.fail("encoded again"))
    path, _ = finished
    assert main(["encode", str(path)]) == 0
    said = capsys.readouterr().out
    assert "encoded 0 pictures and 0 conditions" in said
    assert "1 pictures that cannot be read" in said and "broken.png" in said and "cut.png" in said


def test_other_words_other_pictures_and_other_taps_have_other_keys(folder):
    first = runs.prepare(load(config_of(folder, "keys")), say=lambda _: None)
    path = config_of(folder, "keys2")
    path.write_text(path.read_text() + "[vlm]\ntaps = [1, 2, 3, 4]\n")
    second = runs.prepare(load(path), say=lambda _: None)
    keys = lambda run: {c.key for e in run.examples for c in e.conditions.values()}
    assert not keys(first) & keys(second)
    assert {e.latent for e in first.examples} == {e.latent for e in second.examples}
    (folder / "more").mkdir()
    shutil.copy(folder / "cap" / "1.png", folder / "more" / "other_name.png")
    (folder / "more" / "other_name.txt").write_text("a green circle")
    third = runs.prepare(load(config_of(folder, "keys3", source='path = "more"')), say=lambda _: None)
    assert keys(third) <= keys(first) and third.examples[0].latent in {e.latent for e in first.examples}


def test_a_cut_entry_of_the_cache_is_named(folder, finished):
    run = runs.prepare(load(finished[0]), say=lambda _: None)
    example = run.encoded_examples()[0]
    path = run.cache.path("latents", example.latent)
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    with pytest.raises(ValueError, match="is damaged or gone; delete it"):
        run.cache.read("latents", example.latent)
    path.write_bytes(whole)


def source_of(folder, name, processes=1, **more):
    config = load(config_of(folder, name, **more))
    run = runs.prepare(config, say=lambda _: None)
    return CachedSource(run.encoded_examples(), run.cache, config, processes)


def test_tasks_are_mixed_and_lengths_are_ragged(folder, finished):
    source = source_of(folder, "mix", data="unconditional = 0.2\nreconstruct = 0.1")
    tasks = [task for number in range(400) for _, task in source.tasks(number)]
    share = {task: tasks.count(task) / len(tasks) for task in set(tasks)}
    assert share[EMPTY] == pytest.approx(0.2, abs=0.05) and share[RECONSTRUCT] == pytest.approx(0.1, abs=0.04)
    assert share[TEXT] > 0.2 and share[EDIT] > 0.2
    batches = [source(step, 0, 0) for step in range(12)]
    assert len({batch.latents.shape for batch in batches}) > 1  # sizes are never mixed in a batch
    assert any(batch.key_bias is not None for batch in batches)
    for batch in batches:
        batch.check()


def test_processes_share_all_keys_out_whatever_is_written_meanwhile(folder, tmp_path):
    run = runs.prepare(load(config_of(folder, "shared", source='path = "cap"')), say=lambda _: None)
    work = Work(run.examples, [], Cache(tmp_path))
    first = work.missing(0, 2)
    for kind, keys in zip(("latents", "states"), first):
        for key in keys[:3]:
            work.cache.write(kind, key, torch.zeros(1))
    second = work.missing(1, 2)
    for mine, other, every in zip(first, second, (work.latents, work.states)):
        assert {*mine, *other} == set(every) and not {*mine} & {*other}


def test_shares_and_repeats_decide_how_often_a_source_comes(folder, finished):
    source = 'path = "cap"\nshare = 0.25\n[[data.sources]]\nkind = "jsonl"\npath = "pairs/data.jsonl"'
    made = source_of(folder, "shares", source=source)
    chosen = [made.examples[i].source for n in range(300) for i in made.chosen(n)]
    assert chosen.count(0) / len(chosen) == pytest.approx(0.25, abs=0.08)  # batches are filled up by sizes
    half = source_of(folder, "half", source='path = "cap"\nrepeats = 0.5')
    assert half.expected.sum() == pytest.approx(4)


def test_two_processes_take_what_one_takes_in_two_parts(folder, finished):
    one = source_of(folder, "one", schedule="parts = 2")
    two = source_of(folder, "two", processes=2)
    for step in range(5):
        for part in range(2):
            a, b = one(step, part, 0), two(step, 0, part)
            assert torch.equal(a.states, b.states) and torch.equal(a.latents, b.latents)


def test_held_out_pictures_are_never_trained_on(folder, finished):
    run = runs.prepare(load(finished[0]), say=lambda _: None)
    kept, held = split(run.encoded_examples(), 3)
    assert len(held) == 3 and not {e.latent for e in kept} & {e.latent for e in held}
    with pytest.raises(ValueError, match="data.heldout is 99"):
        split(kept, 99)


def test_long_conditions_are_left_out_and_counted(folder, finished):
    run = runs.prepare(load(config_of(folder, "long", data="longest = 18\nreconstruct = 0.0")), say=lambda _: None)
    assert {TEXT} == {task for e in run.encoded_examples() for task in e.conditions if task != EMPTY}
    assert "6 examples with more than 18 tokens, left out" in " ".join(run.notes.lines())


def test_what_the_vlm_wrote_conditions_in_place_of_the_prompt():
    encoder = FolderEncoder(VLM_FOLDER)
    taps = layers_read(encoder)
    hidden = condition(encoder, encoder.profile, taps, "a red circle", answer="on a white background")
    assert set(hidden.roles.tolist()) == {GENERATED} and "".join(hidden.pieces) == "on a white background"


def test_pooled_states_take_less_room_and_train_alike(folder, finished):
    lora = dict(train='what = "lora"\nrank = 2', source='path = "cap"')
    paths = [config_of(folder, "pooled", data="cache_pooled = true", **lora), config_of(folder, "unpooled", **lora)]
    for path in paths:
        path.write_text(path.read_text().replace("layers = 1", 'start = "bundled"'))
        assert main(["run", str(path)]) == 0
    losses = [
        json.loads((folder / n / "log.jsonl").read_text().splitlines()[0])["flow"] for n in ("pooled", "unpooled")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    pooled, whole = (runs.prepare(load(path), say=lambda _: None) for path in paths)
    shapes = [run.cache.shape("states", run.encoded_examples()[0].conditions[TEXT].key) for run in (pooled, whole)]
    assert shapes[0] == (3, 240) and shapes[1] == (3, 4, 240)
    assert main(["plan", str(paths[0])]) == 0


@pytest.fixture
def other_precision():
    """accelerate keeps one precision for a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_packed_base_is_trained_and_looked_at_in_mixed_precision(folder, finished, other_precision):
    more = dict(train='what = "lora"\ncheckpointing = true\nblocks_on_cpu = 2', data="heldout = 2")
    path = config_of(folder, "mixed", 2, watch='prompts = ["a red circle"]', schedule='optimizer = "muon"', **more)
    text = path.read_text().replace("layers = 1", 'start = "bundled"\nbase = "int8"')
    path.write_text(text.replace('device = "cpu"', 'device = "cpu"\nmixed_precision = "bf16"'))
    assert main(["run", str(path)]) == 0
    assert (folder / "mixed/samples_2.png").is_file() and "held-out" in (folder / "mixed/log.jsonl").read_text()


def test_prompts_are_rewritten_by_the_vlm_and_the_texts_kept(folder):
    from safetensors import safe_open

    run = runs.prepare(
        load(config_of(folder, "written", source='path = "cap"', data="rewrite = true")), say=lambda _: None
    )
    condition = next(e for e in run.examples if "1.png" in e.name).conditions[TEXT]
    assert condition.rewrite and not run.examples[0].conditions[EMPTY].rewrite
    hidden = condition.encode(run.encoder, run.contract)
    assert set(hidden.roles.tolist()) == {GENERATED} and {"green", "circle"} <= set(hidden.text.split())
    assert main(["encode", str(folder / "written.toml")]) == 0
    with safe_open(run.cache.path("states", condition.key), "pt") as file:
        assert file.metadata() == {"prompt": "a green circle", "written": hidden.text}


@pytest.mark.parametrize(
    "change, said",
    [
        (('path = "cap"', 'path = "nowhere"'), "There is no folder"),
        (("[vlm]", '[vlm]\nfolder = "cap"'), "config.json"),
        (("[vlm]", "[vlm]\ntaps = [1, 99]"), "The taps 1, 99 are not rising layers from 0 to 7"),
        (("[vae]", '[vae]\nfile = "x.safetensors"'), "There is no VAE"),
        (("[vae]", '[vae]\nfile = "cap/0.png"'), "The VAE"),
        (("layers = 1", 'layers = 1\nstart = "cap/0.png"'), "The drawing model '0.png' cannot be read"),
        (("layers = 1", 'layers = 1\nstart = "none"'), "There is no drawing model"),
        (("layers = 1", 'layers = 1\nstart = "VAE"'), "is no diffusion transformer in Krea 2's layout"),
        (('prompts = ["x"]', '[[watch.edits]]\ninstruction = "x"\npictures = ["none.png"]'), "there is no such file"),
        (('device = "cpu"', 'device = "cuda"'), None if torch.cuda.is_available() else "PyTorch finds no GPU"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(folder, finished, capsys, change, said):
    path = config_of(folder, "wrong", watch='prompts = ["x"]')
    text = path.read_text().replace("[model]", "[vlm]\n[vae]\n[model]").replace(*change)
    path.write_text(text.replace("VAE", str(VAE_FILE)))
    shutil.rmtree(folder / "wrong", ignore_errors=True)
    code = main(["run", str(path)])
    if said is None:
        return
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.startswith("error: ") and "Traceback" not in error
    assert not (folder / "wrong" / "log.jsonl").exists()


def test_one_writer_in_a_folder(folder, finished, capsys):
    path, out = finished
    lock = FolderLock(out)
    other = command("run", path)
    said, _ = other.communicate(timeout=120)
    assert other.returncode == 2 and f"Process '{os.getpid()}' is writing to" in said
    lock.release()


def test_a_run_that_is_killed_goes_on_bit_equal(folder, finished):
    text = dict(steps=12, watch="keep_every = 2", train="ema = 0.9", schedule='optimizer = "muon"')
    whole, torn = config_of(folder, "whole", **text), config_of(folder, "torn", **text)
    assert main(["run", str(whole)]) == 0
    running = command("run", torn)
    deadline = time.monotonic() + 120
    while not (folder / "torn" / "checkpoints" / "step_4").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = [p.name for p in (folder / "torn" / "checkpoints").glob("step_*[0-9]")]
    assert before and "step_12" not in before
    assert main(["run", str(torn)]) == 0
    a, b = (torch.load(folder / name / "checkpoints/step_12/state.pt", weights_only=True) for name in ("whole", "torn"))
    for x, y in ((a["weights"], b["weights"]), (a["ema"]["averages"], b["ema"]["averages"])):
        assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
    for name, values in a["optimizer"].items():
        assert all(torch.equal(value, b["optimizer"][name][key]) for key, value in values.items())
    exported = [load_file(folder / name / "model" / "dit.safetensors") for name in ("whole", "torn")]
    assert all(torch.equal(exported[0][n], exported[1][n]) for n in exported[0])


def test_export_writes_what_the_newest_checkpoint_holds(finished, folder):
    path, out = finished
    assert main(["export", str(path), "--to", str(folder / "again")]) == 0
    a, b = load_file(out / "model" / "dit.safetensors"), load_file(folder / "again" / "model" / "dit.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "change, said",
    [
        (("steps = 6", "steps = 5"), "has taken 6 steps and the settings ask for 5"),
        (("[train]", '[train]\nwhat = "pooling"\n'), "model.start is empty"),
        (("lr = 2e-3", 'lr = 2e-3\noptimizer = "muon"'), "trained with optimizer 'adamw', not 'muon'"),
        (("features = 128", "features = 256"), "trains other weights"),
    ],
)
def test_a_run_with_other_settings_is_not_gone_on_with(finished, capsys, change, said):
    path, _ = finished
    other = path.with_name("other.toml")
    other.write_text(path.read_text().replace(*change))
    assert main(["run", str(other)]) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_other_data_said(finished, folder, capsys):
    path, out = finished
    shutil.copytree(out, folder / "damaged")
    other = path.with_name("damaged.toml")
    other.write_text(
        path.read_text().replace('out = "finished"', 'out = "damaged"').replace("heldout = 3", "heldout = 2")
    )
    assert main(["run", str(other)]) == 0
    said = capsys.readouterr().out
    assert "resuming with data" in said and "resuming with held_out 2, was 3" in said
    state = folder / "damaged/checkpoints/step_6/state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert main(["run", str(other)]) == 2
    assert "The checkpoint 'step_6' in 'damaged' is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("label", ["<|im_end|>", "a\nb", "x" * 200])
def test_labels_that_would_break_the_chat_are_refused(folder, finished, label, capsys):
    path = config_of(folder, "labels", data=f"labels = [{json.dumps(label)}]")
    assert main(["run", str(path)]) == 2
    assert "A label must be" in capsys.readouterr().err


def test_pairs_are_read_by_the_same_command(folder, finished):
    pairs(folder / "plain", 4, controls=2)
    run = runs.prepare(
        load(config_of(folder, "plain_run", source='kind = "pairs"\npath = "plain"')), say=lambda _: None
    )
    assert [len(e.conditions[EDIT].pictures) for e in run.examples] == [2] * 4
