"""How time and memory grow: with tokens, pictures, texts at once, pictures at once, and resolution.

Each size once after a warm-up at the smallest, ours and the stock way; the peak is that of the resident set (of the device
on CUDA) above what was held before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from .host import pack
from .measure import peak_megabytes, spent
from .random_sizes import CUDA, clip, prompt_of

TOKENS = (128, 512, 2048, 8192)
PICTURES = (1, 2, 4, 8)  # of 1 MP
TEXTS = (1, 2, 4, 8)
BATCH = (1, 2, 4, 8)
SIDES = (512, 1024, 2048) if CUDA else (128, 256, 512)


@dataclass(frozen=True)
class Point:
    """One size of one axis, by one side."""

    axis: str
    size: int
    side: str
    seconds: float
    cpu: float
    peak_mb: float

    def as_dict(self) -> dict:
        return asdict(self)


def _point(axis: str, size: int, side: str, call: Callable[[], object]) -> Point:
    taken = spent(call)
    return Point(axis, size, side, taken.wall, taken.cpu, peak_megabytes(call))


def points(quick: bool) -> list[Point]:
    """All axes; with ``quick`` the two smallest sizes of each."""
    found: list[Point] = []
    for axis, sizes, calls in (
        ("tokens of a prompt, encoded", TOKENS, _tokens()),
        ("pictures of 1 MP, encoded with 32 tokens", PICTURES, _pictures()),
        ("texts of 32 tokens written at once", TEXTS, _texts()),
        ("pictures drawn at once, 2 steps", BATCH, _drawn("batch")),
        ("pixels of a side, 2 steps", SIDES, _drawn("side")),
    ):
        for call in calls.values():
            call(sizes[0])
        for size in sizes[:2] if quick else sizes:
            found += [_point(axis, size, side, partial(call, size)) for side, call in calls.items()]
            print(
                "  " + "; ".join(f"{p.axis} {p.size} {p.side}: {p.seconds:.2f} s" for p in found[-len(calls) :]),
                flush=True,
            )
    return found


def _tokens() -> dict[str, Callable[[int], object]]:
    encode = pack("unifusion.comfy_bridge.actions.encode").run
    number = itertools.count()

    def prompt(size: int) -> str:
        return f"{next(number)} {prompt_of(size)}"

    return {
        "ours": lambda size: encode(clip(), prompt(size), profile="krea2"),
        "stock": lambda size: clip().encode_from_tokens_scheduled(clip().tokenize(prompt(size))),
    }


def _pictures() -> dict[str, Callable[[int], object]]:
    encode = pack("unifusion.comfy_bridge.actions.encode").run
    reference = pack("unifusion.references").Reference
    chat, system = pack("unifusion.messages").chat, pack("unifusion.profiles").PROFILES["krea2"].system
    number = itertools.count()

    def fresh(count: int) -> list[torch.Tensor]:
        return [torch.full((1, 1024, 1024, 3), (next(number) % 997) / 997) for _ in range(count)]

    def ours(count: int):
        seen = [reference(picture, tokens=1024) for picture in fresh(count)]
        return encode(clip(), prompt_of(32), profile="krea2", references=seen)

    def stock(count: int):
        """Prompt and negative with the same pictures, which the node gives both."""
        seen = fresh(count)
        template = "".join(segment.text for segment in chat(system, "{}", [1] * count))
        for text in (prompt_of(32), ""):
            clip().encode_from_tokens_scheduled(clip().tokenize(text, llama_template=template, images=seen))

    return {"ours": ours, "stock": stock}


def _texts() -> dict[str, Callable[[int], object]]:
    rewrite = pack("unifusion.comfy_bridge.actions.rewrite").run_variations
    number = itertools.count()

    def ours(count: int):
        prompt = f"{prompt_of(16)} {next(number)}"
        sampling = dict(sampling="sample", temperature=0.7, top_p=0.95, top_k=64, min_p=0.05, repetition_penalty=1.05)
        return rewrite(
            clip(), prompt, profile="krea2", sampling=sampling, min_length=32, max_length=32, variations=count
        )

    def stock(count: int):
        """TextGenerate and CLIPTextEncode, once a text."""
        for seed in range(count):
            asked = clip().tokenize(f"{prompt_of(16)} {next(number)}")
            ids = clip().generate(asked, do_sample=True, max_length=32, seed=seed)
            clip().encode_from_tokens_scheduled(clip().tokenize(clip().decode(ids)))

    return {"ours": ours, "stock": stock}


def _drawn(axis: str) -> dict[str, Callable[[int], object]]:
    from .drawing import Picture

    picture = Picture()
    number = itertools.count()

    def latent(size: int) -> dict:
        return picture.latent(SIDES[0], size) if axis == "batch" else picture.latent(size)

    return {
        "ours": lambda size: picture.drawn(f"{prompt_of(128)} {next(number)}", 2, latent(size)),
        "stock": lambda size: picture.drawn_stock(f"{prompt_of(128)} {next(number)}", 2, latent(size)),
    }


def table(found: list[Point]) -> str:
    """Markdown, one line a size."""
    lines = ["| what grows | size | ours | stock | peak ours | peak stock |", "|---|---|---|---|---|---|"]
    sizes = dict.fromkeys((point.axis, point.size) for point in found)
    for axis, size in sizes:
        by = {point.side: point for point in found if (point.axis, point.size) == (axis, size)}
        lines.append(
            f"| {axis} | {size:,} | {by['ours'].seconds:.3g} s | {by['stock'].seconds:.3g} s | {by['ours'].peak_mb:.0f} MB | "
            f"{by['stock'].peak_mb:.0f} MB |"
        )
    return "\n".join(lines)
