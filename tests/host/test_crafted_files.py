"""Crafted files and folders on a live server: none costs the list of nodes, the worker, much memory or much time.

Some 190 of them lie in ``input/`` and ``models/unifusion`` before the server starts; each is then loaded by its node. It
ends in a result or in one printable sentence, and the default picture draws in between.
"""

import json
import random
import struct
import time
from pathlib import Path

import pytest
from harness.miniature_folder import copied_miniature
from test_fuzz_nodes import DEFAULT, SOURCES, graph_from
from test_model_folders import CONFIGS, change
from test_saving_faults import FOREIGN

SAVED = Path(__file__).with_name("saved_by_0_1_0")
SEED, CHANGES = 13, 16  # changes of each saved file
MOST_MEMORY = 700 * 1024  # KiB above what the server needs with the miniature loaded


def changed(data: bytes, rng: random.Random) -> bytes:
    """A saved file with one thing wrong: cut, longer, other lengths, bytes, offsets, shapes or metadata."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(7)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return data + bytes(rng.randrange(1, 5000))
    if kind == 2:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])) + data[8:]
    if kind == 3:
        at = rng.randrange(length)
        header = header[:at] + bytes([rng.randrange(256)]) + header[at + 1 :]
    else:
        values = json.loads(header)
        name = rng.choice([key for key in values if key != "__metadata__"])
        about = values.setdefault("__metadata__", {"unifusion.kind": "conditioning"})
        if kind == 4:
            values[name]["data_offsets"] = rng.choice([[0, 2**60], [5, 0], [-1, 3], [0, 1], "all", [0]])
        elif kind == 5:
            values[name]["shape"] = rng.choice([[2**40], [-1], [0], [1] * 200, [2**31, 2**31], None, [1.5]])
        else:
            about[rng.choice(list(about))] = rng.choice(["", "{", "null", "[" * 5000, "9" * 400, "\u202e", "NaN", "-1"])
        header = json.dumps(values).encode()
    return struct.pack("<Q", len(header)) + header + body


def write_files(folder: Path) -> list[str]:
    """Crafted safetensors files; returns their names."""
    rng = random.Random(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"foreign {number}.safetensors": data for number, data in enumerate(FOREIGN.values())}
    for path in sorted(path for path in SAVED.glob("*.safetensors") if path.stem != "drawn"):
        data = path.read_bytes()
        files |= {f"{path.stem} {number}.safetensors": changed(data, rng) for number in range(CHANGES)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return list(files)


def write_folders(root: Path) -> list[str]:
    """Crafted model folders; returns their names."""

    def copy(name: str) -> Path:
        return copied_miniature(root / name)

    for number, (edit, _) in enumerate(CONFIGS):
        change(copy(f"config {number}") / "vlm" / "config.json", edit)
    for number, name in enumerate(("dit.safetensors", "vae.safetensors", "vlm/model.safetensors")):
        for size in (0, 7, 5000):
            with open(copy(f"cut {number} {size}") / name, "r+b") as file:
                file.truncate(size)
        (copy(f"gone {number}") / name).unlink()
        path = copy(f"folder {number}") / name
        path.unlink()
        path.mkdir()
        path = copy(f"loop {number}") / name
        path.unlink()
        path.symlink_to(path.name)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "config.json"):
        for number, text in enumerate(("", "{", "[" * 100_000, '{"a": "b"}', "\x00" * 4000, "null")):
            (copy(f"{name} {number}") / "vlm" / name).write_text(text, encoding="utf-8")
    (root / "empty").mkdir(parents=True)
    (root / "a file").write_text("x")
    (root / "nowhere").symlink_to("gone")
    return sorted(path.name for path in root.iterdir() if (path / "dit.safetensors").is_file() and path.is_dir())


@pytest.fixture(scope="module")
def crafted(tmp_path_factory, host_folder):
    from harness.comfy_server import Server

    base = tmp_path_factory.mktemp("crafted") / "base"
    files, folders = write_files(base / "input"), write_folders(base / "models" / "unifusion")
    server = Server(host_folder, base)
    try:
        server.wait()
        yield server, files, folders
    finally:
        server.stop()


def peak(server) -> int:
    """KiB that the server's process needed at most."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def wrong(server, graph: dict) -> str | None:
    """What is wrong with how a graph ended, or None; a refusal of one printable sentence is right."""
    try:
        history = server.queue(graph, 120)
    except ValueError as error:
        text = str(error)
        said = json.loads(text)["node_errors"]["target"]["errors"][0]["details"]
        return None if said.isprintable() and len(said) < 900 else f"refused with {said[:300]!r}"
    if history["status"]["status_str"] == "success":
        return None
    (error,) = [about for kind, about in history["status"]["messages"] if kind == "execution_error"]
    said = error["exception_message"].strip()
    right = error["exception_type"] == "ValueError" and said.isprintable() and said.endswith(".") and len(said) < 900
    return None if right and error["node_id"] == "target" else f"{error['exception_type']}: {said[:300]!r}"


def test_crafted_files_and_folders_cost_neither_nodes_nor_worker_nor_memory(crafted):
    server, files, folders = crafted
    assert len(files) + len(folders) >= 150
    started = time.monotonic()
    info = server.get("/object_info")
    assert time.monotonic() - started < 60
    nodes = {name: about for name, about in info.items() if name.startswith("UniFusion")}
    assert {"UniFusionLoadConditioning", "UniFusionLoadModel"} <= set(nodes)
    default_graph = graph_from({**{name: SOURCES[name] for name in ("load", "latent")}, **DEFAULT}, nodes)
    assert server.queue(default_graph, 180)["status"]["status_str"] == "success"
    before = peak(server)
    faults = []
    cases = [("UniFusionLoadConditioning", {"file": name}) for name in files]
    cases += [("UniFusionLoadModel", {"model": name}) for name in folders]
    for number, (node, inputs) in enumerate(cases):
        graph = {
            "target": {"class_type": node, "inputs": inputs},
            "show": {"class_type": "PreviewAny", "inputs": {"source": ["target", 0]}},
        }
        if found := wrong(server, graph):
            faults.append(f"{inputs}: {found}")
        if number % 50 == 49:
            assert server.get("/object_info").keys() == info.keys()
    assert faults == [], f"{len(faults)} of {len(cases)}:\n" + "\n".join(faults[:30])
    assert server.queue(default_graph, 180)["status"]["status_str"] == "success"
    assert peak(server) - before < MOST_MEMORY, (before, peak(server))
