"""Reuse of pictures between runs, and what weights cost.

Models as in ``random_sizes``: on a CPU all layers at a sixteenth of Krea 2's widths, random weights; three references of
1,024 tokens each, a picture of 1 MP. Vision tower and language model shrink alike, so the ratios of encoding should hold
at the real size. The mask that carries the weights costs a share of attention, and attention a larger share of a step
in a narrow DiT: at the real size weights should cost less than here, unless an attention kernel without masks
(SageAttention 2) has to give way to PyTorch's; neither was measured on a CPU.
"""

from __future__ import annotations

from functools import partial

import torch

from .host import pack
from .measure import Figure, figure, spent
from .random_sizes import clip, model

SIDE = 1024  # pixels: 32 x 32 tokens
TOKENS = 1024
SMALL = 144  # tokens of a picture in Krea 2's own window
LATENT = 32  # 256 x 256 pixels: 16 x 16 tokens of the DiT
STORES = ("unifusion_features", "unifusion_states", "unifusion_prefixes")
# Krea 2's layers without its window of 512 tokens, which three pictures of 1,024 leave no room in.
SETTINGS = {"profile": "qwen3vl", "taps": "2,5,8,11,14,17,20,23,26,29,32,35"}


class Encoding:
    """Prompts that were never used before over the same three references."""

    def __init__(self, tokens: int = TOKENS):
        self.encode = pack("unifusion.comfy_bridge.actions.encode").run
        self.rewrite = pack("unifusion.comfy_bridge.actions.rewrite").run
        reference = pack("unifusion.references").Reference
        generator = torch.Generator().manual_seed(0)
        self.references = [
            reference(torch.rand(1, SIDE, SIDE, 3, generator=generator), label=f"Image {k}", tokens=tokens)
            for k in range(1, 4)
        ]
        self.clip = clip()
        self.runs = 0

    def prompt(self) -> str:
        self.runs += 1
        return f"the first picture in the style of the second, number {self.runs:04}"

    def run(self):
        """Encode, as the node does it."""
        return self.encode(self.clip, self.prompt(), references=self.references, **SETTINGS)

    def write(self, length: int):
        """Write ``length`` tokens, as the node does it."""
        return self.rewrite(
            self.clip,
            self.prompt(),
            references=self.references,
            sampling={"sampling": "greedy"},
            min_length=length,
            max_length=length,
            **SETTINGS,
        )

    def forget(self, *stores: str) -> None:
        """Empty the stores."""
        for store in stores or STORES:
            vars(self.clip.cond_stage_model).pop(store, None)

    @property
    def stored(self) -> int:
        """Bytes kept."""
        kept = (getattr(self.clip.cond_stage_model, store, None) for store in STORES)
        return sum(store.nbytes for store in kept if store is not None)


def reuse(encoding: Encoding, runs: int = 2) -> list[Figure]:
    """A run with only the prompt changed beside one that knows nothing."""
    without, again = [], []
    for _ in range(runs):
        encoding.forget()
        without.append(spent(encoding.run))
        again.append(spent(encoding.run))
    name = "encode, three references of 1,024 tokens, only the prompt changed"
    lines = [figure(name, "the same without reuse", list(zip(again, without)))]
    without, again = [], []
    for _ in range(runs):
        encoding.forget()
        # One token: the words are read, one token is drawn and fed. The 63 others cost a step each, whatever is kept.
        without.append(spent(partial(encoding.write, 1)))
        again.append(spent(partial(encoding.write, 1)))
    name = "VERIFI, three references of 1,024 tokens, only the prompt changed: up to the first token"
    lines.append(figure(name, "the same without reuse", list(zip(again, without))))
    again = [spent(partial(encoding.write, 64))]
    encoding.forget()
    without = [spent(partial(encoding.write, 64))]
    name = "VERIFI of 64 tokens, three references of 1,024 tokens, only the prompt changed"
    lines.append(figure(name, "the same without reuse", list(zip(again, without))))
    return lines


def memory(encoding: Encoding) -> Figure:
    """What is kept of three references, beside the hidden states that one encode hands on."""
    encoding.forget()
    hidden = encoding.run()[0]
    return figure(
        "kept for reuse in main memory after an encode with three references",
        "the hidden states handed on",
        [(encoding.stored / 2**20, hidden.nbytes / 2**20)],
        "MB",
    )


def weights(encoding: Encoding, runs: int = 3) -> list[Figure]:
    """Pooling and two steps of sampling with a strength of 2 on one reference, beside neutral strengths."""
    states = pack("unifusion.hidden_states")
    pool = pack("unifusion.comfy_bridge.actions.pool").run
    draw = pack("unifusion.comfy_bridge.actions.draw").run
    neutral = encoding.encode(encoding.clip, encoding.prompt(), references=encoding.references, profile="krea2")[0]
    weighted = states.with_weight(neutral, neutral.roles == states.image_role(0), 2.0)
    preset = {
        "preset": "custom",
        "steps": 2,
        "cfg": 1.0,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "fixed",
        "mu": 1.15,
    }
    latent = {"samples": torch.zeros(1, 16, 1, LATENT, LATENT)}
    pooled = {which: pool(model(), hidden)[:3] for which, hidden in (("neutral", neutral), ("weighted", weighted))}

    def sample(which: str):
        return draw(*pooled[which], latent=latent, seed=1, preset=preset)

    sample("neutral"), sample("weighted")
    drawn = [(spent(partial(sample, "weighted")), spent(partial(sample, "neutral"))) for _ in range(runs)]
    made = [(spent(partial(pool, model(), weighted)), spent(partial(pool, model(), neutral))) for _ in range(runs)]
    return [
        figure("2 steps at 256 x 256, strength 2 on one of three references", "all strengths 1", drawn),
        figure("pooling, strength 2 on one of three references", "all strengths 1", made),
    ]


def figures() -> list[Figure]:
    """Reuse, memory and the cost of weights."""
    with torch.inference_mode():
        encoding = Encoding()
        return [*reuse(encoding), memory(encoding), *weights(Encoding(SMALL))]


if __name__ == "__main__":
    for line in figures():
        print(
            f"{line.ratio:6.3f} ({line.low:.3f}-{line.high:.3f})  {line.ours:8.3f} {line.theirs:8.3f} {line.unit}  "
            f"{line.name} / {line.other}"
        )
