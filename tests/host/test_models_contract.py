"""Every row of the table of models: what the pack hands on is what ComfyUI's own text encoding hands on, bit for bit."""

from functools import cache, partial

import pytest
import torch
from harness.tapped_drawers import LATENTS, flux_sizes, make_drawer, patcher_of
from harness.tapped_models import KEYS, WITHOUT_ROW, make_encoder, make_encoder_without_row

PROMPTS = [
    "a red fox in the snow",
    "一只戴眼镜的猫, emoji 🦊 and Straße",
    "line one\nline two, 1,2,3",
    "",
    "the red fox " * 60,
]

encoder, drawer = cache(make_encoder), cache(make_drawer)


@pytest.fixture(scope="module")
def stock_text(pack):
    """ComfyUI's own conditioning of a prompt, through the node that the model's templates use."""

    def encode(key, clip, prompt):
        if key == "lumina2":
            prompt = f"{rows(pack)['lumina2'].system} <Prompt Start> {prompt}"
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0]

    return encode


def rows(pack):
    from unifusion_pack.unifusion.profiles import PROFILES

    return PROFILES


def row_of(pack, key):
    return rows(pack)[key.removesuffix("-lm")]


def same(one: list, other: list) -> None:
    """Tensor and extras of a stock conditioning entry, bit for bit; ours may say more."""
    assert one[0].dtype == other[0].dtype and torch.equal(one[0], other[0])
    for name, value in one[1].items():
        ours = other[1][name]
        assert torch.equal(value, ours) and value.dtype == ours.dtype if torch.is_tensor(value) else value == ours
    extra = other[1].keys() - one[1].keys()
    assert all(name.startswith("unifusion_") for name in extra)


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
@pytest.mark.parametrize("key", [key for key in KEYS if key != "krea2"])
def test_neutral_encode_and_pool_equal_the_stock_conditioning(pack, bridge, stock_text, key, prompt, monkeypatch):
    clip = encoder(key)
    hidden = bridge("actions.encode").run(clip, prompt)[0]
    stock = bridge("drawers.stock_conditioning")
    monkeypatch.setattr(stock, "features_of", lambda model: 0)
    monkeypatch.setattr(stock, "kind_of", lambda model: row_of(pack, key).models[0])
    ours = stock.StockDrawer(None).to_conditioning(hidden, "positive", [1.0] * len(hidden.taps), True)
    assert len(ours) == 1
    same(stock_text(key, clip, prompt), ours[0])


@pytest.mark.parametrize("key", [*LATENTS])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_same_latent_is_drawn_as_from_the_stock_conditioning(bridge, stock_text, key, cfg):
    import nodes

    clip, model = encoder(key), drawer(key)
    prompts = ("a red fox in the snow", "blurry, dark")
    positive, negative = ([stock_text(key, clip, prompt)] for prompt in prompts)
    states = [bridge("actions.encode").run(clip, prompt)[0] for prompt in prompts]
    pooled_model, above, below, *_ = bridge("actions.pool").run(model, states[0], negative=states[1])
    latent = {"samples": torch.zeros(LATENTS[key])}
    stock = nodes.common_ksampler(model, 7, 3, cfg, "euler", "simple", positive, negative, latent)[0]["samples"]
    ours = nodes.common_ksampler(pooled_model, 7, 3, cfg, "euler", "simple", above, below, latent)[0]["samples"]
    assert torch.isfinite(stock).all() and stock.std() > 0.05
    assert torch.equal(stock, ours)
    other = nodes.common_ksampler(pooled_model, 7, 3, cfg, "euler", "simple", below, below, latent)[0]["samples"]
    assert not torch.equal(other, ours)  # the prompt reaches the picture


@pytest.mark.parametrize("name", WITHOUT_ROW)
def test_an_encoder_of_a_model_that_no_row_can_say_is_refused_by_name(bridge, name):
    from unifusion_pack.unifusion.profiles import NOT_SERVED

    model = next(model for model in NOT_SERVED if name.split(" with ")[0] in model.title)
    try:
        clip = make_encoder_without_row(name)
    except ImportError:
        pytest.skip(f"this ComfyUI has no {name}")
    for run in (bridge("actions.encode").run, partial(bridge("actions.rewrite").run, sampling={"sampling": "greedy"})):
        with pytest.raises(ValueError, match=model.title.split(" ")[0]) as refused:
            run(clip, 'a red "fox"')
        said = str(refused.value)
        assert model.encoder in said and model.reason in said and "\n" not in said and said.endswith(".")


def test_no_encoder_of_the_host_is_taken_for_anothers_by_the_name_of_its_class(bridge):
    """ComfyUI makes a class anew for every file; HunyuanImage's is called as Qwen-Image's is."""
    import comfy.text_encoders.hunyuan_image as hunyuan
    import comfy.text_encoders.qwen_image as qwen

    row_of = bridge("encoders.text_encoder")._row_of
    taken, other = (made.__new__(made) for made in (qwen.te(), hunyuan.te()))
    for module in (taken, other):
        module.__dict__["clip"] = "qwen25_7b"
    assert type(taken).__name__ == type(other).__name__
    assert row_of(taken).key == "qwen-image" and row_of(other) is None


@pytest.mark.parametrize("made", ["Flux", "LongCatImage"])
def test_a_model_that_shares_the_class_of_a_row_and_not_its_network_is_not_taken_for_it(bridge, made):
    import comfy.supported_models as stock

    model = patcher_of(getattr(stock, made), flux_sizes(64), 1)
    assert bridge("drawers.door").rows_of(model) == []
    hidden = bridge("actions.encode").run(encoder("ovis-image"), "a fox")[0]
    with pytest.raises(ValueError, match="is none whose conditioning is known"):
        bridge("actions.pool").run(model, hidden)
