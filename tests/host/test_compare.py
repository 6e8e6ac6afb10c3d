"""One setting of any graph over several values, as one labelled sheet."""

import numpy as np
import pytest
import torch
from harness.krea2_graphs import node

ENCODE = dict(profile="auto", selection="as the profile", system_prompt="", taps="", precision="fp32")


def stock_graph(**compare) -> dict:
    """A reference, VLM Encode, the pool, ComfyUI's own sampler, decode and upscale; then Compare."""
    compare = dict(setting="strength", values="0, 1, 2", which="", columns=0) | compare
    return {
        "1": node("UniFusionLoadModel", model="bundled miniature"),
        "2": node("EmptyImage", width=128, height=128, batch_size=1, color=255),
        "3": node("UniFusionReference", image=["2", 0], label="", strength=1.0, detail="default", start=0.0, end=1.0),
        "4": node("UniFusionVLMEncode", clip=["1", 1], prompt="a circle", references=["3", 0], **ENCODE),
        "5": node(
            "UniFusionLayerwiseAttentionPool",
            model=["1", 0],
            positive=["4", 0],
            negative=["4", 1],
            gain_preset="off",
            gains="",
            keep_rms=True,
        ),
        "6": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "7": node(
            "KSampler",
            model=["5", 0],
            positive=["5", 1],
            negative=["5", 2],
            latent_image=["6", 0],
            seed=3,
            steps=2,
            cfg=1.5,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("ImageScaleBy", image=["8", 0], upscale_method="nearest-exact", scale_by=2.0),
        "10": node("UniFusionCompare", image=["9", 0], **compare),
        "11": node("SaveImage", images=["10", 0], filename_prefix="sheet"),
        "12": node("PreviewAny", source=["10", 1]),
    }


def run(server, graph) -> tuple[np.ndarray, str]:
    """The sheet's pixels and the report."""
    from PIL import Image

    done = server.finished(server.submit(graph))
    assert server.errors(done) == []
    name = done["outputs"]["11"]["images"][0]["filename"]
    sheet = np.asarray(Image.open(server.base / "output" / name).convert("RGB")).astype(int)
    return sheet, done["outputs"]["12"]["text"][0]


def picture_alone(server, graph, **change) -> np.ndarray:
    """The same graph without Compare, with other inputs of nodes: the upscaled picture."""
    from PIL import Image

    graph = {
        number: {**one, "inputs": dict(one["inputs"])} for number, one in graph.items() if number not in ("10", "12")
    }
    graph["11"]["inputs"]["images"] = ["9", 0]
    for number, inputs in change.items():
        graph[number[1:]]["inputs"] |= inputs
    done = server.finished(server.submit(graph))
    assert server.errors(done) == []
    name = done["outputs"]["11"]["images"][0]["filename"]
    return np.asarray(Image.open(server.base / "output" / name).convert("RGB")).astype(int)


def cells(sheet: np.ndarray, count: int, side: int = 256) -> list[np.ndarray]:
    """Pictures of a sheet of one row with a title."""
    from unifusion_pack.unifusion.picture_grid import GAP, line_for

    top = GAP + line_for(side) + GAP // 2
    return [sheet[top : top + side, left : left + side] for left in range(GAP, GAP + count * (side + GAP), side + GAP)]


def test_the_sheet_shows_what_the_graph_alone_draws_for_each_value(pack, server):
    graph = stock_graph(setting="strength", values="0; 1\n4")
    sheet, report = run(server, graph)
    for cell, strength in zip(cells(sheet, 3), (0.0, 1.0, 4.0)):
        assert np.array_equal(cell, picture_alone(server, graph, n3={"strength": strength})), strength
    assert "strength of node 3 (Reference) over 3 values: 0; 1; 4" in report
    assert "run once for all: 3 of 9 nodes" in report and "KSampler" in report.splitlines()[1]


@pytest.mark.parametrize(
    ("compare", "change"),
    [
        (dict(setting="seed", values="3, 18446744073709551615"), {"n7": {"seed": 18446744073709551615}}),
        (
            dict(setting="layer gains", values="1=1\n2=1.5, 3=0.5"),
            {"n5": dict(gain_preset="custom", gains="2=1.5, 3=0.5")},
        ),
        (dict(setting="layer left out", values="0, 2"), {"n5": dict(gain_preset="custom", gains="2=0")}),
        (
            dict(setting="system prompt", values="A\nDescribe the shapes."),
            {"n4": {"system_prompt": "Describe the shapes."}},
        ),
        (dict(setting="any input", which="7.cfg", values="1\n3.5"), {"n7": {"cfg": 3.5}}),
        (dict(setting="any input", which="7.sampler_name", values="euler\nheun"), {"n7": {"sampler_name": "heun"}}),
        (dict(setting="any input", which="#9.scale_by", values="1\n2.0"), {"n9": {"scale_by": 2.0}}),
    ],
)
def test_every_setting_is_that_of_the_graph(pack, server, compare, change):
    graph = stock_graph(**compare)
    sheet, _ = run(server, graph)
    assert np.array_equal(cells(sheet, 2)[1], picture_alone(server, graph, **change))


def test_what_does_not_change_runs_once_and_strengths_cost_the_encoder_nothing(pack, server):
    graph = stock_graph(values="0.25, 0.5, 3")
    graph["4"]["inputs"]["prompt"] = "a circle never read before"
    graph["13"] = node("UniFusionVLMEncode", clip=["1", 1], prompt="a circle never read before", **ENCODE)
    graph["13"]["inputs"]["references"] = ["3", 0]
    graph["14"] = node("PreviewAny", source=["13", 2])
    done = server.finished(server.submit(graph))
    assert server.errors(done) == []
    first = done["outputs"]["14"]["text"][0]
    graph["3"]["inputs"]["strength"] = 7.5
    again = server.finished(server.submit(graph))["outputs"]["14"]["text"][0]
    assert "work: 0 of 1 sequences computed" in again, (first, again)


def test_compare_does_not_draw_the_picture_that_it_is_wired_to(pack, server):
    graph = stock_graph(setting="seed", values="11, 12")
    assert {"8", "9"} <= set(graph)
    done = server.finished(server.submit(graph))
    assert server.errors(done) == [] and not {"7", "8", "9"} & set(done["outputs"])


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        (dict(setting="any input", which="7.sampler_name", values="no such"), "has no choice 'no such'"),
        (dict(setting="any input", which="7.cfg", values="1000"), "runs from 0 to 100"),
        (dict(setting="any input", which="7.model", values="x"), "is a connection"),
        (dict(setting="any input", which="7", values="x"), "as in '5.cfg'"),
        (dict(setting="any input", which="77.cfg", values="1"), "does not depend on such a node"),
        (dict(setting="strength", which="7", values="1"), "Node 7 has no input 'strength'"),
        (dict(setting="strength", values="99"), "runs from"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(pack, server, compare, said):
    done = server.finished(server.submit(stock_graph(**compare)))
    (error,) = server.errors(done)
    assert said in error and "\n" not in error.strip()


@pytest.mark.parametrize("values", ["", " , ,", "1, x", "nan", ",".join(map(str, range(99)))])
def test_bad_values_are_refused_before_the_queue(pack, server, values):
    with pytest.raises(ValueError, match="Compare needs 1 to|must be a number"):
        server.submit(stock_graph(values=values))


def test_a_graph_without_the_setting_says_so(bridge):
    compare = bridge("actions.sweep").sweep
    nodes = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    with pytest.raises(ValueError, match="No node in front of the picture has the setting 'seed'"):
        compare(["1", 0], nodes.__getitem__, setting="seed", values="1")


def test_inputs_may_be_called_as_the_builder_calls_its_own(bridge):
    """Inputs named 'id' or 'class_type', links to other outputs, and a node that is reached twice."""
    nodes = {
        "1": {"class_type": "A", "inputs": {"strength": 1, "id": 4, "class_type": "x"}},
        "2": {"class_type": "B", "inputs": {"self": ["1", 1], "also": ["1", 0]}},
        "3": {"class_type": "C", "inputs": {"left": ["2", 0], "right": ["1", 2], "model": ["0", 0]}},
        "0": {"class_type": "L", "inputs": {}},
    }
    made = bridge("actions.sweep").sweep(["3", 5], nodes.__getitem__, setting="strength", values="1, 2")
    built = made.nodes.finalize()
    assert len(built) == 6 and [link[1] for link in made.pictures] == [5, 5]
    last = built[made.pictures[1][0]]["inputs"]
    assert last["model"] == ["0", 0] and built[last["right"][0]]["inputs"] == {
        "strength": 2,
        "id": 4,
        "class_type": "x",
    }


def test_a_sheet_takes_pictures_of_any_size_and_batches(node):
    sheet_node = node("UniFusionLabelledSheet")
    images = {
        "image0": torch.rand(2, 40, 300, 3),
        "image1": torch.rand(1, 900, 30, 4),
        "image2": torch.rand(1, 1, 1, 1),
    }
    sheet = sheet_node.execute(images, "one\nzwei \ud83e", "title " * 99)[0]
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3 and torch.isfinite(sheet).all()
    assert max(sheet.shape) <= 4096 + 64
    with pytest.raises(ValueError, match="1 to 64 pictures"):
        sheet_node.execute({"image0": torch.rand(65, 8, 8, 3)}, "", "")
