"""Weights and schedules on models without pooling inside arrive whatever stock nodes stand behind the pool, or say so.

Lines 1 and 2 of the trials, which ``test_conditioning_travels`` shows for Layerwise Attention Pooling.
"""

import copy
import pickle
from functools import cache

import pytest
import torch
from harness.tapped_drawers import LATENTS, make_drawer
from harness.tapped_models import make_encoder

from unifusion.profiles import PROFILES

encoder, drawer = cache(make_encoder), cache(make_drawer)
KEYS = [key for key in LATENTS if key not in ("krea2", "ideogram4-lm")]
CARRYING = [key for key in KEYS if PROFILES[key].weights]
EDGE = 1e-5  # a step exactly on the edge belongs to the later part


@pytest.fixture(scope="module")
def library(pack):
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


@pytest.fixture(scope="module")
def states(bridge):
    return cache(lambda key, prompt="a red fox in the snow": bridge("actions.encode").run(encoder(key), prompt)[0])


def words(hidden):
    """The second half of the creator's words."""
    mine = (hidden.roles == 2).nonzero()[:, 0]
    mask = torch.zeros(hidden.tokens, dtype=torch.bool)
    mask[mine[len(mine) // 2 :]] = True
    return mask


def timed(hidden, start, end):
    spans = hidden.spans.clone()
    spans[words(hidden)] = torch.tensor([start, end])
    return hidden._replace(spans=spans)


def pool(bridge, key, hidden, **more):
    return bridge("actions.pool").run(drawer(key), hidden, **more)[:3]


def draw(key, model, positive, negative=None, cfg=1.0, steps=8, sampler="euler"):
    import nodes

    start = {"samples": torch.zeros(LATENTS[key])}
    below = positive if negative is None else negative
    return nodes.common_ksampler(model, 7, steps, cfg, sampler, "simple", positive, below, start)[0]["samples"]


def ranged(conditioning, start, end):
    import nodes

    return nodes.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


def concat(first, second):
    import nodes

    return nodes.ConditioningConcat().concat(first, second)[0]


def average(first, second, strength):
    import nodes

    return nodes.ConditioningAverage().addWeighted(first, second, strength)[0]


def masked(conditioning, mask, strength=1.0):
    import nodes

    return nodes.ConditioningSetMask().append(conditioning, mask, "default", strength)[0]


def zeroed(conditioning):
    import nodes

    return nodes.ConditioningZeroOut().zero_out(conditioning)[0]


def by_hand(early, late, at=0.5):
    return [*ranged(early, 0.0, at - EDGE), *ranged(late, at - EDGE, 1.0)]


@pytest.fixture
def parts(bridge, library, states):
    """For a row: MODEL, conditioning whose words count in the first half, the same always and never."""

    def made(key, start=0.0, end=0.5):
        hidden = states(key)
        model, entry, _ = pool(bridge, key, timed(hidden, start, end))
        always = pool(bridge, key, hidden)[1]
        never = pool(bridge, key, library.with_weight(hidden, words(hidden), 0.0))[1]
        return model, entry, always, never

    return made


@pytest.mark.parametrize("key", KEYS)
class TestSchedule:
    def test_it_is_one_entry_and_draws_as_two_stock_ranges(self, parts, key):
        model, entry, always, never = parts(key)
        assert len(entry) == 1 and "start_percent" not in entry[0][1]
        drawn = draw(key, model, entry)
        assert torch.equal(drawn, draw(key, model, by_hand(always, never)))
        assert not torch.equal(drawn, draw(key, model, always)) and not torch.equal(drawn, draw(key, model, never))

    def test_a_range_keeps_it_and_is_intersected_with_it(self, parts, key):
        model, entry, always, never = parts(key)
        assert torch.equal(draw(key, model, ranged(entry, 0.0, 1.0)), draw(key, model, entry))
        both = [*ranged(entry, 0.0, 0.25), *ranged(never, 0.25, 1.0)]
        assert torch.equal(draw(key, model, both), draw(key, model, by_hand(always, never, 0.25 + EDGE)))

    @pytest.mark.parametrize("first", [True, False])
    def test_joined_with_another_prompt_it_keeps_its_share(self, bridge, states, parts, key, first):
        model, entry, always, never = parts(key)
        other = pool(bridge, key, states(key, "the moon"))[1]
        join = (lambda one: concat(one, other)) if first else (lambda one: concat(other, one))
        if key in ("boogu", "omnigen2"):  # ComfyUI's own count the tokens of the first only, whoever made them
            with pytest.raises(RuntimeError, match="size of tensor"):
                draw(key, drawer(key), join(always))
            return
        expected = draw(key, model, by_hand(join(always), join(never)))
        assert torch.equal(draw(key, model, join(entry)), expected)

    def test_a_mean_is_refused_unless_it_is_the_same_schedule(self, bridge, states, parts, key):
        model, entry, always, never = parts(key)
        other = pool(bridge, key, timed(states(key), 0.0, 0.7))[1]
        for mixed in (average(entry, other, 0.5), average(entry, always, 0.5), average(always, entry, 0.5)):
            with pytest.raises(ValueError, match="counts for a part of the schedule") as refused:
                draw(key, model, mixed)
            assert "\n" not in str(refused.value)
        assert torch.equal(draw(key, model, average(entry, other, 1.0)), draw(key, model, entry))

    def test_masks_combined_keep_it(self, bridge, states, parts, key):
        model, entry, always, never = parts(key)
        other = pool(bridge, key, states(key, "the moon"))[1]
        height, width = LATENTS[key][-2:]
        left = torch.zeros(1, height, width)
        left[..., : width // 2] = 1
        join = lambda one: [*masked(one, left, 0.8), *masked(other, 1 - left)]  # noqa: E731
        expected = draw(key, model, [*by_hand(masked(always, left, 0.8), masked(never, left, 0.8)), *join(always)[1:]])
        torch.testing.assert_close(draw(key, model, join(entry)), expected, rtol=1e-5, atol=1e-5)

    def test_silenced_by_zero_out_it_is_stock_zeros(self, parts, key):
        model, entry, always, _ = parts(key)
        assert torch.equal(draw(key, model, zeroed(entry)), draw(key, model, zeroed(always)))

    def test_in_one_batch_with_a_negative_of_another_share(self, bridge, states, parts, key):
        model, entry, always, never = parts(key)
        _, below, below_always, below_never = parts(key, 0.5, 1.0)
        expected = draw(key, model, by_hand(always, never), by_hand(below_never, below_always), cfg=3.0)
        torch.testing.assert_close(draw(key, model, entry, below, cfg=3.0), expected, rtol=1e-4, atol=1e-4)

    def test_a_part_without_a_token_is_refused(self, bridge, states, key):
        hidden = states(key)
        hidden = hidden._replace(spans=hidden.spans.clone().fill_(0.5).index_fill(1, torch.tensor([0]), 0.0))
        with pytest.raises(ValueError, match="is left between 50% and 100%"):
            pool(bridge, key, hidden)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", "euler_ancestral", "res_multistep"])
def test_every_sampler_sees_the_share(parts, sampler):
    model, entry, always, never = parts("z-image")
    expected = draw("z-image", model, by_hand(always, never), sampler=sampler)
    torch.testing.assert_close(draw("z-image", model, entry, sampler=sampler), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", CARRYING)
class TestWeights:
    @pytest.fixture
    def pair(self, bridge, library, states, key):
        """MODEL, weighted conditioning, the same without weights, ComfyUI's own of another prompt."""
        hidden = states(key)
        model, heavy, _ = pool(bridge, key, library.with_weight(hidden, words(hidden), 3.0))
        clip = encoder(key)
        return model, heavy, pool(bridge, key, hidden)[1], clip.encode_from_tokens_scheduled(clip.tokenize("the moon"))

    def test_its_numbers_are_those_without_weights(self, key, pair):
        _, heavy, light, _ = pair
        assert heavy[0][0].shape == light[0][0].shape and not torch.equal(heavy[0][0], light[0][0])
        assert torch.equal(heavy[0][0].columns()[..., : light[0][0].shape[-1]], light[0][0])

    def test_joined_with_stock_conditioning_the_weight_stays(self, key, pair):
        model, heavy, light, stock = pair
        for join in (lambda one: concat(one, stock), lambda one: concat(stock, one)):
            drawn, plain = draw(key, model, join(heavy), steps=2), draw(key, model, join(light), steps=2)
            assert torch.isfinite(drawn).all() and (drawn - plain).abs().max() > 1e-4

    @pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
    def test_a_mean_has_the_mean_of_the_weights(self, key, pair, strength):
        model, heavy, light, stock = pair
        mixed = average(heavy, light, strength)[0][0]
        assert torch.equal(mixed.columns()[..., : light[0][0].shape[-1]], average(light, light, strength)[0][0])
        assert mixed.read().weights.max() == pytest.approx(1 + 2 * strength)
        for other in (average(heavy, stock, strength), average(stock, heavy, strength)):  # of another length
            assert torch.isfinite(draw(key, model, other, steps=2)).all()

    def test_with_a_plain_negative_in_one_batch(self, key, pair):
        model, heavy, light, _ = pair
        apart = draw(key, model, heavy, ranged(light, 0.0, 0.999999), cfg=3.0, steps=2)
        torch.testing.assert_close(draw(key, model, heavy, light, cfg=3.0, steps=2), apart, rtol=1e-4, atol=1e-4)

    def test_the_loaders_model_refuses_what_it_would_not_see(self, key, pair):
        _, heavy, light, _ = pair
        with pytest.raises(ValueError, match="Draw with the MODEL that Layerwise Attention Pool hands out") as refused:
            draw(key, drawer(key), heavy, steps=2)
        assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
        assert torch.isfinite(draw(key, drawer(key), light, steps=2)).all()

    def test_saved_and_loaded_behind_stock_nodes(self, bridge, tmp_path, monkeypatch, key, pair, parts):
        import folder_paths

        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
        _, heavy, light, stock = pair
        model, entry, *_ = parts(key)
        files = bridge("actions.stored_files")
        for made in (concat(stock, heavy), concat(entry, heavy), ranged(entry, 0.0, 0.75), average(heavy, light, 0.5)):
            loaded_model, loaded, *_ = files.load(files.save(made, None, "m/c", None, None)[0], drawer(key))
            assert loaded[0][1].keys() == made[0][1].keys()
            assert torch.equal(draw(key, loaded_model, loaded, steps=2), draw(key, model, made, steps=2))


class TestTensor:
    """What other packs may do to the tensor: followed, or refused by name, never lost."""

    @pytest.fixture
    def heavy(self, bridge):
        made = bridge("drawers.weighed_tokens").with_features
        weights, spans = torch.tensor([1.0, 2.0, 1.0, -1.0]), torch.tensor([[0.0, 1.0]]).repeat(4, 1)
        spans[2] = torch.tensor([0.0, 0.5])
        return made(torch.randn(1, 4, 8), weights, spans)

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.clone(),
            lambda t: t.to(torch.bfloat16).float(),
            lambda t: t.repeat(2, 1, 1)[1:],
            lambda t: torch.cat(list(t.split(1, dim=1)), dim=1),
            lambda t: torch.cat(t.chunk(2, dim=-2), dim=-2),
            lambda t: torch.stack(list(t)),
            lambda t: torch.nn.functional.pad(t, (0, 0, 3, 0))[:, 3:],
            lambda t: t + torch.zeros(1, 4, 8),
            lambda t: t + 0.25 - 0.25,
            lambda t: 1 + t - 1,
            lambda t: torch.lerp(t, t, 0.5),
            lambda t: (0.5 * t) + t / 2,
            lambda t: t[:, torch.tensor([0, 1, 2, 3])],
            copy.deepcopy,
            lambda t: pickle.loads(pickle.dumps(t)),
        ],
    )
    def test_followed(self, heavy, change):
        found = change(heavy)
        assert found.read().weights.tolist() == [[1.0, 2.0, 1.0, -1.0]]
        assert found.read().spans[0, 2].tolist() == [0.0, 0.5]
        torch.testing.assert_close(found.columns()[..., :8], heavy.columns()[..., :8], rtol=0.02, atol=0.02)

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: torch.nn.functional.layer_norm(t, (8,)),
            lambda t: t @ torch.zeros(8, 8),
            lambda t: t.permute(0, 2, 1),
            lambda t: t[..., :4],
            lambda t: torch.cat([t, t], dim=-1),
            lambda t: t * torch.zeros(8),
            lambda t: t.mul_(2),
            lambda t: t.__setitem__((0, 0), 0),
            lambda t: t.numpy(),
            lambda t: t.tolist(),
            lambda t: t.data,
            lambda t: t.data_ptr(),
            lambda t: t.sort(dim=1),
        ],
    )
    def test_refused(self, heavy, change):
        with pytest.raises(ValueError, match="carries weights or parts of the schedule") as refused:
            change(heavy)
        assert "\n" not in str(refused.value)

    def test_questions_are_answered_from_the_numbers(self, heavy):
        assert heavy.shape == (1, 4, 8) and len(heavy) == 1 and heavy.dtype == torch.float32
        assert torch.isfinite(heavy).all() and heavy.mean().ndim == 0 and type(torch.zeros_like(heavy)) is torch.Tensor
        assert torch.equal(heavy, heavy.clone()) and not torch.equal(heavy, heavy.columns()[..., :8])


def test_a_file_with_too_few_columns_is_refused(bridge):
    with pytest.raises(ValueError, match="the file is damaged"):
        bridge("drawers.weighed_tokens").from_columns(torch.zeros(1, 3, 5))


def test_prompts_are_left_out_of_files_without_metadata(bridge, states, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    files = bridge("actions.stored_files")
    monkeypatch.setattr(files.args, "disable_metadata", True)
    files.save(pool(bridge, "z-image", states("z-image"))[1], None, "m/c", None, None)
    assert b"red fox" not in next(tmp_path.rglob("*.safetensors")).read_bytes()
