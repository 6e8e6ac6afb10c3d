"""What the VERIFI Rewrite node keeps of its texts: in the workflow, and in the metadata of the pictures drawn from it."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.cli_args import args

from ...hidden_states import HiddenStates
from ...references import Reference
from ..encoders.text_encoder import VLM
from ..encoders.writing import precision_for
from . import encode

STATE = "verifi"  # property of the node in a workflow; web/js/studio.js reads and writes the same
KEPT = 20  # texts in the history


def remembered(state: dict | None, text: str, prompt: str, seed: int, report: str) -> dict:
    """The state of the studio after a text: newest first in the history, no text with its prompt twice.

    Args:
        state: before; fields of it that are not of this function stay.
    """
    state = state if isinstance(state, dict) else {}
    history = state.get("history")
    entry = {"text": text, "prompt": prompt, "seed": seed}
    older = [
        one
        for one in (history if isinstance(history, list) else [])
        if isinstance(one, dict) and (one.get("text"), one.get("prompt")) != (text, prompt)
    ]
    return {**state, "text": text, "prompt": prompt, "seed": seed, "report": report, "history": [entry, *older][:KEPT]}


def write_into_workflow(
    metadata: dict | None, number: str | None, *, text: str, prompt: str, seed: int, report: str
) -> None:
    """Put a text into the workflow that the savers of this run write into their pictures.

    A cached run does not come here; its workflow holds the text already, since the frontend kept it.

    Args:
        metadata: the hidden input ``extra_pnginfo``, changed in place; None where ComfyUI was given none.
        number: of the node; ``"5:3"`` is node 3 within the subgraph node 5.
    """
    workflow = (metadata or {}).get("workflow")
    if args.disable_metadata or number is None or not isinstance(workflow, dict):
        return
    if (node := _node_of(workflow, str(number).split(":"))) is not None:
        properties = node.setdefault("properties", {})
        properties[STATE] = remembered(properties.get(STATE), text, prompt, seed, report)


def _node_of(workflow: dict, path: Sequence[str]) -> dict | None:
    """The node at a path of numbers through subgraphs."""
    subgraphs = {graph.get("id"): graph for graph in (workflow.get("definitions") or {}).get("subgraphs", ())}
    graph: dict | None = workflow
    found = None
    for number in path:
        nodes = (graph or {}).get("nodes", ())
        found = next((node for node in nodes if str(node.get("id")) == number), None)
        if found is None:
            return None
        graph = subgraphs.get(found.get("type"))
    return found


def read_as_written(
    clip,
    prompt: str,
    *,
    profile: str = "auto",
    precision: str = "auto",
    taps: str = "",
    references: Sequence[Reference] | None = None,
    images: dict | None = None,
) -> tuple[HiddenStates, HiddenStates, str, str]:
    """The prompt without a rewrite, as VLM Encode reads it: (hidden states, negative, text, report)."""
    states, negative, report = encode.run(
        clip,
        prompt,
        profile=profile,
        precision=precision_for(VLM(clip), precision),
        taps=taps,
        references=references,
        images=images,
    )
    return (
        states._replace(text=states.prompt),
        negative,
        states.prompt,
        f"As written: the prompt was read as it is and nothing was written.\n{report}",
    )
