"""VLM Encode beside stock CLIPTextEncode and transformers: time and peak memory."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from .host import pack
from .measure import Figure, figure, interleaved, peak_megabytes
from .random_sizes import clip, keep_no_states, prompt_of

STOCK, TRANSFORMERS = "ComfyUI's CLIPTextEncode", "transformers' output_hidden_states"
SIDE = 384  # pixels; 144 tokens a picture, the size that Krea 2 gets, so nobody enlarges it


def forget_prompts(clip) -> None:
    """Have the next prompt encoded, although the same one was encoded before; pictures and the empty prompt stay known."""
    store = getattr(clip.cond_stage_model, "unifusion_states", None)
    if store is not None:
        shortest = min((len(key[0]) for key in store._kept), default=0)
        for key in [key for key in store._kept if len(key[0]) > shortest]:
            store.nbytes -= store._kept.pop(key)[1]


class Sides:
    """One prompt, with pictures that are new at every call, to the three of them."""

    def __init__(self):
        from harness.reference_krea2 import transformers_vlm

        self.clip, self.run = keep_no_states(clip()), pack("unifusion.comfy_bridge.actions.encode").run
        self.other = transformers_vlm(self.clip)
        self.tokenizer = getattr(self.clip.tokenizer, self.clip.tokenizer.clip).tokenizer
        profile = pack("unifusion.profiles").PROFILES["krea2"]
        self.taps, self.chat, self.system = profile.taps, pack("unifusion.messages").chat, profile.system
        self.fresh = itertools.count()
        self.base = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))

    def pictures(self, count: int) -> list[torch.Tensor]:
        return [(self.base + next(self.fresh) * 1e-4).clamp(0, 1)[None] for _ in range(count)]

    def ours(self, prompt: str, images: int, repeat=None):
        """The node; with pictures it encodes the negative with the same pictures too."""
        pictures = repeat if repeat is not None else self.pictures(images)
        forget_prompts(self.clip)
        return self.run(
            self.clip, prompt, profile="krea2", images={f"image{i}": picture for i, picture in enumerate(pictures)}
        )

    def template(self, images: int) -> str:
        segments = self.chat(self.system, "{}", [1] * images)
        return "".join(segment.text for segment in segments)

    def stock(self, prompt: str, images: int):
        """The same tokens by ComfyUI's own encoding; with pictures for prompt and negative, as the node gives both."""
        pictures = self.pictures(images)
        for text in [prompt, ""] if images else [prompt]:
            tokens = self.clip.tokenize(text, llama_template=self.template(images), images=pictures)
            self.clip.encode_from_tokens_scheduled(tokens)

    def transformers(self, prompt: str, images: int):
        """The same tokens by transformers; with pictures for prompt and negative."""
        import comfy.text_encoders.qwen_vl as qwen_vl

        device = self.clip.patcher.load_device
        about, kinds = {}, None
        if images:
            patches, grids = zip(
                *(
                    qwen_vl.process_qwen2vl_images(picture, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
                    for picture in self.pictures(images)
                )
            )
            grid = torch.cat([grid.view(1, 3) for grid in grids]).to(device)
            about = {"pixel_values": torch.cat(patches).to(device, self.other.dtype), "image_grid_thw": grid}
        for text in [prompt, ""] if images else [prompt]:
            pads = [f"<|image_pad|>{'<|image_pad|>' * ((SIDE // 32) ** 2 - 1)}"] * images
            whole = self.template(images).replace("<|image_pad|>", "{}").format(*pads, text)
            ids = torch.tensor([self.tokenizer(whole)["input_ids"]], device=device)
            kinds = {"mm_token_type_ids": (ids == 151655).int()} if images else {}
            states = self.other(input_ids=ids, output_hidden_states=True, **about, **kinds).hidden_states
            torch.stack([states[tap] for tap in self.taps], dim=2)


def texts(lengths: dict[int, int], sides: Sides | None = None) -> list[Figure]:
    """Time over tokens; tokens -> runs."""
    sides, lines = sides or Sides(), []
    for tokens, runs in lengths.items():
        lines += _compared(sides, f"encode {tokens} tokens", prompt_of(tokens), 0, runs)
    return lines


def figures(quick: bool) -> list[Figure]:
    """Time over tokens and over pictures, and peak memory."""
    sides = Sides()
    lines = texts({32: 5, 512: 3} if quick else {32: 9, 128: 9, 512: 7, 2048: 3}, sides)
    lines += torchs_attention(sides, quick)
    for images in [1] if quick else [1, 2, 4]:
        name = f"encode 32 tokens and {images} new picture{'s' * (images > 1)}"
        lines += _compared(sides, name, prompt_of(32), images, 3 if quick else 5)
    kept = sides.pictures(2)
    number = itertools.count()
    times = interleaved(
        {
            "ours": lambda: sides.ours(f"{prompt_of(32)} {next(number)}", 2, kept),
            "stock": lambda: sides.stock(prompt_of(32), 2),
        },
        3 if quick else 7,
    )
    lines.append(figure("encode a new prompt, 2 pictures kept", STOCK, list(zip(times["ours"], times["stock"]))))
    for tokens in [512] if quick else [512, 2048]:
        prompt = prompt_of(tokens)
        pairs = [
            (peak_megabytes(partial(sides.ours, prompt, 0)), peak_megabytes(partial(sides.stock, prompt, 0)))
            for _ in range(4)
        ][1:]
        lines.append(figure(f"encode {tokens} tokens, peak memory above the weights", STOCK, pairs, "MB"))
    return lines


@contextmanager
def started_with_torchs_attention():
    """As if ComfyUI had been started with --use-pytorch-cross-attention, which changes its attention for text encoders."""
    import comfy.model_management

    before = comfy.model_management.ENABLE_PYTORCH_ATTENTION
    comfy.model_management.ENABLE_PYTORCH_ATTENTION = True
    try:
        yield
    finally:
        comfy.model_management.ENABLE_PYTORCH_ATTENTION = before


def torchs_attention(sides: Sides, quick: bool) -> list[Figure]:
    """The same rows with ComfyUI's own switch for torch's attention; on a GPU that is how it starts anyway."""
    if torch.cuda.is_available():
        return []
    with started_with_torchs_attention():
        lines = texts({512: 3} if quick else {512: 5, 2048: 3}, sides)
    return [replace(line, name=f"{line.name}, ComfyUI started with --use-pytorch-cross-attention") for line in lines]


def _compared(sides: Sides, name: str, prompt: str, images: int, runs: int) -> list[Figure]:
    times = interleaved(
        {
            "ours": partial(sides.ours, prompt, images),
            "stock": partial(sides.stock, prompt, images),
            "transformers": partial(sides.transformers, prompt, images),
        },
        runs,
    )
    return [
        figure(name, STOCK, list(zip(times["ours"], times["stock"]))),
        figure(name, TRANSFORMERS, list(zip(times["ours"], times["transformers"]))),
    ]
