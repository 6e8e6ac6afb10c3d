"""The templates of models that do not ship: valid on a real server, and run whole on small random models."""

import importlib
from functools import cache

import pytest
import torch
from harness.graphs import GRAPHS, IDEOGRAM, KLEIN, QWEN_EDIT, Z_IMAGE
from harness.tapped_drawers import make_drawer
from harness.tapped_models import make_encoder

encoder, drawer = cache(make_encoder), cache(make_drawer)
ROWS = {KLEIN.name: "flux2-klein-4b", Z_IMAGE.name: "z-image", QWEN_EDIT.name: "qwen-image", IDEOGRAM.name: "ideogram4"}
TEMPLATES = [KLEIN, Z_IMAGE, QWEN_EDIT, IDEOGRAM]
PARTS = ("nodes_flux", "nodes_sd3", "nodes_edit_model", "nodes_cfg", "nodes_custom_sampler", "nodes_ideogram4")
PARTS += ("nodes_resolution", "nodes_model_advanced")


@pytest.fixture(scope="module")
def classes(node):
    """Node classes by their id: ComfyUI's own and the pack's."""
    import nodes

    def find(kind):
        if kind.startswith("UniFusion"):
            return node(kind)
        if kind in nodes.NODE_CLASS_MAPPINGS:
            return nodes.NODE_CLASS_MAPPINGS[kind]
        for part in PARTS:
            module = importlib.import_module(f"comfy_extras.{part}")
            if hasattr(module, kind):
                return getattr(module, kind)
            if kind in getattr(module, "NODE_CLASS_MAPPINGS", {}):
                return module.NODE_CLASS_MAPPINGS[kind]
        raise KeyError(kind)

    return find


def arguments(inputs):
    """As ComfyUI hands them to a node: what stands behind a dot is a dictionary."""
    plain = {name: value for name, value in inputs.items() if "." not in name}
    for name, value in inputs.items():
        if "." in name:
            group, key = name.split(".")
            plain.setdefault(group, {})
            plain[group][key] = value
    for name in ("sampling", "preset"):
        if name in plain:
            plain[name] = {name: plain[name]}
    return plain


def run(graph, classes, key):
    """Results of all nodes of a template, its models replaced by small random ones and its VAE by a reshape."""
    network = drawer(key)
    made = {
        "UNETLoader": lambda unet_name, **_: (network,),
        "CLIPLoader": lambda type, **_: (encoder("krea2" if type == "krea2" else key),),
        "VAELoader": lambda **_: (None,),
        "VAEDecode": lambda samples, **_: (samples["samples"],),
        "VAEEncode": lambda pixels, **_: ({"samples": torch.zeros(1, 16, 1, 8, 12)},),
        "SaveImage": lambda images, **_: (),
    }
    small = {"width": 128, "height": 128, "steps": 2, "max_length": 3, "megapixels": 0.0}
    results = {}
    for name, one in graph.nodes.items():
        inputs = {
            given: small.get(given, results[value[0]][value[1]] if isinstance(value, tuple) else value)
            for given, value in one.inputs.items()
        }
        if one.type in made:
            results[name] = made[one.type](**inputs)
            continue
        kind = classes(one.type)
        function = getattr(kind, "execute", None) or getattr(kind(), kind.FUNCTION)
        out = function(**arguments(inputs))
        values = out if isinstance(out, tuple) else out.result
        several = getattr(kind, "OUTPUT_IS_LIST", None) or [False] * len(values)  # one for each variation
        results[name] = tuple(value[0] if many else value for value, many in zip(values, several))
    return results


@pytest.mark.parametrize("graph", TEMPLATES, ids=lambda graph: graph.name)
def test_it_runs_whole_on_small_random_models(classes, graph):
    results = run(graph, classes, ROWS[graph.name])
    drawn = results["decode"][0]
    assert torch.isfinite(drawn).all() and drawn.std() > 0.01
    assert results["rewrite"][2]


def test_two_models_guide_ideogram_as_its_stock_graph_does(bridge, classes):
    """Neutral conditioning through the pool, drawn by two models, equals ComfyUI's own conditioning drawn by them."""
    import nodes

    clip, model, other = encoder("ideogram4"), drawer("ideogram4"), make_drawer("ideogram4", seed=5)
    stock = clip.encode_from_tokens_scheduled(clip.tokenize('{"a": "b"}'))
    ready, positive, *_ = bridge("actions.pool").run(model, bridge("actions.encode").run(clip, '{"a": "b"}')[0])
    drawn = []
    for network, conditioning in ((model, stock), (ready, positive)):
        late = classes("CFGOverride").execute(network, 3.0, 0.7, 1.0).result[0]
        zeros = nodes.ConditioningZeroOut().zero_out(conditioning)[0]
        guider = classes("DualModelGuider").execute(late, conditioning, 7.0, other, zeros).result[0]
        noise = classes("RandomNoise").execute(3).result[0]
        sigmas = classes("Ideogram4Scheduler").execute(3, 256, 256, 0.0, 1.75).result[0]
        euler = classes("KSamplerSelect").execute("euler").result[0]
        latent = {"samples": torch.zeros(1, 128, 4, 6)}
        sampled = classes("SamplerCustomAdvanced").execute(noise, guider, euler, sigmas, latent)
        drawn.append(sampled.result[0]["samples"])
    assert torch.equal(*drawn) and drawn[0].std() > 0.01


def test_a_real_server_takes_every_template_and_stops_only_at_the_files_that_are_not_there(server):
    missing = [graph for graph in GRAPHS if not graph.runs]
    assert {graph.name for graph in TEMPLATES} < {graph.name for graph in missing}
    for graph in missing:
        for model in (model for one in graph.nodes.values() for model in one.models):
            path = server.base / "models" / model["directory"] / model["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for graph in missing:
        errors = server.errors(server.finished(server.submit(graph.api())))
        assert errors and not any("UniFusion" in error.split("\n")[0] for error in errors), (graph.name, errors)
