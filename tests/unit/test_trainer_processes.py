"""Several processes: spread weights train as one process does, a killed group leaves no child and goes on."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

import psutil
from harness.comfy_server import free_port
from harness.training_data import captions, small
from safetensors.torch import load_file

from unifusion.training import processes
from unifusion.training.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "unifusion.training", *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition, seconds=200.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_spread_weights_train_are_killed_go_on_and_are_exported(tmp_path, capsys):
    captions(tmp_path / "cap", 6)
    more = dict(
        data="heldout = 1",
        train="shard = true\nema = 0.5\ncheckpointing = true",
        watch="keep_every = 1\nlook_every = 2",
    )
    path = small(tmp_path, 'path = "cap"', 4, schedule='optimizer = "muon"', **more)
    text = path.read_text()
    group = start("run", path, "--processes", "2")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert wait_for(lambda: (checkpoints / "step_1").exists()), group.communicate(timeout=5)
    children = psutil.Process(group.pid).children(recursive=True)
    group.send_signal(signal.SIGKILL)
    group.wait()
    assert len([c for c in children if "unifusion.training" in " ".join(c.cmdline() if c.is_running() else [])]) in (
        0,
        2,
    )
    assert wait_for(lambda: not any(child.is_running() for child in children), 30), "a child outlived its parent"

    said, _ = (again := start("run", path, "--processes", "2")).communicate(timeout=300)
    assert again.returncode == 0, said
    assert "2 processes, as asked for" in said and "resumed at step" in said and "held-out" in said

    one = small(tmp_path, 'path = "cap"', 4, schedule='optimizer = "muon"\nparts = 2', **{**more, "train": "ema = 0.5"})
    one.write_text(one.read_text().replace('out = "run"', 'out = "one"'))
    assert main(["run", str(one)]) == 0
    states = [torch.load(tmp_path / name / "checkpoints/step_4/state.pt", weights_only=True) for name in ("run", "one")]
    for name, value in states[1]["weights"].items():
        torch.testing.assert_close(states[0]["weights"][name], value, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            states[0]["ema"]["averages"][name], states[1]["ema"]["averages"][name], atol=1e-4, rtol=1e-3
        )
    spread, alone = (load_file(tmp_path / name / "model" / "dit.safetensors") for name in ("run", "one"))
    assert spread.keys() == alone.keys() and all(value.shape == alone[name].shape for name, value in spread.items())

    # the same folder on one process: adapted and said
    other = tmp_path / "other.toml"
    other.write_text(text.replace("steps = 4", "steps = 5"))
    capsys.readouterr()
    assert main(["run", str(other)]) == 0
    said = capsys.readouterr().out
    assert "resuming with processes 1, was 2" in said and "resuming with steps 5, was 4" in said


def test_a_launcher_that_starts_fewer_than_asked_for_is_found_out(monkeypatch):
    line = "python -m accelerate.commands.launch --cpu --num_processes 2 -m unifusion.training run x.toml"
    monkeypatch.setattr(processes, "_commands_above", lambda: [["bash"], line.split()])
    with pytest.raises(
        ValueError, match="^1 process runs and 2 were asked for: .*--processes 2, or through torchrun.$"
    ):
        processes.check_asked_for()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.check_asked_for() == "2 processes, as asked for"
    monkeypatch.setattr(processes, "_commands_above", lambda: [["bash"]])
    assert processes.asked_for() is None


def test_accelerates_own_launcher_on_a_cpu_is_found_out_or_trains_as_one_process_does(tmp_path):
    """Through the real commands: ``accelerate launch`` starts one process on a CPU whatever it is asked for, torchrun two."""
    captions(tmp_path / "cap", 6)
    path = small(tmp_path, 'path = "cap"', 2, data="heldout = 1")
    asked = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    asked += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "unifusion.training", "run", str(path)]
    run = partial(subprocess.run, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    launched = run([sys.executable, *asked])
    said = launched.stdout + launched.stderr
    if launched.returncode:
        assert "1 process runs and 2 were asked for" in said and "--processes 2, or through torchrun" in said
        assert not (tmp_path / "run" / "checkpoints").exists()  # not a step was trained
        port = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
        launched = run([sys.executable, "-m", "torch.distributed.run", *port, *asked[asked.index("-m", 1) :]])
        said = launched.stdout + launched.stderr
    assert launched.returncode == 0, said
    assert "2 processes, as asked for" in said

    one = small(tmp_path, 'path = "cap"', 2, data="heldout = 1", schedule="parts = 2")
    one.write_text(one.read_text().replace('out = "run"', 'out = "one"'))
    assert main(["run", str(one)]) == 0
    two, alone = (load_file(tmp_path / name / "model" / "dit.safetensors") for name in ("run", "one"))
    assert two.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


def test_a_child_of_a_killed_parent_ends(tmp_path):
    code = (
        "import sys, time, subprocess; sys.path.insert(0, sys.argv[1])\n"
        "from unifusion.training.processes import start_child\n"
        "child = start_child([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    gone = lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    if sys.platform == "linux":
        assert wait_for(gone, 10)
    elif not gone():
        child.kill()
