"""Pictures and words in the layouts that people have; what is broken is named and counted."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pydantic")

from harness.training_data import captions, lines, pairs, picture

from unifusion.training.config import DataSource, from_values
from unifusion.training.data.buckets import bucket, cover, lost
from unifusion.training.data.folders import read_captions, read_pairs
from unifusion.training.data.json_lines import read_lines
from unifusion.training.data.large_sets import read_hugging_face, read_shards
from unifusion.training.data.musubi import read_musubi
from unifusion.training.data.read_sources import read_sources
from unifusion.training.data.sample import BrokenPicture, Notes, Picture


def test_captions_beside_pictures(tmp_path):
    folder = captions(tmp_path / "a")
    (folder / "more").mkdir()
    picture("red").save(folder / "more" / "9.JPG", format="jpeg")
    (folder / "more" / "9.txt").write_bytes("\ufeffein F\u00fcchslein".encode())
    picture("red").save(folder / "lonely.png")
    (folder / "3.txt").write_text("  \n")
    notes = Notes()
    found = {Path(sample.name).name: sample.caption for sample in read_captions(folder, notes)}
    assert found["9.JPG"] == "ein F\u00fcchslein" and found["0.png"] == "a red circle" and len(found) == 8
    assert notes.lines() == ["2 pictures without a caption, left out: 3.png, lonely.png."]


def test_pairs_with_any_number_of_controls(tmp_path):
    folder = pairs(tmp_path / "p", count=3, controls=3)
    (folder / "control2" / "1.png").unlink()
    (folder / "control" / "2.png").unlink()
    (folder / "control2" / "2.png").unlink()
    (folder / "control3" / "2.png").unlink()
    notes = Notes()
    found = read_pairs(folder, notes)
    assert [[Path(r.name).parent.name for r in sample.references] for sample in found] == [
        ["control", "control2", "control3"],
        ["control", "control3"],
    ]
    assert found[0].instruction == "make it green" and not found[0].caption
    assert "1 targets without a control picture, left out: 2.png." in notes.lines()
    with pytest.raises(ValueError, match="needs target/ and control/"):
        read_pairs(tmp_path, Notes())


def test_json_lines_in_several_spellings(tmp_path):
    path = lines(tmp_path / "j", count=2)
    rows = [
        {
            "image_path": "target/0.png",
            "control_path_1": "control/1.png",
            "control_path_0": "control/0.png",
            "caption": "x",
        },
        {"file_name": "target/0.png", "text": "only words"},
        {
            "target": "target/0.png",
            "references": "control/0.png",
            "caption": "what it is",
            "edit": "do it",
            "answer": "w",
        },
        {"target": "nowhere.png", "caption": "x"},
        {"target": "target/0.png", "caption": " "},
        {"target": 3, "caption": "x"},
        ["no", "object"],
        {"target": "target/0.png", "caption": "x", "colour": 1, "repeats": 2},
    ]
    path.write_text(path.read_text() + "\n" + "\n".join(map(json.dumps, rows)) + "\n{broken\n\n")
    notes = Notes()
    found = read_lines(path, notes)
    assert len(found) == 6
    two, words, both, repeated = found[2:]
    assert [Path(r.name).name for r in two.references] == ["0.png", "1.png"] and two.instruction == "x"
    assert (words.caption, words.references) == ("only words", ())
    assert (both.caption, both.instruction, both.answer) == ("what it is", "do it", "w")
    assert repeated.repeats == 2
    said = " ".join(notes.lines())
    for part in (
        "line 6 (nowhere.png)",
        "line 7",
        "3 lines that are no example",
        "keys of data.jsonl that are not read: colour",
    ):
        assert part in said


def test_musubis_file_over_folders_and_lines(tmp_path):
    captions(tmp_path / "a", 2)
    lines(tmp_path / "j", 2)
    path = tmp_path / "set.toml"
    path.write_text(
        '[general]\nresolution = [512, 512]\ncaption_extension = ".txt"\n'
        '[[datasets]]\nimage_directory = "a"\nnum_repeats = 3\n'
        '[[datasets]]\nimage_directory = "j/target"\ncontrol_directory = "j/control"\n'
        '[[datasets]]\nimage_jsonl_file = "j/data.jsonl"\n'
    )
    notes = Notes()
    found = read_musubi(path, notes)
    assert [(sample.repeats, len(sample.references)) for sample in found] == [(3, 0)] * 2 + [(1, 1)] * 4
    assert "resolution (data.pixels)" in " ".join(notes.lines())
    path.write_text("[general]\n")
    with pytest.raises(ValueError, match=r"\[\[datasets\]\] is missing"):
        read_musubi(path, Notes())


def test_tar_shards(tmp_path):
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        for index in range(2):
            for ending, colour in (("png", "red"), ("control.png", "blue")):
                buffer = io.BytesIO()
                picture(colour).save(buffer, "png")
                info = tarfile.TarInfo(f"x/{index}.{ending}")
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))
            if index == 0:
                info = tarfile.TarInfo("x/0.txt")
                info.size = 5
                tar.addfile(info, io.BytesIO(b"words"))
    notes = Notes()
    source = DataSource(kind="webdataset", path="*.tar", references=["control.png"])
    (sample,) = read_shards(source, tmp_path, notes)
    assert sample.instruction == "words" and notes.lines() == ["1 examples without words, left out: 00.tar/x/1."]
    assert sample.target.pixels()[0, 32, 32].mul(255).tolist() == pytest.approx([220, 40, 40])
    assert sample.references[0].pixels()[0, 32, 32].mul(255).tolist() == pytest.approx([40, 70, 220])
    with pytest.raises(ValueError, match="No file fits"):
        read_shards(DataSource(path="*.zip"), tmp_path, notes)


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    config = from_values({"data": {"sources": [{"kind": "datasets", "path": "x"}]}}, tmp_path / "c.toml")
    with pytest.raises(ValueError, match="pip install datasets"):
        read_sources(config)


@pytest.mark.parametrize("stored", ["saved", "folder"])
def test_hugging_face_data_sets_are_read(tmp_path, stored):
    """Real ones, made by the library itself: as ``save_to_disk`` writes them, and as a folder of Parquet files."""
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed: pip install datasets")
    colours = ["red", "green", "blue"]
    rows = {
        "image": [picture(colour) for colour in colours],
        "before": [picture("yellow") for _ in colours],
        "caption": ["make it red", "make it green", "  "],
    }
    kinds = {"image": datasets.Image(), "before": datasets.Image(), "caption": datasets.Value("string")}
    try:
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    except Exception as error:  # before any code of the trainer: its version and that of another library do not agree
        pytest.skip(f"the library datasets cannot make a data set here: {error!r:.100}")
    if stored == "saved":
        made.save_to_disk(str(tmp_path / "set"))
    else:
        (tmp_path / "set").mkdir()
        made.to_parquet(str(tmp_path / "set" / "train-00000.parquet"))
    for references in ([], ["before"]):
        notes = Notes()
        source = DataSource(kind="datasets", path="set", references=references)
        found = read_hugging_face(source, tmp_path, notes)
        words = [sample.instruction if references else sample.caption for sample in found]
        assert words == ["make it red", "make it green"]
        assert notes.lines() == ["1 examples without words, left out: set row 2."]
        assert found[1].target.pixels()[0, 32, 32].mul(255).tolist() == pytest.approx([40, 170, 60])
        if references:
            assert found[1].references[0].pixels()[0, 32, 32].mul(255).tolist() == pytest.approx([240, 210, 50])
    with pytest.raises(ValueError, match="no column 'photo'; it has image, before, caption"):
        read_hugging_face(DataSource(kind="datasets", path="set", target="photo"), tmp_path, Notes())
    with pytest.raises(ValueError, match="'nowhere' cannot be loaded") as refused:
        read_hugging_face(DataSource(kind="datasets", path="nowhere"), tmp_path, Notes())
    assert "\n" not in str(refused.value)


def test_shards_that_webdataset_writes_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="the library webdataset is not installed")
    with webdataset.ShardWriter(str(tmp_path / "%04d.tar"), maxcount=2, verbose=0) as writer:
        for index, colour in enumerate(["red", "green", "blue"]):
            writer.write({"__key__": f"{index:03}", "png": picture(colour), "txt": f"a {colour} circle"})
    found = read_shards(DataSource(kind="webdataset", path="*.tar"), tmp_path, Notes())
    assert [sample.caption for sample in found] == ["a red circle", "a green circle", "a blue circle"]
    assert found[2].target.pixels()[0, 32, 32].mul(255).tolist() == pytest.approx([40, 70, 220])


def test_pictures_are_read_upright_on_white_and_broken_ones_named(tmp_path):
    image = picture("red", (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    turned = Picture.of_file(tmp_path / "turned.jpg")
    assert turned.size() == (60, 40) == tuple(turned.pixels().shape[1:3])
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert Picture.of_file(tmp_path / "clear.png").pixels().min() == 1
    Image.fromarray(np.full((8, 8), 30000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert Picture.of_file(tmp_path / "deep.png").pixels().mean() == pytest.approx(30000 / 65535)
    (tmp_path / "cut.png").write_bytes((tmp_path / "clear.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(BrokenPicture, match="text.png .no picture"):
        Picture.of_file(tmp_path / "text.png").size()
    with pytest.raises(BrokenPicture, match="cut.png"):
        Picture.of_file(tmp_path / "cut.png").pixels()


@pytest.mark.parametrize("size", [(64, 64), (1080, 1920), (1920, 1080), (500, 333), (4000, 300), (17, 2000), (1, 1)])
@pytest.mark.parametrize("pixels, step", [(4096, 16), (16384, 16), (512 * 512, 64), (1024 * 1024, 16)])
def test_buckets_are_multiples_of_the_step_and_stretch_nothing(size, pixels, step):
    made = bucket(*size, pixels, step)
    assert all(side % step == 0 and side > 0 for side in made) and made[0] * made[1] <= max(pixels, step**2)
    assert max(made) <= 4 * min(made)
    if max(size) / min(size) < 2 and pixels > 50 * step**2:
        assert made[0] * made[1] > 0.75 * pixels and lost(*size, made) < 0.12


def test_a_covered_bucket_keeps_circles_round():
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(150.0), indexing="ij")
    disc = (((y - 45) ** 2 + (x - 75) ** 2) < 30**2).float()[None, ..., None].expand(-1, -1, -1, 3)
    made = cover(disc, bucket(90, 150, 4096, 16))
    inside = made[0, ..., 0] > 0.5
    tall, wide = inside.any(1).sum(), inside.any(0).sum()
    assert abs(int(tall) - int(wide)) <= 1


def test_repeats_of_sources_and_an_empty_source(tmp_path):
    captions(tmp_path / "a", 2)
    values = {"data": {"labels": ["Image 1"], "sources": [{"path": "a", "repeats": 0.5}, {"path": "a"}]}}
    samples, _ = read_sources(from_values(values, tmp_path / "c.toml"))
    assert [(s.source, s.repeats, s.labels) for s in samples] == [(0, 0.5, ("Image 1",))] * 2 + [
        (1, 1.0, ("Image 1",))
    ] * 2
    (tmp_path / "none").mkdir()
    picture("red").save(tmp_path / "none" / "x.png")
    with pytest.raises(ValueError, match="'.*none' has no example.*1 pictures without a caption"):
        read_sources(from_values({"data": {"sources": [{"path": "none"}]}}, tmp_path / "c.toml"))
