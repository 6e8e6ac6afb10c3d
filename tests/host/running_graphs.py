"""The shipped graphs that run on what the pack ships, marked with what they need of the host."""

import pytest
from harness.graphs import GRAPHS, Graph


def needs(graph: Graph) -> list:
    strengths = {node.inputs.get("strength", 1.0) for node in graph.nodes.values()}
    return [pytest.mark.needs("weights")] if strengths - {0.0, 1.0} else []


RUNNING = [pytest.param(graph, id=graph.name, marks=needs(graph)) for graph in GRAPHS if graph.runs]


def picture_of(server, graph: Graph, history: dict) -> list[dict]:
    """The files a graph has drawn.

    Raises:
        ValueError: with the nodes' own words if it stopped.
    """
    if errors := server.errors(history):
        raise ValueError("; ".join(errors))
    return history["outputs"][str(graph.ids()[graph.picture])]["images"]
