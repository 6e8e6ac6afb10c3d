"""VERIFI and pictures on every row of the table of models, against ComfyUI's own generation and edit-encode nodes."""

from functools import cache

import pytest
import torch
from harness.tapped_models import make_encoder

from unifusion.chat_templates import QWEN
from unifusion.hidden_states import SYSTEM

WRITERS = (
    "flux2-klein-4b",
    "flux2-klein-9b",
    "z-image",
    "ideogram4",
    "mage-flow",
    "joyimage",
    "boogu",
    "ernie-image",
    "lumina2",
)
SILENT = {
    "flux2-dev": "no text generation",
    "qwen-image": "end its text",
    "ideogram4-lm": "cut off",
    "omnigen2": "no text generation",
    "ovis-image": "no text generation",
}
LENGTH = 10
PROMPTS = ("a red fox", "the moon", "in the snow", "a cat", "over", "an image", "blue", "lazy dog", "quick")

encoder = cache(make_encoder)


def parts(bridge, key, taps=None):
    """VLM, row and taps of an encoder."""
    vlm = bridge("encoders.text_encoder").VLM(encoder(key))
    from unifusion_pack.unifusion.profiles import taps_for

    return vlm, vlm.profile, taps_for(vlm.profile, vlm.layers)


def request(bridge, row, prompt="a red fox"):
    return bridge("actions.rewrite").Request("Describe it.", [(prompt, 1.0)], (), row.writing_chat)


@pytest.mark.parametrize("key", WRITERS)
def test_greedy_text_is_comfyuis_and_its_states_are_those_of_a_teacher_forced_pass(bridge, key, monkeypatch):
    from unifusion_pack.unifusion.verifi import Decoding

    vlm, row, taps = parts(bridge, key)
    opener = row.writing_chat.opener
    writing = bridge("encoders.writing")
    never, stops = writing._never_written(vlm, writing.stop_tokens(vlm)), writing.stop_tokens(vlm)
    for prompt in PROMPTS:  # random weights may write a control token, which the pack never does
        asked = request(bridge, row, prompt)
        tokens = vlm.tokenize(asked.segments(), opener=opener)
        chat = {vlm.clip.cond_stage_model.clip: [[(token, 1.0) for token in tokens.ids]]}
        stock = vlm.clip.generate(chat, do_sample=False, max_length=LENGTH)
        agreed = next((i for i, token in enumerate(stock) if token in never | stops), len(stock))
        if agreed >= 3:
            break
    assert agreed >= 3

    calls = []
    forward = vlm.decoder.forward
    monkeypatch.setattr(
        vlm.decoder, "forward", lambda *a, **k: (calls.append(k["embeds"].shape[1]), forward(*a, **k))[1]
    )
    settings = Decoding(max_length=LENGTH)
    reading = bridge("actions.encode").Reading(vlm, row, (), taps, "everything after the system prompt", "fp32")
    written = bridge("actions.rewrite").write(reading, asked, settings)[0]
    ids = written.decoded.ids
    assert calls == [len(tokens.ids)] + [1] * len(ids)

    assert ids[:agreed] == stock[:agreed]

    whole = tokens._replace(
        ids=[*tokens.ids, *ids],
        roles=[*tokens.roles, *[3] * len(ids)],
        weights=[1.0] * (len(tokens.ids) + len(ids)),
        pieces=[*tokens.pieces, *[""] * len(ids)],
    )
    forced = vlm.states(vlm.embed(whole), taps)
    kept = written.hidden.roles != SYSTEM  # what the drawing model is never given is not kept
    assert written.hidden.states.shape == forced.shape and written.hidden.states[:, ~kept].count_nonzero() == 0
    ours, forced = written.hidden.states[:, kept], forced[:, kept]
    assert forced.std() > 0.1 and forced.shape[1] > len(ids)
    assert ((ours - forced).abs().max() / forced.abs().max()) < 1e-4


@pytest.mark.parametrize("key", SILENT)
def test_an_encoder_that_cannot_write_says_in_one_line_which_could_and_how_to_wire_it(bridge, key):
    with pytest.raises(ValueError, match=SILENT[key]) as refused:
        bridge("actions.rewrite").run(encoder(key), "a red fox", sampling={"sampling": "greedy"})
    said = str(refused.value)
    assert "\n" not in said and said.endswith(".")
    assert "CLIPLoader, type 'krea2'" in said and "connect" in said and "VLM Encode" in said


@pytest.mark.parametrize("key", WRITERS)
def test_the_rewrite_node_works_on_every_row_that_writes(bridge, key):
    states, negative, text, report = bridge("actions.rewrite").run(
        encoder(key), "a red fox", sampling={"sampling": "greedy"}, max_length=4
    )
    assert states.tokens > 0 and negative.tokens > 0 and states.taps == negative.taps
    assert report.startswith("VERIFI: 3 words in") and states.text == text


def pictures(count, sizes=((200, 300), (260, 180))):
    made = torch.Generator().manual_seed(5)
    return [torch.rand(1, *size, 3, generator=made) for size in sizes[:count]]


def stock_edit(key, clip, prompt, images):
    if key == "qwen-image":
        from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus as node

        return node.execute(clip, prompt, **{f"image{i}": image for i, image in enumerate(images, 1)}).result[0][0]
    if key == "boogu":
        from comfy_extras.nodes_boogu import TextEncodeBooguEdit as node

        given = {f"image_{i}": image for i, image in enumerate(images, 1)}
        return node.execute(clip, prompt, "", images=given).result[0][0]
    if key == "mage-flow":
        from comfy_extras.nodes_mage import TextEncodeMageFlowEdit as node
    else:
        from comfy_extras.nodes_joyimage import TextEncodeJoyImageEdit as node
    return node.execute(clip, prompt, images={f"image_{i}": image for i, image in enumerate(images, 1)}).result[0][0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("key", ["qwen-image", "mage-flow", "joyimage", "boogu"])
def test_states_with_pictures_equal_the_stock_edit_encode_node(bridge, key, count):
    clip, images = encoder(key), pictures(count, ((400, 520), (460, 300)))
    stock = stock_edit(key, clip, "make it night", images)
    ours = bridge("actions.encode").run(
        clip, "make it night", images={f"image{i}": image for i, image in enumerate(images)}
    )[0]
    assert ours.count_by_role()["image 1"] > 4
    assert torch.equal(ours.states.flatten(2), stock[0])


@pytest.mark.parametrize("key", ["flux2-klein-4b", "z-image", "ernie-image", "lumina2"])
def test_pictures_on_an_encoder_that_reads_text_alone_are_refused_by_name(bridge, key):
    with pytest.raises(ValueError, match="reads text alone.*Disconnect them") as refused:
        bridge("actions.encode").run(encoder(key), "a fox", images={"image0": pictures(1)[0]})
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_the_think_block_keeps_qwen3_from_thinking_aloud(bridge):
    for key in ("flux2-klein-4b", "flux2-klein-9b", "z-image"):
        row = parts(bridge, key)[1]
        assert row.writing_chat.opener == QWEN.opener + "<think>\n\n</think>\n\n"
