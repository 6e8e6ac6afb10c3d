"""While the nodes run, Python's audit hook sees no socket, process or unpickling, and no file outside the folders."""

import os
import sys
from pathlib import Path

import pytest
import torch

FORBIDDEN = {
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "urllib.Request",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "ftplib.connect",
    "webbrowser.open",
}
watching: dict = {"seen": None, "folder": None}


def watch(event, args):
    if watching["seen"] is None:
        return
    if event in FORBIDDEN:
        watching["seen"].append((event, str(args)[:200]))
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path, mode, flags = args
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
        inside = Path(os.fsdecode(path)).is_relative_to(watching["folder"]) or os.fsdecode(path).startswith("/dev/")
        if writes and not inside:
            watching["seen"].append((event, str(args)[:200]))


sys.addaudithook(watch)  # cannot be taken away again; does nothing outside the fixture


@pytest.fixture
def seen(tmp_path, monkeypatch):
    import folder_paths

    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    watching.update(seen=[], folder=tmp_path)
    yield watching["seen"]
    watching.update(seen=None)


def test_reading_writing_pooling_drawing_saving_and_loading_stay_at_home(
    krea2_clip, krea2_model, bridge, seen, lacking
):
    import nodes

    picture = {"image0": torch.rand(1, 64, 64, 3)}
    prompt = "a red fox" if "weights" in lacking else "a (red:1.2) fox"
    hidden, negative, _ = bridge("actions.encode").run(krea2_clip, prompt, images=picture)
    bridge("actions.rewrite").run(
        krea2_clip,
        "a fox",
        selection="images and rewritten text",
        sampling={"sampling": "greedy"},
        seed=1,
        max_length=3,
        precision="fp32",
    )
    model, positive, below, *_ = bridge("actions.pool").run(krea2_model, hidden, negative=negative)
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    nodes.common_ksampler(model, 1, 1, 2.0, "euler", "simple", positive, below, latent)
    for first, second in ((hidden, negative), (positive, below)):
        name, _ = bridge("actions.stored_files").save(first, second, "conditioning/fox", None, None)
        bridge("actions.stored_files").load(name, krea2_model)
    assert seen == []


def test_the_hook_sees_what_it_is_there_for(seen, tmp_path):
    import pickle
    import socket

    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=0.2)
    pickle.loads(pickle.dumps(Path("x")))
    Path("/dev/null").write_text("")
    (tmp_path / "inside").write_text("")
    assert {event for event, _ in seen} >= {"socket.connect", "pickle.find_class"}
    assert not any(event == "open" for event, _ in seen)
