"""Folders as transformers saves them, tiny and with random weights: one of each kind that ``transformers_vlm`` reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = "a red circle on a blue background and two small green squares at the top left, describe the picture for me"
IMAGE_TOKENS = {
    "qwen3_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
    "internvl": "<IMG_CONTEXT>",
    "smolvlm": "<image>",
}
AROUND = {
    "qwen3_vl": ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    "internvl": ("<img>", "</img>"),
    "smolvlm": ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
}
KINDS = (*IMAGE_TOKENS, "llama", "llama3", "sentencepieces", "qwen2", "qwen3", "mistral")


def tiny_tokenizer(kind: str):
    """A tokenizer of the kind's form, learned from one sentence: byte-level BPE, or Llama's pieces with bytes behind them."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    special = [*CHATML, *([IMAGE_TOKENS[kind]] if kind in IMAGE_TOKENS else []), *AROUND.get(kind, ())]
    if kind == "llama3":
        special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    if kind == "sentencepieces":
        vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
        vocabulary += sorted({letter for letter in TEXT if letter != " "}) + ["re", "red", "\u2581red"]
        tokenizer = Tokenizer(
            models.BPE(
                {piece: number for number, piece in enumerate(vocabulary)},
                [("r", "e"), ("re", "d"), ("\u2581", "red")],
                unk_token="<unk>",
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return tokenizer
    tokenizer = Tokenizer(models.BPE())
    if kind.startswith("qwen") or kind == "internvl":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if kind == "llama3":
        start = tokenizer.token_to_id(special[0])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], start)]
        )
    return tokenizer


def _text(rows: int, layers: int, **more) -> dict:
    return dict(
        vocab_size=rows,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=2048,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )


def tiny_config(kind: str, tokenizer, layers: int = 6):
    """(class of transformers, its configuration)."""
    import transformers as t

    rows = tokenizer.get_vocab_size() + 3  # real models have rows without a token, too
    number = tokenizer.token_to_id
    if kind in ("llama", "llama3", "sentencepieces"):
        ends = {"eos_token_id": 2} if kind == "sentencepieces" else {}
        return t.LlamaForCausalLM, t.LlamaConfig(**_text(rows, layers) | ends, tie_word_embeddings=kind == "llama")
    if kind == "qwen2":
        return t.Qwen2ForCausalLM, t.Qwen2Config(**_text(rows, layers))
    if kind == "qwen3":
        return t.Qwen3ForCausalLM, t.Qwen3Config(**_text(rows, layers))
    if kind == "mistral":
        return t.MistralForCausalLM, t.MistralConfig(**_text(rows, layers))
    image = number(IMAGE_TOKENS[kind])
    if kind == "internvl":
        return t.InternVLForConditionalGeneration, t.InternVLConfig(
            text_config=dict(model_type="qwen2", **_text(rows, layers)),
            vision_config=dict(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=[56, 56],
                patch_size=[14, 14],
            ),
            image_token_id=image,
        )  # fmt: skip
    if kind == "smolvlm":
        return t.SmolVLMForConditionalGeneration, t.SmolVLMConfig(
            text_config=dict(model_type="llama", **_text(rows, layers)),
            vision_config=dict(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16
            ),
            image_token_id=image,
            scale_factor=2,
            pad_token_id=0,
        )  # fmt: skip
    ids = dict(
        image_token_id=image,
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    if kind == "qwen3_vl":
        text = _text(rows, layers, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 2, 2]))
        vision = dict(
            depth=3, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, num_position_embeddings=16,
            deepstack_visual_indexes=[0, 1],
        )  # fmt: skip
        return t.Qwen3VLForConditionalGeneration, t.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    if kind == "qwen2_5_vl":
        text = _text(rows, layers, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 2, 2]))
        vision = dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, window_size=56,
            fullatt_block_indexes=[1],
        )  # fmt: skip
        return t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    raise KeyError(kind)


def tiny_folder(kind: str, folder: Path, *, layers: int = 6, shards: bool = False, dtype=torch.float32) -> Path:
    """A folder of one of :data:`KINDS`, its weights drawn from a fixed seed.

    Args:
        kind: ``llama3`` and ``sentencepieces`` are Llamas with other tokenizers.
        folder: made; must not be there.
        shards: weights in several files with an index.
    """
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer(kind)
    architecture, config = tiny_config(kind, tokenizer, layers)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = architecture(config).eval()
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) or "layernorm" in name:
                torch.nn.init.normal_(weight, 1.0, 0.2)
            elif weight.ndim == 1:
                torch.nn.init.normal_(weight, 0.0, 0.1)
            elif "lm_head" in name or "embed_tokens" in name:
                torch.nn.init.normal_(weight, 0.0, 0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size="60KB" if shards else "5GB")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder
