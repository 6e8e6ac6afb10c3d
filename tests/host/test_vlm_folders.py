"""A transformers folder in ComfyUI: states as the trainer's, texts, memory, a drawing model behind it (issue 17, item 4)."""

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from harness.tiny_folders import KINDS, tiny_folder
from safetensors.torch import load_file, save_file

from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.miniature import VAE_FILE
from unifusion.pooling import pooled_width
from unifusion.transformers_vlm import Chat, TransformersVLM
from unifusion.verifi import Decoding

DEVICE = torch.device("cpu:0")  # not torch.device("cpu") for the host: a device of its own, see test_memory_pressure
GREEDY = {"sampling": "greedy"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("vlms"), {}

    def folder(kind):
        if kind not in made:
            made[kind] = tiny_folder(kind, root / kind, dtype=torch.bfloat16)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def clips(folders, bridge):
    made = {}

    def clip(kind):
        if kind not in made:
            made[kind] = bridge("actions.model_folders").load_folder(folders(kind))[1]
        return made[kind]

    return clip


@pytest.fixture(scope="module")
def plain(folders):
    made = {}
    return lambda kind: made.setdefault(kind, TransformersVLM.from_folder(folders(kind)))


def picture(seed=1):
    return torch.rand(1, 80, 112, 3, generator=torch.Generator().manual_seed(seed))


def asked(vlm, prompt="a red circle", system=None):
    """(images of the node, the same chat for the plain class)."""
    images = {"image0": picture(1), "image1": picture(2)} if vlm.reads_pictures else {}
    views = [vlm.prepare(one) for one in images.values()]
    return images, Chat(
        instruction=prompt,
        system=vlm.profile.system_for(prompt, bool(views)) if system is None else system,
        views=views,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_vlm_encode_reads_is_what_the_trainer_reads(clips, plain, bridge, kind):
    vlm = plain(kind)
    images, said = asked(vlm)
    hidden, negative, report = bridge("actions.encode").run(clips(kind), said.instruction, images=images)
    states, mask = vlm.states([said]).compact(vlm.profile.encode_selection)
    assert mask.all() and hidden.taps == vlm.taps == vlm.profile.taps
    assert torch.equal(hidden.states, states)
    assert negative.taps == hidden.taps and "tokens" in report
    again = bridge("actions.encode").run(clips(kind), said.instruction, images=images)[0]
    assert torch.equal(again.states, hidden.states)  # features of pictures come from the store


@pytest.mark.parametrize("kind", KINDS)
def test_verifi_writes_what_the_plain_class_writes(clips, plain, bridge, kind):
    from unifusion.system_prompts import SYSTEM_PROMPTS

    vlm = plain(kind)
    images, said = asked(vlm, system=SYSTEM_PROMPTS[vlm.profile.rewrite_system])
    run = bridge("actions.rewrite").run
    hidden, _, text, report = run(
        clips(kind),
        said.instruction,
        images=images,
        sampling=GREEDY,
        max_length=10,
        min_length=10,
        precision="fp32",
        selection="everything after the system prompt",
    )
    written = vlm.write(said, Decoding(max_length=10, min_length=10), taps=vlm.taps)
    if "The original prompt was used" not in report:
        assert text == written.text
        assert torch.equal(hidden.states, written.states[:, written.roles != 0])
    sampled = run(
        clips(kind), "a red circle", sampling={"sampling": "sample", "temperature": 1.0, "top_p": 0.9, "top_k": 20,
        "min_p": 0.0, "repetition_penalty": 1.1}, seed=3, max_length=6,
    )  # fmt: skip
    assert sampled[0].tokens >= 1


@pytest.mark.parametrize("kind", ["qwen3_vl", "smolvlm", "llama"])
def test_several_texts_at_once_are_what_each_seed_writes_alone(clips, plain, bridge, kind):
    drawn = {
        "sampling": "sample",
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    asked_for = dict(images=asked(plain(kind))[0], sampling=drawn, max_length=8, precision="fp32")
    rewrite = bridge("actions.rewrite")
    several = rewrite.run_variations(clips(kind), "a red circle", seed=5, variations=3, **asked_for)
    for seed, one in enumerate(several, 5):
        alone = rewrite.run(clips(kind), "a red circle", seed=seed, **asked_for)
        assert one[2] == alone[2]
        assert (one[0].states - alone[0].states).abs().max() < 1e-4 * alone[0].states.abs().max()


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", "llama"])
def test_stock_nodes_encode_and_write_with_it(clips, plain, bridge, kind):
    """Text Encode and the host's own text generation; conditioning as Krea 2's encoder gives it."""
    vlm, clip = plain(kind), clips(kind)
    image = picture() if vlm.reads_pictures else None
    tokens = clip.tokenize("a red circle", image=image)
    cond = clip.encode_from_tokens(tokens)
    hidden = bridge("actions.encode").run(clip, "a red circle", images={} if image is None else {"image0": image})[0]
    assert torch.equal(cond, hidden.states.flatten(2))
    ids = clip.generate(tokens, do_sample=False, max_length=6)
    assert len(ids) in range(1, 7) and isinstance(clip.decode(ids), str)


def test_a_lora_on_it_counts_and_leaves(clips, bridge):
    clip = clips("llama")
    run = bridge("actions.encode").run
    before = run(clip, "a red circle")[0]
    key = next(name for name in clip.patcher.model_state_dict() if name.endswith("layers.1.mlp.up_proj.weight"))
    patched = clip.clone()
    weight = clip.patcher.model_state_dict()[key]
    patched.add_patches({key: (torch.ones_like(weight, dtype=torch.float32),)}, 0.5)
    assert not torch.equal(run(patched, "a red circle")[0].states, before.states)
    assert torch.equal(run(clip, "a red circle")[0].states, before.states)


@pytest.fixture
def small_device(monkeypatch):
    """Sets the bytes of a device that the host's memory management takes for one of its own."""
    import comfy.model_management as mm

    mm.unload_all_models()
    state = {"size": 0}

    def free(dev=None, torch_free_too=False):
        left = state["size"] - sum(e.model_loaded_memory() for e in mm.current_loaded_models if e.device == DEVICE)
        return (left, left) if torch_free_too else left

    monkeypatch.setattr(mm, "get_free_memory", free)
    monkeypatch.setattr(mm, "is_device_cpu", lambda dev: dev == torch.device("cpu"))
    monkeypatch.setattr(mm, "minimum_inference_memory", lambda: 2**10)
    monkeypatch.setattr(mm, "extra_reserved_memory", lambda: 0)
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(mm, "MIN_WEIGHT_MEMORY_RATIO", 0.0)
    yield lambda size: state.update(size=size)
    mm.unload_all_models()


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "internvl", "smolvlm", "llama"])
def test_it_is_counted_loaded_in_parts_and_offloaded_as_any_other(
    folders, plain, bridge, small_device, monkeypatch, kind
):
    import comfy.model_management as mm

    clip = bridge("encoders.folder_clip").load_clip(folders(kind)).clone()  # without the host's memory of the first
    mm.unload_all_models()
    patcher = clip.patcher
    patcher.load_device, patcher.offload_device = DEVICE, torch.device("cpu")
    file = sum(t.numel() * t.element_size() for t in load_file(folders(kind) / "model.safetensors").values())
    assert file <= patcher.model_size() < file * 1.1 + 4096  # one copy, tied weights once
    images, said = asked(plain(kind))
    expected = plain(kind).states([said]).compact(plain(kind).profile.encode_selection)[0]
    encode = bridge("actions.encode").run

    small_device(2**30)
    assert torch.equal(encode(clip, said.instruction, images=images)[0].states, expected)
    assert patcher.loaded_size() == patcher.model_size()
    mm.free_memory(2**40, DEVICE)
    assert patcher.loaded_size() == 0 and not mm.current_loaded_models

    # some layers stay in main memory and are cast as they are used
    size = patcher.model_size()

    def load(self, tokens, taps, precision="fp32"):
        mm.load_models_gpu([self.clip.patcher], memory_required=2**20)
        self.clip.cond_stage_model.set_clip_options({"execution_device": self.device})

    monkeypatch.setattr(bridge("encoders.text_encoder").VLM, "load", load)
    for share in (50, 60, 70, 80, 90):  # which one leaves some of both depends on the largest layer
        mm.unload_all_models()
        small_device(2**20 + size * share // 100)
        for name in [name for name, value in vars(clip.cond_stage_model).items() if type(value).__name__ == "Store"]:
            delattr(clip.cond_stage_model, name)  # nothing is taken from what was kept
        assert torch.equal(encode(clip, said.instruction, images=images)[0].states, expected)
        if 0 < patcher.loaded_size() < size:
            break
    else:
        raise AssertionError("it was never loaded in parts")
    assert mm.current_loaded_models
    del clip, patcher
    gc.collect()
    mm.cleanup_models()
    assert not mm.current_loaded_models  # nothing else holds it


def test_another_profile_needs_its_control_tokens(clips, bridge):
    run = bridge("actions.encode").run
    with pytest.raises(ValueError, match="does not know. Set profile to 'auto'") as error:
        run(clips("llama3"), "x", profile="qwen-image")
    assert str(error.value).isprintable()
    with pytest.raises(ValueError, match="has only 6 layers"):
        run(clips("qwen3_vl"), "x", profile="krea2")
    assert run(clips("qwen3_vl"), "x", profile="miniature", taps="1, 3")[0].taps == (1, 3)


def test_pictures_and_a_model_that_reads_text_alone(clips, bridge):
    with pytest.raises(ValueError, match="reads text alone") as error:
        bridge("actions.encode").run(clips("llama"), "x", images={"image0": picture()})
    assert str(error.value).isprintable()


# a drawing model behind it


def drawing_model(folder, vlm, taps):
    """dit.safetensors of random weights for an encoder whose width 20 heads do not divide."""
    width = pooled_width(vlm.width)
    config = DiTConfig(
        features=256, heads=2, kvheads=1, layers=2, txtdim=width, txtlayers=len(taps), txtinput=vlm.width, channels=16
    )
    dit = SingleStreamDiT(config).initialise(torch.Generator().manual_seed(1)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, weight in dit.named_parameters():
        if name in ("txtfusion.input.weight", "last.linear.weight"):
            weight.data = weight.data + 0.1 * torch.randn(weight.shape, generator=generator)
    save_file(
        {name: weight.detach().clone() for name, weight in dit.state_dict().items()},
        folder / "dit.safetensors",
        metadata={"unifusion.taps": ", ".join(map(str, taps))},
    )
    return dit


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folders, plain):
    """(folder with dit, vae and vlm, the plain drawing model, taps)."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    folder.mkdir()
    shutil.copytree(folders("internvl"), folder / "vlm")
    shutil.copyfile(VAE_FILE, folder / "vae.safetensors")
    taps = (1, 2, 5)
    with torch.inference_mode(False):
        return folder, drawing_model(folder, plain("internvl"), taps), taps


def test_a_drawing_model_with_an_input_projection_loads_pools_and_draws(whole, plain, bridge):
    import nodes

    folder, dit, taps = whole
    model, clip, vae = bridge("actions.model_folders").load_folder(folder)
    hidden, negative, _ = bridge("actions.encode").run(clip, "a red circle", images={"image0": picture()})
    assert hidden.taps == taps and hidden.width == 48  # the drawing model's taps, not the default ones
    ready, positive, below, _, _ = bridge("actions.pool").run(model, hidden, negative=negative)
    pooled = dit.txtfusion(hidden.states)
    assert positive[0][0].shape[-1] > 160 and (positive[0][0][..., :160] - pooled).abs().max() < 1e-4
    assert model.model_size() >= sum(weight.numel() * 4 for weight in dit.parameters())
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    drawn = nodes.common_ksampler(ready, 1, 2, 1.0, "euler", "simple", positive, below, latent)[0]["samples"]
    assert torch.isfinite(drawn).all()
    assert vae.decode(drawn).shape[-1] == 3


def test_a_lora_on_the_projection_counts(whole, bridge):
    model, clip, _ = bridge("actions.model_folders").load_folder(whole[0])
    hidden = bridge("actions.encode").run(clip, "a red circle")[0]
    before = bridge("actions.pool").run(model, hidden)[1][0][0]
    patched = model.clone()
    key = "diffusion_model.txtfusion.input.weight"
    assert patched.add_patches({key: (0.1 * torch.ones(160, 48),)}) == [key]
    assert not torch.equal(bridge("actions.pool").run(patched, hidden)[1][0][0], before)
    assert torch.equal(bridge("actions.pool").run(model, hidden)[1][0][0], before)


def test_saved_conditioning_of_it_draws_again(whole, bridge, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    model, clip, _ = bridge("actions.model_folders").load_folder(whole[0])
    hidden, negative, _ = bridge("actions.encode").run(clip, "a red circle")
    ready, positive, below, _, _ = bridge("actions.pool").run(model, hidden, negative=negative)
    files = bridge("actions.stored_files")
    prepared = files._prepared(model, [*positive, *below], "x")
    assert prepared is not None
    from unifusion.hidden_states import from_tensors, to_tensors

    again = from_tensors(*to_tensors(hidden))
    assert torch.equal(bridge("actions.pool").run(model, again)[1][0][0][..., :160], positive[0][0][..., :160])


def test_the_stock_loader_leaves_the_projection_out_and_the_pool_says_so(whole, plain, bridge):
    import comfy.sd

    model = comfy.sd.load_diffusion_model(str(whole[0] / "dit.safetensors"))
    clip = bridge("actions.model_folders").load_folder(whole[0])[1]
    hidden = bridge("actions.encode").run(clip, "a red circle")[0]
    with pytest.raises(ValueError, match="3 taps of width 48.*pools 3 taps of width 160.*Load UniFusion Model"):
        bridge("actions.pool").run(model, hidden)


def edited(whole, tmp_path, edit=None, metadata=None, **replaced):
    folder = tmp_path / "mine"
    shutil.copytree(whole[0], folder)
    weights = load_file(folder / "dit.safetensors") | replaced
    save_file(
        {name: weight for name, weight in weights.items() if weight is not None},
        folder / "dit.safetensors",
        metadata=metadata,
    )
    if edit is not None:
        path = folder / "vlm" / "config.json"
        values = json.loads(path.read_text())
        edit(values)
        path.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "change, part",
    [
        (dict(metadata={"unifusion.taps": "1, 2, 50"}), "was trained with layer 50"),
        (dict(metadata=None), "pools 3 layers, but its VLM has 4 taps"),
        (dict(edit=lambda c: c.update(taps=[0, 1, 3]), metadata=None), None),
        (
            dict(metadata={"unifusion.taps": "1, 2, 5"}, edit=lambda c: c.update(taps=[0, 1, 3])),
            "was trained with layers",
        ),
        (
            dict(metadata={"unifusion.taps": "1, 2, 5"}, **{"txtfusion.input.weight": torch.zeros(100, 48)}),
            "has the shape",
        ),
        (
            dict(metadata={"unifusion.taps": "1, 2, 5"}, **{"txtfusion.input.weight": torch.zeros(160, 47)}),
            "takes hidden states of width 47, but its VLM has 48",
        ),
        (
            dict(metadata={"unifusion.taps": "1, 2, 5"}, **{"txtfusion.input.weight": None}),
            "takes hidden states of width 160, but its VLM has 48",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(whole, bridge, tmp_path, change, part):
    folder = edited(whole, tmp_path, **change)
    load = bridge("actions.model_folders").load_folder
    if part is None:
        assert load(folder)[1].cond_stage_model.unifusion_row.taps == (0, 1, 3)
        return
    with pytest.raises(ValueError, match=part) as error:
        load(folder)
    assert str(error.value).isprintable() and str(error.value).endswith(".")


def test_a_language_model_alone_is_listed_and_stops_what_wants_to_draw(folders, bridge, tmp_path, monkeypatch):
    import folder_paths
    from comfy_execution.graph_utils import ExecutionBlocker

    place = bridge("actions.model_folders")
    shutil.copytree(folders("llama"), tmp_path / "SmolLM2")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, place.KIND, ([str(tmp_path)], {".safetensors"}))
    assert place.listing() == [place.BUNDLED, "SmolLM2"]
    model, clip, vae = place.load("SmolLM2")
    assert isinstance(model, ExecutionBlocker) and isinstance(vae, ExecutionBlocker)
    assert "language model alone" in model.message
    assert bridge("actions.encode").run(clip, "a red circle")[0].vlm.startswith("SmolLM2 (")


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", "smolvlm", "llama"])
def test_with_every_weight_left_in_main_memory_it_computes_on_the_device(folders, bridge, kind):
    """On a device that is not there: a tensor of the CPU that met one of it would raise (FakeTensorMode).

    The towers of Qwen and SmolVLM ask for numbers (``item``), which no fake tensor has; InternVL's is run.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.inference_mode(False):
        clip = bridge("encoders.folder_clip").load_clip(folders(kind))
    transformer = clip.cond_stage_model.unifusion_folder.transformer
    for module in transformer.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True  # as the host does where a layer was not loaded
    device = torch.device("cuda")
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        if kind == "internvl":
            features = transformer.preprocess_embed({"data": torch.rand(1, 64, 96, 3)}, device)[0]
            assert features.device.type == "cuda" and features.dtype == torch.float32
        cache = transformer.init_kv_cache(1, 40, device, torch.float32)
        hidden, _, cache = transformer.model.forward(
            embeds=torch.empty(1, 30, 48, device=device), past_key_values=cache
        )
        assert transformer.logits(hidden).device.type == "cuda"
        token = transformer.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long, device=device))
        place = torch.full((1, 1), 30, device=device)
        hidden, _, cache = transformer.model.forward(embeds=token.float(), past_key_values=cache, position_ids=place)
        assert hidden.device.type == "cuda" and cache.get_seq_length() == 31


def asking(kind, **inputs):
    """A node of the pack in API form, what is not given at its defaults."""
    about = json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))[kind]["inputs"]
    defaults = {one["id"]: one["default"] for one in about if "default" in one and not one["optional"]}
    return {"class_type": kind, "inputs": {**defaults, **inputs}}


def test_on_a_server_a_language_model_alone_reads_and_writes_and_its_model_stops_with_a_sentence(server, folders):
    place = server.base / "models" / "unifusion"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folders("smolvlm"), place / "SmolVLM2", dirs_exist_ok=True)
    load = asking("UniFusionLoadModel", model="SmolVLM2")
    picture = {"class_type": "EmptyImage", "inputs": dict(width=64, height=48, batch_size=1, color=255)}
    clip, words = ["load", 1], "a red circle"
    write = asking("UniFusionVerifiRewrite", clip=clip, prompt=words, sampling="greedy", max_length=6, min_length=0)
    write["inputs"]["images.image0"] = ["picture", 0]
    show = {"class_type": "PreviewAny", "inputs": {"source": ["write", 2]}}
    history = server.queue({"load": load, "picture": picture, "write": write, "show": show})
    assert server.errors(history) == [] and "show" in history["outputs"]
    draws = {
        "load": load,
        "encode": asking("UniFusionVLMEncode", clip=clip, prompt=words),
        "pool": asking("UniFusionLayerwiseAttentionPool", model=["load", 0], positive=["encode", 0]),
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["pool", 4]}},
    }
    history = server.queue(draws)  # the sentence goes to the browser; what was to come behind it does not
    assert server.errors(history) == [] and "show" not in history["outputs"]


def test_the_contract_of_a_model_goes_by_sizes_whatever_the_folder_is_called(whole, bridge):
    from unifusion.lora_contract import contract_lines

    model, clip, _ = bridge("actions.model_folders").load_folder(whole[0])
    hidden = bridge("actions.encode").run(clip, "a red circle")[0]._replace(vlm="My own VLM (2) (6 layers, width 48)")
    told = {"unifusion.vlm": "unifusion_folder (6 layers, width 48)", "unifusion.taps": "1, 2, 5"}
    assert contract_lines(told, hidden, "model") == []
    assert "the VLM" in contract_lines(told | {"unifusion.vlm": "x (7 layers, width 48)"}, hidden, "model")[0]
