"""transformers' and diffusers' Krea 2 with the weights of a ComfyUI CLIP, MODEL and VAE: code nobody here wrote."""

import re

import torch

NAMES = (
    (r"^first\.", "img_in."),
    (r"^blocks\.", "transformer_blocks."),
    (r"^tmlp\.0\.", "time_embed.linear_1."),
    (r"^tmlp\.2\.", "time_embed.linear_2."),
    (r"^tproj\.1\.", "time_mod_proj."),
    (r"^txtfusion\.", "text_fusion."),
    (r"^txtmlp\.0\.scale", "txt_in.norm.weight"),
    (r"^txtmlp\.1\.", "txt_in.linear_1."),
    (r"^txtmlp\.3\.", "txt_in.linear_2."),
    (r"^last\.modulation\.lin", "final_layer.scale_shift_table"),
    (r"^last\.", "final_layer."),
    (r"mod\.lin$", "scale_shift_table"),
    (r"qknorm\.(q|k)norm\.scale", r"norm_\1.weight"),
    (r"attn\.w([qkv])\.", r"attn.to_\1."),
    (r"attn\.gate\.", "attn.to_gate."),
    (r"attn\.wo\.", "attn.to_out.0."),
    (r"\.mlp\.", ".ff."),
    (r"prenorm\.scale", "norm1.weight"),
    (r"postnorm\.scale", "norm2.weight"),
    (r"norm\.scale$", "norm.weight"),
)


def diffusers_name(name: str) -> str:
    """A parameter's name in diffusers' Krea2Transformer2DModel, from Krea's own."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def transformers_vlm(clip):
    """transformers' Qwen3VLModel with the weights of a stock Krea 2 CLIP (shared, not copied)."""
    from accelerate import init_empty_weights
    from transformers import Qwen3VLConfig, Qwen3VLModel

    ours = getattr(clip.cond_stage_model, clip.cond_stage_model.clip).transformer
    text, vision = ours.model.config, ours.visual
    rope = {
        "rope_type": "default",
        "rope_theta": text.rope_theta,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            head_dim=text.head_dim,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            rms_norm_eps=text.rms_norm_eps,
            rope_parameters=rope,
            rope_theta=text.rope_theta,
        ),
        vision_config=dict(
            hidden_size=vision.hidden_size,
            depth=len(vision.blocks),
            intermediate_size=vision.blocks[0].mlp.linear_fc1.weight.shape[0],
            num_heads=vision.blocks[0].attn.num_heads,
            out_hidden_size=text.hidden_size,
            deepstack_visual_indexes=list(vision.deepstack_visual_indexes),
            patch_size=16,
            spatial_merge_size=2,
            temporal_patch_size=2,
            num_position_embeddings=2304,
        ),
    )
    with init_empty_weights(include_buffers=False):
        model = Qwen3VLModel(config)
    weights = {re.sub(r"^model\.", "language_model.", name): value for name, value in ours.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().to(clip.patcher.load_device)


def diffusers_dit(model):
    """diffusers' Krea2Transformer2DModel with the weights of a stock MODEL (shared, not copied)."""
    from diffusers.models.transformers.transformer_krea2 import Krea2Transformer2DModel

    ours = model.model.diffusion_model
    state = {diffusers_name(name): value for name, value in ours.state_dict().items()}
    block = ours.blocks[0]
    with torch.device("meta"):
        other = Krea2Transformer2DModel(
            num_layers=len(ours.blocks),
            num_attention_heads=block.attn.wq.weight.shape[0] // 128,
            num_key_value_heads=block.attn.wk.weight.shape[0] // 128,
            intermediate_size=block.mlp.up.weight.shape[0],
            text_hidden_dim=ours.txtdim,
            num_text_layers=ours.txtlayers,
            text_intermediate_size=ours.txtfusion.refiner_blocks[0].mlp.up.weight.shape[0],
        )
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()}, assign=True)
    return other.eval()


def diffusers_vae(weights: dict, width: int):
    """diffusers' AutoencoderKLQwenImage with weights in Wan 2.1's layout."""
    from diffusers import AutoencoderKLQwenImage
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    vae = AutoencoderKLQwenImage(base_dim=width)
    vae.load_state_dict(convert_wan_vae_to_diffusers(dict(weights)))
    return vae.eval()


def pipeline(clip, model, vae=None, distilled: bool = True):
    """diffusers' Krea2Pipeline around the same weights, with ComfyUI's own copy of the tokenizer."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline

    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=6400
    )
    made = Krea2Pipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=transformers_vlm(clip),
        tokenizer=tokenizer,
        transformer=diffusers_dit(model),
        is_distilled=distilled,
    )
    made.set_progress_bar_config(disable=True)
    return made
