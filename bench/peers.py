"""Word weights beside other packs' on the same random Krea 2: ``python -m bench.peers --peer FOLDER:NODE``.

``--peer`` names the folder of a custom node pack and the id of its node that takes a CLIP, a MODEL and a text with weights and
gives CONDITIONING (and a MODEL, where it has one), e.g. ``--peer /packs/ComfyUI-KJNodes:Krea2PromptWeight``; it may be given
several times. Without it the table has this pack alone, and says that the others were skipped.

All columns are of the latent after two steps, relative to the effect of the word itself (its rows given once or not at all):

* **2 is twice**: ``(red:2)`` beside the stock rows of *red* given twice, which is exact where tokens carry no position.
* **0 is removed**: ``(red:0)`` beside the stock rows without *red*.
* **-1**: cosine between what ``(red:-1)`` and ``(red:1)`` do, both beside ``(red:0)``; below 0 is the other way.
* **neutral**: the largest difference of ``(red:1)`` from the stock graph.
* **leak**: difference at CFG 0, where the negative alone is drawn.
* **a step**: time with ``(red:2)`` over time of the stock graph.
* **slider**: forward passes of the encoder when 2 becomes 1.5.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .host import pack

WORD, TEXT = " red", "a {} circle on a table"
STEPS, SIDE = 2, 16


class Work:
    """The same CLIP, MODEL, sampler and seed for everybody."""

    def __init__(self):
        pack("unifusion.profiles")
        from harness.random_krea2 import make_clip, make_model

        import nodes

        self.sampler, self.clip, self.model = nodes.common_ksampler, make_clip(), make_model()
        self.encode = pack("unifusion.comfy_bridge.actions.encode").run
        self.pool = pack("unifusion.comfy_bridge.actions.pool").run
        plain = self.encode(self.clip, TEXT.format("red"), profile="krea2")[0]
        self.rows = torch.tensor([piece == WORD for piece in plain.pieces])
        self.negative = self.stock("blurry")

    def stock(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def stock_times(self, times: int):
        """Stock conditioning with the rows of the word given 0, 1 or 2 times."""
        ((tensor, options),) = self.stock(TEXT.format("red"))
        kept = [tensor[:, ~self.rows]] if times == 0 else [tensor, *[tensor[:, self.rows]] * (times - 1)]
        options = {key: value for key, value in options.items() if key != "attention_mask"}
        return [[torch.cat(kept, dim=1), options]]

    def draw(self, model, positive, cfg: float = 1.0) -> torch.Tensor:
        latent = {"samples": torch.zeros(1, 16, 1, SIDE, SIDE)}
        return self.sampler(model, 1, STEPS, cfg, "euler", "simple", positive, self.negative, latent)[0]["samples"]

    def ours(self, text: str):
        """(MODEL, CONDITIONING) of this pack."""
        return self.pool(self.model, self.encode(self.clip, text, profile="krea2")[0])[:2]

    def forwards(self, act: Callable[[], object]) -> int:
        """Forward passes of the encoder during a call."""
        transformer = getattr(self.clip.cond_stage_model, self.clip.cond_stage_model.clip).transformer
        calls: list[int] = []
        hook = transformer.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        try:
            act()
        finally:
            hook.remove()
        return len(calls)


def peer(work: Work, named: str) -> Callable[[str], tuple]:
    """A peer's node as text -> (MODEL, CONDITIONING).

    Raises:
        ValueError: if the folder or the node is not there, or the node takes or gives something else.
    """
    import nodes

    folder, _, name = named.rpartition(":")
    if not Path(folder).is_dir():
        raise ValueError(f"There is no folder '{folder}'; give --peer FOLDER:NODE.")
    if not asyncio.run(nodes.load_custom_node(folder)) or name not in nodes.NODE_CLASS_MAPPINGS:
        raise ValueError(f"The pack in '{folder}' could not be loaded or has no node '{name}'.")
    made = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = made.INPUT_TYPES()
    given = {**inputs.get("required", {}), **inputs.get("optional", {})}
    gives = list(made.RETURN_TYPES)
    kinds = [entry[0] for entry in given.values()]
    if "CLIP" not in kinds or "STRING" not in kinds or "CONDITIONING" not in gives:
        raise ValueError(
            f"'{name}' must take a CLIP and a text and give CONDITIONING; it takes {kinds} and gives {gives}."
        )

    def act(text: str):
        values, written = {}, False
        for key, (kind, *more) in given.items():
            if kind in ("CLIP", "MODEL"):
                values[key] = work.clip if kind == "CLIP" else work.model
            elif kind == "STRING" and not written:
                values[key], written = text, True
            elif more and "default" in more[0]:
                values[key] = more[0]["default"]
        run = made.execute if hasattr(made, "GET_SCHEMA") else getattr(made(), made.FUNCTION)
        out = run(**values)
        out = asyncio.run(out) if asyncio.iscoroutine(out) else out
        out = getattr(out, "result", out)
        model = out[gives.index("MODEL")] if "MODEL" in gives else work.model
        return model, out[gives.index("CONDITIONING")]

    return act


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@torch.inference_mode()
def row(work: Work, act: Callable[[str], tuple], runs: int) -> list[str]:
    """One line of the table."""

    def drawn(weight: str, cfg: float = 1.0) -> torch.Tensor:
        return work.draw(*act(TEXT.format(f"(red:{weight})")), cfg)

    none, once, twice = (work.draw(work.model, work.stock_times(times)) for times in (0, 1, 2))
    effect = (once - none).norm()
    heavy, removed, neutral, away = drawn("2"), drawn("0"), drawn("1"), drawn("-1")
    cosine = torch.nn.functional.cosine_similarity((away - removed).flatten(), (once - removed).flatten(), dim=0)
    leak = (drawn("2", 0.0) - work.draw(work.model, work.stock_times(1), 0.0)).norm() / effect
    weighted, stock = act(TEXT.format("(red:2)")), (work.model, work.stock_times(1))
    pairs = [(_seconds(lambda: work.draw(*weighted)), _seconds(lambda: work.draw(*stock))) for _ in range(runs)]
    act(TEXT.format("(red:2)"))
    return [
        f"{(heavy - twice).norm() / effect:.1e}",
        f"{(removed - none).norm() / effect:.1e}",
        f"{cosine:+.2f}",
        f"{(neutral - once).abs().max():.1e}",
        f"{leak:.1e}",
        f"{statistics.median(a / b for a, b in pairs):.2f}",
        str(work.forwards(lambda: act(TEXT.format("(red:1.5)")))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="FOLDER:NODE")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    work = Work()
    sides: dict[str, Callable[[str], tuple]] = {"this pack": work.ours}
    print(
        "| node | 2 is twice | 0 is removed | -1 | neutral | leak | a step | slider |\n|---|---|---|---|---|---|---|---|"
    )
    for named in given.peer:
        try:
            sides[named.rpartition(":")[2]] = peer(work, named)
        except ValueError as error:
            print(f"| {named.rpartition(':')[2]} | skipped: {error} | | | | | | |")
    for name, act in sides.items():
        try:
            print(f"| {name} | {' | '.join(row(work, act, given.runs))} |", flush=True)
        except Exception as error:  # a peer's own fault must not end the table
            print(f"| {name} | failed: {type(error).__name__}: {str(error)[:120]} | | | | | | |", flush=True)
    if not given.peer:
        print("\nOther packs: skipped, no folder was given (--peer FOLDER:NODE).")


if __name__ == "__main__":
    main()
