"""What the VERIFI Rewrite node keeps of its texts: in the workflow, and in the metadata of the pictures drawn from it."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.cli_args import args
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...hidden_states import HiddenStates
from ...references import Reference
from ..encoders.text_encoder import VLM
from ..encoders.writing import precision_for
from . import encode
from .later import Later

STATE = "verifi"  # property of the node in a workflow; web/js/studio.js reads and writes the same
KEPT = 20  # texts in the history
VARIATIONS = "variations"  # field of the state: what each picture of the last run was drawn from


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


class OfEachPicture(dict):
    """The studio's state in a workflow while several texts are drawn.

    A saver runs once for each picture and writes the workflow down every time; which of the pictures it is at is known
    to ComfyUI. So each picture's metadata holds the text it was drawn from. Elsewhere it is the first text's state.
    """

    def __init__(self, states: Sequence[dict]):
        super().__init__(states[0])
        self.states = tuple(states)

    def _now(self) -> dict:
        context = get_executing_context()
        index = (context.list_index if context is not None else None) or 0
        return self.states[min(index, len(self.states) - 1)]

    def items(self):
        return self._now().items()

    def values(self):
        return self._now().values()

    def get(self, key, default=None):
        return self._now().get(key, default)

    def __getitem__(self, key):
        return self._now()[key]


def state_after(state: dict | None, texts: Sequence[tuple[str, int, str]], prompt: str) -> dict:
    """The studio's state after a run.

    Args:
        state: before.
        texts: (text, seed, report) of every picture.
        prompt: what they were written for.
    """
    for text, seed, report in reversed(texts):  # the first is the newest
        state = remembered(state, text, prompt, seed, report)
    if len(texts) == 1:
        return {**state, VARIATIONS: []}
    drawn = [{"text": text, "seed": seed, "report": report} for text, seed, report in texts]
    return OfEachPicture([{**state, **one, VARIATIONS: drawn} for one in drawn])


def joined_report(texts: Sequence[tuple[str, int, str]]) -> str:
    """One report of a run: as it is for one text, else one part for each with its seed."""
    if len(texts) == 1:
        return texts[0][2]
    return "\n\n".join(
        f"Picture {number}, seed {seed}: {text}\n{report}" for number, (text, seed, report) in enumerate(texts, 1)
    )


def write_into_workflow(
    metadata: dict | None, number: str | None, *, texts: Sequence[tuple[str, int, str]], prompt: str
) -> None:
    """Put what was written into the workflow that the savers of this run write into their pictures.

    A cached run does not come here; its workflow holds the text already, since the frontend kept it.

    Args:
        metadata: the hidden input ``extra_pnginfo``, changed in place; None where ComfyUI was given none.
        number: of the node; ``"5:3"`` is node 3 within the subgraph node 5.
        texts: (text, seed, report) of every picture.
        prompt: what they were written for.
    """
    workflow = (metadata or {}).get("workflow")
    if args.disable_metadata or number is None or not isinstance(workflow, dict):
        return
    if (node := _node_of(workflow, str(number).split(":"))) is not None:
        properties = node.setdefault("properties", {})
        properties[STATE] = state_after(properties.get(STATE), texts, prompt)


def register() -> None:
    """Have the queue tell pictures of an earlier run apart."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and tell_pictures_apart not in server.on_prompt_handlers:
        server.add_on_prompt_handler(tell_pictures_apart)


def tell_pictures_apart(request: dict) -> dict:
    """What comes to the queue: texts of an earlier run, whose pictures are drawn from the cache, belong to one each.

    Args:
        request: JSON of ComfyUI's ``/prompt``, changed in place and returned; anything else than expected stays.
    """
    if args.disable_metadata:
        return request
    workflow = request
    for key in ("extra_data", "extra_pnginfo", "workflow"):
        workflow = workflow.get(key) if isinstance(workflow, dict) else None
    if not isinstance(workflow, dict):
        return request
    inner = workflow.get("definitions")
    graphs = [workflow, *(inner.get("subgraphs") or () if isinstance(inner, dict) else ())]
    for node in (node for graph in graphs if isinstance(graph, dict) for node in graph.get("nodes") or ()):
        properties = node.get("properties") if isinstance(node, dict) else None
        state = properties.get(STATE) if isinstance(properties, dict) else None
        drawn = state.get(VARIATIONS) if isinstance(state, dict) and not state.get("locked") else None
        if isinstance(drawn, list) and len(drawn) > 1 and all(isinstance(one, dict) for one in drawn):
            properties[STATE] = OfEachPicture([{**state, **one} for one in drawn])
    return request


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
    later: bool = False,
) -> tuple[HiddenStates, HiddenStates | Later, str, str]:
    """The prompt without a rewrite, as VLM Encode reads it: (hidden states, negative, text, report)."""
    states, negative, report = encode.run(
        clip,
        prompt,
        profile=profile,
        precision=precision_for(VLM(clip), precision),
        taps=taps,
        references=references,
        images=images,
        later=later,
    )
    return (
        states._replace(text=states.prompt),
        negative,
        states.prompt,
        f"As written: the prompt was read as it is and nothing was written.\n{report}",
    )
