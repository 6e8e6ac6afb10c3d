"""Reuse of pictures between runs, and what weights cost.

Models as in ``models``: on a CPU all layers at a sixteenth of Krea 2's widths, random weights; three pictures of 144
tokens each, as Krea 2 gets them. Vision tower and language model shrink alike, so the ratios of encoding should hold
at the real size. The mask that carries the weights costs a share of attention, and attention a larger share of a step
in a narrow DiT: at the real size weights should cost less than here, unless an attention kernel without masks
(SageAttention 2) has to give way to PyTorch's; neither was measured on a CPU.
"""

from __future__ import annotations

import torch

from .host import pack
from .measure import Figure, _seconds, figure
from .random_sizes import clip, model

SIDE = 384  # pixels: 12 x 12 tokens
LATENT = 32  # 256 x 256 pixels: 16 x 16 tokens of the DiT


class Encoding:
    """A prompt with three references, encoded as the node does it."""

    def __init__(self):
        self.bridge = pack("unifusion.comfy_bridge.actions.encode")
        self.clip = clip()
        generator = torch.Generator().manual_seed(0)
        self.images = {f"image{k}": torch.rand(1, SIDE, SIDE, 3, generator=generator) for k in range(3)}
        self.runs = 0

    def run(self):
        """Encode with a prompt that was never used before."""
        self.runs += 1
        prompt = f"the first picture in the style of the second, number {self.runs:04}"
        return self.bridge.run(self.clip, prompt, profile="krea2", images=self.images)

    def forget(self, *stores: str) -> None:
        """Empty the stores."""
        for store in stores or ("unifusion_features", "unifusion_states"):
            vars(self.clip.cond_stage_model).pop(store, None)

    @property
    def stored(self) -> int:
        """Bytes kept."""
        module = self.clip.cond_stage_model
        return module.unifusion_features.nbytes + module.unifusion_states.nbytes


def reuse(encoding: Encoding, runs: int = 3) -> list[Figure]:
    """The second run, with only the prompt changed, beside the first and beside a second run without reuse."""
    encoding.run()
    against_first, against_none, against_negative = [], [], []
    for _ in range(runs):
        encoding.forget()
        first = _seconds(encoding.run)
        second = _seconds(encoding.run)
        encoding.forget()
        without = _seconds(encoding.run)
        encoding.forget("unifusion_features")
        without_features = _seconds(encoding.run)
        against_first.append((second, first))
        against_none.append((second, without))
        against_negative.append((second, without_features))
    name = "encode, three references of 144 tokens, only the prompt changed"
    return [
        figure(name, "the first run", against_first),
        figure(name, "the same without reuse", against_none),
        figure(name, "only the negative reused, pictures seen again", against_negative),
    ]


def memory(encoding: Encoding) -> Figure:
    """What is kept of three references, beside the hidden states that one encode hands on."""
    encoding.forget()
    hidden = encoding.run()[0]
    return figure(
        "kept for reuse after an encode with three references",
        "the hidden states handed on",
        [(encoding.stored / 2**20, hidden.nbytes / 2**20)],
        "MB",
    )


def weights(encoding: Encoding, runs: int = 3) -> list[Figure]:
    """Pooling and two steps of sampling with a strength of 2 on one reference, beside neutral strengths."""
    states = pack("unifusion.hidden_states")
    pool = pack("unifusion.comfy_bridge.actions.pool").run
    draw = pack("unifusion.comfy_bridge.actions.draw").run
    neutral = encoding.run()[0]
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
    drawn = [(_seconds(lambda: sample("weighted")), _seconds(lambda: sample("neutral"))) for _ in range(runs)]
    made = [(_seconds(lambda: pool(model(), weighted)), _seconds(lambda: pool(model(), neutral))) for _ in range(runs)]
    return [
        figure("2 steps at 256 x 256, strength 2 on one of three references", "all strengths 1", drawn),
        figure("pooling, strength 2 on one of three references", "all strengths 1", made),
    ]


def figures() -> list[Figure]:
    """Reuse, memory and the cost of weights."""
    with torch.inference_mode():
        encoding = Encoding()
        return [*reuse(encoding), memory(encoding), *weights(encoding)]


if __name__ == "__main__":
    for line in figures():
        print(
            f"{line.ratio:6.3f} ({line.low:.3f}-{line.high:.3f})  {line.ours:8.3f} {line.theirs:8.3f} {line.unit}  "
            f"{line.name} / {line.other}"
        )
