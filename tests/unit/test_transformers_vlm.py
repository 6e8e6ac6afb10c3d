"""Folders of language models: states and texts are transformers' own, roles and selection those of the nodes (issue 17.4)."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from harness.tiny_folders import KINDS, tiny_folder, tiny_tokenizer
from safetensors.torch import load_file, save_file

from unifusion.folder_words import FolderWords
from unifusion.hidden_states import GENERATED, IMAGE, INSTRUCTION, PADDING, SYSTEM, TEMPLATE
from unifusion.miniature import VLM_FOLDER
from unifusion.references import resize
from unifusion.transformers_vlm import ENDED, Chat, TransformersVLM, default_taps
from unifusion.verifi import Decoding
from unifusion.vlm_folders import KINDS as KNOWN

WITH_PICTURES = ("qwen3_vl", "qwen2_5_vl", "internvl", "smolvlm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("vlms"), {}

    def folder(kind):
        if kind not in made:
            made[kind] = tiny_folder(kind, root / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def vlms(folders):
    made = {}
    return lambda kind: made.setdefault(kind, TransformersVLM.from_folder(folders(kind)))


def picture(seed, height=96, width=64):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def chats(vlm):
    """Of different lengths, without and with one and two pictures, and several views."""
    out = [
        Chat(instruction="a red circle on a blue background", system="describe the picture"),
        Chat(instruction="two", answer=" small green squares"),
    ]
    if vlm.reads_pictures:
        first, second = vlm.prepare(picture(1), tokens=6), vlm.prepare(picture(2, 64, 128), tiles=3, tokens=8)
        assert len(second) > 1
        out.append(Chat(instruction="a circle", system="describe", views=[first], answer="red"))
        out.append(Chat(instruction="more", views=[second, first], labels=["Image 1: ", "Image 2: "]))
    return out


def reference(folders, kind):
    name = "llama" if kind in ("llama3", "sentencepieces") else kind
    return getattr(transformers, KNOWN[name].architecture).from_pretrained(folders(kind), dtype=torch.float32).eval()


def processed(vlm, kind, said):
    """What transformers' own image processor makes of the views, which have the model's sizes already."""
    views = [view for views in said.views for view in views]
    arrays = [(view[0].numpy() * 255).round().astype(np.uint8) for view in views]
    common = dict(do_resize=False, image_mean=list(vlm.mean), image_std=list(vlm.std))
    if kind.startswith("qwen"):
        vision = vlm.model.config.vision_config
        processor = transformers.Qwen2VLImageProcessor(
            **common, patch_size=vision.patch_size, merge_size=vision.spatial_merge_size
        )
        made = processor(arrays, return_tensors="pt")
        return dict(pixel_values=made["pixel_values"], image_grid_thw=made["image_grid_thw"])
    values = torch.stack([torch.from_numpy(array).permute(2, 0, 1) / 255 for array in arrays])
    values = (values - torch.tensor(vlm.mean).view(3, 1, 1)) / torch.tensor(vlm.std).view(3, 1, 1)
    return dict(pixel_values=values if kind == "internvl" else values[None])


def rounded(vlm, said):
    """The same chat with pictures of 8 bits in whole tokens, which transformers' processors read without resizing."""

    def whole(view):
        height, width = (max(1, round(size / vlm.token_side)) * vlm.token_side for size in view.shape[1:3])
        return (resize(view, (height, width)).clamp(0, 1) * 255).round() / 255

    views = [[whole(view) for view in views] for views in said.views]
    return Chat(instruction=said.instruction, system=said.system, views=views, labels=said.labels, answer=said.answer)


def keep_input(inside, layer):
    return lambda _module, args: inside.__setitem__(layer, args[0])


@pytest.mark.parametrize("kind", KINDS)
def test_states_equal_transformers_own_hidden_states(vlms, folders, kind):
    """In one padded batch; each row alone in transformers, through its own picture path and positions."""
    vlm, model = vlms(kind), reference(folders, kind)
    said = [rounded(vlm, one) for one in chats(vlm)]
    taps = (*range(vlm.layers), vlm.layers)
    encoded = vlm.states(said, taps)
    assert encoded.states.shape[2:] == (len(taps), vlm.width) and torch.isfinite(encoded.states).all()
    for index, one in enumerate(said):
        count = int((encoded.read.roles[index] != PADDING).sum())
        ids = encoded.read.ids[index, :count][None]
        inputs, inside = {}, {}
        if one.views:
            inputs = processed(vlm, kind, one)
            if kind.startswith("qwen"):
                inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        # transformers lists states before DeepStack adds to them; what the next layer is given is after it
        layers = model.get_submodule(vlm.kind.decoder).layers
        handles = [layer.register_forward_pre_hook(keep_input(inside, n)) for n, layer in enumerate(layers)]
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **inputs)
        for handle in handles:
            handle.remove()
        for place, tap in enumerate(taps):
            ours, theirs = encoded.states[index, :count, place], out.hidden_states[tap][0]
            if tap < vlm.layers:
                assert (ours - inside[tap][0]).abs().max() < 1e-4 * max(1, float(ours.abs().max()))
            if not (kind == "qwen3_vl" and one.views and 0 < tap < vlm.layers):
                assert (ours - theirs).abs().max() < 1e-4 * max(1, float(theirs.abs().max())), (index, tap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [False, True])
def test_texts_equal_generate_and_states_those_of_reading_the_text(vlms, folders, kind, seen):
    if seen and kind not in WITH_PICTURES:
        return
    vlm, model = vlms(kind), reference(folders, kind)
    said = rounded(vlm, chats(vlm)[2 if seen else 0])
    said = Chat(instruction=said.instruction, system=said.system, views=said.views)
    written = vlm.write(said, Decoding(max_length=12), taps=vlm.taps)
    ids = vlm.read([said]).ids
    inputs = processed(vlm, kind, said) if seen else {}
    if seen and kind.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            suppress_tokens=sorted(vlm.never_written),
            eos_token_id=sorted(vlm.stops) or None,
            **inputs,
        )[0, ids.shape[1] :].tolist()
    assert written.ids == [number for number in theirs if number not in vlm.stops]
    assert written.text == b"".join(vlm.bytes_of(written.ids)).decode("utf-8", "ignore")
    count = ids.shape[1]
    assert written.states.shape == (1, count + len(written.ids), len(vlm.taps), vlm.width)
    assert (written.roles[count:] == GENERATED).all() and not (written.roles[:count] == GENERATED).any()
    again = vlm.states([said]).states
    assert (written.states[:, :count] - again).abs().max() < 1e-4 * float(again.abs().max())
    # the same ids, read in one pass
    embedded = vlm.read([said])
    tokens = torch.tensor([written.ids])
    place = int(embedded.positions.max()) + 1 + torch.arange(len(written.ids))[None]
    whole = embedded._replace(
        embeds=torch.cat([embedded.embeds, vlm.decoder.embed_tokens(tokens)], dim=1),
        positions=torch.cat([embedded.positions, place.expand(*embedded.positions.shape[:-1], -1)], dim=-1),
        pictures=torch.nn.functional.pad(embedded.pictures, (0, len(written.ids))),
    )
    from unifusion.transformers_vlm import tapped

    with torch.no_grad(), tapped(vlm.decoder, vlm.taps, stop=True) as caught:
        vlm.forward(whole)
    read = torch.stack([caught[tap] for tap in vlm.taps], dim=2)
    assert (written.states - read).abs().max() < 2e-4 * float(read.abs().max())


def test_sampling_repeats_with_its_seed_and_keeps_its_bounds(vlms):
    vlm = vlms("llama")
    said = Chat(instruction="a red circle", system="describe")
    texts = {
        seed: vlm.write(said, Decoding(sample=True, seed=seed, top_k=20, top_p=0.95, min_p=0.01, max_length=8)).ids
        for seed in (1, 2, 3)
    }
    again = vlm.write(said, Decoding(sample=True, seed=2, top_k=20, top_p=0.95, min_p=0.01, max_length=8)).ids
    assert again == texts[2] and len(set(map(tuple, texts.values()))) > 1
    assert all(not set(ids) & vlm.never_written for ids in texts.values())
    one = vlm.write(said, Decoding(sample=True, seed=5, top_k=1, max_length=8)).ids
    assert one == vlm.write(said, Decoding(max_length=8)).ids
    full = vlm.write(said, Decoding(sample=True, seed=9, temperature=5.0, min_length=30, max_length=30))
    assert len(full.ids) == 30 and not set(full.ids) & vlm.stops


def test_a_text_ends_at_a_stop_token(vlms, folders):
    vlm = TransformersVLM.from_folder(folders("llama"))
    said = Chat(instruction="a red circle", system="describe")
    first = vlm.write(said, Decoding(max_length=4)).ids
    vlm.stops.add(first[2])
    del vlm.__dict__["never_written"]
    written = vlm.write(said, Decoding(max_length=4), taps=(0,))
    assert written.ids == first[:2] and written.ending == ENDED
    assert written.states.shape[1] == len(vlm.tokenize(said).ids) + 2


@pytest.mark.parametrize("kind", KINDS)
def test_roles_and_selection(vlms, kind):
    vlm = vlms(kind)
    said = chats(vlm)[2] if vlm.reads_pictures else chats(vlm)[1]
    tokens = vlm.tokenize(said)
    by_role = {}
    for role, piece in zip(tokens.roles, tokens.pieces, strict=True):
        by_role[role] = by_role.get(role, "") + piece
    assert by_role[INSTRUCTION].removeprefix(" " * (kind == "sentencepieces")) == said.instruction
    assert not said.answer or by_role[GENERATED] == said.answer
    encoded = vlm.states([said, Chat(instruction="x")])
    states, mask = encoded.compact("images and rewritten text")
    roles = encoded.read.roles[0]
    expected = int(((roles == GENERATED) | (roles >= IMAGE)).sum())
    assert mask[0].sum() == expected
    assert mask[1].sum() >= 1 or not vlm.template.opener  # an empty selection takes the assistant's opener
    assert (states[1, int(mask[1].sum()) :] == 0).all()
    assert not encoded.selected("everything")[1, int((encoded.read.roles[1] != PADDING).sum()) :].any()
    with pytest.raises(ValueError, match="more than the 1 asked for"):
        encoded.compact("everything", 1)


def test_ids_are_those_of_the_tokenizer_and_a_token_in_front_stays(vlms, folders):
    for kind in KINDS:
        vlm = vlms(kind)
        segments = vlm.segments(Chat(instruction="a circle, naïve 🦊\n\n two", system="s\u0301ay", answer="ok"))
        text = "".join(segment.text for segment in segments)
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folders(kind) / "tokenizer.json"))
        tokens = vlm.tokenize(segments)
        assert tokens.ids == theirs(text)["input_ids"], kind
        assert len(tokens.ids) == len(tokens.roles) == len(tokens.pieces) == len(tokens.weights)
        assert tokens.roles[0] in (SYSTEM, TEMPLATE)
    assert vlms("llama3").tokenize(Chat(instruction="x")).pieces[:2] == ["", "<|start_header_id|>"]
    assert vlms("sentencepieces").words.front == (1,)


def test_control_tokens_of_the_model_are_cut_out_of_a_text(vlms):
    for kind, token in (("internvl", "<IMG_CONTEXT>"), ("smolvlm", "<image>"), ("llama3", "<|eot_id|>")):
        assert vlms(kind).clean(f"a {token} b <|image_pad|> c") == (
            "a  b  c" if kind != "llama3" else "a  b <|image_pad|> c"
        )


def test_pictures_for_a_model_that_reads_text_alone_are_refused(vlms):
    with pytest.raises(ValueError, match="reads text alone") as error:
        vlms("llama").states([Chat(instruction="x", views=[[picture(1)]])])
    assert str(error.value).isprintable() and str(error.value).endswith(".")


def test_too_long_a_chat_is_refused_before_the_pass(vlms):
    with pytest.raises(ValueError, match="can read at once"):
        vlms("llama").states([Chat(instruction="red " * 3000)])


@pytest.mark.parametrize(
    "layers, taps",
    [
        (1, (0,)),
        (2, (0, 1)),
        (4, (0, 1, 2, 3)),
        (8, (1, 3, 5, 7)),
        (12, (2, 5, 8, 11)),
        (30, tuple(range(2, 30, 3))),
        (36, tuple(range(2, 36, 3))),
    ],
)
def test_default_taps_are_spread_evenly(layers, taps):
    assert default_taps(layers) == taps


def test_taps_of_the_config_are_taken(tmp_path):
    folder = tiny_folder("llama", tmp_path / "a", shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"taps": [1, 4]}))
    vlm = TransformersVLM.from_folder(folder)
    assert vlm.taps == (1, 4) == vlm.profile.taps
    assert vlm.states([Chat(instruction="x")]).states.shape[2] == 2


def test_dtype_and_tied_weights(tmp_path):
    folder = tiny_folder("llama", tmp_path / "a", dtype=torch.bfloat16)
    kept = TransformersVLM.from_folder(folder, dtype=None)
    assert kept.dtype == torch.bfloat16
    assert kept.model.lm_head.weight is kept.decoder.embed_tokens.weight
    full = TransformersVLM.from_folder(folder)
    assert full.dtype == torch.float32 and full.model.lm_head.weight is full.decoder.embed_tokens.weight
    said = [Chat(instruction="a red circle")]
    near = kept.states(said).states - full.states(said).states
    assert near.abs().max() < 0.1 * full.states(said).states.abs().max()


def test_the_bundled_miniature_loads_and_its_states_are_the_frozen_ones():
    """One class for a creator's folder and the shipped one; recipes/miniature has its own, which trained it."""
    frozen_vlm = importlib.import_module("recipes.miniature.frozen_vlm")
    chats_of = importlib.import_module("recipes.miniature.chats")
    vlm = TransformersVLM.from_folder(VLM_FOLDER)
    assert vlm.taps == (1, 3, 5, 7) and vlm.picture_side == 128
    views = [[picture(3, 128, 128)]]
    arrays = [[(view[0].numpy() * 255).round().astype(np.uint8) for view in views[0]]]
    views = [[torch.from_numpy(array).float()[None] / 255 for array in arrays[0]]]
    system = chats_of.VERIFI_SYSTEM
    ours = vlm.states(
        [
            Chat(
                instruction="Make the circle RED",
                system=system,
                views=views,
                answer="on a white background: a red circle",
            ),
            Chat(instruction="two stars", system=system),
        ]
    )
    frozen = frozen_vlm.load_vlm()
    theirs = frozen.encode(
        [
            chats_of.Chat("Make the circle RED", arrays, "on a white background: a red circle"),
            chats_of.Chat("two stars"),
        ]
    )
    compact, mask = ours.compact("images and rewritten text")
    expected, expected_mask = theirs.compact()
    assert torch.equal(mask, expected_mask)
    assert (compact - expected).abs().max() < 1e-3


def test_words_of_every_form_give_their_bytes_back():
    text = "a red circle, naïve 🦊\n\n two"
    for kind in ("llama", "sentencepieces", "internvl"):
        words = FolderWords(tiny_tokenizer(kind), kind)
        joined = b"".join(words.bytes_of(words(text)["input_ids"])).decode()
        assert joined.strip() == text


OLDER_NAMES = {
    "qwen2_5_vl": ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")),
    "qwen3_vl": (
        (r"^model\.language_model\.", "model."),
        (r"^model\.visual\.", "visual."),
        (r"^lm_head\.", "model.lm_head."),
    ),
    "internvl": (
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    ),
    "llama": ((r"^model\.", ""),),
}


@pytest.mark.parametrize("kind", OLDER_NAMES)
def test_names_of_older_writers_are_known(vlms, folders, tmp_path, kind):
    folder = shutil.copytree(folders(kind), tmp_path / "older")
    renamed = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        for pattern, replacement in OLDER_NAMES[kind]:
            name, changed = re.subn(pattern, replacement, name)
            if changed:
                break
        renamed[name] = weight
    save_file(renamed, folder / "model.safetensors")
    if kind == "qwen2_5_vl":  # and a configuration without a table of its own for the language model
        values = json.loads((folder / "config.json").read_text())
        text = values.pop("text_config")
        (folder / "config.json").write_text(json.dumps(text | values | {"model_type": "qwen2_5_vl"}))
    older = TransformersVLM.from_folder(folder)
    said = chats(older)
    assert torch.equal(older.states(said).states, vlms(kind).states(said).states)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "internvl", "smolvlm", "llama"])
def test_training_takes_steps_over_its_states(vlms, kind):
    """LAP, refiner and a small drawing model, with the projection that a width of 48 needs; the loss falls, the frozen
    model stays."""
    from unifusion.dit import DiTConfig, SingleStreamDiT
    from unifusion.pooling import pooled_width
    from unifusion.training.objective import Batch, FlowMatching

    vlm = vlms(kind)
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    colours = ("red", "blue")
    read = vlm.states([Chat(instruction=colour, system="describe") for colour in colours])
    states, mask = read.compact("everything after the system prompt")
    config = DiTConfig(
        features=128,
        heads=1,
        kvheads=1,
        layers=1,
        txtdim=pooled_width(vlm.width),
        txtlayers=len(vlm.taps),
        txtinput=vlm.width,
    )
    assert (config.txtdim, config.states_width) == (160, 48)
    torch.manual_seed(0)
    objective = FlowMatching(SingleStreamDiT(config).initialise(torch.Generator().manual_seed(0)), features_at=1)
    bias = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    latents = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 16, 4, 4)
    batch = Batch(latents, states, bias)
    objective.check(batch)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses = []
    for step in range(12):
        noise = torch.randn(2, 4, *latents.shape[1:], generator=torch.Generator().manual_seed(3))
        t = torch.linspace(0.2, 0.8, 4).expand(2, 4)
        loss = objective(batch, noise, t)["loss"]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert objective.dit.txtfusion.input.weight.grad is not None
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(objective.dit.txtfusion.input.weight, torch.eye(160, 48))
    assert all(torch.equal(weight, before[name]) for name, weight in vlm.model.state_dict().items())
