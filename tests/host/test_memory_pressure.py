"""With a device too small for text encoder and drawing model together, each is moved once and the picture is the same.

A GPU cannot be had everywhere, so the host's own memory management is told that ``cpu:0`` is a device of its own with a
given size: it counts, loads, partially loads and unloads exactly as it would on one.
"""

import pytest
import torch

DEVICE = torch.device("cpu:0")  # not equal to torch.device("cpu") for the host, but tensors go there
ENTRY = dict(prompt="a red fox in the snow", negative="blurry, dark")
LATENT = {"samples": torch.zeros(1, 16, 1, 8, 8)}


def recording(original, moves):
    def recorded(entry, *args, **kwargs):
        patcher, before = entry.model, entry.model_loaded_memory()
        result = original(entry, *args, **kwargs)
        if patcher.loaded_size() != before:
            moves.append((type(patcher.model).__name__, patcher.loaded_size()))
        return result

    return recorded


@pytest.fixture
def device(monkeypatch):
    """Sets the size of the device in bytes and returns what was moved: (model, bytes now on the device)."""
    import comfy.model_management as mm

    mm.unload_all_models()
    state = {"size": 0}
    moves: list[tuple[str, int]] = []

    def free(dev=None, torch_free_too=False):
        left = state["size"] - sum(
            entry.model_loaded_memory() for entry in mm.current_loaded_models if entry.device == DEVICE
        )
        return (left, left) if torch_free_too else left

    monkeypatch.setattr(mm, "get_free_memory", free)
    monkeypatch.setattr(mm, "is_device_cpu", lambda dev: dev == torch.device("cpu"))
    monkeypatch.setattr(mm, "minimum_inference_memory", lambda: 2**20)
    monkeypatch.setattr(mm, "extra_reserved_memory", lambda: 0)
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    for name in ("model_load", "model_unload"):
        monkeypatch.setattr(mm.LoadedModel, name, recording(getattr(mm.LoadedModel, name), moves))
    yield lambda size: state.update(size=size), moves
    mm.unload_all_models()


@pytest.fixture
def placed(krea2_clip, krea2_model):
    """(CLIP, MODEL) whose device is the small one."""
    clip, model = krea2_clip.clone(), krea2_model.clone()
    for kept in [name for name in vars(clip.cond_stage_model) if name.startswith("unifusion_")]:
        delattr(clip.cond_stage_model, kept)  # states kept by other tests would spare the encoder
    clip.patcher.load_device = model.load_device = DEVICE
    clip.patcher.offload_device = model.offload_device = torch.device("cpu")
    return clip, model


def entry(clip, model, bridge, prompt, negative):
    """One queue entry up to the sampler's inputs."""
    encode = bridge("actions.encode").run
    states = [encode(clip, text)[0] for text in (prompt, negative)]
    return bridge("actions.pool").run(model, states[0], negative=states[1])[:3]


def draw(model, positive, negative, seed=1):
    import nodes

    return nodes.common_ksampler(model, seed, 3, 3.0, "euler", "simple", positive, negative, LATENT)[0]["samples"]


def loads(moves):
    """Names of the models whose memory on the device grew."""
    sizes, grown = {}, []
    for name, now in moves:
        if now > sizes.get(name, 0):
            grown.append(name)
        sizes[name] = now
    return grown


@pytest.mark.parametrize("room", ["both", "one at a time", "half of the encoder"])
def test_each_model_is_moved_once_per_queue_entry_and_the_picture_is_the_same(
    krea2_clip, krea2_model, placed, bridge, device, room
):
    set_size, moves = device
    clip, model = placed
    encoder, drawing = clip.patcher.model_size(), model.model_size()
    spare = 64 * 2**20
    set_size(
        {
            "both": encoder + drawing + 4 * spare,
            "one at a time": encoder + drawing // 2 + spare // 8,
            "half of the encoder": encoder // 2,
        }[room]
    )
    ours = draw(*entry(clip, model, bridge, **ENTRY))
    if room != "half of the encoder":
        assert sorted(loads(moves)) == sorted({type(clip.patcher.model).__name__, type(model.model).__name__})
    else:
        assert all(loads(moves).count(name) == 1 for name in loads(moves))
    whole = draw(*entry(krea2_clip, krea2_model, bridge, **ENTRY))
    torch.testing.assert_close(ours, whole, atol=1e-3, rtol=1e-3)  # partly loaded weights are cast as they are used


def test_a_second_run_with_only_the_seed_changed_moves_nothing(placed, bridge, device):
    set_size, moves = device
    clip, model = placed
    set_size(clip.patcher.model_size() + model.model_size() // 2 + 8 * 2**20)
    ready = entry(clip, model, bridge, **ENTRY)
    first = draw(*ready)
    moves.clear()
    second = draw(*ready, seed=2)
    assert moves == [] and not torch.equal(first, second)


def test_pooling_leaves_the_model_where_the_sampler_needs_it(placed, bridge, device):
    """Pooling borrows the drawing model's own weights: the sampler that follows finds them in place."""
    set_size, moves = device
    clip, model = placed
    set_size(clip.patcher.model_size() + model.model_size() // 2 + 8 * 2**20)
    ready = entry(clip, model, bridge, **ENTRY)
    moves.clear()
    draw(*ready)
    assert type(model.model).__name__ not in [name for name, _ in moves]


def test_with_the_encoder_unloaded_the_picture_can_still_be_drawn(placed, bridge, device):
    import comfy.model_management as mm

    set_size, _ = device
    clip, model = placed
    set_size(2**31)
    ready = entry(clip, model, bridge, **ENTRY)
    first = draw(*ready)
    mm.free_memory(1e30, DEVICE)
    assert clip.patcher.loaded_size() == 0 and model.loaded_size() == 0
    assert torch.equal(draw(*ready), first)
    assert clip.patcher.loaded_size() == 0


def test_the_hosts_cache_counts_the_states(krea2_clip, bridge):
    """ComfyUI's RAM-pressure cache looks for tensors in lists and tuples only."""
    hidden = bridge("actions.encode").run(krea2_clip, "a fox")[0]

    def counted(value):
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        return sum(map(counted, value)) if isinstance(value, (list, tuple)) else 0

    assert counted([hidden]) >= hidden.nbytes > 0
