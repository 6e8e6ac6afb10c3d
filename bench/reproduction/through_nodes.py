"""The pack's graphs, node by node in this process: prompt and pictures in, a picture out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from unifusion.miniature import MINIATURE, part_of

from ..host import pack

SHIPPED = MINIATURE
PRESET = "UniFusion miniature"
FILES = ("dit.safetensors", "vlm/model.safetensors", "vae.safetensors")


def fingerprint(file: Path) -> str:
    """First twelve digits of a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def fingerprints(folder: Path, names: Sequence[str] = FILES) -> dict[str, str]:
    """Of weight files in a miniature's folder."""
    return {name: fingerprint(part_of(folder, name)) for name in names}


class Condition(NamedTuple):
    """What an encode node gives.

    Attributes:
        states, negative: hidden states.
        text: what VERIFI wrote; empty from VLM Encode.
        seconds: of the node.
        report: what the node says.
    """

    states: object
    negative: object
    text: str
    seconds: float
    report: str = ""


class Graph:
    """A model folder behind the node classes, with the widgets' default values.

    Args:
        folder: of the form of the bundled one.
        draws: False loads the VLM alone; nothing can be drawn then.
    """

    def __init__(self, folder: Path = SHIPPED, draws: bool = True) -> None:
        import comfy.utils  # ComfyUI is on the path once the pack is loaded

        import nodes as host

        comfy.utils.set_progress_bar_enabled(False)
        by_id = {cls.define_schema().node_id: cls for cls in pack("nodes.extension").NODES}
        self.verifi_node, self.encode_node = by_id["UniFusionVerifiRewrite"], by_id["UniFusionVLMEncode"]
        self.pool_node, self.sampler_node = by_id["UniFusionLayerwiseAttentionPool"], by_id["UniFusionDiTSampler"]
        self.reference_node = by_id["UniFusionReference"]
        folders = pack("unifusion.comfy_bridge.actions.model_folders")
        if not draws:
            self.clip = pack("unifusion.comfy_bridge.encoders.miniature_clip").load_clip(folder / "vlm")
            return
        self.model, self.clip, self.vae = folders.load_folder(folder)
        self.empty = host.EmptyLatentImage().generate(128, 128, 1)[0]
        self.decode_node = host.VAEDecode()

    @staticmethod
    def image(picture: np.ndarray) -> torch.Tensor:
        """uint8 (128, 128, 3) to ComfyUI's (1, 128, 128, 3) in 0..1."""
        return torch.from_numpy(picture)[None].float() / 255

    @torch.inference_mode()
    def verifi(
        self, prompt: str, pictures: Sequence[np.ndarray] = (), selection: str = "as the profile", edited: str = ""
    ) -> Condition:
        """VERIFI Rewrite, greedy as by default."""
        began = time.perf_counter()
        (states,), negative, (text,), report = self.verifi_node.execute(
            self.clip,
            prompt,
            "auto",
            "as the profile",
            "",
            selection,
            {"sampling": "greedy"},
            0,
            0,
            256,
            "",
            edited,
            images={f"image{i}": self.image(picture) for i, picture in enumerate(pictures)},
        ).result
        return Condition(states, negative, text, time.perf_counter() - began, report)

    @torch.inference_mode()
    def encode(self, prompt: str, picture: np.ndarray | None = None, detail: str = "one view") -> Condition:
        """VLM Encode of the prompt as it stands, with at most one Reference."""
        began, references = time.perf_counter(), None
        if picture is not None:
            references = self.reference_node.execute(self.image(picture), "", 1.0, detail).result[0]
        states, negative, report = self.encode_node.execute(
            self.clip, prompt, "auto", "as the profile", references=references
        ).result
        return Condition(states, negative, "", time.perf_counter() - began, report)

    @torch.inference_mode()
    def picture(self, condition: Condition, seed: int, gains: str = "") -> np.ndarray:
        """Layerwise Attention Pool, DiT Sampler and VAE Decode: uint8 (128, 128, 3), as Save Image rounds it."""
        preset = ("custom", gains) if gains else ("off", "")
        model, positive, negative, *_ = self.pool_node.execute(
            self.model, condition.states, *preset, negative=condition.negative
        ).result
        latent = self.sampler_node.execute(
            model, positive, self.empty, seed, {"preset": PRESET}, 1.0, negative=negative
        ).result[0]
        picture = self.decode_node.decode(self.vae, latent)[0]
        return np.clip(255.0 * picture[0].float().cpu().numpy(), 0, 255).astype(np.uint8)

    @torch.inference_mode()
    def coded(self, picture: np.ndarray) -> np.ndarray:
        """A picture through the VAE and back."""
        back = self.decode_node.decode(self.vae, {"samples": self.vae.encode(self.image(picture))})[0]
        return np.clip(255.0 * back[0].float().cpu().numpy(), 0, 255).astype(np.uint8)
