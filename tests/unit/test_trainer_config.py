"""The trainer's configuration: every error names file, key, what was found and what is allowed."""

from pathlib import Path

import pytest

pytest.importorskip("pydantic")

from unifusion.training.__main__ import main
from unifusion.training.config import Config, ConfigError, Section, from_values, keys_table, load

ROOT = Path(__file__).resolve().parents[2]
SOURCE = {"sources": [{"path": "x"}]}


def sentences(values):
    with pytest.raises(ConfigError) as caught:
        from_values(values, Path("mine.toml"))
    return str(caught.value)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"outt": "x"}, "mine.toml: there is no key 'outt'; did you mean out?"),
        ({"zzz": 1}, "there is no key 'zzz'; known here: out,"),
        ({"schedule": {"lrr": 1}}, "there is no key 'schedule.lrr'; did you mean lr"),
        ({"schedule": {"steps": "3"}}, "schedule.steps is '3'; allowed: a whole number of steps from 1."),
        ({"schedule": {"batch": 0}}, "schedule.batch is 0; allowed: a whole number of examples from 1."),
        ({"schedule": {"lr": float("nan")}}, "schedule.lr is nan; allowed: a number above 0."),
        ({"schedule": {"optimizer": "adam"}}, 'allowed: one of "adamw", "muon", "adamw8bit".'),
        ({"schedule": {"steps": True}}, "schedule.steps is True; allowed: a whole number"),
        ({"train": 3}, "train is 3; allowed: a table."),
        ({"data": {"sources": [{"path": "x"}, {"kind": "captions"}]}}, "the key 'data.sources[2].path' is missing"),
        (
            {"data": {"sources": [{"path": "x", "kind": "caption"}]}},
            "data.sources[1].kind is 'caption'; allowed: one of",
        ),
        ({"data": {"sources": 3}}, "data.sources is 3; allowed: a list of tables, one [[...sources]] each."),
        ({"data": {}}, "data.sources is empty; add a [[data.sources]]"),
        ({"data": {"pixels": 4096.5}}, "data.pixels is 4096.5; allowed: a whole number of pixels from 1024."),
        ({"model": {"features": 200}}, "a multiple of 128"),
        ({"vlm": {"taps": ["a"]}}, "vlm.taps[1] is 'a'; allowed: a list of whole numbers"),
        ({"vlm": {"profile": "krea"}}, 'vlm.profile is \'krea\'; allowed: one of "auto", "krea2"'),
        ({"data": SOURCE, "train": {"what": "lora"}}, "model.start is empty"),
        ({"data": SOURCE, "model": {"base": "fp8"}}, 'model.base is "fp8"'),
        ({"data": SOURCE, "train": {"blocks_on_cpu": 2}}, "train.blocks_on_cpu is 2"),
        ({"data": SOURCE, "model": {"start": "x"}, "train": {"what": "lora", "shard": True}}, "train.shard"),
        ({"data": {**SOURCE, "cache_pooled": True}}, "data.cache_pooled is true, which fixes LAP and refiner"),
        ({"data": {**SOURCE, "reconstruct": 0.6, "unconditional": 0.6}}, "together more than 1"),
        ({"data": {"sources": [{"path": "x", "share": 0.7}] * 2}}, "shares of data.sources are together more than 1"),
        ({"data": SOURCE, "model": {"features": 384, "kvheads": 2}}, "model.kvheads is 2, which does not divide"),
    ],
)
def test_an_error_names_file_key_what_was_found_and_what_is_allowed(values, said):
    text = sentences(values)
    assert said in text and all(line.startswith("mine.toml: ") for line in text.splitlines())


def test_all_errors_are_said_at_once():
    assert len(sentences({"outt": 1, "schedule": {"steps": 0, "batch": "x"}}).splitlines()) == 3


def test_every_key_has_a_sentence_a_default_and_stands_in_the_documentation():
    def fields(section):
        for name, field in section.model_fields.items():
            inner = field.annotation
            yield name, field
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from fields(inner)

    for name, field in fields(Config):
        assert field.description or issubclass(field.annotation, Section), name
    needed = [name for name, field in fields(Config) if field.is_required()]
    assert needed == []  # only tables of a list have keys without a default
    table = keys_table()
    documentation = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert table.strip() in documentation, "run python -m unifusion.training keys and put it into docs/training.md"


@pytest.mark.parametrize("path", sorted((ROOT / "training_configs").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_read(path):
    assert load(path).data.sources


def test_what_is_no_file_or_no_toml_ends_in_a_sentence(tmp_path, capsys):
    bad = tmp_path / "bad.toml"
    for content in (b"out = ", b"\xff\xfe\x00", b"[[data]]\n[data]"):
        bad.write_bytes(content)
        assert main(["run", str(bad)]) == 2
        assert "bad.toml is no TOML file that can be read" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "none.toml")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_paths_count_from_the_file(tmp_path):
    (tmp_path / "a.toml").write_text('out = "r"\n[[data.sources]]\npath = "x"\n')
    config = load(tmp_path / "a.toml")
    assert config.out_folder == tmp_path / "r" and config.cache_folder == tmp_path / "r" / "cache"
    assert config.resolve("/elsewhere") == Path("/elsewhere")
