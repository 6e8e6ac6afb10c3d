"""Crafted UniFusion folders: facts are read and checked, sizes are compared before memory is asked for (trials 14, 15)."""

import json
import os
import resource

import pytest
import torch
from harness.miniature_folder import copied_miniature
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(tmp_path):
    return copied_miniature(tmp_path / "mine")


@pytest.fixture
def load(bridge):
    return bridge("actions.model_folders").load_folder


def change(path, edit) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def refused(load, folder, *parts) -> str:
    with pytest.raises(ValueError) as error:
        load(folder)
    text = str(error.value)
    assert text.isprintable() and text.endswith(".") and len(text) < 500, text
    for part in parts:
        assert part in text, f"{part!r} is missing in: {text}"
    return text


CONFIGS = [
    (lambda c: c.update(taps=[1, 3, 5, 99]), "taps"),
    (lambda c: c.update(taps=[-1, 3, 5, 7]), "taps"),
    (lambda c: c.update(taps=[3, 3, 5, 7]), "taps"),
    (lambda c: c.update(taps=[7, 5, 3, 1]), "taps"),
    (lambda c: c.update(taps="1357"), "taps"),
    (lambda c: c.update(taps=[]), "taps"),
    (lambda c: c.update(taps=[1.0, 3, 5, 7]), "taps"),
    (lambda c: c.update(taps=[True, 3, 5, 7]), "taps"),
    (lambda c: c.pop("taps"), "taps"),
    (lambda c: c.update(taps=[1, 3]), "2 taps"),
    (lambda c: c["text_config"].update(num_hidden_layers=10**7), "num_hidden_layers"),
    (lambda c: c["text_config"].update(vocab_size=10**10), "vocab_size"),
    (lambda c: c["text_config"].update(vocab_size=10**9), "vocab_size"),
    (lambda c: c["text_config"].update(hidden_size="wide"), "hidden_size"),
    (lambda c: c["text_config"].update(intermediate_size=10**8), "intermediate_size"),
    (lambda c: c["text_config"].update(head_dim=0), "head_dim"),
    (lambda c: c["text_config"].update(num_attention_heads=10**6), "num_attention_heads"),
    (lambda c: c["text_config"].update(rms_norm_eps="small"), "config.json"),
    (lambda c: c["text_config"].update(rope_parameters=None), "config.json"),
    (lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[1, 2]), "mrope_section"),
    (lambda c: c["vision_config"].update(depth=10**7), "vision_depth"),
    (lambda c: c["vision_config"].update(num_position_embeddings=10**9), "num_position_embeddings"),
    (lambda c: c["vision_config"].update(deepstack_visual_indexes=[9]), "deepstack_visual_indexes"),
    (lambda c: c.pop("vision_config"), "vision_config"),
    (lambda c: c.update(text_config=[]), "config.json"),
]


@pytest.mark.parametrize("edit, part", CONFIGS)
def test_a_config_that_contradicts_is_refused_without_its_memory(load, folder, edit, part):
    change(folder / "vlm" / "config.json", edit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(load, folder, part)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # KiB


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, "\ufeff{}", '{"text_config": 1e999}'])
def test_a_config_that_is_none_is_refused(load, folder, text):
    (folder / "vlm" / "config.json").write_text(text, encoding="utf-8")
    refused(load, folder, "config.json")


@pytest.mark.parametrize("name", ["dit.safetensors", "vae.safetensors", "vlm/model.safetensors"])
@pytest.mark.parametrize("size", [0, 7, 5000, -1000])
def test_cut_weights_are_refused(load, folder, name, size):
    path = folder / name
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    refused(load, folder, path.name)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "x y\nz", '{"a": "b"}'])
def test_a_damaged_tokenizer_is_refused_or_reads(load, folder, name, text):
    (folder / "vlm" / name).write_text(text, encoding="utf-8")
    try:
        clip = load(folder)[1]
    except ValueError as error:
        assert str(error).isprintable() and str(error).endswith("."), error
    else:
        assert clip.tokenize("a red circle")  # transformers read it all the same: merges alone may be empty


def test_an_empty_special_token_does_not_loop(load, folder, bridge):
    change(folder / "vlm" / "tokenizer_config.json", lambda c: c["additional_special_tokens"].append(""))
    clip = load(folder)[1]
    assert bridge("actions.encode").run(clip, "a red circle")[0].tokens >= 3


def test_a_folder_without_its_words_still_reads(load, folder, bridge):
    change(folder / "vlm" / "tokenizer_config.json", lambda c: c.pop("world_words"))
    clip = load(folder)[1]
    assert "Words outside" not in bridge("actions.encode").run(clip, "a red cat")[2]


def test_taps_of_the_folder_are_the_ones_that_are_read(load, folder, bridge):
    change(folder / "vlm" / "config.json", lambda c: c.update(taps=[0, 2, 4, 6]))
    hidden = bridge("actions.encode").run(load(folder)[1], "a red circle")[0]
    assert hidden.taps == (0, 2, 4, 6)


def test_a_dit_that_names_other_taps_is_refused(load, folder):
    path = folder / "dit.safetensors"
    save_file(load_file(path), path, metadata={"unifusion.taps": "1, 3, 5, 7"})
    load(folder)
    change(folder / "vlm" / "config.json", lambda c: c.update(taps=[0, 2, 4, 6]))
    refused(load, folder, "1, 3, 5, 7", "0, 2, 4, 6")


def test_a_name_that_cannot_be_printed_is_quoted(load, tmp_path):
    path = tmp_path / "a\udcffb\n"
    path.mkdir()
    with torch.inference_mode():
        refused(load, path, "missing")
