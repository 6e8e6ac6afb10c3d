"""Saved conditioning comes back as it was, nothing else is let in, and nothing leaves the folders."""

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's own folders, at another place."""
    import folder_paths

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path


@pytest.fixture(scope="module")
def hidden(krea2_clip, bridge):
    prompt, picture = "a red fox in the snow", torch.rand(1, 64, 64, 3)
    with torch.inference_mode():
        return bridge("actions.encode").run(krea2_clip, prompt, images={"image0": picture})


@pytest.fixture(scope="module")
def pooled(hidden, krea2_model, bridge):
    with torch.inference_mode():
        return bridge("actions.pool").run(krea2_model, hidden[0], negative=hidden[1])


def save(bridge, positive, negative=None, prefix="conditioning/fox"):
    return bridge("actions.stored_files").save(positive, negative, prefix, {"1": {}}, {"workflow": {"nodes": []}})


def equal(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


def test_hidden_states_come_back_as_they_were(folders, hidden, bridge):
    name, report = save(bridge, *hidden[:2])
    assert name == "conditioning/fox_00001_.safetensors [output]" and "prompt: a red fox in the snow" in report
    _, _, _, positive, negative, _ = bridge("actions.stored_files").load(name, None)
    assert equal(positive, hidden[0]) and equal(negative, hidden[1])
    assert save(bridge, hidden[0])[0] == "conditioning/fox_00002_.safetensors [output]"


def test_loaded_conditioning_draws_the_same_picture_without_the_encoder(folders, pooled, krea2_model, bridge):
    import nodes

    model, positive, negative, *_ = pooled
    name, _ = save(bridge, positive, negative)
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    drawn = nodes.common_ksampler(model, 3, 2, 3.0, "euler", "simple", positive, negative, latent)[0]
    loaded = bridge("actions.stored_files").load(name, krea2_model)[:3]
    again = nodes.common_ksampler(loaded[0], 3, 2, 3.0, "euler", "simple", *loaded[1:], latent)[0]
    assert drawn["samples"].std() > 0.05 and torch.equal(drawn["samples"], again["samples"])


def test_a_missing_negative_stays_marked_as_missing(folders, hidden, krea2_model, bridge):
    positive, negative = bridge("actions.pool").run(krea2_model, hidden[0])[1:3]
    for below in (negative, None):
        name, _ = save(bridge, positive, below)
        model, loaded, loaded_negative, *_ = bridge("actions.stored_files").load(name, krea2_model)
        with pytest.raises(ValueError, match="needs a negative"):
            bridge("actions.draw").guider(model, loaded, loaded_negative, cfg=4.5)


def test_the_file_says_what_it_is_and_holds_the_graph(folders, hidden, pooled, bridge):
    name, _ = save(bridge, pooled[1])
    with safetensors.safe_open(bridge("actions.stored_files").path_of(name), "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["unifusion.positive"])[0]["options"]["unifusion_about"]
    assert metadata["unifusion.kind"] == "conditioning" and json.loads(metadata["workflow"]) == {"nodes": []}
    assert about["prompt"] == "a red fox in the snow" and about["taps"][:2] == [2, 5] and "36 layers" in about["vlm"]
    assert about["roles"] == hidden[0].count_by_role()


def test_stock_conditioning_is_saved_too_and_other_objects_are_refused(folders, krea2_clip, krea2_model, bridge):
    stock = krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize("a fox"))
    name, _ = save(bridge, stock)
    model, loaded, *_ = bridge("actions.stored_files").load(name, krea2_model)
    assert torch.equal(loaded[0][0], stock[0][0]) and model is krea2_model
    with pytest.raises(ValueError, match="carries 'control' .object., which a file cannot hold"):
        save(bridge, [[stock[0][0], {"control": object()}]])


def test_each_output_says_what_the_file_holds_instead(folders, hidden, pooled, bridge):
    of_states, of_conditioning = save(bridge, hidden[0])[0], save(bridge, pooled[1])[0]
    _, positive, *_ = bridge("actions.stored_files").load(of_states, None)
    assert "holds hidden states" in positive.message
    model, _, _, states, _, _ = bridge("actions.stored_files").load(of_conditioning, None)
    assert "holds conditioning" in states.message and "no MODEL" in model.message
    with pytest.raises(ValueError, match="of one kind"):
        save(bridge, hidden[0], pooled[1])


def test_conditioning_of_another_width_is_refused(folders, pooled, bridge):
    from harness.random_krea2 import make_model

    name, _ = save(bridge, pooled[1])
    with pytest.raises(ValueError, match="pooled for a model of text width 160, but this MODEL has 80"):
        bridge("actions.stored_files").load(name, make_model(width=80))


def test_weights_saved_by_a_newer_comfyui_are_refused_where_there_is_no_place_for_them(
    folders, pooled, krea2_model, bridge, monkeypatch
):
    """ComfyUI 0.26 and 0.27: there this is real; in a newer host only the answer of the check is replaced."""
    import nodes

    monkeypatch.setattr(bridge("drawers.token_bias"), "takes_weights", lambda network: False)
    ((tensor, about),) = pooled[1]
    tensor = tensor.clone()
    tensor[..., krea2_model.model.diffusion_model.txtdim] = 0.5
    name, _ = save(bridge, [[tensor, about]])
    with pytest.raises(ValueError, match="ComfyUI 0.30 or newer"):
        bridge("actions.stored_files").load(name, krea2_model)
    weighted = bridge("actions.stored_files").load(name, None)[
        1
    ]  # without a MODEL, drawn by one that comes from a pool
    with pytest.raises(ValueError, match="ComfyUI 0.30 or newer"):
        nodes.common_ksampler(
            pooled[0], 3, 1, 1.0, "euler", "simple", weighted, weighted, {"samples": torch.zeros(1, 16, 1, 8, 8)}
        )


def good_file(folders, pooled, bridge):
    return bridge("actions.stored_files").path_of(save(bridge, pooled[1])[0])


def header_of(data: bytes) -> dict:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(data: bytes, header: dict) -> bytes:
    body = data[8 + int.from_bytes(data[:8], "little") :]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def other_dtype(data: bytes) -> bytes:
    header = header_of(data)
    header["positive.0.tensor"]["dtype"] = "I32"
    return with_header(data, header)


def other_shape(data: bytes) -> bytes:
    header = header_of(data)
    shape = header["positive.0.tensor"]["shape"]
    header["positive.0.tensor"]["shape"] = [shape[0] * shape[1], shape[2]]
    return with_header(data, header)


def beyond_the_end(data: bytes) -> bytes:
    header = header_of(data)
    header["positive.0.tensor"]["data_offsets"][1] += 2**40
    return with_header(data, header)


def damaged_description(data: bytes) -> bytes:
    header = header_of(data)
    header["__metadata__"]["unifusion.positive"] = "[1"
    return with_header(data, header)


def with_nan(data: bytes) -> bytes:
    return data[:-4] + b"\xff\xff\xff\xff"


DAMAGES = [
    (lambda data: b"", "not a safetensors file"),
    (lambda data: data[:5], "not a safetensors file"),
    (lambda data: data[:50], "cut off inside its header"),
    (lambda data: data[:-10], "damaged or cut off"),
    (lambda data: data + b"more", "damaged or cut off"),
    (lambda data: (2**62).to_bytes(8, "little") + data[8:], "its header claims 4611686018427387904 bytes"),
    (lambda data: data[:8] + b"\x00" + data[9:], "its header is damaged"),
    (lambda data: pickle.dumps({"positive": 1}), "a pickle or an archive"),
    (lambda data: safetensors.torch.save({"lora.weight": torch.zeros(2)}), "not one that Save Conditioning wrote"),
    (lambda data: safetensors.torch.save({"a": torch.zeros(2)}, {"unifusion.kind": "other"}), "not one that Save"),
    (
        lambda data: safetensors.torch.save({}, {"unifusion.kind": "conditioning", "unifusion.positive": "[{}]"}),
        "found missing",
    ),
    (other_dtype, r"floating-point tensor \(batch, tokens, width\), found .*int32"),
    (other_shape, r"floating-point tensor \(batch, tokens, width\), found"),
    (beyond_the_end, "damaged or cut off"),
    (damaged_description, "the description inside it is damaged"),
    (with_nan, "NaN"),
]


@pytest.mark.parametrize("damage, sentence", DAMAGES)
def test_a_file_that_is_not_whole_is_refused_by_name(folders, pooled, bridge, damage, sentence):
    path = good_file(folders, pooled, bridge)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"'fox_00001_.safetensors' cannot be loaded: .*{sentence}"):
        bridge("actions.stored_files").load("conditioning/fox_00001_.safetensors [output]", None)


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("roles", torch.zeros(3)),
        ("states", torch.zeros(1, 2, 3)),
        ("weights", torch.zeros(5, dtype=torch.int32)),
        ("spans", torch.zeros(9, 3)),
    ],
)
def test_hidden_states_of_wrong_shape_or_kind_are_refused(folders, hidden, bridge, name, tensor):
    path = bridge("actions.stored_files").path_of(save(bridge, hidden[0])[0])
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(tensors | {f"positive.{name}": tensor}, path, metadata)
    with pytest.raises(ValueError, match="'fox_00001_.safetensors' cannot be loaded"):
        bridge("actions.stored_files").load("conditioning/fox_00001_.safetensors [output]", None)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "../../etc/passwd",
        "/etc/passwd [output]",
        "a/../../x.safetensors [output]",
        "missing.safetensors",
    ],
)
def test_loading_stays_inside_the_folders(folders, bridge, node, name):
    (folders / "secret.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="leaves ComfyUI's input and output folders|is not in ComfyUI's"):
        bridge("actions.stored_files").load(name, None)
    assert isinstance(node("UniFusionLoadConditioning").validate_inputs(file=name), str)


@pytest.mark.parametrize("prefix", ["../out", "/tmp/out", "a/../../out"])
def test_saving_stays_inside_the_output_folder(folders, hidden, bridge, prefix):
    with pytest.raises(ValueError, match="leaves ComfyUI's output folder"):
        save(bridge, hidden[0], prefix=prefix)
    assert not [path for path in folders.rglob("*") if path.is_file()]


def test_other_endings_are_refused(folders, bridge):
    (folders / "input" / "a.pt").write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match="only .safetensors files are loaded, not '.pt'"):
        bridge("actions.stored_files").load("a.pt", None)


def test_the_list_shows_own_files_of_both_folders_and_nothing_else(folders, hidden, bridge):
    save(bridge, hidden[0])
    safetensors.torch.save_file({"lora": torch.zeros(2)}, folders / "output" / "lora.safetensors")
    (folders / "input" / "broken.safetensors").write_bytes(b"123")
    source = folders / "output" / "conditioning" / "fox_00001_.safetensors"
    (folders / "input" / "mine.safetensors").write_bytes(source.read_bytes())
    assert sorted(bridge("actions.stored_files").listing()) == [
        "conditioning/fox_00001_.safetensors [output]",
        "mine.safetensors",
    ]


WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import torch
from unifusion.hidden_states import make_hidden_states
from unifusion.stored import Stored, encode, write
hidden = make_hidden_states(torch.zeros(1, 64, 4, 256), [2] * 64, ["a"] * 64, (1, 2, 3, 4), "vlm")
if sys.argv[3] == "full":
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
else:
    os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)  # killed when the data is out but has no name yet
write(Path(sys.argv[2]), encode(Stored("hidden_states", hidden, None)))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
@pytest.mark.parametrize("end", ["full", "killed"])
def test_a_full_disk_or_a_kill_leaves_the_old_file_or_none(tmp_path, end):
    """A real process against a real limit on file size, and one that kills itself while saving."""
    pack = Path(__file__).resolve().parents[2]
    for before in (None, b"the old file"):
        path = tmp_path / f"{end}{before is None}.safetensors"
        if before:
            path.write_bytes(before)
        done = subprocess.run(
            [sys.executable, "-c", WRITER, str(pack), str(path), end],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == (1 if end == "full" else -9)
        assert end == "killed" or "could not be saved: File too large" in done.stderr
        assert (path.read_bytes() if path.exists() else None) == before
    if end == "full":
        assert not list(tmp_path.glob(".*"))
