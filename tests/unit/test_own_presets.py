"""Presets of one's own are readable files; hostile ones cost nothing and are refused in one sentence."""

import json
import os

import pytest

from unifusion.own_presets import GAINS, JOB, LARGEST, MARK, SYSTEM, check_name, job_of, listing, load, read, save

FIELDS = {
    GAINS: {"gains": "11=1.45, 5=0.9"},
    SYSTEM: {"text": "Describe the light.\nNothing else. 猫"},
    JOB: {"mean_at": "deep", "tokens": "subject"},
}


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.isprintable() and text.endswith(".") and len(text) < 500, text
    text.encode()
    return text


@pytest.mark.parametrize("kind", FIELDS)
def test_what_is_saved_is_read_listed_and_readable(tmp_path, kind):
    path = save(tmp_path / "new", "mein Licht 光", kind, FIELDS[kind])
    assert load(tmp_path / "new", "mein Licht 光", kind) == FIELDS[kind]
    assert listing(tmp_path / "new", kind) == ["mein Licht 光"]
    assert all(listing(tmp_path / "new", other) == [] for other in FIELDS if other != kind)
    assert json.loads(path.read_text(encoding="utf-8")) == {MARK: 1, "kind": kind, **FIELDS[kind]}
    assert [entry.name for entry in os.scandir(path.parent)] == [path.name]  # nothing unfinished is left


def test_nothing_is_written_over_unless_asked(tmp_path):
    save(tmp_path, "a", GAINS, {"gains": "1=2"})
    with pytest.raises(ValueError, match="There is a preset 'a' already") as error:
        save(tmp_path, "a", GAINS, {"gains": "1=3"})
    one_sentence(error)
    save(tmp_path, "a", GAINS, {"gains": "1=3"}, replace=True)
    assert load(tmp_path, "a", GAINS) == {"gains": "1=3"}


NAMES = ["", "  ", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "con", "NUL.txt", "a\0b", "x" * 61, ".hidden", "a.",
         "half \ud83e", "line\nbreak", "a:b", "a*", "\u202egnp"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_refused(tmp_path, name):
    for act in (check_name, lambda n: save(tmp_path, n, GAINS, {"gains": "1=2"}), lambda n: load(tmp_path, n, GAINS)):
        with pytest.raises(ValueError, match="name of a preset") as error:
            act(name)
        one_sentence(error)
    assert list(tmp_path.iterdir()) == []


FILES = {
    "empty": b"",
    "no json": b"{",
    "bytes": bytes(range(256)),
    "deep": b"[" * 60000,
    "a list": b"[1, 2]",
    "no mark": b'{"kind": "layer gains", "gains": "1=2"}',
    "true": b'{"unifusion_preset": true, "kind": "layer gains", "gains": "1=2"}',
    "later": b'{"unifusion_preset": 2, "kind": "layer gains", "gains": "1=2"}',
    "kind": b'{"unifusion_preset": 1, "kind": ["layer gains"], "gains": "1=2"}',
    "no kind": b'{"unifusion_preset": 1, "gains": "1=2"}',
    "no gains": b'{"unifusion_preset": 1, "kind": "layer gains"}',
    "bad gains": b'{"unifusion_preset": 1, "kind": "layer gains", "gains": "x=y"}',
    "nan": b'{"unifusion_preset": 1, "kind": "layer gains", "gains": "1=nan"}',
    "number": b'{"unifusion_preset": 1, "kind": "system prompt", "text": 5}',
    "bad job": b'{"unifusion_preset": 1, "kind": "picture job", "mean_at": "deep", "tokens": "\\ud83e"}',
    "large": b'{"unifusion_preset": 1, "kind": "system prompt", "text": "' + b"x" * LARGEST + b'"}',
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused_and_not_listed(tmp_path, name):
    path = tmp_path / f"{name}.json"
    path.write_bytes(FILES[name])
    save(tmp_path, "good", GAINS, {"gains": "1=2"})
    with pytest.raises(ValueError, match="cannot be used") as error:
        read(path)
    assert name in one_sentence(error)
    assert [listing(tmp_path, kind) for kind in FIELDS] == [["good"], [], []]


def test_folders_dead_links_and_other_files_are_left_out(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "dead.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("x")
    assert listing(tmp_path, GAINS) == [] and listing(tmp_path / "none", GAINS) == []
    with pytest.raises(ValueError, match="no preset 'dead'.*there is none yet") as error:
        load(tmp_path, "dead", GAINS)
    one_sentence(error)


def test_the_wrong_kind_is_named(tmp_path):
    save(tmp_path, "a", SYSTEM, {"text": "x"})
    with pytest.raises(ValueError, match="'a' holds a system prompt, but a layer gains is wanted here"):
        load(tmp_path, "a", GAINS)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="could not be written") as error:
        save(tmp_path / "file", "a", GAINS, {"gains": "1=2"})
    one_sentence(error)


def test_an_own_job_is_a_row(tmp_path):
    job = job_of("own: a", FIELDS[JOB])
    assert (job.mean_at, job.tokens, job.experimental) == ("deep", "subject", True)
