"""Qwen3-VL in small, for training on fixed 128x128 pictures: batched, padded, with the states of the taps.

The layout is Qwen3-VL's and the parameters carry the names that ComfyUI's ``Qwen3VL`` class expects, so the
trained file loads there and in transformers; here are only the parts that training needs.  It differs from those
classes in speed alone: a whole batch passes the vision tower at once (every picture has the same grid), attention
is written as matrix products (faster than fused attention at these sizes on a CPU), and tapped states are kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unifusion.miniature import IMAGE_TOKENS, VLMConfig


class RMSNorm(nn.Module):
    """Computed in float32; gives autocast's type where that is on, so that the projections cast nothing again."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary code in Qwen's halves layout; ``x`` (..., tokens, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    half_cos, half_sin = (t[..., : first.shape[-1]].to(x.dtype) for t in (cos, sin))
    return torch.cat((first * half_cos - second * half_sin, second * half_cos + first * half_sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention; q, k, v (batch, heads, tokens, head_dim), ``bias`` -inf where a key is not seen."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: tuple | None) -> Tensor:
        split = lambda y, heads: y.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)
        q = rotate(self.q_norm(split(self.q_proj(x), self.heads)), cos, sin)
        k = rotate(self.k_norm(split(self.k_proj(x), self.kv_heads)), cos, sin)
        v = split(self.v_proj(x), self.kv_heads)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:  # keys, values: (batch, kv_heads, room, head_dim); places: (batch, tokens)
            keys, values, places = cache
            index = places[:, None, :, None].expand(-1, self.kv_heads, -1, self.head_dim)
            k, v = keys.scatter_(2, index, k), values.scatter_(2, index, v)
        groups = self.heads // self.kv_heads
        out = attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), bias)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: tuple | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)


class VisionAttention(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.heads = c.vision_heads
        self.qkv = nn.Linear(c.vision_hidden_size, 3 * c.vision_hidden_size)
        self.proj = nn.Linear(c.vision_hidden_size, c.vision_hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        return self.proj(attend(q, k, v, None).transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.linear_fc1 = nn.Linear(c.vision_hidden_size, c.vision_intermediate_size)
        self.linear_fc2 = nn.Linear(c.vision_intermediate_size, c.vision_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.vision_hidden_size, eps=1e-6)
        self.norm2 = nn.LayerNorm(c.vision_hidden_size, eps=1e-6)
        self.attn = VisionAttention(c)
        self.mlp = VisionMLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """2x2 patches to one token; the main merger normalises before merging, DeepStack's after."""

    def __init__(self, c: VLMConfig, norm_merged: bool):
        super().__init__()
        self.merged = 4 * c.vision_hidden_size
        self.norm_merged = norm_merged
        self.norm = nn.LayerNorm(self.merged if norm_merged else c.vision_hidden_size, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        merge = lambda y: y.reshape(y.shape[0], -1, self.merged)
        x = self.norm(merge(x)) if self.norm_merged else merge(self.norm(x))
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class PatchEmbed(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.proj = nn.Conv3d(3, c.vision_hidden_size, (2, 16, 16), (2, 16, 16))

    def forward(self, patches: Tensor) -> Tensor:
        """(..., 3 * 16 * 16): one frame; Qwen shows a still picture twice, so the two frames' kernels add up."""
        return F.linear(patches, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class VisionTower(nn.Module):
    def __init__(self, c: VLMConfig):
        super().__init__()
        self.deepstack_visual_indexes = c.deepstack_visual_indexes
        self.patch_embed = PatchEmbed(c)
        self.pos_embed = nn.Embedding(c.num_position_embeddings, c.vision_hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.vision_depth))
        self.merger = Merger(c, norm_merged=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(c, norm_merged=True) for _ in c.deepstack_visual_indexes)
        order = torch.arange(64).view(4, 2, 4, 2).transpose(1, 2).flatten()  # row-major patches -> 2x2 blocks
        self.register_buffer("order", order, persistent=False)
        head_dim = c.vision_hidden_size // c.vision_heads
        frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
        rows, columns = order // 8, order % 8
        angles = torch.cat((rows[:, None] * frequencies, columns[:, None] * frequencies), dim=-1).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """uint8 (views, 128, 128, 3) to merged tokens (views, 16, width) and one such tensor per DeepStack level."""
        x = (pictures.float() / 127.5 - 1).unflatten(2, (8, 16)).unflatten(1, (8, 16))
        x = x.permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2)[:, self.order]
        x = self.patch_embed(x) + self.pos_embed(self.order)
        deep = []
        for index, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin)
            if index in self.deepstack_visual_indexes:
                deep.append(self.deepstack_merger_list[len(deep)](x))
        return self.merger(x), deep


class Qwen3VL(nn.Module):
    """The miniature VLM.  Parameter names: ``model.*`` (with ``model.lm_head``) and ``visual.*``."""

    def __init__(self, config: VLMConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.visual = VisionTower(config)
        inverse = config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        self.register_buffer("inverse_frequencies", inverse, persistent=False)

    def initialise(self) -> None:
        """Small residual outputs and unit-size embeddings, so that states at the taps start and stay near RMS 1."""
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                fan_in = p[0].numel()
                nn.init.normal_(p, std=fan_in**-0.5)
            if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight")):
                p.data.mul_(0.25)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.7)
        nn.init.normal_(self.visual.pos_embed.weight, std=0.2)
        nn.init.normal_(self.model.lm_head.weight, std=0.02)
        for merger in (self.visual.merger, *self.visual.deepstack_merger_list):
            merger.linear_fc2.weight.data.mul_(0.5)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Qwen3-VL's interleaved MRoPE; ``positions`` (3, batch, tokens) to cos, sin (batch, 1, tokens, head_dim)."""
        angles = positions[..., None].float() * self.inverse_frequencies
        mixed = angles[0].clone()
        for axis in (1, 2):
            where = slice(axis, self.config.rope_dims[axis] * 3, 3)
            mixed[..., where] = angles[axis][..., where]
        mixed = mixed.repeat(1, 1, 2)[:, None]
        return mixed.cos(), mixed.sin()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        image_mask: Tensor,
        pictures: Tensor | None,
        cache: list | None = None,
        places: Tensor | None = None,
        visible: Tensor | None = None,
        last_layer: int | None = None,
    ) -> tuple[Tensor | None, list[Tensor], Tensor | None]:
        """One pass over right-padded sequences.

        Args:
            ids: (batch, tokens) int64; image positions hold any id.
            positions: (3, batch, tokens) MRoPE positions.
            image_mask: (batch, tokens) bool; its True places take the pictures' tokens in order.
            pictures: (views, 128, 128, 3) uint8, or None.
            cache: one (keys, values) pair per layer, filled in place, for decoding.
            places: (batch, tokens) cache columns of these tokens; ``visible``: (batch, 1, tokens, room) bool.
            last_layer: stop before this layer (states of the taps only).

        Returns:
            final-normed states (batch, tokens, width) or None, states of the taps, merged picture tokens or None.
        """
        x = self.model.embed_tokens(ids)
        merged, deep = None, []
        if pictures is not None:
            merged, deep = self.visual(pictures)
            x = x.masked_scatter(image_mask[..., None], merged.to(x.dtype))
        cos, sin = self.rope(positions)
        if visible is None:
            visible = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        bias = torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, float("-inf"))
        tapped = []
        for index, layer in enumerate(self.model.layers):
            if index in self.config.taps:
                tapped.append(x)
            if index == last_layer:
                return None, tapped, merged
            x = layer(x, cos, sin, bias, None if cache is None else (*cache[index], places))
            if index < len(deep):
                x = x + torch.zeros_like(x).masked_scatter(image_mask[..., None], deep[index].to(x.dtype))
        return self.model.norm(x), tapped, merged


def mrope_positions(image_mask: Tensor) -> Tensor:
    """(3, batch, tokens) MRoPE positions of sequences whose True runs are 16-token views (4x4 grids).

    A view takes one time step, rows and columns count from there, and the text after it goes on 4 later.
    """
    count = image_mask.long().cumsum(1)
    seen = count - image_mask.long()  # image tokens strictly before
    view, inside = seen // IMAGE_TOKENS, (seen % IMAGE_TOKENS) * image_mask
    # text after the last view has seen == 16 * views, so one formula serves both: 16 tokens take 4 steps
    start = torch.arange(image_mask.shape[1], device=image_mask.device) - seen + 4 * view
    return torch.stack((start, start + inside // 4, start + inside % 4))
