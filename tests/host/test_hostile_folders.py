"""Crafted folders of language models: nothing of them runs, and whatever is wrong is one sentence (issue 17, item 4)."""

import json
import os
import pickle
import resource
import shutil
import struct

import pytest
import torch
from harness.tiny_folders import tiny_folder
from safetensors.torch import load_file, save_file

from unifusion.transformers_vlm import Chat, TransformersVLM


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    made = {}

    def folder(kind, shards=False):
        if (kind, shards) not in made:
            made[kind, shards] = tiny_folder(kind, root / f"{kind} {shards}", shards=shards)
        return made[kind, shards]

    return folder


@pytest.fixture
def mine(source, tmp_path):
    def copy(kind="llama", shards=False):
        return shutil.copytree(source(kind, shards), tmp_path / "mine", symlinks=True)

    return copy


@pytest.fixture
def refused(bridge):
    """By the plain class and by the node's loader alike."""

    def check(folder, *parts):
        texts = []
        for load in (TransformersVLM.from_folder, bridge("encoders.folder_clip").load_clip):
            with pytest.raises(ValueError) as error:
                load(folder)
            texts.append(str(error.value))
        text = texts[0]
        assert texts[0] == texts[1]
        assert text.isprintable() and text.endswith(".") and len(text) < 600, text
        for part in parts:
            assert part in text, f"{part!r} is missing in: {text}"
        return text

    return check


def change(path, edit) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(mine, refused, name):
    folder = mine()
    (folder / name).unlink()
    refused(folder, name, "mine")


def test_no_folder_and_a_file_in_its_place(refused, tmp_path):
    refused(tmp_path / "nowhere", "There is no folder 'nowhere'")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "There is no folder 'file'")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, '"x"', "\ufeff{}", "{} trailing", "\x00" * 100])
def test_json_that_is_none(mine, refused, name, text):
    folder = mine()
    (folder / name).write_text(text, encoding="utf-8")
    refused(folder, name, "mine")


@pytest.mark.parametrize("name, size", [("config.json", 2**20 + 1), ("tokenizer.json", 128 * 2**20 + 1)])
def test_files_of_enormous_size_are_not_read(mine, refused, name, size):
    folder = mine()
    os.truncate(folder / name, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, name, "larger than")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("kind", ["internvl_chat", "llama", "custom"])
def test_code_of_a_folder_is_never_run(mine, refused, kind, tmp_path):
    """Remote code in every place that transformers would take it from."""
    folder = mine()
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py", "__init__.py", "conversation.py"):
        (folder / name).write_text(CODE)
    places = {
        "AutoConfig": "configuration_x.X",
        "AutoModel": "modeling_x.X",
        "AutoModelForCausalLM": "modeling_x.X",
        "AutoTokenizer": ["tokenization_x.X", None],
    }
    change(folder / "config.json", lambda c: c.update(auto_map=places, model_type=kind, trust_remote_code=True))
    change(
        folder / "tokenizer_config.json",
        lambda c: c.update(auto_map=places, tokenizer_class="X", chat_template="{{ ''.__class__.__mro__ }}"),
    )
    if kind == "llama":  # known without its code, which is left alone
        assert TransformersVLM.from_folder(folder).states([Chat(instruction="x")]).states.shape[0] == 1
    else:
        refused(folder, kind, "code that comes with it, which is never run", "-hf")
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("value", ["gpt2", "qwen3_vl_moe", 7, None, ["llama"], {"a": 1}, "llama\n", "x" * 10_000])
def test_an_unknown_kind_is_named(mine, refused, value):
    folder = mine()
    change(folder / "config.json", lambda c: c.update(model_type=value))
    refused(folder, "model_type", "llama")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.pkl"])
def test_pickles_are_refused_and_not_opened(mine, refused, name, tmp_path):
    folder = mine()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(folder, name, "pickle", "safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_named_safetensors_is_refused(mine, refused, tmp_path):
    folder = mine()
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(folder, "model.safetensors", "damaged or only half there")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000, -1, -4000])
def test_cut_weights_are_refused(mine, refused, size):
    folder = mine()
    path = folder / "model.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    refused(folder, "model.safetensors", "damaged or only half there")


@pytest.mark.parametrize(
    "header", [b"{}", b"{", b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1]}}', b"[]", b"\xff" * 20]
)
@pytest.mark.parametrize("length", [None, 2**62, 2**40])
def test_headers_that_lie_are_refused(mine, refused, header, length):
    folder = mine()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    refused(folder)


def test_shards_half_written_missing_and_elsewhere(mine, refused, tmp_path):
    folder = mine(shards=True)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 2 and TransformersVLM.from_folder(folder).layers == 6
    kept = (folder / names[1]).read_bytes()
    (folder / names[1]).write_bytes(kept[: len(kept) // 2])
    refused(folder, names[1], "half there")
    (folder / names[1]).unlink()
    refused(folder, names[1], f"1 of {len(names)} weight files are missing")
    os.symlink(tmp_path / "nowhere", folder / names[1])
    refused(folder, names[1], "missing")


@pytest.mark.parametrize(
    "places",
    [
        {},
        [],
        None,
        "model.safetensors",
        {"a": "../other/model.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "sub/model.safetensors"},
        {"a": "..\\model.safetensors"},
        {"a": "model.bin"},
        {"a": 7},
        {"a": ""},
        {str(n): f"{n}.safetensors" for n in range(2000)},
    ],
)
def test_an_index_that_points_elsewhere_is_refused(mine, refused, places):
    folder = mine(shards=True)
    change(folder / "model.safetensors.index.json", lambda c: c.update(weight_map=places))
    refused(folder, "mine")


def test_weights_that_do_not_belong_are_named(mine, refused):
    folder = mine()
    path = folder / "model.safetensors"
    weights = load_file(path)
    for edit, part in (
        (lambda w: w.pop("model.layers.3.mlp.up_proj.weight"), "1 weights are missing"),
        (lambda w: w.update({"model.layers.9.x.weight": torch.zeros(1)}), "1 weights are unknown"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(47)}), "has the shape [47]"),
        (lambda w: w.clear(), "weights are missing"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(48, dtype=torch.int8)}), "quantised"),
        (lambda w: w.update({"norm.weight": torch.zeros(48)}), "norm.weight"),
        (lambda w: w.update({"lora_A\nx": torch.zeros(1)}), "unknown"),
    ):
        changed = dict(weights)
        edit(changed)
        save_file(changed, path, metadata={"format": "pt"})
        refused(folder, part)
    save_file(weights | {"model.rotary_emb.inv_freq": torch.zeros(6)}, path)  # older writers keep what is computed
    assert TransformersVLM.from_folder(folder).layers == 6


SIZES = [
    ("llama", lambda c: c.update(num_hidden_layers=10**7), "num_hidden_layers"),
    ("llama", lambda c: c.update(num_hidden_layers=0), "num_hidden_layers"),
    ("llama", lambda c: c.update(num_hidden_layers=400), "weights are missing"),
    ("llama", lambda c: c.update(num_hidden_layers=3), "unknown"),
    ("llama", lambda c: c.update(num_hidden_layers="many"), "num_hidden_layers"),
    ("llama", lambda c: c.update(num_hidden_layers=True), "num_hidden_layers"),
    ("llama", lambda c: c.update(vocab_size=10**9), "shape"),
    ("llama", lambda c: c.update(vocab_size=10**12), "vocab_size"),
    ("llama", lambda c: c.update(vocab_size=-1), "vocab_size"),
    ("llama", lambda c: c.update(hidden_size=10**8), "mine"),
    ("llama", lambda c: c.update(hidden_size=None), "mine"),
    ("llama", lambda c: c.update(intermediate_size=10**9), "shape"),
    ("llama", lambda c: c.update(head_dim=10**9), "shape"),
    ("llama", lambda c: c.update(num_attention_heads=7), "mine"),
    ("llama", lambda c: c.update(num_key_value_heads=3), "mine"),
    ("llama", lambda c: c.update(hidden_act="no such"), "mine"),
    ("llama", lambda c: c.update(hidden_act=["silu"]), "mine"),
    ("llama", lambda c: c.update(rms_norm_eps="small"), "mine"),
    ("llama", lambda c: c.update(rope_parameters={"rope_type": "no such"}), "mine"),
    ("llama", lambda c: c.update(rope_parameters=7), "mine"),
    ("llama", lambda c: c.update(layer_types=["x"] * 10**5), "mine"),
    ("llama", lambda c: c.update(taps=[0, 99]), "taps"),
    ("llama", lambda c: c.update(taps=[3, 1]), "taps"),
    ("llama", lambda c: c.update(taps=[]), "taps"),
    ("llama", lambda c: c.update(taps="1, 2"), "taps"),
    ("llama", lambda c: c.update(taps=[True]), "taps"),
    ("llama", lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"}), "quantised"),
    ("internvl", lambda c: c["vision_config"].update(num_hidden_layers=10**7), "num_hidden_layers"),
    ("internvl", lambda c: c["vision_config"].update(image_size=[10**9, 10**9]), "mine"),
    ("internvl", lambda c: c["vision_config"].update(patch_size=[0, 0]), "patch_size"),
    ("internvl", lambda c: c.update(vision_config=None), "vision_config"),
    ("internvl", lambda c: c.update(text_config=[]), "text_config"),
    ("internvl", lambda c: c["text_config"].update(model_type="internlm2"), "internlm2"),
    ("internvl", lambda c: c.update(downsample_ratio=0), "downsample_ratio"),
    ("internvl", lambda c: c.update(downsample_ratio="half"), "downsample_ratio"),
    ("internvl", lambda c: c.update(image_token_id=10**6), "no token for pictures"),
    ("internvl", lambda c: c.update(image_token_id=None), "image_token_id"),
    ("internvl", lambda c: c.update(image_token_id=-1), "no token for pictures"),
    ("smolvlm", lambda c: c.update(scale_factor=0), "scale_factor"),
    ("smolvlm", lambda c: c.update(scale_factor=10**9), "scale_factor"),
    ("qwen3_vl", lambda c: c["vision_config"].update(depth=10**7), "depth"),
    ("qwen3_vl", lambda c: c["vision_config"].update(deepstack_visual_indexes=list(range(10**4))), "deepstack"),
    ("qwen3_vl", lambda c: c["vision_config"].update(deepstack_visual_indexes=[9]), "mine"),
    ("qwen3_vl", lambda c: c["vision_config"].update(num_position_embeddings=10**9), "shape"),
    ("qwen3_vl", lambda c: c["vision_config"].update(spatial_merge_size=10**9), "mine"),
    ("qwen3_vl", lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[1, 1, 1]), "mrope_section"),
    ("qwen2_5_vl", lambda c: c["vision_config"].update(patch_size=10**6), "mine"),
]  # fmt: skip


@pytest.mark.parametrize("kind, edit, part", SIZES)
def test_a_config_that_contradicts_is_refused_without_its_memory(mine, refused, kind, edit, part):
    folder = mine(kind)
    change(folder / "config.json", edit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, part)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_tokenizers_that_do_not_belong(mine, refused, source):
    folder = mine()
    change(folder / "tokenizer.json", lambda c: c["model"]["vocab"].update({"\u2603": 10**6}))
    refused(folder, "counts to 1000000, but the model has")
    shutil.copyfile(source("internvl") / "tokenizer.json", folder / "tokenizer.json")
    assert TransformersVLM.from_folder(folder).tokenize(Chat(instruction="a circle")).ids


def test_weights_larger_than_the_memory_are_refused(mine, refused, monkeypatch):
    import psutil

    folder = mine()
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=1000))
    refused(folder, "GB of this machine's memory")


def test_a_name_that_cannot_be_printed_is_quoted(refused, tmp_path):
    path = tmp_path / "a\udcffb\n"
    path.mkdir()
    refused(path, "config.json")
