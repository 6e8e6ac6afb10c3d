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
def test_a_book_is_refused_before_work(bridge, miniature, monkeypatch, length, action):
    text, clip = "red circle " * (length // 11), miniature[1]
    vlm = bridge("encoders.text_encoder").VLM(clip)
    read, passes, words = [], [], type(vlm.tokenizer)
    own, forward = words.__call__, vlm.decoder.forward
    monkeypatch.setattr(words, "__call__", lambda self, given, **k: (read.append(len(given)), own(self, given, **k))[1])
    monkeypatch.setattr(vlm.decoder, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    more = {"sampling": {"sampling": "greedy"}} if action != "encode" else {}
    more |= {"edited_text": text} if action == "edited" else {}
    prompt = "a circle" if action == "edited" else text
    with pytest.raises(ValueError) as error:
        bridge(f"actions.{'encode' if action == 'encode' else 'rewrite'}").run(clip, prompt, **more)
    assert ("4,096" in one_sentence(error)) or ("200,000" in one_sentence(error))
    assert not passes and sum(read) <= 4 * length  # nothing was computed, and the text was read a few times at most


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


NOTHING = [None, "x", [], 7, torch.ones(3), {}, ()]


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
        value = torch.ones(3)
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
        node(node_id).execute(**({"clip": krea2_clip} if choice == "sampling" else {"model": krea2_model}))
    text = one_sentence(error)
    assert f"'{choice}'" in text and ("greedy" in text or "Krea 2 Turbo" in text)


ODD = [
    "\na red fox",
    " \na red fox",
    "\n\n\nx",
    "\t\nx",
    "\n",
    "\r\nx",
    " x",
    "\u00a0\nx",
    "",
    "\u0301x",
    "\n(red:1.5) x",
    "<x>\n",
]


@pytest.mark.parametrize("prompt", ODD)
def test_a_prompt_that_merges_with_the_template_is_cut_as_stock_cuts(bridge, krea2_clip, prompt):
    """A line end in front becomes one token with the template's; then ComfyUI leaves the opening of the turn in."""
    from unifusion_pack.unifusion.prompt_weights import parse_weights, plain_text

    plain = plain_text(parse_weights(prompt))
    hidden = bridge("actions.encode").run(krea2_clip, prompt)[0]
    stock = krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize(plain))[0][0]
    assert torch.equal(hidden.states.flatten(2), stock)


SYNTAX = [
    ("a fox embedding:easynegative", "embedding:easynegative", "CLIP Text Encode"),
    ("embedding:x/y.pt and a fox", "embedding:x/y.pt", "CLIP Text Encode"),
    ("a fox <lora:snow:0.8>", "<lora:snow:0.8>", "Load LoRA"),
    ("a fox BREAK a wolf", "BREAK", "Layerwise Attention Pool"),
    ("a fox AND a wolf", "AND", "Layerwise Attention Pool"),
    ("a [fox:wolf:0.5]", "[fox:wolf:0.5]", "Timestep Range"),
    ("a [fox|wolf]", "[fox|wolf]", "alternate"),
    ("a {fox|wolf}", "{fox|wolf}", "API"),
    ("a __animal__ in snow", "__animal__", "wildcards"),
    ("a (fox:99)", "(fox:99)", "stays text"),
    ("a (fox:-11.5)", "(fox:-11.5)", "stays text"),
]


@pytest.mark.parametrize("prompt, named, instead", SYNTAX)
def test_syntax_of_other_packs_is_named(bridge, krea2_clip, prompt, named, instead):
    report = bridge("actions.encode").run(krea2_clip, prompt)[2]
    (line,) = [line for line in report.splitlines() if line.startswith("Warning:") and named in line]
    assert instead in line


def test_what_is_part_of_a_chat_is_taken_out_and_said(bridge, krea2_clip):
    report = bridge("actions.encode").run(krea2_clip, "<think>hard</think> a fox")[2]
    assert "Removed control tokens from the text: </think>, <think>." in report


@pytest.mark.parametrize("prompt", ["break and land", "16:9 [a note] {x}", "__init__ is fine?", "he said: AND"])
def test_ordinary_words_are_not_taken_for_syntax(bridge, krea2_clip, prompt):
    report = bridge("actions.encode").run(krea2_clip, prompt)[2]
    assert "is read as words" not in report.replace("wildcards", "") or "__" in prompt


def test_numbers_of_pictures_agree(bridge, node, miniature):
    """Trials, line 21: what the sheet and the report say is what is read."""
    picture = torch.rand(1, 64, 256, 3)
    done = bridge("actions.encode").run(miniature[1], "draw image 1 again", images={"image0": picture})
    assert "4 x 4 = 16 tokens" in done[2] and "seen as a square" in done[2]
    assert int((done[0].roles == 16).sum()) == 16
    assert "Warning: the prompt names" not in done[2]
    assert "'image 2'" in bridge("actions.encode").run(miniature[1], "as image 2", images={"image0": picture})[2]
    references = node("UniFusionMultiReferenceCombine").execute(
        8, "one view", "own labels", images={"image0": picture, "image1": picture}
    )
    report = bridge("actions.encode").run(miniature[1], "x", references=references.result[0])[2]
    assert "the token budget does not count" in report and "16 tokens" in report


def test_gains_that_do_nothing_are_said_and_presets_work_on_any_number_of_taps(
    bridge, miniature, krea2_clip, krea2_model
):
    from unifusion_pack.unifusion.layer_gains import PRESETS, preset_gains

    model, clip, _ = miniature
    hidden = bridge("actions.encode").run(clip, "a red circle")[0]
    assert "'foo' are not used" in bridge("actions.pool").run(model, hidden, gains="foo")[4]
    for preset in PRESETS:
        assert bridge("actions.pool").run(model, hidden, gain_preset=preset)[4]
    assert preset_gains("1.45 on tap 11", 12) == [1.0] * 10 + [1.45, 1.0]
    assert preset_gains("1.45 on tap 11", 4) == [1.0, 1.0, 1.0, 1.45]
    assert preset_gains("more layout (early taps 1.2)", 1) == [1.2]


@pytest.mark.parametrize("text", [",", "\u00b2", "$$", "\u0663", "9" * 5000, "a,,b", "\n"])
@pytest.mark.parametrize("which", ["heat_map", "words", "silence"])
def test_odd_texts_in_inspect(node, bridge, miniature, which, text):
    model, clip, _ = miniature
    hidden = bridge("actions.encode").run(clip, "a $$ red circle a b")[0]
    try:
        node("UniFusionInspect").execute(hidden, model, **{which: text})
    except ValueError as error:
        assert str(error).isprintable() and str(error).endswith("."), error
