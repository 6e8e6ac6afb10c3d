"""What creators paste: half an emoji, a whole book, brackets without end, syntax of other packs (trials 16 to 20, 25)."""

import time

import pytest
import torch

HALF = "a \ud83e fox"


@pytest.fixture(scope="module")
def miniature(pack):
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    with torch.inference_mode():
        return load(BUNDLED)


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.isprintable() and text.endswith(".") and len(text) < 600, text
    text.encode()  # what ComfyUI's log does
    return text


TEXTS = [  # node, its other inputs, the text input
    ("UniFusionVLMEncode", {"prompt": "a fox", "profile": "auto", "selection": "as the profile"}, "taps"),
    ("UniFusionVLMEncode", {"prompt": "a fox", "profile": "auto", "selection": "as the profile"}, "selection"),
    ("UniFusionVerifiRewrite", {}, "system_prompt"),
    ("UniFusionVerifiRewrite", {}, "selection"),
    ("UniFusionVerifiRewrite", {}, "taps"),
]


@pytest.mark.parametrize("node_id, settings, text", TEXTS)
def test_half_an_emoji_in_a_sentence_can_be_printed(node, krea2_clip, node_id, settings, text):
    if node_id == "UniFusionVerifiRewrite":
        settings = dict(
            prompt="a fox",
            profile="auto",
            system_prompt="as the profile",
            custom_system_prompt="",
            selection="as the profile",
            sampling={"sampling": "greedy"},
            seed=0,
            min_length=0,
            max_length=2,
            prefill="",
            edited_text="",
        )
    with pytest.raises(ValueError) as error:
        node(node_id).execute(clip=krea2_clip, **{**settings, text: HALF})
    assert "\ufffd" in one_sentence(error)


def test_half_an_emoji_in_every_text_is_read_as_a_replacement(node, krea2_clip):
    done = node("UniFusionVLMEncode").execute(krea2_clip, HALF, "auto", "as the profile", system_prompt=HALF).result
    assert "\ud83e" not in done[0].prompt + done[2] and "\ufffd" in done[0].prompt
    label = node("UniFusionReference").execute(torch.rand(1, 64, 64, 3), HALF, 1.0, "one view").result[0][0].label
    assert label == "a \ufffd fox"


@pytest.mark.parametrize("length", [80_000, 100_000, 1_000_000])
@pytest.mark.parametrize("action", ["encode", "rewrite", "edited"])
def test_a_book_is_refused_before_work(bridge, miniature, length, action):
    text, clip = "red circle " * (length // 11), miniature[1]
    more = {"sampling": {"sampling": "greedy"}} if action != "encode" else {}
    more |= {"edited_text": text} if action == "edited" else {}
    prompt = "a circle" if action == "edited" else text
    began = time.process_time()
    with pytest.raises(ValueError) as error:
        bridge(f"actions.{'encode' if action == 'encode' else 'rewrite'}").run(clip, prompt, **more)
    assert ("4,096" in one_sentence(error)) or ("200,000" in one_sentence(error))
    assert time.process_time() - began < 20


def test_the_miniature_knows_its_own_context(miniature):
    assert miniature[1].cond_stage_model.unifusion_miniature.transformer.model.config.max_position_embeddings == 4096


def test_nested_control_tokens_take_linear_time(krea2_clip):
    from unifusion_pack.unifusion.messages import remove_control_tokens

    tokenizer = krea2_clip.tokenizer.qwen3vl_4b.tokenizer
    text = "<|im_end" * 8000 + "|>" * 8000
    began = time.process_time()
    clean, found = remove_control_tokens(text, tokenizer)
    assert clean == "" and len(found) == 8000 and time.process_time() - began < 10


def test_many_weighted_words_are_tokenised_in_linear_time(bridge, krea2_clip):
    from unifusion_pack.unifusion.messages import chat, tokenize

    tokenizer = krea2_clip.tokenizer.qwen3vl_4b.tokenizer
    words = [(f"w{index} e\u0301 ", 1.0 + index % 2) for index in range(8000)]
    began = time.process_time()
    tokens = tokenize(chat("x", words), tokenizer)
    assert len(set(tokens.weights)) == 2 and time.process_time() - began < 20


@pytest.mark.parametrize("label", ["a\rb", "a\tb", "a\x00b", "x" * 4000])
def test_labels_that_no_font_can_draw_are_refused(node, label):
    with pytest.raises(ValueError) as error:
        node("UniFusionReference").execute(torch.rand(1, 64, 64, 3), label, 1.0, "one view")
    assert "label" in one_sentence(error)


NOTHING = [None, "x", [], 7, torch.rand(3), {}, ()]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
@pytest.mark.parametrize(
    "node_id, socket, others",
    [
        ("UniFusionVLMEncode", "clip", {"prompt": "x", "profile": "auto", "selection": "as the profile"}),
        ("UniFusionLayerwiseAttentionPool", "model", {"positive": "hidden", "gain_preset": "off"}),
        ("UniFusionLayerwiseAttentionPool", "positive", {"model": "model", "gain_preset": "off"}),
        ("UniFusionGuider", "positive", {"model": "model", "cfg": 1.0}),
        ("UniFusionRegion", "mask", {"hidden_states": "hidden"}),
        ("UniFusionInspect", "hidden_states", {"model": "model"}),
    ],
)
def test_anything_on_any_socket_is_one_sentence(node, bridge, krea2_clip, krea2_model, node_id, socket, others, value):
    if socket == "mask" and isinstance(value, torch.Tensor):
        value = torch.rand(3)
    real = {"hidden": lambda: bridge("actions.encode").run(krea2_clip, "a fox")[0], "model": lambda: krea2_model}
    given = {name: real[part]() if isinstance(part, str) and part in real else part for name, part in others.items()}
    with pytest.raises(ValueError) as error:
        node(node_id).execute(**given, **{socket: value})
    text = one_sentence(error)
    assert socket.split("_")[0] in text.lower()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused(node, bridge, krea2_clip, krea2_model, bad):
    hidden = bridge("actions.encode").run(krea2_clip, "a fox")[0]
    model, positive, *_ = bridge("actions.pool").run(krea2_model, hidden)
    latent = {"samples": torch.full((1, 16, 1, 8, 8), bad)}
    preset = {"preset": "Krea 2 Turbo"}
    with pytest.raises(ValueError) as error:
        node("UniFusionDiTSampler").execute(model, positive, latent, 1, preset, 1.0)
    assert "NaN or infinite" in one_sentence(error)
    with pytest.raises(ValueError) as error:
        node("UniFusionDiTSampler").execute(
            model, [[positive[0][0] * bad, positive[0][1]]], {"samples": torch.zeros(1, 16, 1, 8, 8)}, 1, preset, 1.0
        )
    assert "NaN or infinite" in one_sentence(error)


@pytest.mark.parametrize("node_id, choice", [("UniFusionDiTSampler", "preset"), ("UniFusionVerifiRewrite", "sampling")])
def test_an_option_of_another_version_is_named(node, krea2_clip, krea2_model, node_id, choice):
    """The host drops an unknown key, so the argument is missing."""
    with pytest.raises(ValueError) as error:
        node(node_id).execute(clip=krea2_clip, model=krea2_model)
    text = one_sentence(error)
    assert f"'{choice}'" in text and ("greedy" in text or "Krea 2 Turbo" in text)
