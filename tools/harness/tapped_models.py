"""Text encoders and drawing models of every row of the table, small and random, in ComfyUI's own classes."""

from __future__ import annotations

import importlib
import io
from contextlib import ExitStack
from functools import cache, partial
from types import SimpleNamespace
from unittest import mock

import torch

from .random_krea2 import LANGUAGE, VISION, make_clip, randomise

WORDS = "a red fox in the snow , blue moon über Straße 猫 \n < > / [ ] ( ) . : 0 1 2 3 \\ n"
HEAD = 32
SMALL = dict(hidden_size=64, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1)


def _part(name: str):
    return importlib.import_module(f"comfy.text_encoders.{name}")


def _tekken(_data=None) -> dict:
    """A small tokenizer of Mistral's kind: every byte, some words, its control words in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    control += [f"<SPECIAL_{i}>" for i in range(len(control), 20)]
    merges = [("r", "e"), ("re", "d"), ("Ġ", "re"), ("Ġre", "d"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n")]
    vocabulary = [*control, *bytes_to_unicode().values(), *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({piece: index for index, piece in enumerate(vocabulary)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return {"tokenizer_object": made, "legacy": False}


@cache
def pieces() -> bytes:
    """A small sentencepiece model with Gemma's settings."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, "the quick brown fox jumps over the lazy dog", "An image of a cat"] * 40),
        model_writer=out,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        user_defined_symbols=["<start_of_turn>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


def _clip(te, tokenizer, config: str, sizes: dict, seed: int, tokenizer_data: dict | None = None):
    import comfy.sd

    class Target:
        params = {}
        clip = staticmethod(te)

    Target.tokenizer = tokenizer
    options = {f"{config}_model_config": {**SMALL, **sizes}, "dtype": torch.float32}
    clip = comfy.sd.CLIP(Target, model_options=options, tokenizer_data=tokenizer_data or {})
    randomise(clip.cond_stage_model, seed)
    config = getattr(clip.cond_stage_model, config).transformer.model.config
    config.head_dim = config.head_dim  # of the class, which may be patched while this is built
    return clip


def _qwen3vl(te, tokenizer, config: str, seed: int):
    import comfy.text_encoders.qwen3vl as qwen3vl

    with mock.patch.dict(qwen3vl.QWEN3VL_VISION, {config: VISION}):
        return _clip(te, tokenizer, config, LANGUAGE | {"num_hidden_layers": 36}, seed)


def _qwen25(te, tokenizer, seed: int):
    """Qwen2.5-VL, whose vision tower has its sizes built in."""
    from comfy.text_encoders import llama

    stock = llama.qwen_vl.Qwen2VLVisionTransformer
    small = partial(_small_vision, stock)
    with mock.patch.object(llama.qwen_vl, "Qwen2VLVisionTransformer", small):
        sizes = dict(hidden_size=128, intermediate_size=160, num_attention_heads=2, num_key_value_heads=1)
        return _clip(te, tokenizer, "qwen25_7b", sizes, seed)


def _small_vision(stock, hidden_size, output_hidden_size, **kwargs):
    return stock(
        hidden_size=64, output_hidden_size=output_hidden_size, intermediate_size=96, num_heads=2, num_layers=4, **kwargs
    )


def make_encoder(key: str, seed: int = 0):
    """The CLIP of a row, as the stock loader puts it together.

    Args:
        key: of the row; ``ideogram4-lm`` is its second file.
    """
    with ExitStack() as stack:
        llama = importlib.import_module("comfy.text_encoders.llama")
        stack.enter_context(mock.patch.object(_part("flux"), "load_mistral_tokenizer", _tekken))
        for name in ("Gemma2_2B_Config", "Mistral3Small24BConfig", "Ministral3_3BConfig"):
            stack.enter_context(mock.patch.object(getattr(llama, name), "head_dim", HEAD))
        match key:
            case "krea2":
                return make_clip(seed)
            case "flux2-klein-4b":
                flux = _part("flux")
                return _clip(flux.klein_te(model_type="qwen3_4b"), flux.KleinTokenizer, "qwen3_4b", {}, seed)
            case "flux2-klein-9b":
                flux = _part("flux")
                return _clip(flux.klein_te(model_type="qwen3_8b"), flux.KleinTokenizer8B, "qwen3_8b", {}, seed)
            case "flux2-dev":
                flux = _part("flux")
                return _clip(flux.flux2_te(), flux.Flux2Tokenizer, "mistral3_24b", {"vocab_size": 284}, seed)
            case "z-image":
                part = _part("z_image")
                return _clip(part.te(), part.ZImageTokenizer, "qwen3_4b", {}, seed)
            case "qwen-image":
                part = _part("qwen_image")
                return _qwen25(part.te(), part.QwenImageTokenizer, seed)
            case "ideogram4":
                part = _part("ideogram4")
                return _qwen3vl(part.te_qwen3vl(), part.Ideogram4Qwen3VLTokenizer, "qwen3vl_8b", seed)
            case "ideogram4-lm":
                part = _part("ideogram4")
                return _clip(part.te(), part.Ideogram4Tokenizer, "qwen3vl_8b", LANGUAGE, seed)
            case "mage-flow":
                part = _part("mage_flow")
                return _qwen3vl(part.te(), part.MageFlowTokenizer, "qwen3vl_4b", seed)
            case "joyimage":
                part = _part("joyimage")
                return _qwen3vl(part.te(), part.JoyImageTokenizer, "qwen3vl_8b", seed)
            case "boogu":
                part = _part("boogu")
                return _qwen3vl(part.te(), part.BooguTokenizer, "qwen3vl_8b", seed)
            case "ernie-image":
                part = _part("ernie")
                return _clip(part.te(), part.ErnieTokenizer, "ministral3_3b", {"vocab_size": 284}, seed)
            case "lumina2":
                part = _part("lumina2")
                import sentencepiece

                rows = {"vocab_size": sentencepiece.SentencePieceProcessor(model_proto=pieces()).get_piece_size()}
                return _clip(part.te(), part.LuminaTokenizer, "gemma2_2b", rows, seed, {"spiece_model": pieces()})
            case "omnigen2":
                part = _part("omnigen2")
                return _clip(part.te(), part.Omnigen2Tokenizer, "qwen25_3b", {}, seed)
            case "ovis-image":
                part = _part("ovis")
                return _clip(part.te(), part.OvisTokenizer, "qwen3_2b", {}, seed)
    raise KeyError(key)


def make_encoder_without_row(name: str, seed: int = 0):
    """The CLIP of a model that ``profiles.NOT_SERVED`` names, as the stock loader puts it together."""
    match name:
        case "HunyuanImage 2.1":
            part = _part("hunyuan_image")
            return _qwen25(part.te(byt5=False), part.HunyuanImageTokenizer, seed)
        case "HunyuanImage 2.1 with glyphs":
            part = _part("hunyuan_image")
            return _qwen25(part.te(), part.HunyuanImageTokenizer, seed)
        case "HunyuanVideo 1.5":
            tokenizer = _part("hunyuan_video").HunyuanVideo15Tokenizer
            return _qwen25(_part("hunyuan_image").te(byt5=False), tokenizer, seed)
        case "Kandinsky 5":
            part = _part("kandinsky5")
            return _qwen25(part.te(), part.Kandinsky5Tokenizer, seed)
        case "LongCat-Image":
            part = _part("longcat_image")
            return _qwen25(part.te(), part.LongCatImageTokenizer, seed)
        case "Lens":
            return _gpt_oss()
        case "Anima":
            part = _part("anima")
            return _clip(part.te(), part.AnimaTokenizer, "qwen3_06b", {}, seed)
    raise KeyError(name)


def _gpt_oss():
    """Lens without weights, which its layers get with a file alone; its tokenizer comes with that file."""
    from tokenizers import Tokenizer, models

    part = _part("gpt_oss")
    words = Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str().encode()
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=HEAD)
    sizes |= dict(intermediate_size=64, num_local_experts=2, num_experts_per_tok=1, vocab_size=300)
    module = part.lens_te()(model_options={"gpt_oss_config": sizes, "selected_layers": (0, 1)}, dtype=torch.float32)
    tokenizer = part.LensTokenizer(tokenizer_data={"tokenizer_json": words})
    patcher = SimpleNamespace(load_device=torch.device("cpu"), hook_patches={}, forced_hooks=None, is_clip=True)
    return SimpleNamespace(
        cond_stage_model=module,
        tokenizer=tokenizer,
        patcher=patcher,
        apply_hooks_to_conds=None,
        use_clip_schedule=False,
    )


WITHOUT_ROW = (
    "HunyuanImage 2.1",
    "HunyuanImage 2.1 with glyphs",
    "HunyuanVideo 1.5",
    "Kandinsky 5",
    "LongCat-Image",
    "Lens",
    "Anima",
)
KEYS = (
    "krea2",
    "flux2-klein-4b",
    "flux2-klein-9b",
    "flux2-dev",
    "z-image",
    "qwen-image",
    "ideogram4",
    "ideogram4-lm",
    "mage-flow",
    "joyimage",
    "boogu",
    "ernie-image",
    "lumina2",
    "omnigen2",
    "ovis-image",
)
__all__ = ["KEYS", "WITHOUT_ROW", "make_encoder", "make_encoder_without_row", "SMALL"]
