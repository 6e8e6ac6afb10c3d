"""Encode once: latents and hidden states of all examples into the cache, then the frozen models may go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..hidden_states import HiddenStates
from ..miniature import VAE_FILE, VLM_FOLDER
from ..quoting import printable, quoted, spoken
from ..still_vae import StillVAE, from_wan
from .cache import LATENTS, STATES, Cache
from .config import BUNDLED, Config
from .data.buckets import cover
from .data.sample import BrokenPicture, Notes
from .examples import Condition, Contract, Example
from .frozen_encoder import FolderEncoder, FrozenEncoder, file_identity

LATENT_BATCH = 8
SAY_EVERY = 10.0  # seconds


@dataclass
class Encoded:
    """What :func:`encode_all` did.

    Attributes:
        latents, states: entries written by this process; found: entries that were there.
        seconds: spent; seconds_latents, seconds_states: on each kind.
    """

    latents: int = 0
    states: int = 0
    found: int = 0
    seconds_latents: float = 0.0
    seconds_states: float = 0.0


def vae_file(config: Config) -> Path:
    return VAE_FILE if config.vae.file == BUNDLED else config.resolve(config.vae.file)


def vlm_folder(config: Config) -> Path:
    return VLM_FOLDER if config.vlm.folder == BUNDLED else config.resolve(config.vlm.folder)


def load_vae(path: Path, device: str | torch.device = "cpu") -> StillVAE:
    """The frozen autoencoder.

    Raises:
        ValueError: if the file is not in Wan 2.1's layout.
    """
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise ValueError(f"The VAE {quoted(path, 120)} cannot be read: {printable(error)[:120].rstrip('.')}.") from None
    try:
        return from_wan(weights).to(device)
    except (KeyError, RuntimeError):
        raise ValueError(
            f"{quoted(path.name)} is no VAE in Wan 2.1's layout, which Krea 2, Qwen-Image and the miniature use; name "
            "their file in vae.file."
        ) from None


def vae_identity(config: Config) -> str:
    """Hash of the autoencoder's file.

    Raises:
        ValueError: if it is not there.
    """
    path = vae_file(config)
    if not path.is_file():
        raise ValueError(f"There is no VAE {quoted(path, 120)}; correct vae.file.")
    return file_identity(path)


def load_encoder(config: Config, device: str | torch.device = "cpu") -> FrozenEncoder:
    """The frozen VLM of a configuration.

    Raises:
        ValueError: naming what is wrong with its folder.
    """
    return FolderEncoder(vlm_folder(config), device, config.vlm.precision)


@torch.no_grad()
def encode_pictures(vae: StillVAE, pictures: Tensor) -> Tensor:
    """(B, H, W, 3) in 0..1 -> latents (B, 16, H / 8, W / 8) float32."""
    device = next(vae.parameters()).device
    return vae.encode(2.0 * pictures.to(device).movedim(-1, 1).float() - 1.0).float().cpu()


def _about(hidden: HiddenStates) -> dict[str, str]:
    """Words of an entry, for whoever looks into the cache."""
    about = {"prompt": printable(hidden.prompt)[:2000]}
    return about | ({"written": printable(hidden.text)[:4000]} if hidden.text else {})


@torch.no_grad()
def _pooled(pooling: nn.Module, states: Tensor) -> Tensor:
    """(1, T, N, W) -> (T, W)."""
    return pooling(states.to(next(pooling.parameters()).device))[0].cpu()


class Work:
    """What has to be encoded, each entry once.

    Args:
        examples: of the run.
        extra: conditions that belong to no example, such as those of previews.
        cache: where entries lie.
    """

    def __init__(self, examples: Sequence[Example], extra: Sequence[Condition], cache: Cache) -> None:
        self.cache = cache
        self.latents = {example.latent: example for example in examples}
        conditions = [c for example in examples for c in example.conditions.values()]
        self.states = {condition.key: condition for condition in (*conditions, *extra)}

    def missing(self, process: int = 0, processes: int = 1) -> tuple[list[str], list[str]]:
        """Keys of (latents, states) of one process that are not in the cache.

        All keys are shared out, not those that are missing: another process may be writing already.
        """
        latents = sorted(self.latents)[process::processes]
        states = sorted(self.states)[process::processes]
        return (
            [key for key in latents if not self.cache.has(LATENTS, key)],
            [key for key in states if not self.cache.has(STATES, key)],
        )


def encode_all(
    work: Work,
    contract: Contract,
    make_vae: Callable[[], StillVAE],
    make_encoder: Callable[[], FrozenEncoder],
    process: int = 0,
    processes: int = 1,
    say: Callable[[str], None] = print,
    make_pooling: Callable[[], nn.Module] | None = None,
) -> tuple[Encoded, Notes, set[str]]:
    """Write what this process has to write; models are loaded only if there is something to do.

    Args:
        make_pooling: LAP and refiner, where their result is kept instead of the states.

    Returns:
        (what was done, what could not be encoded, keys of it)
    """
    done, notes, broken = Encoded(), Notes(), set()
    latents, states = work.missing(process, processes)
    shares = len(sorted(work.latents)[process::processes]) + len(sorted(work.states)[process::processes])
    done.found = shares - len(latents) - len(states)
    total, started = len(latents) + len(states), time.monotonic()
    told = started

    def progress() -> None:
        nonlocal told
        if time.monotonic() - told > SAY_EVERY:
            told, ready = time.monotonic(), done.latents + done.states
            left = spoken((told - started) / ready * (total - ready))
            say(f"encoded {ready:,} of {total:,}, {left} left" if done.states else f"encoded {ready:,} of {total:,}")

    def lost(key: str, error: BrokenPicture) -> None:
        notes.add("pictures that cannot be decoded, their examples left out", str(error))
        broken.add(key)

    began = time.monotonic()
    if latents:
        vae = make_vae()
        by_size: dict[tuple[int, int], list[str]] = {}
        for key in latents:
            by_size.setdefault(work.latents[key].size, []).append(key)
        for size, keys in by_size.items():
            for start in range(0, len(keys), LATENT_BATCH):
                pictures = {}
                for key in keys[start : start + LATENT_BATCH]:
                    try:
                        pictures[key] = cover(work.latents[key].target.pixels(), size)
                    except BrokenPicture as error:
                        lost(key, error)
                if pictures:
                    for key, latent in zip(pictures, encode_pictures(vae, torch.cat(list(pictures.values())))):
                        work.cache.write(LATENTS, key, latent.half(), {"of": printable(work.latents[key].name)})
                done.latents += len(pictures)
                progress()
        del vae
    done.seconds_latents = time.monotonic() - began
    began = time.monotonic()
    if states:
        encoder, pooling = make_encoder(), make_pooling() if make_pooling else None
        for key in states:
            try:
                hidden = work.states[key].encode(encoder, contract)
            except BrokenPicture as error:
                lost(key, error)
                continue
            states_of = hidden.states[0] if pooling is None else _pooled(pooling, hidden.states)
            work.cache.write(STATES, key, states_of.bfloat16(), _about(hidden))
            done.states += 1
            progress()
    done.seconds_states = time.monotonic() - began
    return done, notes, broken
