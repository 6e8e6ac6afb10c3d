"""Weights, layer gains, files, presets and a made-up model, on rows of the table of models."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from harness.tapped_drawers import LATENTS, make_drawer
from harness.tapped_models import KEYS, make_encoder
from random_states import repeated, without

from unifusion.miniature import DIT_FILE
from unifusion.profiles import PROFILES

encoder, drawer = cache(make_encoder), cache(make_drawer)
TAPPED = [key for key in LATENTS if key != "krea2"]
CARRYING = {  # how exact weights are, of every row that is drawn here
    key: row.weights for key in LATENTS if (row := PROFILES[key.removesuffix("-lm")]).weights
}
EXACT = [key for key, carried in CARRYING.items() if carried == "exact"]
NEAR = [key for key, carried in CARRYING.items() if carried == "near"]
NONE = [key for key in LATENTS if key not in CARRYING]
STACKS = [key for key in TAPPED if key.startswith(("flux2", "ideogram4"))]


@pytest.fixture(scope="module")
def library(pack):
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


def profiles(pack):
    from unifusion_pack.unifusion import profiles

    return profiles


def encode(bridge, key, prompt="a red fox in the snow"):
    return bridge("actions.encode").run(encoder(key), prompt)[0]


def latent(key, model, positive, negative=None, steps=2):
    import nodes

    start = {"samples": torch.zeros(LATENTS[key])}
    return nodes.common_ksampler(model, 3, steps, 1.0, "euler", "simple", positive, negative or positive, start)[0][
        "samples"
    ]


def draw(bridge, key, hidden, **settings):
    model, positive, *_ = bridge("actions.pool").run(drawer(key), hidden, **settings)
    return latent(key, model, positive)


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


def test_every_row_of_the_table_is_drawn_with_weights_or_refuses_them():
    """The miniature's own weights: test_weights_of_the_miniature below; qwen3vl is Krea 2's way for another encoder."""
    drawn = {key.removesuffix("-lm") for key in (*EXACT, *NEAR, *NONE)}
    assert drawn == set(PROFILES) - {"miniature", "qwen3vl"}
    assert len(EXACT) >= 3 and len(NEAR) >= 7 and NONE == ["boogu", "ernie-image", "omnigen2"]


@pytest.mark.parametrize("key", CARRYING)
def test_a_weight_changes_the_picture_and_one_and_nothing_else_is_neutral(bridge, library, key):
    hidden = encode(bridge, key)
    words = hidden.roles == 2
    plain = draw(bridge, key, hidden)
    assert torch.equal(draw(bridge, key, library.with_weight(hidden, words, 1.0)), plain)
    twice = draw(bridge, key, library.with_weight(hidden, words, 2.0))
    assert torch.isfinite(twice).all() and relative(twice, plain) > 1e-4
    if key != "krea2":
        report = bridge("actions.pool").run(drawer(key), library.with_weight(hidden, words, 2.0))[4]
        assert f"weights are {CARRYING[key]}" in report


@pytest.mark.parametrize("key", EXACT)
def test_on_exact_rows_two_is_the_token_twice_and_zero_is_without_it(bridge, library, key):
    hidden = encode(bridge, key)
    words = hidden.roles == 2
    twice = draw(bridge, key, library.with_weight(hidden, words, 2.0))
    assert relative(twice, draw(bridge, key, repeated(library, hidden, {2: 2}))) < 1e-5
    nothing = draw(bridge, key, library.with_weight(hidden, words, 0.0))
    assert relative(nothing, draw(bridge, key, without(library, hidden, [2]))) < 1e-5


@pytest.mark.skipif(not DIT_FILE.is_file(), reason="the bundled weights are not here")
def test_weights_of_the_miniature_are_exact_too(bridge, library):
    import nodes

    folders = bridge("actions.model_folders")
    model, clip, _ = folders.load(folders.BUNDLED)
    hidden = bridge("actions.encode").run(clip, "a red circle and a blue star")[0]
    words = torch.tensor(["red" in piece for piece in hidden.pieces])
    assert words.sum() == 1

    def drawn(states):
        ready, positive, *_ = bridge("actions.pool").run(model, states)
        channels = model.get_model_object("latent_format").latent_channels
        start = {"samples": torch.zeros(1, channels, 1, 16, 16)}
        return nodes.common_ksampler(ready, 3, 2, 1.0, "euler", "simple", positive, positive, start)[0]["samples"]

    plain, twice = drawn(hidden), drawn(library.with_weight(hidden, words, 2.0))
    assert torch.equal(drawn(library.with_weight(hidden, words, 1.0)), plain)
    order = torch.tensor([*range(hidden.tokens), *words.nonzero()[:, 0].tolist()])
    doubled = hidden._replace(
        states=hidden.states[:, order],
        roles=hidden.roles[order],
        weights=hidden.weights[order],
        spans=hidden.spans[order],
        pieces=tuple(hidden.pieces[i] for i in order),
    )
    assert relative(twice, drawn(doubled)) < 1e-5 and relative(twice, plain) > 1e-4


@pytest.mark.parametrize("key", [key for key in CARRYING if key != "krea2"])
def test_a_tiny_weight_comes_near_leaving_the_words_out_of_the_attention(bridge, library, key):
    """The weight reaches the keys of the words, not others: with weight near 0 their content no longer matters."""
    hidden = encode(bridge, key)
    words = hidden.roles == 2
    other = hidden._replace(states=torch.where(words[None, :, None, None], hidden.states.flip(1), hidden.states))
    faint, faint_other = (library.with_weight(one, words, 1e-12) for one in (hidden, other))
    plain = relative(draw(bridge, key, other), draw(bridge, key, hidden))
    assert plain > 1e-4
    assert relative(draw(bridge, key, faint_other), draw(bridge, key, faint)) < max(1e-4, plain / 20)


@pytest.mark.parametrize("key", NONE)
def test_a_weight_without_a_carrier_is_refused_by_name(bridge, library, key):
    hidden = encode(bridge, key)
    words = hidden.roles == 2
    words[words.nonzero()[0]] = False
    title = PROFILES[key].title
    for weight in (2.0, 0.5, -1.0):
        with pytest.raises(ValueError, match=f"{title} has no place that carries a token's weight") as refused:
            draw(bridge, key, library.with_weight(hidden, words, weight))
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    assert torch.equal(draw(bridge, key, library.with_weight(hidden, words, 1.0)), draw(bridge, key, hidden))
    nothing = draw(bridge, key, library.with_weight(hidden, words, 0.0))
    assert torch.equal(nothing, draw(bridge, key, library.take(hidden, ~words)))
    assert not torch.equal(nothing, draw(bridge, key, hidden))


@pytest.mark.parametrize("key", STACKS)
def test_layer_gains_act_on_stacks_and_keep_the_rms_of_every_token(bridge, key):
    hidden = encode(bridge, key)
    pool = bridge("actions.pool").run
    plain = pool(drawer(key), hidden)[1][0][0]
    gained = pool(drawer(key), hidden, gain_preset="custom", gains="2=1.6")[1][0][0]
    assert not torch.equal(plain, gained)
    torch.testing.assert_close(gained.square().mean(-1), plain.square().mean(-1), rtol=1e-4, atol=1e-5)
    assert not torch.equal(draw(bridge, key, hidden, gain_preset="custom", gains="2=1.6"), draw(bridge, key, hidden))


@pytest.mark.parametrize("key", ["z-image", "qwen-image", "mage-flow"])
def test_a_single_state_passes_through_whatever_the_gains_and_a_layer_that_is_not_there_is_refused(bridge, key):
    hidden = encode(bridge, key)
    pool = bridge("actions.pool").run
    for settings in ({}, {"gain_preset": "1.45 on tap 11"}, {"gain_preset": "custom", "gains": "1=1.5"}):
        _, positive, _, _, report = pool(drawer(key), hidden, **settings)
        assert torch.equal(positive[0][0], hidden.states[:, :, 0])
        assert ("layer gains are not used" in report) == bool(settings)
    with pytest.raises(ValueError, match="tap 11.*only 1 tap"):
        pool(drawer(key), hidden, gain_preset="custom", gains="11=1.45")


@pytest.mark.parametrize("kind", ["hidden states", "conditioning", "weighted"])
@pytest.mark.parametrize("key", TAPPED)
def test_saved_and_loaded_it_draws_the_same_latent_bit_for_bit(bridge, library, tmp_path, monkeypatch, key, kind):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    files, pool = bridge("actions.stored_files"), bridge("actions.pool").run
    states = [encode(bridge, key, prompt) for prompt in ("a red fox", "dark")]
    if kind == "weighted" and key in NONE:
        pytest.skip("nothing carries a weight")
    if kind == "weighted":
        states[0] = library.with_weight(states[0], states[0].roles == 2, 1.5)
    model, positive, negative, *_ = pool(drawer(key), states[0], negative=states[1])
    before = latent(key, model, positive, negative)
    saved = states if kind == "hidden states" else (positive, negative)
    name = files.save(*saved, "models/test", None, None)[0]
    given, loaded_positive, loaded_negative, hidden, below, _ = files.load(name, drawer(key))
    if kind == "hidden states":
        given, loaded_positive, loaded_negative, *_ = pool(given, hidden, negative=below)
    for one, other in ((positive, loaded_positive), (negative, loaded_negative)):
        assert one[0][1].keys() == other[0][1].keys()
        mask = one[0][1].get("attention_mask")
        assert mask is None or torch.equal(mask, other[0][1]["attention_mask"])
    assert torch.equal(latent(key, given, loaded_positive, loaded_negative), before)


@pytest.mark.parametrize("key", TAPPED)
def test_auto_takes_the_preset_of_the_model_and_another_models_is_said(bridge, pack, key, caplog):
    row = profiles(pack).PROFILES[key.removesuffix("-lm")]
    settings = bridge("actions.draw").settings
    chosen = settings({"preset": "auto"}, drawer(key))
    family = {
        profiles(pack).SAMPLER_PRESETS[name]
        for other in profiles(pack).profiles_of_model(row.models[0])
        for name in other.presets
    }
    assert chosen in family
    settings({"preset": chosen.key}, drawer(key))
    assert not caplog.records
    settings({"preset": "Krea 2 Turbo"}, drawer(key))
    assert "belongs to another model" in caplog.text


def test_flux_2_is_drawn_on_the_schedule_of_its_own_stock_node(bridge):
    import comfy.samplers
    from comfy_extras.nodes_flux import get_schedule

    start = torch.zeros(1, 128, 64, 96)
    model = bridge("drawers.flow_sampling").shifted(drawer("flux2-klein-4b"), start, "by steps and resolution", 0.0, 4)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    torch.testing.assert_close(sigmas, torch.as_tensor(get_schedule(4, 64 * 96)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("key", ["z-image", "mage-flow"])
def test_the_dit_sampler_draws_every_family_as_the_ksampler_does(bridge, key):
    import nodes

    model, positive, *_ = bridge("actions.pool").run(drawer(key), encode(bridge, key))
    start = {"samples": torch.zeros(LATENTS[key])}
    preset = bridge("actions.draw").settings({"preset": "auto"}, model)
    stock = nodes.common_ksampler(
        model, 5, preset.steps, preset.cfg, preset.sampler, preset.scheduler, positive, positive, start
    )[0]["samples"]
    negative = positive if preset.cfg != 1 else None
    ours = bridge("actions.draw").run(model, positive, negative, latent=start, seed=5, preset={"preset": "auto"})
    assert torch.equal(ours["samples"], stock)


def test_states_of_another_encoder_are_refused_by_name(bridge):
    with pytest.raises(ValueError, match="FLUX.2.*takes 3 of its own encoder") as refused:
        bridge("actions.pool").run(drawer("flux2-klein-4b"), encode(bridge, "z-image"))
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    with pytest.raises(ValueError, match="Z-Image|Lumina"):
        bridge("actions.pool").run(drawer("z-image"), encode(bridge, "mage-flow"))


def test_both_files_of_ideogram_4_differ_in_the_last_tap_and_the_report_says_so(bridge):
    reports = {key: bridge("actions.encode").run(encoder(key), "a fox")[2] for key in ("ideogram4", "ideogram4-lm")}
    assert "final norm" in reports["ideogram4"] and "without" in reports["ideogram4-lm"]


@pytest.mark.parametrize("order", ["TAPS_MAJOR", "WIDTH_MAJOR"])
def test_a_made_up_model_takes_one_row(bridge, pack, monkeypatch, order):
    """Other taps and another order than any model: FLUX.2's MODEL and Z-Image's encoder stand in for its two halves."""
    table = profiles(pack)
    how = getattr(table, order)
    row = replace(
        table.PROFILES["z-image"],
        key="made-up",
        title="Made Up",
        taps=(4, 11, -1),
        combination=how,
        models=("Flux2",),
        features=3 * 64,
        text_input="txt_in",
        presets=("FLUX.2 klein",),
        text_place=table.TEXT_FIRST,
    )
    rows = {"made-up": row, **{k: v for k, v in table.PROFILES.items() if k not in ("z-image",)}}
    monkeypatch.setattr(table, "PROFILES", rows)
    for name in ("actions.encode", "encoders.text_encoder", "drawers.door"):
        monkeypatch.setattr(bridge(name), "PROFILES", rows)
    hidden = bridge("actions.encode").run(encoder("z-image"), "a red fox")[0]
    assert hidden.taps == (4, 11, 36) and hidden.count_by_role()["instruction"] == 3
    rewritten, negative, text, _ = bridge("actions.rewrite").run(
        encoder("z-image"), "a fox", sampling={"sampling": "greedy"}, max_length=3
    )
    assert rewritten.taps == (4, 11, 36)
    model, positive, *_ = bridge("actions.pool").run(drawer("flux2-klein-4b"), hidden, negative=negative)
    expected = hidden.states if order == "TAPS_MAJOR" else hidden.states.transpose(2, 3)
    assert torch.equal(positive[0][0], expected.flatten(2))
    assert torch.isfinite(latent("flux2-klein-4b", model, positive)).all()
    assert bridge("actions.draw").settings({"preset": "auto"}, model).key == "FLUX.2 klein"


def test_every_row_has_an_encoder_here(pack):
    assert {key.removesuffix("-lm") for key in KEYS} == set(profiles(pack).PROFILES) - {"miniature", "qwen3vl"}


@pytest.mark.parametrize(("key", "count"), [("flux2-klein-4b", 2), ("ideogram4", 2), ("z-image", 1)])
def test_inspect_shows_and_silences_layers_where_there_are_several_and_leaves_the_other_pages_out(bridge, key, count):
    hidden = encode(bridge, key)
    look = bridge("actions.look_inside").run
    pages, table, kept = look(hidden, drawer(key))
    assert pages.shape[0] == count and torch.equal(kept.states, hidden.states)
    assert all(f"layer {tap}:" in table for tap in hidden.taps)
    if count == 2:
        _, table, silent = look(hidden, drawer(key), silence=str(hidden.taps[1]))
        assert f"layer {hidden.taps[1]}: 0.0%" in table and not silent.states[:, :, 1].any()
        assert not torch.equal(draw(bridge, key, silent), draw(bridge, key, hidden))
    with pytest.raises(ValueError, match="shows Layerwise Attention Pooling, which this MODEL has not"):
        look(hidden, drawer(key), view="words")
