"""The format of saved files and the names they may have, without ComfyUI."""

import json
from datetime import datetime

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unifusion.file_names import check_name, fill_in
from unifusion.hidden_states import make_hidden_states
from unifusion.stored import CONDITIONING, HIDDEN_STATES, Stored, decode, encode, looks_stored, read, write

NOW = datetime(2026, 3, 4, 5, 6, 7)


def entries(**options):
    return [[torch.linspace(-1, 1, 24).reshape(1, 3, 8), options]]


def stored(**options):
    return Stored(CONDITIONING, entries(**options), None)


def states():
    return make_hidden_states(torch.randn(1, 4, 2, 8), [2] * 4, list("abcd"), (1, 5), "vlm", prompt="a fox")


def test_a_file_is_plain_safetensors_with_its_kind_in_front(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, encode(stored(mask=torch.ones(2, 2)), {"prompt": "{}"}))
    assert path.read_bytes()[8:].startswith(b'{"__metadata__":{"unifusion.kind":"conditioning","unifusion.version":"2"')
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["prompt"] == "{}" and len(list(file.keys())) == 2
    assert safetensors.torch.load(path.read_bytes()).keys() == safetensors.torch.load_file(path).keys()
    assert (
        looks_stored(path)[0] and path.stat().st_size == encode(stored(mask=torch.ones(2, 2)), {"prompt": "{}"}).nbytes
    )


def test_every_tensor_is_aligned(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, encode(stored(a=torch.ones(3, dtype=torch.bool), b=torch.ones(3).half(), c=torch.ones(1).double())))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BOOL": 1}
    for name, about in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert (8 + length + about["data_offsets"][0]) % sizes[about["dtype"]] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_plain_option_comes_back(tmp_path_factory, options):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write(path, encode(Stored(CONDITIONING, [[torch.ones(1, 1, 1), options]], None)))
    back = read(path).positive[0][1]
    assert back == options and repr(back) == repr(options)


def test_what_two_branches_share_is_kept_once():
    value = states()
    twice = encode(Stored(HIDDEN_STATES, value, value))
    assert len(twice.tensors) == len(encode(Stored(HIDDEN_STATES, value, None)).tensors) == 4
    mask = torch.ones(4)
    assert len(encode(Stored(CONDITIONING, entries(a=mask, b=[mask, {"c": mask}]), entries(m=mask))).tensors) == 3


def test_equal_places_of_other_shapes_are_kept_apart(tmp_path):
    whole = torch.arange(8.0)
    options = {"flat": whole, "square": whole.view(2, 4), "turned": whole.view(2, 4).T, "part": whole[:4]}
    write(tmp_path / "x.safetensors", encode(Stored(CONDITIONING, entries(**options), None)))
    back = read(tmp_path / "x.safetensors").positive[0][1]
    assert all(torch.equal(back[key], options[key]) for key in options)


def with_header(path, header: bytes):
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def test_a_foreign_file_is_read_up_to_a_bound(tmp_path):
    path = with_header(tmp_path / "x.safetensors", b'{"__metadata__":{"a":"' + b"x" * 20_000_000 + b'"}}')
    assert looks_stored(path) == (None, 4096) and looks_stored(path, 2**25) == (False, path.stat().st_size)
    assert looks_stored(with_header(path, b'{"a":"' + b"x" * 20_000_000 + b'"}')) == (False, 4096)
    assert looks_stored(with_header(path, b'{"__metadata__":{"a":"b"}}'))[0] is False


def test_a_large_graph_in_front_of_the_kind_takes_a_second_look(tmp_path):
    """0.1.0 wrote its metadata in any order."""
    header = b'{"__metadata__":{"prompt":"' + b"x" * 9_000_000 + b'","unifusion.kind":"conditioning"}}'
    path = with_header(tmp_path / "x.safetensors", header)
    assert looks_stored(path)[0] is None and looks_stored(path, 2**25)[0] is True


def test_words_of_another_file_do_not_make_it_ours(tmp_path):
    path = tmp_path / "x.safetensors"
    quoted = json.dumps({"unifusion.kind": "conditioning"})
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"note": quoted, "unifusion.kind": "other"})
    assert not looks_stored(path)[0]


@pytest.mark.parametrize("version", ["", "0", "3", "1.0", "x" * 1000, "-1"])
def test_a_format_that_is_not_known_is_refused(version):
    with pytest.raises(ValueError, match="reads 1 to 2; update the pack"):
        decode({}, {"unifusion.kind": "conditioning", "unifusion.positive": "[]", "unifusion.version": version})


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_a_name_is_taken_or_refused_in_one_sentence(name):
    try:
        taken = check_name(name)
    except ValueError as error:
        assert str(error).isprintable() and str(error).endswith(".") and len(str(error)) < 300
        return
    last = taken.split("/")[-1]
    assert last and not last.startswith(".") and ".." not in taken.split("/") and len(last.encode()) <= 230


@pytest.mark.parametrize(
    "pattern, filled",
    [
        ("%date:yyyy-MM-dd%", "2026-03-04"),
        ("%date:yy.M.d h-m-s%", "26.3.4 5-6-7"),
        ("%date:yyyy/MM/dd%/x", "2026/03/04/x"),
        ("%date:hh:mm:ss%", "05_06_07"),
        ("%date:yyyyMMdd_hhmmss%", "20260304_050607"),
        ("%date:%", ""),
        ("%year%-%month%", "%year%-%month%"),
        ("100%", "100%"),
        ("", ""),
    ],
)
def test_dates_are_those_of_the_frontend(pattern, filled):
    assert fill_in(pattern, {}, {}, NOW) == (filled, [])


def test_a_size_in_pixels_is_said_to_be_none():
    assert fill_in("%width%", {}, {}, NOW)[1] == ["'%width%' in the name became 0: conditioning has no size in pixels"]
