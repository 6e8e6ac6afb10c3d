"""The inspector's figures are those of the model's own pooling."""

import pytest
import torch


@pytest.fixture(scope="module")
def hidden(krea2_clip, pack):
    from unifusion_pack.unifusion.comfy_bridge.actions import encode

    with torch.inference_mode():
        picture = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
        return encode.run(krea2_clip, "a red fox in the snow", images={"image0": picture})[0]


@pytest.fixture(scope="module")
def inspect(pack):
    from unifusion_pack.unifusion import attribution

    return attribution


@pytest.fixture(scope="module")
def seen(hidden, krea2_model, inspect):
    with torch.inference_mode():
        return inspect.look(krea2_model.model.diffusion_model.txtfusion, hidden.states)


def run(bridge, hidden, model, words="", heat_map="", silence="", view="all pages", references=None, images=None):
    return bridge("actions.look_inside").run(
        hidden, model, words=words, heat_map=heat_map, silence=silence, view=view, references=references, images=images
    )


def test_what_is_looked_at_is_what_the_model_pools(hidden, krea2_model, seen):
    assert torch.equal(seen.pooled, krea2_model.model.diffusion_model.txtfusion(hidden.states))


def test_attention_gives_the_output_of_comfyuis_own_attention(hidden, krea2_model, inspect):
    """Per head, since the figures average over heads: probabilities x values must be what the block computes."""
    block = krea2_model.model.diffusion_model.txtfusion.layerwise_blocks[0]
    x, attn = hidden.states[0], block.attn
    normed = block.prenorm(x)
    values = attn.wv(normed).unflatten(-1, (attn.kvheads, -1)).transpose(1, 2)
    heads = attn.heads

    class OneHead:  # the block with the queries and keys of one head only
        def __init__(self, head):
            size = attn.headdim
            self.heads = self.kvheads = 1
            self.wq = lambda y: attn.wq(y)[..., head * size : (head + 1) * size]
            self.wk = lambda y: attn.wk(y)[..., head * size : (head + 1) * size]
            self.qknorm = attn.qknorm

    class Single:
        def __init__(self, head):
            self.prenorm, self.attn = block.prenorm, OneHead(head)

    per_head = [inspect.attention_of(Single(head), x) for head in range(heads)]
    mixed = torch.stack([p @ values[:, head] for head, p in enumerate(per_head)], dim=2).flatten(2)
    rebuilt = attn.wo(mixed * torch.sigmoid(attn.gate(normed)))
    torch.testing.assert_close(rebuilt, attn(normed), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.stack(per_head).mean(dim=0), inspect.attention_of(block, x))


def test_shares_are_norms_of_the_terms_that_add_up_to_the_pooled_token(hidden, krea2_model, inspect, seen):
    pooling = krea2_model.model.diffusion_model.txtfusion
    x = hidden.states[0]
    for block in pooling.layerwise_blocks:
        x = block(x)
    terms = x * pooling.projector.weight[0][:, None]
    torch.testing.assert_close(terms.sum(dim=1), seen.summed[0], atol=1e-4, rtol=1e-4)
    norms = terms.norm(dim=-1)
    torch.testing.assert_close(seen.share, norms / norms.sum(dim=-1, keepdim=True))


def test_attention_and_shares_are_parts_of_one(seen, inspect, krea2_model):
    word = inspect.word_attention(krea2_model.model.diffusion_model.txtfusion, seen.summed, [3, 4])
    for parts in (*seen.attention, *seen.received, seen.share, word):
        torch.testing.assert_close(parts.sum(dim=-1), torch.ones(parts.shape[:-1]))


def test_loras_on_the_pooling_count(hidden, krea2_model, inspect, seen, bridge):
    clone = krea2_model.clone()
    key = "diffusion_model.txtfusion.projector.weight"
    change = torch.randn(1, 12, generator=torch.Generator().manual_seed(5))
    clone.add_patches({key: (change,)})
    own = run(bridge, hidden, clone, view="layers")[1]
    assert own != run(bridge, hidden, krea2_model, view="layers")[1]


def test_pages_have_one_size_and_every_view_has_its_page(hidden, krea2_model, bridge):
    pages = run(bridge, hidden, krea2_model)[0]
    assert pages.shape == (4, 600, 600, 3) and 0 <= pages.min() and pages.max() <= 1
    for number, view in enumerate(("layers", "words", "pictures", "tokens")):
        assert torch.equal(run(bridge, hidden, krea2_model, view=view)[0][0], pages[number])


def test_one_page_says_it_in_words_and_old_graphs_have_every_page(hidden, krea2_model, bridge, node):
    run_inside = bridge("actions.look_inside").run
    page, table, _ = run_inside(hidden, krea2_model, pages="one page")
    assert page.shape == (1, 600, 600, 3)
    first, second, third, *_ = table.splitlines()
    assert first.startswith("The picture follows") and "image 1" in first and "the words" in first
    assert second.startswith("Layer ") and "matters most" in second
    words = run_inside(hidden, krea2_model, pages="one page", view="words")[0]
    assert torch.equal(words, run_inside(hidden, krea2_model, view="words")[0])
    pages = next(one for one in node("UniFusionInspect").define_schema().inputs if one.id == "pages")
    assert pages.default == "one page" and pages.optional
    assert node("UniFusionInspect").execute(hidden, krea2_model).result[0].shape[0] == 4


def test_what_is_heeded_follows_the_strength(hidden, krea2_model, inspect, seen):
    pooling = krea2_model.model.diffusion_model.txtfusion
    picture = hidden.roles >= 16

    def share(weight):
        bias = torch.zeros(1, hidden.tokens)
        bias[0, picture] = torch.tensor(weight).log()
        parts = inspect.heed(pooling, seen.summed, hidden.roles, bias)
        assert sum(parts.values()) == pytest.approx(1) and set(parts) == {"the words", "image 1"}
        return parts["image 1"]

    assert share(0.25) < share(1.0) < share(4.0)
    assert inspect.heed(pooling, seen.summed, hidden.roles)["image 1"] == pytest.approx(share(1.0), abs=1e-5)


def test_the_effect_of_a_layer_is_what_silencing_it_does(hidden, krea2_model, bridge, inspect):
    _, table, _ = run(bridge, hidden, krea2_model, silence="5")
    pooling = krea2_model.model.diffusion_model.txtfusion
    effects = inspect.silencing_effects(pooling, hidden)
    assert effects.shape == (12,) and f"{effects[1]:.0%} (all)" in table


@pytest.mark.parametrize(
    ("parts", "effects", "said"),
    [
        (
            {"the words": 0.7, "image 1": 0.3},
            [0.2, 0.5, 0.01],
            [
                "The picture follows the words more than image 1 (the words 70%, image 1 30%).",
                "Layer 5 matters most: without it the tokens change by 50%.",
                "Silencing 7 changes next to nothing (below 3%).",
            ],
        ),
        (
            {"the words": 0.1, "image 1": 0.48, "image 2": 0.42},
            [0.0, 0.0, 0.3],
            [
                "The picture follows image 1 and image 2 about equally (image 1 48%, image 2 42%, the words 10%).",
                "Layer 7 matters most: without it the tokens change by 30%.",
                "Silencing 3, 5 changes next to nothing (below 3%).",
            ],
        ),
        (
            {"the words": 1.0},
            [0.4, 0.1, 0.2],
            [
                "The picture follows the words alone: no picture is among the tokens.",
                "Layer 3 matters most: without it the tokens change by 40%.",
                "No layer is idle: the least, 5, changes them by 10%.",
            ],
        ),
    ],
)
def test_the_verdict_is_plain(inspect, parts, effects, said):
    assert inspect.verdict(parts, torch.tensor(effects), (3, 5, 7)) == said


def test_a_map_is_smooth_and_stays_in_its_scale(pack):
    from unifusion_pack.unifusion import attribution_pages

    coarse = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    fine = attribution_pages._smooth(coarse)
    assert fine.shape[1] / fine.shape[0] == pytest.approx(5 / 3) and fine.shape[1] > 256
    assert fine.diff(dim=1).abs().max() < coarse.diff(dim=1).abs().max() / 20


def test_the_page_of_the_pictures_shows_the_layer_or_the_word_asked_for(hidden, krea2_model, bridge):
    pages = [run(bridge, hidden, krea2_model, heat_map=asked, view="pictures")[0] for asked in ("", "2", "35", "fox")]
    assert len({page.numpy().tobytes() for page in pages}) >= 3


def test_a_picture_lies_under_its_map_and_keeps_its_shape(hidden, inspect):
    values = torch.arange(hidden.tokens).float()
    (found,) = inspect.picture_maps(hidden, values)
    rows, columns = hidden.grids[0][-1]
    first = hidden.roles.tolist().index(16)
    assert found.shape == (rows, columns) and columns > rows
    assert found[0, 1] == first + 1 and found[1, 0] == first + columns


def test_silencing_is_layer_dropout_and_its_effect_is_reported(hidden, krea2_model, bridge):
    _, table, silenced = run(bridge, hidden, krea2_model, silence="5, 35", view="tokens")
    assert silenced.states[:, :, [1, 11]].count_nonzero() == 0
    assert torch.equal(silenced.states[:, :, 2], hidden.states[:, :, 2])
    assert "silenced: layers 5, 35" in table
    model, with_all, *_ = bridge("actions.pool").run(krea2_model, hidden)
    model, without, *_ = bridge("actions.pool").run(krea2_model, silenced)
    change = (with_all[0][0] - without[0][0]).norm(dim=-1) / with_all[0][0].norm(dim=-1)
    assert f"{change.mean():.0%} (all)" in table


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(silence="3"), "Layers 3 cannot be silenced: the tapped layers are 2, 5"),
        (dict(silence="many"), "Silenced layers must be numbers"),
        (dict(silence=",".join(map(str, range(2, 36, 3)))), "leave at least one"),
        (dict(words="fox, dog"), "The word 'dog' is not among the tokens used; their words are: a, red, fox"),
        (dict(heat_map="dog"), "The word 'dog' is not among"),
        (dict(heat_map="3"), "Layer 3 is not tapped"),
    ],
)
def test_what_is_not_there_is_refused_by_name(hidden, krea2_model, bridge, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(bridge, hidden, krea2_model, **wrong)


def test_words_are_whole_even_when_tokens_are_pieces(krea2_clip, bridge, inspect):
    prompt = "An antidisestablishmentarian fox; 一只猫!"
    states = bridge("actions.encode").run(krea2_clip, prompt)[0]
    words = inspect.words_of(states)
    assert [word.text for word in words][:3] == ["An", "antidisestablishmentarian", "fox"]
    assert len(words[1].tokens) > 1
    (found,) = inspect.find_words(states, "FOX")
    assert found.tokens == words[2].tokens
    assert inspect.find_words(states, "一只猫")[0].tokens


@pytest.mark.needs("weights")
def test_token_weights_reach_the_refiner_as_they_do_when_pooling(hidden, krea2_model, inspect, bridge):
    from unifusion_pack.unifusion.hidden_states import with_weight

    heavy = with_weight(hidden, hidden.roles == 16, 3.0)
    pooled = bridge("drawers.fusion_model").FusionModel(krea2_model).pool(heavy, [1.0] * 12, True)
    seen = inspect.look(krea2_model.model.diffusion_model.txtfusion, heavy.states, heavy.weights.log()[None])
    assert torch.equal(seen.pooled, pooled)
