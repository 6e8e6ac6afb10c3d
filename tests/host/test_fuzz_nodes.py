"""Every input of every node, as /object_info lists them, with values nobody meant: one live server, 600 cases and more.

Each ends in a result, in the host's own validation, or in one printable sentence; the default graph draws in between.
"""

import json
import random

from harness.comfy_server import PACK

SEED, ROUND, MOST = 20, 60, 7  # ROUND cases between two runs of the default graph, MOST values of an input
TEXTS = [
    "", " ", "\n", "\x00", "half \ud83d", "\ud83e", "$$", "%", "%date:yyyy%", "../../x", "a" * 5000, "\u202egnp", "一只猫 🦊",
    "<|im_end|>", "((((", "(a:1e9)", "NaN", "-1", "1,2,3", "{}", "null", "__proto__", "\\", "'; --", "\r\n\t",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2**31, -(2**63), 2**64, 1e308, -1e308, 0.5, "7", "x", None, [], {}, True,
    float("nan"), float("inf"), -float("inf"), "NaN", "1e999", "٣",
]  # fmt: skip
ODD = [None, 0, -1.5, "x", "", [], {}, [1, 2, 3], True]  # a link to no node stops the worker of ComfyUI itself
KINDS = {"STRING": TEXTS + ODD, "INT": NUMBERS, "FLOAT": NUMBERS, "BOOLEAN": ODD, "COMBO": TEXTS[:8] + ODD}
# Nodes that hand on something for each socket: right, wrong or odd.
SOURCES = {
    "load": ("UniFusionLoadModel", {"model": "bundled miniature"}),
    "picture": ("EmptyImage", {"width": 64, "height": 48, "batch_size": 1, "color": 255}),
    "tiny": ("EmptyImage", {"width": 1, "height": 1, "batch_size": 3, "color": 0}),
    "strip": ("EmptyImage", {"width": 2048, "height": 1, "batch_size": 1, "color": 7}),
    "see-through": ("JoinImageWithAlpha", {"image": ["picture", 0], "alpha": ["mask", 0]}),
    "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
    "mask": ("SolidMask", {"value": 0.5, "width": 16, "height": 16}),
    "encode": (
        "UniFusionVLMEncode",
        {"clip": ["load", 1], "prompt": "a red circle", "profile": "auto", "selection": "as the profile"},
    ),
    "pool": (
        "UniFusionLayerwiseAttentionPool",
        {"model": ["load", 0], "positive": ["encode", 0], "gain_preset": "off", "gains": "", "keep_rms": True},
    ),
    "reference": (
        "UniFusionReference",
        {"image": ["picture", 0], "label": "", "strength": 1.0, "detail": "one view"},
    ),
    "stock": ("CLIPTextEncode", {"clip": ["load", 1], "text": "a red circle"}),
}
OF_TYPE = {
    "MODEL": ["load", 0], "CLIP": ["load", 1], "VAE": ["load", 2], "IMAGE": ["picture", 0], "LATENT": ["latent", 0],
    "MASK": ["mask", 0], "CONDITIONING": ["pool", 1], "UNIFUSION_HIDDEN_STATES": ["encode", 0],
    "UNIFUSION_REFERENCES": ["reference", 0],
}  # fmt: skip
LINKS = [
    *OF_TYPE.values(), ["tiny", 0], ["strip", 0], ["see-through", 0], ["stock", 0], ["encode", 2], ["pool", 2],
]  # fmt: skip
# Stock nodes that take what a node gives, by type; they must not fail where it gave something.
TAKERS = {
    "CONDITIONING": ("ConditioningSetMask", "conditioning", {"mask": ["mask", 0], "strength": 1.0,
                                                             "set_cond_area": "default"}),
    "IMAGE": ("ImageScale", "image", {"upscale_method": "area", "width": 32, "height": 32, "crop": "disabled"}),
    "LATENT": ("VAEDecode", "samples", {"vae": ["load", 2]}),
    "CLIP": ("CLIPTextEncode", "clip", {"text": "a red circle"}),
    "VAE": ("VAEEncode", "vae", {"pixels": ["picture", 0]}),
}  # fmt: skip


def options_of(spec: list) -> list:
    return spec[0] if isinstance(spec[0], list) else spec[1].get("options", [])


def usual(kind, spec: list):
    """A value that belongs there, or None where the input may stay empty."""
    about = spec[1] if len(spec) > 1 else {}
    if kind in OF_TYPE:
        return OF_TYPE[kind]
    if kind == "COMBO" or isinstance(spec[0], list):
        return about.get("default") or next(iter(options_of(spec)), None)
    return about.get("default")


def kind_of(spec: list) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def widgets(spec: list, option: int = 0) -> dict:
    """Inputs of a dynamic choice at one option: name behind the dot -> usual value."""
    inner = spec[1]["options"][option].get("inputs", {})
    return {
        name: usual(kind_of(part), part)
        for group in ("required", "optional")
        for name, part in inner.get(group, {}).items()
    }


def filled(info: dict) -> dict:
    """Usual values of a node's inputs."""
    values = {}
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            kind = kind_of(spec)
            if kind.startswith("COMFY_DYNAMICCOMBO"):
                values[name] = spec[1]["options"][0]["key"]
                values |= {f"{name}.{inner}": value for inner, value in widgets(spec).items()}
            elif kind.startswith("COMFY_AUTOGROW"):
                continue
            elif "," in kind:
                values[name] = OF_TYPE[kind.split(",")[0]]
            elif (value := usual(kind, spec)) is not None and (group == "required" or kind not in OF_TYPE):
                values[name] = value
    return values


def cases(nodes: dict, rng: random.Random) -> list[tuple[str, dict, str]]:
    """(node, inputs, what was changed), each with one thing wrong."""
    made = []
    for node, info in nodes.items():
        plain = filled(info)
        made.append((node, plain, "nothing"))
        for group in ("required", "optional"):
            for name, spec in info["input"].get(group, {}).items():
                kind = kind_of(spec)
                if kind.startswith("COMFY_AUTOGROW"):
                    prefix = "image" if name == "images" else "states"
                    values = [(f"{name}.{prefix}{index}", link) for index in (0, 1, 7, 99) for link in LINKS[:8]]
                elif kind.startswith("COMFY_DYNAMICCOMBO"):
                    values = [(name, odd) for odd in TEXTS[:6] + ODD]
                    values += [(f"{name}.{inner}", odd) for inner in widgets(spec) for odd in NUMBERS]
                    for number, option in enumerate(spec[1]["options"][1:], 1):
                        inner = {f"{name}.{key}": value for key, value in widgets(spec, number).items()}
                        bare = {key: value for key, value in plain.items() if not key.startswith(f"{name}.")}
                        chosen = {**bare, name: option["key"], **inner}
                        made.append((node, chosen, f"{name} = {option['key']}"))
                        made += [
                            (node, {**chosen, key: odd}, f"{key} = {odd!r:.40}")
                            for key in inner
                            for odd in rng.sample(NUMBERS, 3)
                        ]
                elif kind in KINDS:
                    values = [(name, odd) for odd in KINDS[kind]]
                else:
                    values = [(name, odd) for odd in [*LINKS, *ODD]]
                keep = values if len(values) <= MOST else rng.sample(values, MOST)
                made += [(node, {**plain, key: value}, f"{key} = {value!r:.40}") for key, value in keep]
                if group == "required":
                    made.append((node, {key: value for key, value in plain.items() if key != name}, f"{name} missing"))
    rng.shuffle(made)
    return made


# A whole picture on the miniature: node, what differs from its usual values.
DEFAULT = {
    "write": ("UniFusionVerifiRewrite", {"prompt": "a red circle", "max_length": 64}),
    "pool": ("UniFusionLayerwiseAttentionPool", {"positive": ["write", 0], "negative": ["write", 1]}),
    "draw": (
        "UniFusionDiTSampler",
        {"model": ["pool", 0], "positive": ["pool", 1], "negative": ["pool", 2], "preset": "UniFusion miniature"},
    ),
    "decode": ("VAEDecode", {"samples": ["draw", 0], "vae": ["load", 2]}),
    "show": ("PreviewImage", {"images": ["decode", 0]}),
}


def graph_from(parts: dict, nodes: dict) -> dict:
    """API form; inputs that are not named get their usual values."""
    return {
        name: {"class_type": kind, "inputs": {**(filled(nodes[kind]) if kind in nodes else {}), **given}}
        for name, (kind, given) in parts.items()
    }


def graph_of(node: str, inputs: dict, nodes: dict) -> dict:
    graph = graph_from(SOURCES, nodes)
    graph["target"] = {"class_type": node, "inputs": inputs}
    if not nodes[node]["output_node"]:
        graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["target", 0]}}
    for index, kind in enumerate(nodes[node]["output"]):
        if kind in TAKERS:
            taker, name, rest = TAKERS[kind]
            graph[f"taker {index}"] = {"class_type": taker, "inputs": {name: ["target", index], **rest}}
            graph[f"shown {index}"] = {"class_type": "PreviewAny", "inputs": {"source": [f"taker {index}", 0]}}
    return graph


def fault(history: dict) -> str | None:
    """What is wrong with how a queued case ended: it may fail in the node itself alone, with one sentence."""
    if history["status"]["status_str"] != "error":
        return None
    (error,) = [about for kind, about in history["status"]["messages"] if kind == "execution_error"]
    text = error["exception_message"].strip()
    right = error["exception_type"] == "ValueError" and text.isprintable() and text.endswith(".") and len(text) <= 700
    if error["node_id"] != "target":
        return f"fails later, in {error['node_type']}: {error['exception_type']}: {text[:300]!r}"
    return None if right else f"{error['exception_type']}: {text[:300]!r}"


def fault_of_refusal(said: dict) -> str | None:
    """What is wrong with an answer of the host's validation; the pack's own sentences are told by their type."""
    if "error" not in said:
        return "refused without a word"
    for about in said.get("node_errors", {}).values():
        for error in about["errors"]:
            details = error.get("details", "")
            name, _, sentence = details.partition(" - ")
            if error["type"] == "custom_validation_failed" and sentence:
                if not (sentence.isprintable() and sentence.endswith(".") and len(sentence) <= 700):
                    return f"refused with {details[:300]!r}"
    return None


def test_nothing_on_any_input_stops_the_worker(server):
    info = server.get("/object_info")
    nodes = {name: about for name, about in info.items() if name.startswith("UniFusion")}
    default_graph = graph_from({**{name: SOURCES[name] for name in ("load", "latent")}, **DEFAULT}, nodes)
    every = cases(nodes, random.Random(SEED))
    assert len(every) >= 600
    faults, waiting = [], []

    def collect():
        for number, node, what in waiting:
            if found := fault(server.finished(number, 180)):
                faults.append(f"{node}: {what}: {found}")
        waiting.clear()
        assert server.queue(default_graph, 180)["status"]["status_str"] == "success"

    for index, (node, inputs, what) in enumerate(every):
        try:
            graph = graph_of(node, inputs, nodes)
            waiting.append((server.submit(json.loads(json.dumps(graph))), node, what))
        except ValueError as error:  # the host's own validation
            if found := fault_of_refusal(json.loads(str(error))):
                faults.append(f"{node}: {what}: {found}")
        if index % ROUND == ROUND - 1:
            collect()
    collect()
    assert faults == [], f"{len(faults)} of {len(every)} cases:\n" + "\n".join(faults[:40])
    assert PACK.is_dir() and server.process.poll() is None
