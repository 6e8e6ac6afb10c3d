"""Pooling, a sampling step, and growth of the whole picture with tokens, steps and batch."""

from __future__ import annotations

import itertools
from functools import partial

import torch

from .encoding import forget_prompts
from .host import pack
from .measure import Figure, figure, interleaved
from .random_sizes import clip, keep_no_states, model, pipeline, prompt_of, vae_weights

STOCK_STEP = "ComfyUI's own step (pools again at every step)"
PIPELINE = "diffusers' Krea2Pipeline"


class Picture:
    """From prompt to latent, with the pack's nodes and with the stock ones."""

    def __init__(self):
        import nodes

        self.sampler = nodes.common_ksampler
        self.encode = pack("unifusion.comfy_bridge.actions.encode").run
        self.pool = pack("unifusion.comfy_bridge.actions.pool").run
        self.fusion = pack("unifusion.comfy_bridge.drawers.fusion_model").FusionModel
        self.clip, self.model = keep_no_states(clip()), model()

    def latent(self, side: int, batch: int = 1) -> dict:
        return {"samples": torch.zeros(batch, 16, 1, side // 8, side // 8)}

    def states(self, prompt: str):
        forget_prompts(self.clip)
        return self.encode(self.clip, prompt, profile="krea2")[0]

    def stock(self, prompt: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))

    def pooled(self, prompt: str):
        """(MODEL, positive)."""
        return self.pool(self.model, self.states(prompt))[:2]

    def sample(self, patched, positive, steps: int, latent: dict, seed: int = 1):
        return self.sampler(patched, seed, steps, 1.0, "euler", "simple", positive, positive, latent)[0]["samples"]

    def drawn(self, prompt: str, steps: int, latent: dict):
        return self.sample(*self.pooled(prompt), steps, latent)

    def drawn_stock(self, prompt: str, steps: int, latent: dict):
        return self.sample(self.model, self.stock(prompt), steps, latent)


def figures(quick: bool) -> list[Figure]:
    """Pooling against diffusers, a step against stock, and the growth of a whole picture."""
    return [*pooling(quick), *steps(quick), *growth(quick), *pictures(quick)]


def pooling(quick: bool) -> list[Figure]:
    sides, text_fusion, lines = Picture(), pipeline().transformer.text_fusion, []
    for tokens, runs in ({128: 5} if quick else {32: 11, 128: 11, 512: 7, 2048: 3}).items():
        hidden = sides.states(prompt_of(tokens))
        fusion, given = sides.fusion(sides.model), hidden.states.to(next(text_fusion.parameters()))
        times = interleaved(
            {"ours": partial(fusion.pool, hidden, [1.0] * 12, True), "theirs": partial(text_fusion, given)}, runs
        )
        pairs = list(zip(times["ours"], times["theirs"]))
        lines.append(figure(f"pool {tokens} tokens", "diffusers' text fusion", pairs))
    return lines


def steps(quick: bool) -> list[Figure]:
    """Sampling with pooled conditioning beside sampling with the stock stack."""
    sides, lines, side = Picture(), [], 1024 if torch.cuda.is_available() else 256
    latent = sides.latent(side)
    for tokens, runs in ({128: 3} if quick else {32: 5, 128: 5, 512: 3, 2048: 2}).items():
        prompt = prompt_of(tokens)
        patched, positive = sides.pooled(prompt)
        stock = sides.stock(prompt)
        count = 2 if quick else 4
        times = interleaved(
            {
                "ours": partial(sides.sample, patched, positive, count, latent),
                "stock": partial(sides.sample, sides.model, stock, count, latent),
            },
            runs,
        )
        lines.append(
            figure(
                f"{count} steps at {side}x{side}, {tokens} tokens, pooled once",
                STOCK_STEP,
                list(zip(times["ours"], times["stock"])),
            )
        )
    return lines


def growth(quick: bool) -> list[Figure]:
    """Prompt to latent over steps and over batch, against the same with stock nodes."""
    sides, lines, side = Picture(), [], 512 if torch.cuda.is_available() else 128
    prompt = prompt_of(128)
    axes = [("steps", count, sides.latent(side), count) for count in ([2] if quick else [2, 8, 16])]
    axes += [("pictures at once", batch, sides.latent(side, batch), 2) for batch in ([2] if quick else [1, 2, 4])]
    for axis, amount, latent, count in axes:
        times = interleaved(
            {
                "ours": partial(sides.drawn, prompt, count, latent),
                "stock": partial(sides.drawn_stock, prompt, count, latent),
            },
            3,
        )
        lines.append(
            figure(
                f"prompt to latent at {side}x{side}, 128 tokens, {amount} {axis}",
                "CLIPTextEncode and KSampler",
                list(zip(times["ours"], times["stock"])),
            )
        )
    return lines


def pictures(quick: bool) -> list[Figure]:
    """A new prompt to pixels, 8 steps at CFG 1, beside diffusers with its own padding and without."""
    from harness.random_krea2 import vae_from

    sides, pipe, vae, number = Picture(), pipeline(), vae_from(vae_weights()), itertools.count()
    side = 1024 if torch.cuda.is_available() else 256
    latent = sides.latent(side)

    def ours():
        return vae.decode(sides.drawn(f"{prompt_of(64)} {next(number)}", 8, latent))

    def theirs(longest: int):
        return pipe(
            f"{prompt_of(64)} {next(number)}",
            height=side,
            width=side,
            num_inference_steps=8,
            guidance_scale=0.0,
            output_type="pt",
            max_sequence_length=longest,
        )

    times = interleaved({"ours": ours, "padded": lambda: theirs(512), "cut": lambda: theirs(72)}, 2 if quick else 3)
    name = f"a new prompt of 64 tokens to a picture, {side}x{side}, 8 steps, CFG 1"
    return [
        figure(name, f"{PIPELINE} (pads to 512 tokens)", list(zip(times["ours"], times["padded"]))),
        figure(name, f"{PIPELINE}, told to pad to 72", list(zip(times["ours"], times["cut"]))),
    ]
