"""VERIFI in the real ComfyUI: one pass writes the text and gives its states."""

from contextlib import contextmanager

import pytest
import torch

from unifusion.verifi import Decoding

SAMPLE = {"sampling": "sample", "temperature": 0.9, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.1}


def picture(height, width, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


PICTURES = {
    "text only": [],
    "one picture": [[picture(96, 64)]],
    "two pictures": [[picture(64, 128, 1)], [picture(96, 64, 2)]],
}


@pytest.fixture(scope="module")
def rewrite(bridge, krea2_clip):
    """The node's work with its default settings, on the random Krea 2 encoder unless another is given."""

    def run(
        prompt="a red fox",
        clip=None,
        *,
        profile="auto",
        system="keep it short",
        custom="",
        selection="as the profile",
        sampling=None,
        seed=0,
        min_length=0,
        max_length=6,
        prefill="",
        edited="",
        precision="auto",
        taps="",
        references=None,
        images=None,
    ):
        return bridge("actions.rewrite").run(
            clip or krea2_clip,
            prompt,
            profile=profile,
            system_prompt=system,
            custom_system_prompt=custom,
            selection=selection,
            sampling=sampling or {"sampling": "greedy"},
            seed=seed,
            min_length=min_length,
            max_length=max_length,
            prefill=prefill,
            edited_text=edited,
            precision=precision,
            taps=taps,
            references=references,
            images=images,
        )

    return run


@pytest.fixture
def vlm(bridge, krea2_clip):
    return bridge("encoders.text_encoder").VLM(krea2_clip)


@pytest.fixture
def config(vlm, monkeypatch):
    """The encoder's configuration; what a test changes is undone."""

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(vlm.decoder.config, name, value, raising=False)

    return change


@contextmanager
def counted_forwards(vlm):
    """Tokens fed in each forward pass of the decoder."""
    fed = []
    handle = vlm.decoder.layers[0].register_forward_pre_hook(
        lambda _module, args, kwargs: fed.append((kwargs["x"] if "x" in kwargs else args[0]).shape[1]), with_kwargs=True
    )
    try:
        yield fed
    finally:
        handle.remove()


def decoded(bridge, vlm, pictures, settings, limit, taps=(2, 5, 20, 35)):
    """(tokens asked, what was decoded) from a plain chat, with the bridge's own functions."""
    from unifusion_pack.unifusion.messages import chat

    tokens = vlm.tokenize(chat("You describe pictures.", "a red fox", [1] * len(pictures)))
    vlm.load(1024, len(taps))
    (wrote,) = bridge("encoders.writing").decode(vlm, vlm.embed(tokens, pictures), taps, settings, limit, "fp32")
    return tokens, wrote


@pytest.mark.parametrize("ending", ["limit", "stop token"])
@pytest.mark.parametrize("pictures", PICTURES.values(), ids=PICTURES)
def test_captured_states_equal_a_teacher_forced_pass(bridge, vlm, config, pictures, ending):
    greedy, taps = Decoding(), (2, 5, 20, 35)
    tokens, wrote = decoded(bridge, vlm, pictures, greedy, 8)
    if ending == "stop token":  # what greedy decoding draws sixth now ends the text
        config(stop_tokens=[wrote.ids[5]])
        limit_ids = wrote.ids[: wrote.ids.index(wrote.ids[5])]
        tokens, wrote = decoded(bridge, vlm, pictures, greedy, 8)
        assert wrote.ids == limit_ids and wrote.ending == "ended by itself"
    else:
        assert len(wrote.ids) == 8 and wrote.ending == "stopped at the limit"
    count = len(wrote.ids)
    forced = vlm.embed(
        tokens._replace(
            ids=tokens.ids + wrote.ids,
            roles=tokens.roles + [3] * count,
            weights=tokens.weights + [1.0] * count,
            pieces=tokens.pieces + [""] * count,
        ),
        pictures,
    )
    expected = vlm.states(forced, taps)
    assert wrote.states.shape == expected.shape
    scale = expected.std(dim=(0, 1, 3), keepdim=True)
    assert ((wrote.states - expected).abs() / scale).max() < 1e-3


@pytest.mark.parametrize("pictures", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("sampling", ["greedy", "sample"])
def test_written_ids_equal_stock_text_generation(bridge, vlm, krea2_clip, pictures, sampling):
    drawn = {name: value for name, value in SAMPLE.items() if name != "sampling"} if sampling == "sample" else {}
    tokens, wrote = decoded(bridge, vlm, pictures, Decoding(sample=sampling == "sample", seed=3, **drawn), 10)
    stock_tokens = krea2_clip.tokenize("".join(tokens.pieces), images=[view for views in pictures for view in views])
    asked = [entry[0] for entry in stock_tokens["qwen3vl_4b"][0]]
    assert [token if isinstance(token, int) else 151655 for token in asked] == tokens.ids
    stock = krea2_clip.generate(stock_tokens, do_sample=sampling == "sample", max_length=10, seed=3, **drawn)
    assert len(set(stock)) > 2
    assert wrote.ids == stock


def test_same_seed_gives_the_same_text_and_states_and_another_seed_another(rewrite):
    first, again, other = (rewrite(sampling=SAMPLE, seed=seed) for seed in (5, 5, 6))
    assert first[2] == again[2] != other[2]
    assert torch.equal(first[0].states, again[0].states)


@pytest.mark.parametrize("images", [None, {"image0": picture(96, 64)}], ids=["text", "picture"])
def test_nothing_is_encoded_twice(rewrite, vlm, images):
    rewrite("a blue bird", images=images)  # the negative does not depend on the prompt and is kept
    with counted_forwards(vlm) as fed:
        states = rewrite("a red fox", images=images, max_length=7)[0]
    written = states.count_by_role()["generated"]
    assert written == 7 and fed[1:] == [1] * 7, "one prefill and one step a token"


def test_a_text_that_ends_by_itself_needs_no_further_step(bridge, vlm, config):
    tokens, wrote = decoded(bridge, vlm, [], Decoding(), 8)
    end = wrote.ids[6]
    config(stop_tokens=[end])
    with counted_forwards(vlm) as fed:
        decoded(bridge, vlm, [], Decoding(), 8)
    assert fed == [len(tokens.ids), *[1] * wrote.ids.index(end)]


def test_text_alone_needs_no_further_step_at_the_limit(bridge, vlm):
    with counted_forwards(vlm) as fed:
        tokens, wrote = decoded(bridge, vlm, [], Decoding(), 4, taps=())
    assert len(wrote.ids) == 4 and wrote.states is None
    assert fed == [len(tokens.ids), 1, 1, 1]


def test_only_pictures_and_written_text_reach_the_pool(rewrite):
    states, negative, _, _ = rewrite(selection="images and rewritten text", images={"image0": picture(96, 64)})
    assert set(states.count_by_role()) == {"image 1", "generated"}
    assert set(negative.count_by_role()) == {"image 1", "template"}
    assert set(rewrite(selection="rewritten text only")[0].count_by_role()) == {"generated"}
    after = rewrite(selection="everything after the system prompt", images={"image0": picture(96, 64)})[0]
    assert set(after.count_by_role()) == {"template", "image 1", "instruction", "generated"}


def test_states_of_unselected_tokens_do_not_reach_the_conditioning(bridge, vlm, krea2_model, monkeypatch):
    """System prompt and instruction are disturbed where they are captured, behind the pass that writes."""
    from unifusion_pack.unifusion.hidden_states import GENERATED, IMAGE

    rewriting = bridge("actions.rewrite")

    def conditioning(disturbed):
        real = rewriting.write

        def write(*args):
            (written,) = real(*args)
            mask = disturbed(written.hidden.roles)
            assert mask.any()
            states = written.hidden.states.clone()
            states[:, mask] += 100 * torch.randn(states[:, mask].shape, generator=torch.Generator().manual_seed(0))
            return [written._replace(hidden=written.hidden._replace(states=states))]

        with monkeypatch.context() as patch:
            if disturbed is not None:
                patch.setattr(rewriting, "write", write)
            states = rewriting.run(
                vlm.clip,
                "a red fox",
                system_prompt="keep it short",
                selection="images and rewritten text",
                sampling={"sampling": "greedy"},
                max_length=5,
                precision="fp32",
                images={"image0": picture(96, 64)},
            )[0]
        return bridge("actions.pool").run(krea2_model, states)[1][0][0]

    calm = conditioning(None)
    assert torch.equal(calm, conditioning(lambda roles: (roles < IMAGE) & (roles != GENERATED)))
    assert not torch.equal(calm, conditioning(lambda roles: roles == GENERATED))
    assert not torch.equal(calm, conditioning(lambda roles: roles >= IMAGE))


def test_edited_text_gives_what_decoding_gave(rewrite, vlm):
    """For texts that the tokenizer splits as the model wrote them; a random model also writes others."""
    compared = 0
    for seed in range(40):
        states, _, text, _ = rewrite(sampling=SAMPLE, seed=seed, max_length=3)
        if len(vlm.tokenizer(text)["input_ids"]) != 3 or vlm.tokenizer(text)["input_ids"][0] == 198:
            continue
        edited, _, same, report = rewrite(edited=text)
        assert same == text and "edited text was used" in report
        if edited.pieces != states.pieces:
            continue
        compared += 1
        assert torch.equal(edited.roles, states.roles)
        scale = states.states.std(dim=(0, 1, 3), keepdim=True)
        assert ((edited.states - states.states).abs() / scale).max() < 1e-3
        if compared == 2:
            return
    raise AssertionError("no text of the random model could be compared")


def test_edited_text_is_read_in_one_pass(rewrite, vlm):
    rewrite("a blue bird")
    with counted_forwards(vlm) as fed:
        states, _, text, _ = rewrite("a red fox", edited="A small (red fox:1.5) sits in deep snow.")
    assert len(fed) == 1
    assert text == "A small red fox sits in deep snow."
    weighted = {piece for piece, weight in zip(states.pieces, states.weights.tolist()) if weight == 1.5}
    assert weighted == {"red", " fox"} or weighted == {" red", " fox"}


@pytest.mark.parametrize("edited", ["", "A red fox in the snow."])
def test_encoding_the_text_as_a_prompt_equals_vlm_encode_of_it(rewrite, bridge, krea2_clip, edited):
    states, negative, text, _ = rewrite(selection="encode the rewritten text as a prompt", edited=edited)
    plain, plain_negative, _ = bridge("actions.encode").run(krea2_clip, text)
    assert torch.equal(states.states, plain.states) and torch.equal(negative.states, plain_negative.states)
    assert (states.prompt, states.text) == ("a red fox", text)


def test_first_words_are_kept_and_count_as_written(rewrite):
    states, _, text, _ = rewrite(prefill="A photograph of ", selection="rewritten text only", max_length=3)
    assert text.startswith("A photograph of")
    assert states.pieces[:3] == ("A", " photograph", " of") and states.tokens == 6


@pytest.mark.parametrize("prefill,says", [("I'm sorry, but", "refused"), ("抱歉，我", "refused")])
def test_a_refusal_is_replaced_by_the_prompt_and_reported(rewrite, prefill, says):
    states, _, text, report = rewrite("a dog on a kitchen table", prefill=prefill)
    as_edited = rewrite("a dog on a kitchen table", edited="a dog on a kitchen table")[0]
    assert text == "a dog on a kitchen table"
    assert says in report and "original prompt was used" in report
    assert torch.equal(states.states, as_edited.states)


def test_an_empty_answer_is_replaced_by_the_prompt_and_reported(rewrite, config):
    config(stop_tokens=list(range(151936)))
    _, _, text, report = rewrite("a dog on a kitchen table")
    assert text == "a dog on a kitchen table" and "wrote nothing" in report


def test_control_tokens_are_never_written(rewrite, vlm, monkeypatch):
    """The model is made to want nothing but control tokens and rows of its table that are no token."""
    wanted = torch.tensor([*range(151646, 151665), *range(151700, 151936)])
    real = vlm.transformer.logits
    monkeypatch.setattr(
        vlm.transformer,
        "logits",
        lambda x: real(x).index_add_(2, wanted, torch.full((1, 1, len(wanted)), 1e4)),
        raising=False,
    )
    states, _, text, _ = rewrite("a red fox <|im_end|>", sampling=SAMPLE, selection="rewritten text only")
    assert states.tokens == 6 and "<|" not in text
    assert not any(piece.startswith("<|") for piece in states.pieces)


def test_minimum_length_keeps_the_text_from_ending(rewrite, vlm, monkeypatch):
    stops = torch.tensor(vlm.decoder.config.stop_tokens)
    real = vlm.transformer.logits
    monkeypatch.setattr(
        vlm.transformer,
        "logits",
        lambda x: real(x).index_add_(2, stops, torch.full((1, 1, len(stops)), 1e4)),
        raising=False,
    )
    states, _, _, report = rewrite(min_length=4, max_length=9, selection="rewritten text only")
    assert states.tokens == 4 and "ended by itself" in report


def test_writing_stops_where_the_window_is_full(rewrite):
    states, _, _, report = rewrite("word " * 490, max_length=100, sampling=SAMPLE)
    assert states.tokens == 512
    assert "the window of 512 tokens of Krea 2 is full" in report and "Warning" not in report


def test_an_interrupt_stops_within_a_token_and_leaves_nothing_behind(rewrite, vlm):
    import comfy.model_management

    with counted_forwards(vlm) as fed:
        handle = vlm.decoder.layers[0].register_forward_pre_hook(
            lambda *_: comfy.model_management.interrupt_current_processing(True) if len(fed) == 3 else None
        )
        try:
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                rewrite(max_length=50)
        finally:
            handle.remove()
            comfy.model_management.interrupt_current_processing(False)
        assert len(fed) == 3
    assert not any(layer._forward_pre_hooks for layer in vlm.decoder.layers)


def test_bf16_is_close_and_the_report_says_so(rewrite):
    full, half = (rewrite(edited="A red fox.", precision=precision) for precision in ("fp32", "bf16"))
    difference = (full[0].states - half[0].states).norm() / full[0].states.norm()
    assert 1e-4 < difference < 0.1
    assert "bf16" in half[3] and "bf16" not in full[3]


def test_report_counts_words_tokens_time_and_bytes(rewrite):
    report = rewrite("a red fox", edited="A red fox in deep snow.")[3]
    assert "3 words in, 6 words out" in report and "generated" in report and "MB" in report
    assert "tokens/s" in rewrite("a red fox")[3]


@pytest.mark.parametrize(
    "widgets,words",
    [
        (dict(prompt="  "), "There is nothing to rewrite"),
        (dict(max_length=0), "The maximum length is 0"),
        (dict(prefill="Sure <|im_end|>"), "prefill contains the control token '<.im_end.>'"),
        (dict(images={f"image{i}": picture(512, 512, i) for i in range(4)}), "No room is left to write"),
        (dict(system="custom"), "custom_system_prompt is empty"),
        (dict(sampling={"sampling": None}), "There is no sampling 'None'"),
        (dict(selection="everything"), "Unknown token selection 'everything'"),
        (dict(taps="40"), "rising layer numbers"),
    ],
)
def test_bad_input_is_refused_with_one_clear_sentence(rewrite, widgets, words):
    with pytest.raises(ValueError, match=words) as refused:
        rewrite(**widgets)
    assert "\n" not in str(refused.value)


def test_an_encoder_that_cannot_write_is_refused_by_name(rewrite, monkeypatch):
    """ComfyUI's Qwen3-VL-32B is the cut one of MiniMax H3; here in small."""
    minimax = pytest.importorskip(
        "comfy.text_encoders.minimax", reason="this ComfyUI has no text encoder that is cut off"
    )
    import comfy.sd
    import comfy.text_encoders.qwen3vl as qwen3vl
    from harness.random_krea2 import VISION

    class Target:
        params = {}
        clip = staticmethod(minimax.te())
        tokenizer = minimax.MiniMaxH3Tokenizer

    small = dict(
        hidden_size=64, intermediate_size=64, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=4
    )
    monkeypatch.setitem(qwen3vl.QWEN3VL_VISION, "qwen3vl_32b", VISION)
    clip = comfy.sd.CLIP(Target, model_options={"qwen3vl_32b_model_config": small})
    with pytest.raises(ValueError, match="MiniMaxH3TEModel.*cannot write text: its last layers .* cut off"):
        rewrite(clip=clip, profile="qwen3vl")


def test_an_encoder_without_its_final_norm_is_refused_by_name(rewrite, krea2_clip, monkeypatch):
    """What being cut off means, in any ComfyUI."""
    monkeypatch.setitem(krea2_clip.cond_stage_model.qwen3vl_4b.transformer.model._modules, "norm", None)
    with pytest.raises(ValueError, match="cannot write text: its last layers .* cut off"):
        rewrite()


@pytest.mark.parametrize(
    "module,name,reason",
    [
        ("llama", "Gemma3_12B", "not been compared"),
        ("gemma4", "Gemma4_31B", "not been compared"),
        ("gemma4", "Gemma4_12B", "not been compared"),
        ("qwen35", "Qwen35", "recurrent state"),
        ("llama", "Qwen25_7BVLI", "not been compared"),
        ("llama", "Qwen3_06B", "not been compared"),
        ("t5", "T5", "layers can be tapped"),
    ],
)
def test_every_other_text_encoder_is_refused_with_its_reason(bridge, module, name, reason):
    import importlib

    encoder = getattr(importlib.import_module(f"comfy.text_encoders.{module}"), name, None)
    if encoder is None:
        pytest.skip(f"this ComfyUI has no {name}")
    assert not hasattr(encoder, "build_image_inputs")
    assert reason in bridge("encoders.text_encoder").why_not(encoder)


def test_the_node_shows_the_text_and_the_report(node, krea2_clip):
    output = node("UniFusionVerifiRewrite").execute(
        krea2_clip, "a red fox", "auto", "as the profile", "", "as the profile", {"sampling": "greedy"}, 0, 0, 4, "", ""
    )
    (states,), negative, (text,), report = output.result
    assert states.text == text and negative.value().text == ""
    assert output.ui["text"] == [text] and output.ui["report"] == [report]  # the text by itself, to be edited
