"""What Save Conditioning writes, Load Conditioning lists and takes; what it will not take is never written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from random_states import hidden_states

SAVED_BY_0_1_0 = Path(__file__).with_name("saved_by_0_1_0")
LATENT = {"samples": torch.zeros(1, 16, 1, 8, 8)}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's own folders, at another place."""
    import folder_paths

    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path


@pytest.fixture(scope="module")
def library(pack):
    from unifusion_pack.unifusion import hidden_states as module

    return module


@pytest.fixture(scope="module")
def hidden(library):
    return hidden_states(library)._replace(prompt="a red fox", text="A red fox in snow.")


@pytest.fixture(scope="module")
def pooled(hidden, library, krea2_model, bridge):
    """(MODEL, positive, negative) with weights nowhere."""
    with torch.inference_mode():
        below = hidden_states(library, 1, ((2, 4),))._replace(grids=(), prompt="blurry")
        return bridge("actions.pool").run(krea2_model, hidden, negative=below)[:3]


@pytest.fixture
def stored_files(bridge):
    return bridge("actions.stored_files")


@pytest.fixture
def save(stored_files, folders):
    def run(positive, negative=None, prefix="c/fox", prompt=None, extra=None):
        return stored_files.save(positive, negative, prefix, prompt, extra)

    return run


@pytest.fixture
def saved(save, stored_files):
    """What comes back of a conditioning: (positive, negative)."""

    def run(positive, negative=None):
        name, _ = save(positive, negative)
        assert name in stored_files.listing()
        return stored_files.load(name, None)[1:3]

    return run


def stock(width=1920, tokens=4, **options):
    return [[torch.linspace(-3, 3, tokens * width).reshape(1, tokens, width), options]]


def same(a, b):
    """Equal to the bit, of equal kinds."""
    if isinstance(a, torch.Tensor):
        a, b = a.resolve_conj(), b.resolve_conj()
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous().flatten().view(torch.uint8).equal(b.contiguous().flatten().view(torch.uint8))
        )
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def draw(model, positive, negative, cfg=3.0):
    import nodes

    return nodes.common_ksampler(model, 3, 2, cfg, "euler", "simple", positive, negative, LATENT)[0]["samples"]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and text.isprintable() and len(text) < 600


# Tensors that share memory (trials, 8)


def masked(entries, mask):
    import node_helpers

    return node_helpers.conditioning_set_values(
        entries, {"mask": mask, "set_area_to_bounds": False, "mask_strength": 1.0}
    )


def test_one_prompt_masked_and_combined_with_itself(pooled, saved):
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    both = masked(pooled[1], left) + masked(pooled[1], 1 - left)
    back, _ = saved(both)
    assert same(back, both) and back[0][0] is back[1][0]


def test_positive_also_wired_as_negative_is_kept_once(pooled, save, stored_files):
    name, _ = save(pooled[1], pooled[1])
    _, positive, negative, *_ = stored_files.load(name, None)
    assert same(positive, pooled[1]) and same(negative, pooled[1])
    assert stored_files.path_of(name).stat().st_size < 1.5 * pooled[1][0][0].nbytes + 4096


def test_one_mask_on_two_prompts(pooled, saved):
    mask = torch.rand(1, 8, 8)
    both = masked(pooled[1], mask) + masked(pooled[2], mask)
    back, _ = saved(both, masked(pooled[2], mask))
    assert same(back, both) and back[0][1]["mask"] is back[1][1]["mask"]


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, 1:],
        lambda t: t.transpose(1, 2),
        lambda t: t[:, :1].expand(1, 3, -1),
        lambda t: t[:, ::2],
        lambda t: t.flip(1),
    ],
)
def test_views_of_one_storage(saved, view):
    whole = torch.randn(1, 4, 1920)
    entries = [[whole, {"other": view(whole)}], [view(whole), {}]]
    assert same(saved(entries)[0], entries)


def test_hidden_states_wired_as_both(hidden, save, stored_files):
    name, _ = save(hidden, hidden)
    *_, positive, negative, _ = stored_files.load(name, None)
    assert all(map(same, positive, hidden)) and all(map(same, negative, hidden))
    assert stored_files.path_of(name).stat().st_size < 1.2 * hidden.nbytes + 8192


# Mixtures of stock and pooled conditioning (trials, 9)


@pytest.mark.parametrize("order", ["stock first", "pooled first", "stock positive", "pooled positive", "no negative"])
def test_mixtures_of_stock_and_pooled_draw_as_before(order, pooled, krea2_model, save, stored_files):
    model, positive, negative = pooled
    plain = stock()
    above, below = {
        "stock first": (plain + positive, negative),
        "pooled first": (positive + plain, negative),
        "stock positive": (plain, negative),
        "pooled positive": (positive, plain),
        "no negative": (plain + positive, None),
    }[order]
    name, _ = save(above, below)
    loaded, back_above, back_below, *_, report = stored_files.load(name, krea2_model)
    if below is None:
        below = bridge_zeros(above)
    assert same(back_above, above)
    assert torch.equal(draw(loaded, back_above, back_below), draw(model, above, below))
    assert ("(1, 4, 1920)" in report) and ("a red fox" in report or order == "stock positive")


def bridge_zeros(entries):
    return [[torch.zeros_like(entries[0][0]), {}]]


def test_a_mixture_from_another_model_is_refused_in_the_right_words(pooled, save, stored_files):
    from harness.random_krea2 import make_model

    name, _ = save(stock() + pooled[1])
    with pytest.raises(ValueError, match="pooled for a model of text width 160, but this MODEL has 80"):
        stored_files.load(name, make_model(width=80))


def test_pooled_conditioning_widened_by_another_node_is_refused_in_the_right_words(
    pooled, krea2_model, save, stored_files
):
    name, _ = save([[torch.cat([pooled[1][0][0]] * 2, dim=-1), pooled[1][0][1]]])
    with pytest.raises(ValueError, match="pooled conditioning of 330 numbers a token, where this MODEL expects 165"):
        stored_files.load(name, krea2_model)


def test_stock_conditioning_hands_the_model_on_as_it_is(krea2_model, save, stored_files):
    name, _ = save(stock(), stock())
    assert stored_files.load(name, krea2_model)[0] is krea2_model


# Whatever is written is listed and taken, whatever is not taken is not written (trials, 10)

BAD_NAMES = [
    "",
    " ",
    ".",
    "a/..",
    "./",
    "a/.x",
    ".x",
    "..x",
    "x" * 231,
    "é" * 116,
    "a" * 256 + "/x",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "con/x",
    "NUL/a",
    "nul.x",
    "COM1/x",
    "lpt9 /x",
    "a./x",
    "a /x",
    "\ud83d",
    "x\udc00/y",
    "../x",
    "a\\..\\..\\x",
    "/etc/x",
    "a:b",
    "a?b",
    'a"b',
    "a|b/c",
    "<a>",
    "*",
    None,
    3,
    ["a"],
    "%a" * 3000,
    "a/" * 3000 + "b",
    "%" + "." * 4000 + "%" + "x" * 90,
]


@pytest.mark.parametrize("prefix", BAD_NAMES, ids=ascii)
def test_names_that_would_not_be_listed_are_refused(prefix, save, folders):
    with pytest.raises(ValueError, match="prefix") as refused:
        save(stock(), prefix=prefix)
    assert one_sentence(refused.value) and not list((folders / "output").iterdir())


@pytest.mark.parametrize(
    "prefix, name",
    [
        ("x" * 230, "x" * 230),
        ("é" * 115, "é" * 115),
        ("a/b/c d", "a/b/c d"),
        ("a//b/./c", "a/b/c"),
        ("a\\b", "a/b"),
        ("x.", "x."),
        ("ein Füchslein 🦊", "ein Füchslein 🦊"),
        ("conditioning/", "conditioning"),
        (".hidden/x", ".hidden/x"),
        ("console/null", "console/null"),
        ("a/NUL", "a/NUL"),
        ("50% off", "50% off"),
    ],
)
def test_names_that_are_taken_are_listed_and_loaded(prefix, name, save, stored_files):
    listed, _ = save(stock(), prefix=prefix)
    assert listed == f"{name}_00001_.safetensors [output]" == stored_files.listing()[0]
    assert same(stored_files.load(listed, None)[1], stock())
    assert save(stock(), prefix=prefix)[0] == f"{name}_00002_.safetensors [output]"


def test_an_absolute_name_inside_the_output_folder_is_taken_as_the_stock_nodes_do(save, stored_files, folders):
    listed, _ = save(stock(), prefix=str(folders / "output" / "a" / "x"))
    assert listed == "a/x_00001_.safetensors [output]" == stored_files.listing()[0]


def test_a_file_in_the_place_of_a_folder_is_said(save, folders):
    (folders / "output" / "a").write_text("x")
    with pytest.raises(ValueError, match="The folder of 'a/x' cannot be used: Not a directory") as refused:
        save(stock(), prefix="a/x")
    assert one_sentence(refused.value)


def changed(hidden, **values):
    return hidden._replace(**values)


BAD_CONTENT = {
    "an empty list": (lambda h: [], "an empty list"),
    "no tokens": (lambda h: stock(tokens=0), r"found \(1, 0, 1920\)"),
    "no batch": (lambda h: [[torch.zeros(0, 4, 8), {}]], r"found \(0, 4, 8\)"),
    "nan": (lambda h: [[torch.full((1, 2, 8), float("nan")), {}]], "NaN or infinite"),
    "infinity behind a good entry": (lambda h: stock() + [[torch.full((1, 2, 8), -float("inf")), {}]], "NaN or inf"),
    "two dimensions": (lambda h: [[torch.zeros(4, 8), {}]], r"found \(4, 8\)"),
    "whole numbers": (lambda h: [[torch.zeros(1, 4, 8, dtype=torch.int64), {}]], "found .*int64"),
    "fp8": (lambda h: [[torch.zeros(1, 4, 8).to(torch.float8_e4m3fn), {}]], "found .*float8"),
    "sparse": (lambda h: stock(mask=torch.eye(3).to_sparse()), "carries 'mask' .*sparse"),
    "meta": (lambda h: stock(mask=torch.zeros(3, device="meta")), "carries 'mask'"),
    "complex128": (lambda h: stock(mask=torch.zeros(3, dtype=torch.complex128)), "carries 'mask' .*complex128"),
    "an object": (lambda h: stock(control=object()), r"carries 'control' \(object\), which a file cannot hold"),
    "an object deep inside": (lambda h: stock(a={"b": [1, (2, object())]}), r"carries 'a' \(object\)"),
    "bytes": (lambda h: stock(a=b"x"), r"carries 'a' \(bytes\)"),
    "a set": (lambda h: stock(a={1}), r"carries 'a' \(set\)"),
    "odd keys": (lambda h: stock(a={(1, 2): 3}), "keys that are no text"),
    "itself inside": (lambda h: stock(a=(lambda x: x.append(x) or x)([])), "more than 32 deep"),
    "an option without a name": (lambda h: [[stock()[0][0], {3: 4}]], "named by int"),
    "half a name": (lambda h: stock(**{"\ud800": object()}), "carries '\N{REPLACEMENT CHARACTER}'"),
    "no options": (lambda h: [[stock()[0][0]]], "entry 1 is not a tensor with its options"),
    "no tensor": (lambda h: [[None, {}]], "found missing"),
    "text": (lambda h: "conditioning", "it is no conditioning but str"),
    "nothing": (lambda h: None, "got no positive"),
    "a long text": (lambda h: stock(a="x" * 5_000_000), "its description takes 5000"),
    "a changed description": (lambda h: stock(unifusion_about={"vlm": 3}), "another node has changed"),
    "states of NaN": (lambda h: changed(h, states=h.states * float("nan")), "states contain NaN"),
    "no states": (lambda h: changed(h, states=h.states[:, :0]), "has the shape"),
    "weights of NaN": (lambda h: changed(h, weights=h.weights * float("nan")), "weights must be finite"),
    "a schedule beyond its end": (lambda h: changed(h, spans=h.spans + 1), "spans within 0 and 1"),
    "a region without its mask": (
        lambda h: changed(h, regions=h.roles * 0 + 2, masks=(torch.ones(64, 64),)),
        "regions",
    ),
    "a mask of another size": (
        lambda h: changed(h, regions=h.roles * 0 + 1, masks=(torch.ones(8, 8),)),
        "must be 64 x 64, found .8, 8.",
    ),
    "a mask below 0": (lambda h: changed(h, regions=h.roles * 0 + 1, masks=(-torch.ones(64, 64),)), "masks must hold"),
    "a role without its image": (lambda h: changed(h, grids=()), "roles must be whole numbers from 0 to 15"),
    "an image without views": (lambda h: changed(h, grids=((), ())), "every image needs views"),
    "too few pieces": (lambda h: changed(h, pieces=h.pieces[1:]), "17 pieces"),
}


@pytest.mark.parametrize("what", BAD_CONTENT)
def test_content_that_would_not_load_is_refused_before_anything_is_written(what, hidden, save, folders):
    make, sentence = BAD_CONTENT[what]
    with pytest.raises(ValueError, match=sentence) as refused:
        save(make(hidden))
    assert one_sentence(refused.value) and not list((folders / "output").iterdir())
    if what != "nothing":
        with pytest.raises(ValueError, match=sentence.replace("positive", "negative")):
            save(hidden if hasattr(make(hidden), "states") else stock(), make(hidden))


def test_a_graph_above_the_limit_is_left_out_and_said(save, stored_files):
    name, report = save(stock(), prompt={"1": {"text": "x" * 40_000_000}})
    assert "the graph is not in the file: it takes 38 MB" in report
    assert name in stored_files.listing() and same(stored_files.load(name, None)[1], stock())


@pytest.mark.parametrize("prompt, extra", [({"1": {1, 2}}, None), (None, {"a": object()}), ({"a": 1}, "text"), ([], 3)])
def test_a_graph_that_is_no_json_costs_no_file(prompt, extra, save, stored_files):
    name, report = save(stock(), prompt=prompt, extra=extra)
    assert same(stored_files.load(name, None)[1], stock())
    assert ("cannot be written as JSON" in report) == (prompt == {"1": {1, 2}} or isinstance(extra, dict))


def test_names_in_the_graph_that_no_file_holds_cost_no_file(save, stored_files):
    name, _ = save(stock(), extra={"\ud800": 1, "unifusion.kind": "x"}, prompt={"text": "\ud800"})
    assert same(stored_files.load(name, None)[1], stock())


def test_a_graph_of_megabytes_is_kept_and_listed(save, stored_files):
    name, _ = save(stock(), prompt={"1": {"text": "x" * 6_000_000}})
    with safetensors.safe_open(stored_files.path_of(name), "pt") as file:
        assert len(file.metadata()["prompt"]) > 6_000_000
    assert stored_files.listing() == [name]


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_whose_length_begins_like_a_pickle_or_an_archive_is_none(length, save, stored_files):
    """0.1.0 took the two bytes 80 04 of a header of 1152 bytes for a pickle."""
    empty = stored_files.path_of(save(stock(), extra={"workflow": ""})[0]).read_bytes()
    name, _ = save(stock(), extra={"workflow": "x" * (length - int.from_bytes(empty[:8], "little"))})
    assert int.from_bytes(stored_files.path_of(name).read_bytes()[:8], "little") == length
    assert name in stored_files.listing() and same(stored_files.load(name, None)[1], stock())


def test_a_clean_up_that_fails_hides_no_error(save, folders, monkeypatch):
    from unifusion_pack.unifusion import stored

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.os, "fsync", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="could not be saved: No space left on device"):
        save(stock())


# Names with %...% (trials, 11)

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 7, "cfg": 4.0, "sampler_name": "euler", "model": ["1", 0]}},
    "4": {"class_type": "KSampler", "inputs": {"seed": 8}, "_meta": {"title": "Second"}},
    "5": {"class_type": "PrimitiveString", "inputs": {"value": "a/b:c", "on": True, "mode.taps": "2"}},
    "6:5": {"class_type": "Inner", "inputs": {"value": "inside"}},
}
DRAWN = {
    "workflow": {
        "nodes": [
            {"id": 4, "type": "KSampler", "title": "v1.5 sampler", "properties": {"Node name for S&R": "Named"}},
            {"id": 3, "type": "KSampler", "properties": {"Node name for S&R": "KSampler"}},
            {"id": 5, "type": "PrimitiveString", "title": "Words", "properties": {}},
        ],
        "definitions": {"subgraphs": [{"nodes": [{"id": 5, "type": "Inner", "title": "Deep", "properties": {}}]}]},
    }
}


@pytest.mark.parametrize(
    "prefix, name",
    [
        ("seed %KSampler.seed%", "seed 7"),
        ("%Named.seed%", "8"),
        ("%v1.5 sampler.seed%", "8"),
        ("%Second.seed%", "8"),
        ("%Words.value%", "a_b_c"),
        ("%PrimitiveString.on%", "true"),
        ("%Words.mode.taps%", "2"),
        ("%Deep.value%", "inside"),
        ("%KSampler.cfg%-%KSampler.sampler_name%", "4-euler"),
    ],
)
def test_values_of_nodes_are_filled_in(prefix, name, save):
    listed, report = save(stock(), prefix=prefix, prompt=GRAPH, extra=DRAWN)
    assert listed == f"{name}_00001_.safetensors [output]" and "not filled in" not in report


def test_an_api_graph_is_enough(save):
    assert save(stock(), prefix="%KSampler.seed%", prompt=GRAPH)[0].startswith("7_")


def test_dates_are_filled_in_as_the_frontend_does(save):
    day = time.strftime("%Y-%m-%d")
    listed, report = save(stock(), prefix="%date:yyyy-MM-dd%/%year%_%date:yy.M.d%", prompt=GRAPH, extra=DRAWN)
    year, month, date = (int(part) for part in time.strftime("%Y %m %d").split())
    assert listed == f"{day}/{year}_{year % 100}.{month}.{date}_00001_.safetensors [output]"
    assert "not filled in" not in report


@pytest.mark.parametrize(
    "prefix, name",
    [
        ("%KSampler.nothing%", "%KSampler.nothing%"),
        ("%KSampler.model%", "%KSampler.model%"),
        ("%No:body.seed%", "%No_body.seed%"),
        ("%frame%", "%frame%"),
    ],
)
def test_what_cannot_be_filled_in_is_said(prefix, name, save, stored_files):
    listed, report = save(stock(), prefix=prefix, prompt=GRAPH, extra=DRAWN)
    assert listed == f"{name}_00001_.safetensors [output]" and f"'{prefix}' in the name was not filled in" in report
    assert listed in stored_files.listing()


@pytest.mark.parametrize("value", ["../../x", "..", ".", ".x", "x" * 500, "\0"])
def test_a_value_cannot_lead_out_of_the_folder(value, save, folders):
    prompt = {"1": {"class_type": "Text", "inputs": {"value": value}}}
    try:
        save(stock(), prefix="%Text.value%", prompt=prompt)
    except ValueError as error:
        assert one_sentence(error)
    assert all(path.is_relative_to(folders / "output") for path in files_in(folders))
    assert all(path.parent == folders / "output" for path in files_in(folders))


@pytest.mark.parametrize("extra", [None, 3, {"workflow": 3}, {"workflow": {"nodes": [None, {"properties": 3}]}}])
def test_odd_graphs_fill_in_nothing(extra, save):
    for prompt in (None, [], {"1": None, "2": {"inputs": []}, 3: {"inputs": {}, "_meta": 4}}):
        assert "not filled in" in save(stock(), prefix="%A.b%", prompt=prompt, extra=extra)[1]


# Foreign files (trials, 12)


def raw(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


FOREIGN = {
    "null": raw(b'{"__metadata__": null}'),
    "a list": raw(b"[1, 2]"),
    "a number": raw(b"12345678"),
    "metadata of a number": raw(b'{"__metadata__": 3}'),
    "numbers in it": raw(b'{"__metadata__": {"unifusion.kind": 3}}'),
    "deep": raw(b'{"__metadata__":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "deep objects": raw(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "large": raw(b'{"__metadata__":{"a":"' + b"x" * 32_000_000 + b'"}}'),
    "many tensors": raw(
        b'{"__metadata__":{"a":"b"},'
        + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(500_000))
        + b"}"
    ),
    "many tensors of its kind": raw(
        b'{"__metadata__":{"unifusion.kind":"conditioning"},'
        + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(500_000))
        + b"}"
    ),
    "spaces": raw(b" " * 30_000_000 + b"{}"),
    "not text": raw(b"\xff\xfe" * 100),
    "empty": b"",
    "short": b"\x08\0\0\0",
    "huge length": b"\xff" * 8 + b"{}",
    "a pickle": b"\x80\x04K\x01.",
    "zeros": bytes(5000),
    "a long name for a type": raw(b'{"a":{"dtype":"' + b"x" * 100_000 + b'","shape":[0],"data_offsets":[0,0]}}'),
    "digits": raw(b'{"__metadata__":{"a":' + b"9" * 100_000 + b"}}"),
}


def test_listing_survives_foreign_files_quickly(folders, save, stored_files, bridge, node):
    mine, _ = save(stock())
    for number, data in enumerate(data for what, data in FOREIGN.items() if "of its kind" not in what):
        for folder in ("input", "output"):
            (folders / folder / f"{number}.safetensors").write_bytes(data)
    (folders / "input" / "folder.safetensors").mkdir()
    os.mkfifo(folders / "input" / "pipe.safetensors")
    (folders / "input" / "loop.safetensors").symlink_to("loop.safetensors")
    (folders / "input" / "gone.safetensors").symlink_to("nowhere")
    (folders / "input" / "device.safetensors").symlink_to("/dev/zero")
    (folders / "input" / "round").symlink_to(folders / "input")
    with open(os.fsencode(folders / "input") + b"/\xff.safetensors", "wb") as file:
        file.write(stored_files.path_of(mine).read_bytes())
    (folders / "input" / "secret.safetensors").write_bytes(b"x")
    (folders / "input" / "secret.safetensors").chmod(0)
    names = [mine]
    start = time.process_time()
    assert stored_files.listing() == names
    first = time.process_time() - start
    assert stored_files.listing() == names
    again = time.process_time() - start - first
    assert first < 2 and again < 0.2
    assert node("UniFusionLoadConditioning").define_schema()


@pytest.mark.parametrize("what", FOREIGN)
def test_loading_a_foreign_file_is_one_sentence_in_bounded_time(what, folders, stored_files):
    (folders / "input" / "x.safetensors").write_bytes(FOREIGN[what])
    start = time.process_time()
    with pytest.raises(ValueError, match="'x.safetensors' cannot be loaded: ") as refused:
        stored_files.load("x.safetensors", None)
    assert one_sentence(refused.value) and time.process_time() - start < 5


@pytest.mark.parametrize("missing", ["input", "output"])
def test_a_missing_folder_is_an_empty_one(missing, folders, save, stored_files):
    mine, _ = save(stock())
    shutil.rmtree(folders / missing)
    assert stored_files.listing() == ([mine] if missing == "input" else [])


def test_a_replaced_file_is_looked_at_again(folders, save, stored_files):
    mine, _ = save(stock())
    path = stored_files.path_of(mine)
    good = path.read_bytes()
    assert stored_files.listing() == [mine]
    path.write_bytes(b"x" * len(good))
    os.utime(path, (1, 1))
    assert stored_files.listing() == []
    path.write_bytes(good)
    assert stored_files.listing() == [mine]


def test_thousands_of_files_are_listed_within_bounds(folders, save, stored_files, monkeypatch):
    """Newest first; what does not fit into the time of one list comes with the next."""
    mine, _ = save(stock())
    data = stored_files.path_of(mine).read_bytes()
    for number in range(3000):
        path = folders / "input" / f"{number}.safetensors"
        path.write_bytes(data if number % 3 == 0 else FOREIGN["null"])
        os.utime(path, (number, number))
    monkeypatch.setattr(stored_files, "LISTING_BYTES", 400_000)
    first = stored_files.listing()
    assert 10 < len(first) < 900 and first[0] == mine and first[1] == "2997.safetensors"
    for _ in range(20):
        stored_files.listing()
    assert len(stored_files.listing()) == 1001
    monkeypatch.setattr(stored_files, "LISTING_SECONDS", 0)
    assert stored_files.listing() == []


def test_long_looks_at_foreign_files_keep_no_other_out_of_the_list(folders, save, stored_files, monkeypatch):
    mine, _ = save(stock())
    os.utime(stored_files.path_of(mine), (1, 1))
    header = b'{"__metadata__":{"prompt":"' + b"x" * 3_000_000 + b'","unifusion.kind":"conditioning"}}'
    for number in range(4):
        (folders / "input" / f"{number}.safetensors").write_bytes(raw(header))
    monkeypatch.setattr(stored_files, "LISTING_BYTES", 4_000_000)
    assert mine in stored_files.listing() and len(stored_files.listing()) > 1
    assert len([stored_files.listing() for _ in range(4)][-1]) == 5


def test_a_sparse_file_does_not_fill_the_memory(folders, save, stored_files):
    size = 15 * 2**30
    header = {
        "__metadata__": {
            "unifusion.kind": "conditioning",
            "unifusion.version": "2",
            "unifusion.positive": json.dumps([{"tensor": "a", "options": {}}]),
        },
        "a": {"dtype": "F32", "shape": [1, size // 64, 16], "data_offsets": [0, size]},
    }
    path = folders / "input" / "x.safetensors"
    path.write_bytes(raw(json.dumps(header).encode()))
    os.truncate(path, path.stat().st_size + size)
    assert "x.safetensors" in stored_files.listing()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_files.comfy.model_management, "get_free_memory", lambda device: 8 * 2**30)
        with pytest.raises(ValueError, match="takes 22.5 GB of memory to load, but 8.0 GB are free") as refused:
            stored_files.load("x.safetensors", None)
    assert one_sentence(refused.value)
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match="'x.safetensors' (takes|cannot be loaded)"):
        stored_files.load("x.safetensors", None)


# Damaged files (trials, 13)


def rewritten(path: Path, tensors=lambda t: None, metadata=lambda m: None) -> None:
    with safetensors.safe_open(path, "pt") as file:
        content, about = {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata())
    tensors(content)
    metadata(about)
    safetensors.torch.save_file(content, path, about)


def description(change):
    def run(metadata):
        about = json.loads(metadata["unifusion.positive"])
        other = change(about)
        metadata["unifusion.positive"] = json.dumps(other if isinstance(other, list) else about)

    return run


def text(value):
    return lambda metadata: metadata.update({"unifusion.positive": value})


def tensor(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


OF_CONDITIONING = {
    "about is text": (
        dict(metadata=description(lambda d: d[0]["options"].update(unifusion_about="x"))),
        "unifusion_about",
    ),
    "about is empty": (
        dict(metadata=description(lambda d: d[0]["options"].update(unifusion_about={}))),
        "unifusion_about",
    ),
    "roles are a list": (
        dict(metadata=description(lambda d: d[0]["options"]["unifusion_about"].update(roles=[1]))),
        "unifusion_about",
    ),
    "infinity in its taps": (
        dict(metadata=description(lambda d: d[0]["options"]["unifusion_about"].update(taps=[float("inf")]))),
        "unifusion_about",
    ),
    "fp8": (dict(tensors=tensor("positive.0.tensor", lambda t: t.to(torch.float8_e5m2))), "found .*float8"),
    "no tensor": (dict(tensors=lambda t: t.pop("positive.0.tensor")), "found missing|damaged"),
    "a tensor too many": (dict(tensors=lambda t: t.update(more=torch.zeros(1))), "1 tensors that its description"),
    "one entry more": (dict(metadata=description(lambda d: d.append({"tensor": "x", "options": {}}))), "found missing"),
    "no entry": (dict(metadata=description(lambda d: [])), "holds no conditioning|does not name"),
    "deep": (dict(metadata=text("[" * 100_000 + "]" * 100_000)), "description inside it is damaged"),
    "deep options": (
        dict(metadata=text('[{"tensor":"positive.0.tensor","options":' + '{"a":' * 900 + "1" + "}" * 900 + "}]")),
        "nested too deeply|damaged",
    ),
    "many digits": (dict(metadata=text("9" * 10_000)), "description inside it is damaged"),
    "a number": (dict(metadata=text("3")), "description inside it is damaged"),
    "null": (dict(metadata=text("null")), "description inside it is damaged"),
    "options are a list": (dict(metadata=description(lambda d: d[0].update(options=[1]))), "damaged"),
    "an unknown kind": (dict(metadata=description(lambda d: d[0]["options"].update(a={"": "x"}))), "damaged"),
    "a number that is none": (
        dict(metadata=description(lambda d: d[0]["options"].update(a={"": "float", "value": "x"}))),
        "damaged",
    ),
    "keys that are lists": (
        dict(metadata=description(lambda d: d[0]["options"].update(a={"": "dict", "items": [[[1], 2]]}))),
        "damaged",
    ),
    "pairs of three": (
        dict(metadata=description(lambda d: d[0]["options"].update(a={"": "dict", "items": [[1, 2, 3]]}))),
        "description inside it is damaged",
    ),
    "an unknown name": (
        dict(metadata=description(lambda d: d[0]["options"].update(a={"": "tensor", "name": "x"}))),
        "damaged",
    ),
    "a long description": (dict(metadata=text(" " * 5_000_000 + "[]")), "description takes 5000002 bytes"),
    "a newer format": (dict(metadata=lambda m: m.update({"unifusion.version": "99"})), "format '99'.*update the pack"),
    "an odd format": (dict(metadata=lambda m: m.update({"unifusion.version": "²"})), "format '²'"),
}
OF_HIDDEN_STATES = {
    "infinity in taps": (dict(metadata=description(lambda d: d["taps"].__setitem__(0, float("inf")))), "damaged"),
    "half a tap": (dict(metadata=description(lambda d: d["taps"].__setitem__(0, 1.5))), "damaged"),
    "a tap below 0": (dict(metadata=description(lambda d: d["taps"].__setitem__(0, -1))), "layers must be 0 or more"),
    "a tap too few": (dict(metadata=description(lambda d: d["taps"].pop())), "11 taps"),
    "role 7": (dict(tensors=tensor("positive.roles", lambda t: t * 0 + 300)), "roles must be whole numbers"),
    "roles of halves": (dict(tensors=tensor("positive.roles", lambda t: t.float())), "roles must be whole numbers"),
    "roles of truth": (dict(tensors=tensor("positive.roles", lambda t: t > 3)), "roles must be whole numbers"),
    "no grids": (dict(metadata=description(lambda d: d.update(grids=[]))), "roles must be whole numbers"),
    "an image without views": (dict(metadata=description(lambda d: d.update(grids=[[], []]))), "needs views"),
    "a view of nothing": (dict(metadata=description(lambda d: d.update(grids=[[[0, 2]], [[2, 2]]]))), "needs views"),
    "a view of three sides": (dict(metadata=description(lambda d: d.update(grids=[[[1, 2, 3]], [[2, 2]]]))), "damaged"),
    "pieces too few": (dict(metadata=description(lambda d: d["pieces"].pop())), "17 pieces"),
    "pieces of numbers": (dict(metadata=description(lambda d: d["pieces"].__setitem__(0, 3))), "damaged"),
    "no vlm": (dict(metadata=description(lambda d: d.pop("vlm"))), "damaged"),
    "fp8": (dict(tensors=tensor("positive.states", lambda t: t.to(torch.float8_e4m3fn))), "floating-point numbers"),
    "complex": (dict(tensors=tensor("positive.spans", lambda t: t.to(torch.complex64))), "floating-point numbers"),
    "NaN": (dict(tensors=tensor("positive.states", lambda t: t * float("nan"))), "NaN"),
    "NaN weights": (dict(tensors=tensor("positive.weights", lambda t: t * float("nan"))), "weights must be finite"),
    "no weights": (dict(tensors=lambda t: t.pop("positive.weights")), "its weights are missing"),
    "regions without masks": (
        dict(tensors=lambda t: t.update({"positive.regions": t["positive.roles"].clone()})),
        "does not name",
    ),
    "a description of conditioning": (dict(metadata=text("[]")), "damaged"),
    "names of nothing": (dict(metadata=description(lambda d: d.update(tensors={}))), "are missing"),
}
DAMAGES = [("conditioning", what) for what in OF_CONDITIONING] + [("hidden", what) for what in OF_HIDDEN_STATES]


@pytest.mark.parametrize("kind, what", DAMAGES)
def test_a_damaged_file_is_one_sentence(kind, what, hidden, pooled, save, stored_files):
    damage, sentence = (OF_CONDITIONING if kind == "conditioning" else OF_HIDDEN_STATES)[what]
    name, _ = save(hidden if kind == "hidden" else pooled[1])
    rewritten(stored_files.path_of(name), **damage)
    with pytest.raises(ValueError, match=f"^'fox_00001_.safetensors' cannot be loaded: .*({sentence})") as refused:
        stored_files.load(name, None)
    assert one_sentence(refused.value)


@pytest.mark.parametrize("name", [3, None, ["a"], "a\0b", "x" * 5000, "\ud800", "\ud800 [output]", "", ".", "[output]"])
def test_odd_names_are_one_sentence(name, folders, stored_files, node):
    with pytest.raises(ValueError) as refused:
        stored_files.path_of(name)
    assert one_sentence(refused.value)
    assert name is None or isinstance(node("UniFusionLoadConditioning").validate_inputs(file=name), str)


def test_links_are_listed_and_taken_or_neither(folders, save, stored_files):
    mine, _ = save(stock())
    target = stored_files.path_of(mine)
    outside = folders / "outside.safetensors"
    shutil.copy(target, outside)
    (folders / "output" / "inner.safetensors").symlink_to(target)
    (folders / "output" / "outer.safetensors").symlink_to(outside)
    (folders / "input" / "outer.safetensors").symlink_to(target)
    listed = stored_files.listing()
    assert sorted(listed) == ["c/fox_00001_.safetensors [output]", "inner.safetensors [output]"]
    for name in listed:
        assert same(stored_files.load(name, None)[1], stock())
    for name in ("outer.safetensors [output]", "outer.safetensors"):
        with pytest.raises(ValueError, match="leaves ComfyUI's input and output folders"):
            stored_files.load(name, None)


def test_nothing_is_saved_through_a_link(folders, save):
    (folders / "elsewhere").mkdir()
    (folders / "output" / "link").symlink_to(folders / "elsewhere")
    (folders / "output" / "real").mkdir()
    (folders / "output" / "inner").symlink_to(folders / "output" / "real")
    for prefix in ("link/x", "link/new/x", "inner/x"):
        with pytest.raises(ValueError, match="is a link") as refused:
            save(stock(), prefix=prefix)
        assert one_sentence(refused.value)
    assert not files_in(folders)


def test_an_output_folder_that_is_itself_a_link_works(tmp_path, save, stored_files, monkeypatch):
    import folder_paths

    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "linked"))
    name, _ = save(stock())
    assert stored_files.listing() == [name] and same(stored_files.load(name, None)[1], stock())


@pytest.mark.parametrize("kind", ["hidden", "conditioning"])
def test_disable_metadata_leaves_every_text_out(
    kind, hidden, pooled, krea2_model, save, stored_files, bridge, monkeypatch
):
    secret = "sesame-secret-words"
    hidden = hidden._replace(prompt=secret, text=secret, pieces=(secret,) * hidden.tokens)
    about = {**pooled[1][0][1]["unifusion_about"], "prompt": secret, "text": secret}
    entries = [[pooled[1][0][0], {**pooled[1][0][1], "unifusion_about": about}]]
    value = hidden if kind == "hidden" else entries
    graph = {"1": {"class_type": "X", "inputs": {"text": secret}}}
    name, report = save(value, value, prompt=graph, extra={"workflow": graph})
    assert secret.encode() in stored_files.path_of(name).read_bytes() and "--disable-metadata" not in report
    monkeypatch.setattr(stored_files.args, "disable_metadata", True)
    name, report = save(value, value, prompt=graph, extra={"workflow": graph})
    assert secret.encode() not in stored_files.path_of(name).read_bytes()
    assert "left out for --disable-metadata: the graph, the prompt" in report and secret not in report
    assert hidden.prompt == entries[0][1]["unifusion_about"]["prompt"] == secret, "the graph's own values stay"
    model, positive, negative, states, *_ = stored_files.load(name, krea2_model)
    if kind == "hidden":
        assert torch.equal(states.states, hidden.states) and states.pieces == ("",) * hidden.tokens
        model, positive, negative, *_ = bridge("actions.pool").run(krea2_model, states, negative=states)
    assert draw(model, positive, negative).isfinite().all()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import torch
from unifusion.stored import Stored, encode, write
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
write(Path(sys.argv[2]), encode(Stored("conditioning", [[torch.zeros(1, 4, 8), {}]], None)))
"""


def test_what_a_killed_save_leaves_goes_with_the_next(folders, save):
    folder = folders / "output" / "c"
    folder.mkdir()
    pack = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(pack), str(folder / "x.safetensors")], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in folder.iterdir()] == [".unfinished"]
    old = folder / ".fox_00001_.safetensors.0123abcd.unfinished"  # as 0.1.0 left it
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    fresh = folder / ".fox_00002_.safetensors.0123abcd.unfinished"  # perhaps an 0.1.0 at work
    fresh.write_bytes(b"x")
    foreign = folder / ".mine.unfinished"
    foreign.write_bytes(b"x")
    os.utime(foreign, (1, 1))
    linked = folder / ".unifusion-0123456789abcdef.unfinished"
    linked.symlink_to(foreign)
    save(stock())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [fresh.name, foreign.name, linked.name, "fox_00001_.safetensors"]
    )


def test_a_save_at_work_is_not_taken_for_a_killed_one(folders, save):
    from unifusion_pack.unifusion import stored

    folder = folders / "output" / "c"
    folder.mkdir()
    file, path = stored._own_file(folder)
    with file:
        save(stock())
        assert path.exists()
    save(stock())
    assert not path.exists()


def test_the_report_names_every_prompt_of_a_combined_conditioning(pooled, save, stored_files):
    third = [
        [
            pooled[1][0][0],
            {**pooled[1][0][1], "unifusion_about": {**pooled[1][0][1]["unifusion_about"], "prompt": "a blue owl"}},
        ]
    ]
    name, report = save(pooled[1] + third + stock() + pooled[1], pooled[2])
    for told in (report, stored_files.load(name, None)[-1]):
        assert told.count("prompt: a red fox") == 1 and told.count("prompt: a blue owl") == 1
        assert "prompt: blurry" in told and "conditioning (1, 4, 1920)" in told


# Files of 0.1.0 and conditioning of other models


@pytest.fixture
def of_0_1_0(folders, stored_files):
    def run(name, model=None):
        shutil.copy(SAVED_BY_0_1_0 / f"{name}.safetensors", folders / "input")
        assert f"{name}.safetensors" in stored_files.listing()
        return stored_files.load(f"{name}.safetensors", model)

    return run


@pytest.mark.parametrize(
    "name",
    ["pooled", pytest.param("weighted", marks=pytest.mark.needs("weights")), "scheduled", "stock"],
)
def test_files_of_0_1_0_draw_as_they_did(name, of_0_1_0, krea2_model):
    """The pictures were drawn by 0.1.0 itself, on the same random weights."""
    model, positive, negative, *_ = of_0_1_0(name, krea2_model)
    before = safetensors.torch.load_file(SAVED_BY_0_1_0 / "drawn.safetensors")[name]
    now = draw(model, positive, positive if name == "stock" else negative, 1.0 if name == "scheduled" else 3.0)
    assert before.std() > 0.05 and torch.allclose(now, before, atol=1e-4)


def test_hidden_states_of_0_1_0_come_back(of_0_1_0, library):
    *_, positive, negative, report = of_0_1_0("hidden")
    expected = hidden_states(library, 0, ((2, 4), (16, 2)))
    assert torch.equal(positive.states, expected.states) and positive.roles.tolist() == [2, 2, 2, 2, 16, 16]
    assert positive.grids == (((1, 2),),) and positive.taps == tuple(range(2, 36, 3))
    assert "prompt: a red fox" in report and negative.prompt == "blurry"


def test_options_of_0_1_0_come_back(of_0_1_0):
    first, second = of_0_1_0("stock")[1]
    assert first[1]["strength"] == 0.5 and first[1]["set_area_to_bounds"] is False
    assert first[1]["mask"].sum() == 32 and torch.equal(first[1]["pooled_output"], torch.linspace(0, 1, 8)[None])
    assert second[1]["area"] == (4, 4, 0, 2) and second[0].dtype == torch.bfloat16


def test_a_file_of_0_1_0_saved_again_is_the_same(of_0_1_0, saved):
    positive = of_0_1_0("stock")[1]
    assert same(saved(positive)[0], positive)


EXTRAS = {
    "pooled_output": torch.randn(1, 1280),
    "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    "truth": torch.tensor([True, False]),
    "half": torch.randn(2, 3).half(),
    "bf16": torch.randn(3).bfloat16(),
    "fp8": torch.randn(4).to(torch.float8_e4m3fn),
    "uint16": torch.arange(5).to(torch.uint16),
    "fp64": torch.randn(2, dtype=torch.float64),
    "complex": torch.randn(2, dtype=torch.complex64).conj(),
    "scalar": torch.tensor(3.5),
    "nothing in it": torch.zeros(0, 4),
    "nan": torch.tensor([float("nan"), -float("inf")]),
    "num_tokens": 77,
    "large": 2**63,
    "none": None,
    "yes": True,
    "guidance": 3.5,
    "never": float("inf"),
    "undefined": float("nan"),
    "text": "half \ud83d and whole \N{FOX FACE}\n",
    "reference_latents": [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)],
    "reference_latents_method": "index",
    "area": ("percentage", 0.5, 0.5, 0.0, 0.5),
    "nested": {"a": [torch.ones(2), {"b": (torch.zeros(1), None)}], "": {}, "x.y": 1},
    "numbers as keys": {5: "a", None: torch.ones(1), True: 2.0},
    "a.option.b": "c",
    "": "no name",
    "\ud800": "half a name",
    "empty": [[], {}, ()],
    "size": torch.zeros(2, 3),
}


@pytest.mark.parametrize("key", EXTRAS, ids=ascii)
def test_extras_of_other_models_come_back_to_the_bit(key, saved):
    entries = stock(**{key: EXTRAS[key]})
    assert same(saved(entries)[0], entries)


def test_all_extras_together_and_on_both_sides(saved):
    entries = stock(**EXTRAS) + stock(tokens=2, **EXTRAS)
    positive, negative = saved(entries, entries[:1])
    assert same(positive, entries) and same(negative, entries[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_conditioning_of_other_precisions_comes_back_to_the_bit(dtype, saved):
    entries = [[torch.randn(2, 3, 64).to(dtype), {}]]
    assert same(saved(entries)[0], entries)


@pytest.fixture
def everything(hidden, library):
    """Weights, a subtracted image, a part of the schedule and a region."""
    weights = torch.where(hidden.roles == 16, 2.0, torch.where(hidden.roles == 17, -0.5, 1.0))
    spans = torch.where((hidden.roles == 16)[:, None], torch.tensor([0.0, 0.5]), hidden.spans)
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    other = hidden_states(library, 5, ((2, 3),))._replace(grids=())
    return library.join([hidden._replace(weights=weights, spans=spans), library.in_region(other, mask)])


def test_weights_schedules_and_regions_of_hidden_states_come_back(everything, save, stored_files):
    *_, back, below, _ = stored_files.load(save(everything, everything)[0], None)
    assert all(map(same, back, everything)) and all(map(same, below, everything))
    assert back.regions is below.regions or torch.equal(back.regions, below.regions)


@pytest.mark.needs("weights")
def test_weights_schedules_and_regions_of_conditioning_draw_as_before(
    everything, krea2_model, bridge, save, stored_files
):
    model, positive, negative, *_ = bridge("actions.pool").run(krea2_model, everything, negative=everything)
    loaded, above, below, *_ = stored_files.load(save(positive, negative)[0], krea2_model)
    assert same(above, positive) and same(below, negative)
    assert torch.equal(draw(loaded, above, stock()), draw(model, positive, stock()))


def test_what_a_node_between_has_mixed_is_refused_by_the_file_s_name(
    everything, krea2_model, bridge, save, stored_files
):
    ((tensor, about),) = bridge("actions.pool").run(krea2_model, everything)[1]
    tensor = tensor.clone()
    tensor[..., 162] *= 0.5  # the end of its part of the schedule, as a mean would leave it
    name, _ = save([[tensor, about]])
    with pytest.raises(
        ValueError, match="^'c/fox_00001_.safetensors .output.' cannot be drawn: A conditioning in which"
    ):
        stored_files.load(name, krea2_model)
