"""Graphs in API form around the random Krea 2, and its files in a server's folders."""

from pathlib import Path

MODEL, VAE, LORA = "random_krea2.safetensors", "random_vae.safetensors", "random_lora.safetensors"
SMALL = "random_small.safetensors"  # three taps and one block, for many runs; with loaders(small=True)
SMALL_TAPS = "1, 3, 5"


def write_models(base: Path) -> None:
    """MODEL, VAE and a LoRA on pooling and blocks, where the stock loaders look for them."""
    import torch
    from safetensors.torch import save_file

    from tools.harness.random_krea2 import make_vae_weights, state_dict

    weights = state_dict()
    generator = torch.Generator().manual_seed(5)
    lora = {}
    for name, value in weights.items():
        if value.ndim == 2 and name.endswith(".weight") and ("txtfusion" in name or "blocks.0.attn" in name):
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            lora[f"{key}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=generator) * 0.1
            lora[f"{key}.lora_up.weight"] = torch.randn(value.shape[0], 4, generator=generator) * 0.1
            lora[f"{key}.alpha"] = torch.tensor(4.0)
    for folder, name, tensors in (
        ("diffusion_models", MODEL, weights),
        ("vae", VAE, make_vae_weights()),
        ("loras", LORA, lora),
        ("diffusion_models", SMALL, state_dict(features=128, layers=1, taps=3)),
    ):
        path = base / "models" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def loaders(lora: bool = False, small: bool = False) -> dict:
    graph = {
        "clip": node("TestRandomKrea2Clip", seed=0, layers=6 if small else 36),
        "unet": node("UNETLoader", unet_name=SMALL if small else MODEL, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=VAE),
    }
    if lora:
        graph["lora"] = node("LoraLoaderModelOnly", model=["unet", 0], lora_name=LORA, strength_model=1.0)
    return graph


def sampled(
    model: list,
    positive: list,
    negative: list,
    sampler: str = "euler",
    cfg: float = 4.5,
    seed: int = 1,
    steps: int = 3,
    size: tuple[int, int] = (64, 64),
    name: str = "picture",
) -> dict:
    """From conditioning to a saved picture with stock nodes."""
    return {
        "latent": node("EmptySD3LatentImage", width=size[0], height=size[1], batch_size=1),
        "draw": node(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["draw", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=name),
    }


def stock(prompt: str, negative: str, lora: bool = False, **settings) -> dict:
    """The stock graph: CLIPTextEncode twice, KSampler."""
    return {
        **loaders(lora),
        "positive": node("CLIPTextEncode", clip=["clip", 0], text=prompt),
        "negative": node("CLIPTextEncode", clip=["clip", 0], text=negative),
        **sampled(["lora" if lora else "unet", 0], ["positive", 0], ["negative", 0], **settings),
    }


def encode(prompt: str, **inputs) -> dict:
    return node(
        "UniFusionVLMEncode",
        clip=["clip", 0],
        prompt=prompt,
        **{
            "profile": "auto",
            "selection": "as the profile",
            "system_prompt": "",
            "taps": "",
            "precision": "fp32",
            **inputs,
        },
    )


def pool(model: list, positive: list, negative: list | None = None, **inputs) -> dict:
    given = {"negative": negative} if negative is not None else {}
    return node(
        "UniFusionLayerwiseAttentionPool",
        model=model,
        positive=positive,
        **given,
        **{"gain_preset": "off", "gains": "", "keep_rms": True, **inputs},
    )


def unifusion(prompt: str, negative: str, lora: bool = False, **settings) -> dict:
    """The same graph with this pack's nodes and the same sampler."""
    return {
        **loaders(lora),
        "positive": encode(prompt),
        "negative": encode(negative),
        "pool": pool(["lora" if lora else "unet", 0], ["positive", 0], ["negative", 0]),
        **sampled(["pool", 0], ["pool", 1], ["pool", 2], **settings),
    }
