"""What a real server serves of the pack: nodes, languages, help, templates, blueprint, and graphs through the API."""

import json
import os
import time
import urllib.error
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from harness.graphs import BLUEPRINTS, GRAPHS, INSPECT, SAVED, TWO
from PIL import Image
from running_graphs import RUNNING, picture_of

from recipes.miniature.scorer import read_scene
from unifusion.miniature import DIT_FILE

PACK = Path(__file__).resolve().parents[2]
CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))
TRAINED = DIT_FILE.is_file()
LISTED = os.path.join("unifusion_miniature", "{}.safetensors")
needs_weights = pytest.mark.skipif(not TRAINED, reason="the bundled weights are not here")


def test_every_node_is_registered_and_belongs_to_the_pack(server):
    info = server.get("/object_info")
    own = {name for name, about in info.items() if about["python_module"] == "custom_nodes.UniFusion"}
    assert own == set(CONTRACT)


def test_languages_are_served(server):
    languages = server.get("/i18n")
    for language in ("en", "de", "ja", "zh"):
        assert set(CONTRACT) <= set(languages[language]["nodeDefs"])
        assert "UNIFUSION_REFERENCES" in languages[language]["dataTypes"]


def test_help_pages_and_their_pictures_are_served(server):
    for node in CONTRACT:
        page = server.raw(f"/extensions/UniFusion/docs/{node}.md").decode()
        assert page.startswith("# ")
        assert server.raw(f"/extensions/UniFusion/docs/pictures/{node}.png").startswith(b"\x89PNG")


def test_templates_are_listed_and_served_with_their_pictures(server):
    assert sorted(server.get("/workflow_templates")["UniFusion"]) == sorted(graph.name for graph in GRAPHS)
    for graph in GRAPHS:
        address = "/api/workflow_templates/UniFusion/" + urllib.parse.quote(graph.name)
        assert json.loads(server.raw(address + ".json"))["nodes"]
        assert server.raw(address + ".jpg").startswith(b"\xff\xd8\xff")


def test_the_blueprints_are_offered(server):
    found = [
        entry["name"]
        for entry in server.get("/global_subgraphs").values()
        if entry["info"]["node_pack"] == "custom_nodes.UniFusion"
    ]
    assert sorted(found) == sorted(["Prompt to conditioning (UniFusion)", *(one.name for one in BLUEPRINTS)])


@needs_weights
def test_every_list_of_files_has_what_its_node_can_load_and_no_more(server):
    """In 0.1.0 Load VAE offered the drawing model, and both loaders the language model."""
    offered = {}
    for node, about in server.get("/object_info").items():
        for inputs in about["input"].values():
            for name, (kind, *settings) in inputs.items():
                known = settings[0] if settings and isinstance(settings[0], dict) else {}
                listed = kind if isinstance(kind, list) else known.get("options", [])
                if names := {str(one) for one in listed if "unifusion_miniature" in str(one)}:
                    offered[node, name] = names
    kinds = {"UNETLoader": ("unet_name", "dit"), "VAELoader": ("vae_name", "vae")}
    for node, (name, part) in kinds.items():
        assert offered[node, name] == {LISTED.format(part)}
    drawing = {LISTED.format("dit")}
    assert all(names in (drawing, {LISTED.format("vae")}) for names in offered.values()), offered
    assert not any("clip" in name or "text_encoder" in name for _, name in offered), offered


@needs_weights
def test_a_graph_of_0_1_0_loads_the_parts_by_the_names_it_saved(server):
    """Stock loaders of both files, the pack's own for the language model; the picture is the pack's own loader's."""

    def drawn(model, vae):
        api = {
            "1": {"class_type": "UniFusionLoadModel", "inputs": {"model": "bundled miniature"}},
            "2": {"class_type": "UNETLoader", "inputs": {"unet_name": LISTED.format("dit"), "weight_dtype": "default"}},
            "3": {"class_type": "VAELoader", "inputs": {"vae_name": LISTED.format("vae")}},
            "4": {
                "class_type": "CLIPTextEncode",
                "inputs": {"clip": ["1", 1], "text": "a red circle on a white background"},
            },
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
            "6": {
                "class_type": "KSampler",
                "inputs": {
                    "model": model,
                    "seed": 4,
                    "steps": 4,
                    "cfg": 1.0,
                    "sampler_name": "euler",
                    "scheduler": "simple",
                }
                | {"positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0], "denoise": 1.0},
            },
            "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": vae}},
            "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "parts"}},
        }
        history = server.queue(api)
        assert server.errors(history) == []
        found = history["outputs"]["8"]["images"][0]
        return Image.open(server.base / found["type"] / found["subfolder"] / found["filename"]).tobytes()

    assert drawn(["2", 0], ["3", 0]) == drawn(["1", 0], ["1", 2])


@needs_weights
@pytest.mark.parametrize("graph", RUNNING)
def test_workflows_on_the_miniature_run_through_the_api(server, graph):
    assert picture_of(server, graph, server.queue(graph.api()))


def scenes(server, graph, *saves):
    """What the scorer reads from the pictures that nodes of a template save, enlarged for the eye."""
    outputs = server.queue(graph.api())["outputs"]
    for save in saves:
        found = outputs[str(graph.ids()[save])]["images"][0]
        picture = Image.open(server.base / found["type"] / found["subfolder"] / found["filename"])
        yield read_scene(np.asarray(picture.convert("RGB").resize((128, 128), Image.Resampling.BOX)))


@needs_weights
def test_strengths_of_two_references_show_as_the_template_says(server):
    strong, even = scenes(server, TWO, "save", "even_save")
    assert (strong.background, even.background) == ("navy", "white")
    for scene in (strong, even):
        assert {(thing.color, thing.shape) for thing in scene.things} == {("red", "heart"), ("yellow", "star")}


@needs_weights
def test_silenced_layers_show_as_the_template_says(server):
    whole, less = scenes(server, INSPECT, "save", "less_save")
    assert [(thing.color, thing.shape, thing.cell) for thing in whole.things] == [("green", "circle", 4)]
    assert ("circle", 4) not in {(thing.shape, thing.cell) for thing in less.things}


@pytest.mark.parametrize("graph", [graph for graph in GRAPHS if not graph.runs], ids=lambda graph: graph.name)
def test_workflows_on_krea_2_lack_nothing_but_the_files_they_offer_to_download(server, graph):
    with pytest.raises(ValueError) as refusal:
        server.queue(graph.api())
    ids = graph.ids()
    loaders = {str(ids[key]): node for key, node in graph.nodes.items() if node.models}
    errors = json.loads(str(refusal.value))["node_errors"]
    assert set(errors) == set(loaders)
    for number, about in errors.items():
        assert [error["type"] for error in about["errors"]] == ["value_not_in_list"]
        assert about["errors"][0]["extra_info"]["received_value"] == loaders[number].models[0]["name"]


@needs_weights
def test_loaded_conditioning_draws_the_same_picture_with_nothing_but_a_drawing_model(server):
    """Saved by one graph; loaded by another that has the stock loaders and no text encoder at all."""
    first = server.queue(SAVED.api())
    ids = SAVED.ids()
    file = first["outputs"][str(ids["store"])]["text"][0].split("saved: ")[1].split(", ")[0]
    api = SAVED.api()
    without = {
        number: node
        for number, node in api.items()
        if int(number) not in {ids[key] for key in ("load", "rewrite", "pool", "store")}
    }
    without["90"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": LISTED.format("dit"), "weight_dtype": "default"},
    }
    without["91"] = {"class_type": "VAELoader", "inputs": {"vae_name": LISTED.format("vae")}}
    without[str(ids["restore"])]["inputs"] = {"file": file, "model": ["90", 0]}
    without[str(ids["decode"])]["inputs"]["vae"] = ["91", 0]
    second = server.queue(without)
    assert server.errors(second) == []

    def pixels(history):
        found = history["outputs"][str(ids["save"])]["images"][0]
        return Image.open(server.base / found["type"] / found["subfolder"] / found["filename"]).tobytes()

    assert pixels(first) == pixels(second)


@needs_weights
def test_a_damaged_file_stops_the_graph_with_one_sentence(server):
    target = server.base / "input" / "broken.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"\x80\x04not a safetensors file")
    history = server.queue(
        {
            "1": {"class_type": "UniFusionLoadConditioning", "inputs": {"file": "broken.safetensors"}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 5]}},
        }
    )
    assert server.errors(history) == [
        "UniFusionLoadConditioning: 'broken.safetensors' cannot be loaded: it is a "
        "pickle or an archive, not a safetensors file."
    ]


def test_foreign_files_in_the_folders_cost_no_node(server):
    """Each of these made /object_info answer 500, or take many seconds, with 0.1.0."""
    target = server.base / "input" / "foreign"
    target.mkdir(parents=True, exist_ok=True)
    for number, header in enumerate(
        (
            b'{"__metadata__": null}',
            b'{"__metadata__": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}",
            b'{"__metadata__":{"unifusion.kind":5}}',
            b'{"__metadata__":{"a":"' + b"x" * 32_000_000 + b'"}}',
        )
    ):
        (target / f"{number}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (target / "folder.safetensors").mkdir(exist_ok=True)
    start = time.monotonic()
    about = server.get("/object_info/UniFusionLoadConditioning")["UniFusionLoadConditioning"]
    assert time.monotonic() - start < 3 and not any("foreign" in name for name in options_of(about))


def options_of(about: dict) -> list[str]:
    kind, *more = about["input"]["required"]["file"]
    return kind if isinstance(kind, list) else more[0]["options"]


@needs_weights
def test_names_are_filled_in_or_refused_and_the_worker_lives(server):
    def saved(prefix: str) -> dict:
        model = server.get("/object_info/UniFusionLoadModel")["UniFusionLoadModel"]["input"]["required"]["model"]
        return server.queue(
            {
                "1": {"class_type": "UniFusionLoadModel", "inputs": {"model": model[1]["default"]}},
                "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a fox"}},
                "3": {
                    "class_type": "UniFusionSaveConditioning",
                    "inputs": {"positive": ["2", 0], "filename_prefix": prefix},
                },
            }
        )

    for prefix in ("a/.x", "x" * 300, "nul/x", ""):
        (error,) = server.errors(saved(prefix))
        assert "UniFusionSaveConditioning: The file name prefix '" in error and error.endswith(".")
    assert server.errors(saved("half \ud83d")) == []
    history = saved("%date:yyyy%/seed %CLIPTextEncode.text%")
    name = history["outputs"]["3"]["text"][0].split("saved: ")[1].split(", ")[0]
    assert name == f"{time.localtime().tm_year}/seed a fox_00001_.safetensors [output]"
    assert name in options_of(server.get("/object_info/UniFusionLoadConditioning")["UniFusionLoadConditioning"])


def test_a_path_outside_the_folders_is_refused_before_anything_runs(server):
    with pytest.raises(ValueError, match="leaves ComfyUI's input and output folders|is not in ComfyUI's"):
        server.queue(
            {
                "1": {"class_type": "UniFusionLoadConditioning", "inputs": {"file": "../server.log"}},
                "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 5]}},
            }
        )


def test_nothing_outside_web_is_served(server):
    for path in ("/extensions/UniFusion/../nodes/extension.py", "/extensions/UniFusion/nodes/extension.py"):
        with pytest.raises(urllib.error.HTTPError):
            server.raw(path)
