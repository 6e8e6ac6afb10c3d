"""A comparison inside ComfyUI's running graph: the Compare node."""

from __future__ import annotations

from comfy_execution import graph as host_graph
from comfy_execution.graph import get_input_info
from comfy_execution.graph_utils import is_link

from ...picture_grid import columns_for
from .sweep import sweep

host = host_graph.nodes  # ComfyUI's module "nodes"; a type checker takes that name for the folder of this pack

SHEET = "UniFusionLabelledSheet"


def _declared(kind: str, name: str) -> tuple | None:
    """(type, options) of an input as its node declares it; None for growing and dynamic inputs."""
    declared = get_input_info(host.NODE_CLASS_MAPPINGS[kind], name) if kind in host.NODE_CLASS_MAPPINGS else None
    return None if not declared or declared[0] is None else (declared[0], declared[2] or {})


def run(image, graph, *, setting: str, values: str, which: str = "", columns: int = 0) -> tuple[list, str, dict]:
    """Returns (link to the sheet, report, nodes to be put into the running graph).

    Args:
        image: the link that the picture would come through.
        graph: ComfyUI's ``DynamicPrompt``.

    Raises:
        ValueError: if the picture is no link, the setting is not in the graph, or a value does not fit.
    """
    if not is_link(image) or graph is None:
        raise ValueError("Compare: 'image' needs a connection to the end of a graph, such as VAE Decode.")
    made = sweep(
        image,
        graph.get_node,
        setting=setting,
        values=values,
        which=which,
        declared=_declared,
        title_of=lambda kind: host.NODE_DISPLAY_NAME_MAPPINGS.get(kind, kind),
    )
    sheet = made.nodes.node(SHEET, "sheet")
    sheet.inputs = {f"images.image{index}": link for index, link in enumerate(made.pictures)}
    report = f"{made.report}\nthe sheet has {columns_for(len(made.pictures), columns)} pictures in a row"
    title = made.report.split(" over ")[0]
    sheet.inputs |= {"labels": "\n".join(made.labels), "title": title, "columns": columns, "note": report}
    return sheet.out(0), report, made.nodes.finalize()
