"""Train the miniature's VAE from nothing: ``python -m recipes.miniature.vae_train --out DIR``.

Every step draws its own pictures from (seed, step), so an interrupted run goes on exactly where it
was. Judged by what the scorer reads from decoded held-out pictures, not by PSNR.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from unifusion.training.learning_rate import factor
from unifusion.training.optimizer import MuonAdamW

from . import render, scene, scorer
from .vae_model import StillVAE, to_wan


@dataclass(frozen=True)
class VAESettings:
    """What a training run is made of; steps of ``batch`` pictures."""

    dim: int = 16
    steps: int = 1900
    batch: int = 8
    lr: float = 3e-3
    warmup: int = 40
    decay: float = 0.45  # last part of the run, over which the learning rate falls to zero
    weight_decay: float = 0.02
    foreground: float = 4.0  # extra loss weight on things and their edges
    noise: float = 0.3  # largest deviation of noise on latents while training: decoders meet imperfect latents
    most_things: int = 9  # denser than any real scene: more things learned from a picture
    seed: int = 0


def sample_pictures(rng: np.random.Generator, count: int, most_things: int) -> tuple[Tensor, Tensor]:
    """Training pictures (count, 3, 128, 128) in -1..1 and the coverage of things (count, 1, 128, 128) in 0..1."""
    pictures, masks = [], []
    for _ in range(count):
        drawn = scene.sample_scene(rng, count=int(rng.integers(1, most_things + 1)))
        jitter = render.sample_jitter(rng)
        pictures.append(render.render(drawn, jitter=jitter))
        masks.append(render.foreground(drawn, jitter))
    return to_tensor(np.stack(pictures)), torch.from_numpy(np.stack(masks))[:, None]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1.0


def to_pictures(tensor: Tensor) -> np.ndarray:
    """float (B, 3, H, W) in -1..1 -> uint8 (B, H, W, 3)."""
    return ((tensor.float().clamp(-1, 1) + 1.0) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def reconstruction_loss(output: Tensor, picture: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute error of pixels and of differences between neighbours.

    The second term keeps stripes, dots and edges, which the first alone blurs away.
    """
    error = output.float() - picture
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return (
        (weight * error.abs()).mean()
        + (weight[..., 1:] * across.abs()).mean()
        + (weight[..., 1:, :] * down.abs()).mean()
    ) / weight.mean()


@torch.no_grad()
def evaluate(model: StillVAE, count: int = 64, seed: int = 9) -> tuple[dict[str, float], np.ndarray]:
    """Shares of ``count`` held-out scenes that the scorer reads right after a round trip, and a grid."""
    model.eval()
    device = next(model.parameters()).device
    rng = np.random.default_rng(seed)
    scenes = [scene.sample_scene(rng, held_out=True) for _ in range(count)]
    truth = render.render_batch(scenes, rng)
    with torch.autocast(device.type, torch.bfloat16):
        out = torch.cat([model.decode(model.encode(part)) for part in to_tensor(truth).to(device).split(16)])
    decoded = to_pictures(out)
    scores = [scorer.score(picture, asked) for picture, asked in zip(decoded, scenes)]
    result = {key: float(np.mean([s[key] for s in scores])) for key in (*scorer.CHECKS, "whole")}
    result["psnr"] = float(10 * np.log10(255**2 / np.square(decoded.astype(float) - truth).mean()))
    grid = np.concatenate([np.concatenate([truth[i], decoded[i]]) for i in range(8)], axis=1)
    return result, grid


def build_optimizer(model: StillVAE, settings: VAESettings) -> MuonAdamW:
    """Muon for kernels inside, AdamW for biases and for the first and last convolution."""
    muon, adamw = [], []
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.requires_grad_(False)
        elif parameter.ndim == 4 and name not in ("encoder.conv1.weight", "decoder.head.2.weight"):
            muon.append(parameter)
        else:
            adamw.append(parameter)
    return MuonAdamW(
        [dict(params=muon, rule="muon"), dict(params=adamw, weight_decay=0.0)],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )


def train(out: Path, settings: VAESettings, device: str = "cpu", every: int = 200) -> Path:
    """Train, or go on with the run in ``out``.

    Returns:
        The path of the Wan 2.1 layout file, bfloat16, written at every evaluation.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = StillVAE(settings.dim).initialise(torch.Generator().manual_seed(settings.seed)).to(device)
    optimizer = build_optimizer(model, settings)
    start, checkpoint = 0, out / "vae_state.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    (out / "vae_settings.json").write_text(json.dumps(asdict(settings), indent=2))

    def loss_of(picture: Tensor, weight: Tensor, noise: Tensor) -> Tensor:
        latent = model.encode(picture)
        return reconstruction_loss(model.decode(latent + noise), picture, weight)

    compiled = torch.compile(loss_of) if device != "cpu" else loss_of
    began, losses = time.monotonic(), []
    for step in range(start, settings.steps):
        model.train()
        rng = np.random.default_rng([settings.seed, step])
        picture, mask = sample_pictures(rng, settings.batch, settings.most_things)
        weight = 1.0 + settings.foreground * F.max_pool2d(mask, 5, stride=1, padding=2)
        side = picture.shape[-1] // 8
        noise = rng.standard_normal((settings.batch, 16, side, side), dtype=np.float32)
        noise *= rng.uniform(0.0, settings.noise, (settings.batch, 1, 1, 1)).astype(np.float32)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = compiled(picture.to(device), weight.to(device), torch.from_numpy(noise).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor(
                step, settings.steps, warmup=settings.warmup, decay=settings.decay, floor=0.0
            )
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            scores, grid = evaluate(model)
            left = (time.monotonic() - began) / (step + 1 - start) * (settings.steps - step - 1)
            line = {"step": step + 1, "loss": float(np.mean(losses[-every:])), "seconds_left": round(left), **scores}
            print(json.dumps({k: round(v, 4) for k, v in line.items()}), flush=True)
            with open(out / "vae_log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            Image.fromarray(grid).save(out / "vae_samples.png")
            save_file({k: v.bfloat16().contiguous() for k, v in to_wan(model).items()}, out / "vae.safetensors")
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                checkpoint.with_suffix(".new"),
            )
            checkpoint.with_suffix(".new").replace(checkpoint)
    return out / "vae.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the default")
    parser.add_argument("--steps", type=int, default=VAESettings.steps)
    parser.add_argument("--seed", type=int, default=VAESettings.seed)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    train(arguments.out, VAESettings(steps=arguments.steps, seed=arguments.seed), arguments.device)


if __name__ == "__main__":
    main()
