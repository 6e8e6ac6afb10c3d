"""The pack computes what transformers and diffusers compute with the same weights."""

import pytest
import torch

pytest.importorskip("diffusers.pipelines.krea2")
from harness.random_krea2 import make_vae_weights, vae_from
from harness.reference_krea2 import diffusers_dit, diffusers_vae, pipeline, transformers_vlm

from unifusion.pooling import LayerwiseAttentionPooling
from unifusion.profiles import PROFILES

PROMPTS = ["a red fox in the snow", "一只戴眼镜的猫, emoji 🦊, and\nnew lines", ""]


def encode(clip, bridge, prompt, **changes):
    settings = (
        dict(
            profile="auto",
            selection="everything",
            system_prompt="",
            taps="",
            precision="fp32",
            references=None,
            images=None,
        )
        | changes
    )
    return bridge("actions.encode").run(clip, prompt, **settings)[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_states_of_text_equal_transformers_to_a_thousandth(krea2_clip, bridge, prompt):
    ours = encode(krea2_clip, bridge, prompt)
    vlm = transformers_vlm(krea2_clip)
    tokenizer = krea2_clip.tokenizer.qwen3vl_4b.tokenizer
    system = PROFILES["krea2"].system
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    states = vlm(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    theirs = torch.stack([states[tap] for tap in ours.taps], dim=2)
    assert ours.states.shape == theirs.shape and theirs.std() > 0.5
    torch.testing.assert_close(ours.states, theirs, atol=1e-3, rtol=1e-3)


def test_pooling_equals_diffusers_text_fusion(krea2_clip, krea2_model, bridge):
    """Three ways with the same weights: the host's own, this repository's plain PyTorch, and diffusers'."""
    hidden = encode(krea2_clip, bridge, "a red fox in the snow")
    theirs = diffusers_dit(krea2_model).text_fusion(hidden.states)
    host = bridge("drawers.fusion_model").FusionModel(krea2_model).pool(hidden, [1.0] * 12, True)
    plain = LayerwiseAttentionPooling(12, hidden.width).eval()
    plain.load_state_dict(krea2_model.model.diffusion_model.txtfusion.state_dict())
    scale = theirs.abs().max()
    torch.testing.assert_close(plain(hidden.states) / scale, theirs / scale, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(host / scale, theirs / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cfg, steps, distilled", [(1.0, 8, True), (4.5, 8, False)])
def test_a_whole_picture_equals_diffusers_krea2_pipeline(krea2_clip, krea2_model, bridge, cfg, steps, distilled):
    """Prompt to pixels with the same noise; Krea's guidance g is ComfyUI's CFG - 1."""
    import comfy.sample

    weights = make_vae_weights()
    latent = {"samples": torch.zeros(1, 16, 1, 8, 12)}
    noise = comfy.sample.prepare_noise(latent["samples"], 11)
    prompt, bad = "a red fox in the snow", "blurry"
    shift = {"shift": "fixed", "mu": 1.15} if distilled else {"shift": "by resolution", "mu": 0.0}
    preset = {"preset": "custom", "steps": steps, "cfg": cfg, "sampler": "euler", "scheduler": "simple", **shift}
    states = [encode(krea2_clip, bridge, text, selection="as the profile") for text in (prompt, bad)]
    model, positive, negative, *_ = bridge("actions.pool").run(krea2_model, states[0], negative=states[1])
    drawn = bridge("actions.draw").run(model, positive, negative, latent=latent, seed=11, preset=preset)["samples"]
    ours = vae_from(weights).decode(drawn)

    pipe = pipeline(krea2_clip, krea2_model, diffusers_vae(weights, 8), distilled)
    packed = pipe._pack_latents(noise[:, :, 0], 1, 16, 8, 12)
    theirs = pipe(
        prompt,
        negative_prompt=bad,
        height=64,
        width=96,
        num_inference_steps=steps,
        guidance_scale=cfg - 1,
        latents=packed,
        output_type="pt",
        max_sequence_length=64,
    ).images
    theirs = theirs.movedim(1, -1)
    assert ours.reshape(theirs.shape).std() > 0.02
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs, atol=1e-3, rtol=0)
