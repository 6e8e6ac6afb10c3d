"""Weights and schedules arrive whatever stock nodes stand between the pool and the sampler, or they say so."""

import logging

import pytest
import torch
from random_states import FIRST, TEXT, hidden_states, pool, weighted, without
from test_krea2_loras import lora, matrices

LATENT = {"samples": torch.zeros(1, 16, 1, 8, 12)}


@pytest.fixture
def library():
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


def draw(model, positive, negative=None, cfg=1.0, steps=4, sampler="euler"):
    import nodes

    negative = negative if negative is not None else positive
    return nodes.common_ksampler(model, 7, steps, cfg, sampler, "simple", positive, negative, LATENT)[0]["samples"]


def beginning(model, part):
    """Matrices whose names begin with ``part``: the pooling has blocks too."""
    found = matrices(model.model.diffusion_model, part)
    return {name: shape for name, shape in found.items() if name.startswith(part)}


def concat(first, second):
    import nodes

    return nodes.ConditioningConcat().concat(first, second)[0]


def average(first, second, strength):
    import nodes

    return nodes.ConditioningAverage().addWeighted(first, second, strength)[0]


def ranged(conditioning, start, end):
    import nodes

    return nodes.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


def scheduled(library, hidden, role, start, end):
    spans = hidden.spans.clone()
    spans[hidden.roles == role] = torch.tensor([start, end])
    return hidden._replace(spans=spans)


class TestSchedules:
    """Trials, line 1."""

    def test_a_range_keeps_the_references_own_share(self, bridge, krea2_model, library):
        hidden = hidden_states(library)
        early, late = (
            pool(bridge, krea2_model, scheduled(library, hidden, FIRST, *span)) for span in ((0, 0.5), (0.5, 1))
        )
        pictures = [draw(model, ranged(positive, 0.0, 1.0)) for model, positive, _ in (early, late)]
        assert not torch.equal(*pictures)
        assert torch.equal(pictures[0], draw(early[0], early[1]))
        assert torch.equal(pictures[1], draw(late[0], late[1]))

    def test_a_range_is_intersected_with_the_references_share(self, bridge, krea2_model, library):
        """Stock ranges of two entries beside a reference that counts up to 0.5 equal the two encodings by hand."""
        hidden = hidden_states(library)
        model, positive, _ = pool(bridge, krea2_model, scheduled(library, hidden, FIRST, 0.0, 0.5))
        _, full, _ = pool(bridge, krea2_model, hidden)
        _, gone, _ = pool(bridge, krea2_model, without(library, hidden, [FIRST]))
        by_hand = [*ranged(full, 0.0, 0.5 - 1e-5), *ranged(gone, 0.5 - 1e-5, 1.0)]
        torch.testing.assert_close(draw(model, positive, steps=8), draw(model, by_hand, steps=8), rtol=1e-5, atol=1e-5)
        both = [*ranged(positive, 0.0, 0.25), *ranged(gone, 0.25, 1.0)]
        expected = [*ranged(full, 0.0, 0.25), *ranged(gone, 0.25, 1.0)]
        assert torch.equal(draw(model, both, steps=8), draw(model, expected, steps=8))

    def test_joining_keeps_the_share(self, bridge, krea2_model, library):
        hidden, other = hidden_states(library), hidden_states(library, 1, ((TEXT, 4),))
        _, more, _ = pool(bridge, krea2_model, other)
        for span in ((0.0, 0.5), (0.5, 1.0)):
            model, positive, _ = pool(bridge, krea2_model, scheduled(library, hidden, FIRST, *span))
            _, full, _ = pool(bridge, krea2_model, hidden)
            _, gone, _ = pool(bridge, krea2_model, without(library, hidden, [FIRST]))
            early, late = (full, gone) if span[0] == 0 else (gone, full)
            by_hand = [*ranged(concat(early, more), 0.0, 0.5 - 1e-5), *ranged(concat(late, more), 0.5 - 1e-5, 1.0)]
            drawn, expected = draw(model, concat(positive, more), steps=8), draw(model, by_hand, steps=8)
            torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)

    def test_a_mean_of_two_schedules_is_refused(self, bridge, krea2_model, library):
        hidden = hidden_states(library)
        model, positive, _ = pool(bridge, krea2_model, scheduled(library, hidden, FIRST, 0.0, 0.5))
        _, other, _ = pool(bridge, krea2_model, scheduled(library, hidden, FIRST, 0.0, 0.7))
        with pytest.raises(ValueError, match="counts for a part of the schedule"):
            draw(model, average(positive, other, 0.5))
        assert torch.equal(draw(model, average(positive, other, 1.0)), draw(model, positive))  # not a mix

    @pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", "euler_ancestral"])
    def test_every_sampler_sees_the_share(self, bridge, krea2_model, library, sampler):
        hidden = hidden_states(library)
        model, positive, _ = pool(bridge, krea2_model, scheduled(library, hidden, FIRST, 0.0, 0.5))
        _, full, _ = pool(bridge, krea2_model, hidden)
        _, gone, _ = pool(bridge, krea2_model, without(library, hidden, [FIRST]))
        by_hand = [*ranged(full, 0.0, 0.5 - 1e-5), *ranged(gone, 0.5 - 1e-5, 1.0)]
        drawn = [draw(model, entry, steps=6, sampler=sampler) for entry in (positive, by_hand, full)]
        torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-5, atol=1e-5)
        assert (drawn[0] - drawn[2]).abs().max() > 1e-4

    def test_positive_and_negative_in_one_batch_with_other_shares(self, bridge, krea2_model, library):
        hidden = scheduled(library, hidden_states(library), FIRST, 0.0, 0.5)
        below = scheduled(library, hidden_states(library, 1), FIRST, 0.5, 1.0)
        model, positive, negative = pool(bridge, krea2_model, hidden, below)
        apart = draw(model, positive, ranged(negative, 0.0, 0.999999), cfg=3.0)
        torch.testing.assert_close(draw(model, positive, negative, cfg=3.0), apart, rtol=1e-4, atol=1e-4)


@pytest.mark.needs("weights")
class TestWeights:
    """Trials, line 2."""

    def test_weighted_and_plain_join(self, bridge, krea2_model, library):
        hidden, other = hidden_states(library), hidden_states(library, 1, ((TEXT, 4),))
        model, heavy, _ = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 2.0}))
        _, plain, _ = pool(bridge, krea2_model, other)
        _, neutral, _ = pool(bridge, krea2_model, hidden)
        index = (hidden.roles == FIRST).nonzero()[:, 0]
        twice = [[torch.cat([heavy[0][0], heavy[0][0][:, index]], dim=1), heavy[0][1]]]
        twice[0][0] = twice[0][0].clone()
        twice[0][0][..., hidden.width :] = 0  # neutral features: the tokens themselves stand twice
        for ours, by_hand, without_weight in (
            (concat(heavy, plain), concat(twice, plain), concat(neutral, plain)),
            (concat(plain, heavy), concat(plain, twice), concat(plain, neutral)),
        ):
            drawn, expected = draw(model, ours), draw(model, by_hand)
            torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=2e-5)
            assert (drawn - draw(model, without_weight)).abs().max() > 1e-3

    @pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
    def test_a_mean_has_the_mean_of_the_weights(self, bridge, krea2_model, library, strength):
        hidden = hidden_states(library)
        model, heavy, _ = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 3.0}))
        _, light, _ = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 1.5}))
        mixed = average(heavy, light, strength)
        found = mixed[0][0][0, :, hidden.width].add(1)[hidden.roles == FIRST]
        torch.testing.assert_close(found, torch.full_like(found, strength * 3.0 + (1 - strength) * 1.5))
        assert torch.isfinite(draw(model, mixed)).all()

    def test_a_mean_with_a_shorter_prompt_pads_neutrally(self, bridge, krea2_model, library):
        hidden = hidden_states(library)
        _, heavy, _ = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 3.0}))
        _, short, _ = pool(bridge, krea2_model, hidden_states(library, 1, ((TEXT, 2),)))
        mixed = average(heavy, short, 0.5)
        assert mixed[0][0][0, 2:, hidden.width + 1 :].count_nonzero() == 0
        assert mixed[0][0][0, :, hidden.width].add(1).max() == 2.0

    def test_weights_of_a_saved_0_1_conditioning_are_taken_over(self, bridge):
        features = bridge("drawers.token_features")
        tokens, weights = torch.randn(1, 3, 8), torch.tensor([1.0, 2.0, 0.5])
        old = torch.cat([tokens, weights.log()[None, :, None]], dim=-1)
        carried = features.split(features.upgraded(old, 8), 8)
        assert torch.equal(carried.tokens, tokens)
        torch.testing.assert_close(carried.weights[0], weights)
        assert torch.equal(features.split(features.upgraded(tokens, 8), 8).tokens, tokens)

    def test_damaged_features_are_refused_by_name(self, bridge, krea2_model, library):
        hidden = hidden_states(library)
        model, positive, _ = pool(bridge, krea2_model, hidden)
        positive[0][0][0, 1, 3] = float("nan")
        with pytest.raises(ValueError, match="NaN or infinite"):
            draw(model, positive)


class TestHooks:
    """Trials, line 3."""

    @pytest.fixture
    def hooked(self, krea2_clip):
        import comfy.hooks

        names = matrices(krea2_clip.cond_stage_model.qwen3vl_4b.transformer, "model.layers.3.")
        weights = lora(names, prefix="text_encoders.qwen3vl_4b.transformer.")
        return comfy.hooks.create_hook_lora(lora=weights, strength_model=1.0, strength_clip=1.0)

    def set_hooks(self, clip, hooks, **how):
        import comfy_extras.nodes_hooks as host

        return host.SetClipHooks().apply_hooks(clip, hooks=hooks, **how)[0]

    def test_hooks_on_the_encoder_act_as_in_the_stock_encode(self, bridge, krea2_clip, hooked):
        encode = bridge("actions.encode").run
        before = encode(krea2_clip, "a red fox")
        clip = self.set_hooks(krea2_clip, hooked, schedule_clip=False, apply_to_conds=False)
        hidden, negative, _ = encode(clip, "a red fox")
        stock = clip.encode_from_tokens_scheduled(clip.tokenize("a red fox"))[0][0]
        assert torch.equal(hidden.states.flatten(2), stock)
        assert (hidden.states - before[0].states).abs().max() > 0.1
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0]
        assert torch.equal(negative.states.flatten(2), empty)  # kept negatives of other weights are not given out
        assert torch.equal(encode(krea2_clip, "a red fox")[1].states, before[1].states)

    @pytest.mark.parametrize(
        "how, part",
        [
            (dict(schedule_clip=False, apply_to_conds=True), "apply_to_conds"),
            (dict(schedule_clip=True, apply_to_conds=False), "schedule_clip"),
        ],
    )
    @pytest.mark.parametrize("action", ["encode", "rewrite"])
    def test_hooks_that_would_be_lost_are_refused(self, bridge, krea2_clip, hooked, how, part, action):
        clip = self.set_hooks(krea2_clip, hooked, **how)
        more = {"sampling": {"sampling": "greedy"}, "max_length": 2} if action == "rewrite" else {}
        with pytest.raises(ValueError, match=part):
            bridge(f"actions.{action}").run(clip, "a red fox", **more)

    @pytest.mark.parametrize("part, refused", [("txtfusion", True), ("blocks.0.attn", False)])
    def test_a_hook_on_conditioning_that_changes_the_pooling_is_refused(
        self, bridge, krea2_model, library, part, refused
    ):
        import comfy.hooks

        weights = lora(beginning(krea2_model, part), prefix="diffusion_model.")
        hooks = comfy.hooks.create_hook_lora(lora=weights, strength_model=1.0, strength_clip=1.0)
        model, positive, _ = pool(bridge, krea2_model, hidden_states(library))
        hooked = comfy.hooks.set_hooks_for_conditioning(positive, hooks)
        if refused:
            with pytest.raises(ValueError, match="changes the model's pooling"):
                draw(model, hooked)
        else:
            assert not torch.equal(draw(model, hooked), draw(model, positive))


class TestModelChangedBehindThePool:
    """Trials, line 4."""

    def merged(self, first, second, ratio):
        import comfy_extras.nodes_model_merging as host

        return host.ModelMergeSimple().merge(first, second, ratio)[0]

    def test_a_merge_behind_the_pool_is_refused(self, bridge, krea2_model, library):
        from harness.random_krea2 import make_model

        model, positive, _ = pool(bridge, krea2_model, hidden_states(library))
        with pytest.raises(ValueError, match="changed after Layerwise Attention Pool"):
            draw(self.merged(model, make_model(seed=9), 0.5), positive)

    def test_a_merge_in_front_of_the_pool_is_drawn(self, bridge, krea2_model, library):
        from harness.random_krea2 import make_model

        merge = self.merged(krea2_model, make_model(seed=9), 0.5)
        model, positive, _ = pool(bridge, merge, hidden_states(library))
        assert torch.isfinite(draw(model, positive)).all()

    @pytest.mark.parametrize("part, refused", [("txtfusion", True), ("blocks.0.attn", False)])
    def test_a_lora_behind_the_pool_is_refused_only_where_it_changes_the_pooling(
        self, bridge, krea2_model, library, part, refused
    ):
        import comfy.sd

        weights = lora(beginning(krea2_model, part), prefix="diffusion_model.")
        model, positive, _ = pool(bridge, krea2_model, hidden_states(library))
        changed, _ = comfy.sd.load_lora_for_models(model, None, weights, 1.0, 1.0)
        if refused:
            with pytest.raises(ValueError, match="changed after Layerwise Attention Pool"):
                draw(changed, positive)
        else:
            assert not torch.equal(draw(changed, positive), draw(model, positive))

    def test_another_strength_of_the_same_lora_is_noticed(self, bridge, krea2_model, library):
        import comfy.sd

        weights = lora(matrices(krea2_model.model.diffusion_model, "txtfusion"), prefix="diffusion_model.")
        one, _ = comfy.sd.load_lora_for_models(krea2_model, None, weights, 1.0, 1.0)
        two, _ = comfy.sd.load_lora_for_models(krea2_model, None, weights, 0.5, 1.0)
        _, positive, _ = pool(bridge, one, hidden_states(library))
        other, _, _ = pool(bridge, two, hidden_states(library))
        with pytest.raises(ValueError, match="changed after Layerwise Attention Pool"):
            draw(other, positive)


@pytest.mark.needs("weights")
class TestCarrier:
    """Trials, lines 23 and 24: packs that would swallow a weight; stand-ins for each kind."""

    @pytest.fixture
    def heavy(self, bridge, krea2_model, library):
        return pool(bridge, krea2_model, weighted(library, hidden_states(library), {FIRST: 2.0}))

    def test_a_replaced_forward_without_block_index(self, bridge, krea2_model, library, heavy, monkeypatch):
        """As ComfyUI-Krea2Moodboard: the DiT's forward is another's and never names the block."""
        network = krea2_model.model.diffusion_model
        expected = draw(*heavy[:2])
        for block in network.blocks:

            def forward(*args, transformer_options=None, _forward=block.forward, **kwargs):
                options = {k: v for k, v in (transformer_options or {}).items() if k != "block_index"}
                return _forward(*args, transformer_options=options, **kwargs)

            monkeypatch.setattr(block, "forward", forward)
        assert torch.equal(draw(*heavy[:2]), expected)

    def test_an_override_that_drops_masks_is_bypassed_and_named_once(self, bridge, krea2_model, library, heavy, caplog):
        """As KJNodes' Patch Sage Attention."""

        def swallowing(func, q, k, v, heads, mask=None, **kwargs):
            shape = (q.shape[0], -1, heads * q.shape[-1])
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(shape)

        expected = draw(*heavy[:2])
        model = heavy[0].clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = swallowing
        with caplog.at_level(logging.WARNING):
            drawn = draw(model, heavy[1])
        torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
        assert len([r for r in caplog.records if "swallowing" in r.getMessage()]) == 1
        draw(model, heavy[1])  # the same MODEL again, as ComfyUI's cache hands it on
        assert len([r for r in caplog.records if "swallowing" in r.getMessage()]) == 2
        neutral = pool(bridge, krea2_model, hidden_states(library))[1]
        assert (draw(model, neutral) - expected).abs().max() > 1e-3

    def test_an_override_that_calls_on_is_kept(self, bridge, heavy):
        calls = []

        def counting(func, *args, **kwargs):
            calls.append(kwargs.get("mask"))
            return func(*args, **kwargs)

        expected = draw(*heavy[:2])
        model = heavy[0].clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = counting
        assert torch.equal(draw(model, heavy[1]), expected) and len(calls) == 2 * 4

    def test_a_backend_without_masks_is_replaced_for_weighted_calls(self, bridge):
        carrier = bridge("drawers.token_bias").TokenWeights(torch.tensor([[0.0, 0.7]]).exp())

        def attention_flash(q, k, v, heads, mask=None, **kwargs):
            raise AssertionError("a flash backend would drop the mask or warn at every call")

        q, k, v = torch.randn(3, 1, 2, 5, 8).unbind(0)
        out = carrier(attention_flash, q, k, v, 2, skip_reshape=True)
        bias = torch.tensor([0.0, 0.7, 0, 0, 0])
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None, None, None])
        torch.testing.assert_close(out, expected.transpose(1, 2).reshape(1, 5, 16))
        assert carrier.applied == 1 and carrier.bypassed == {"attention_flash"}

    def test_attention_that_keeps_the_options_to_itself_is_named(self, bridge, krea2_model, heavy, caplog, monkeypatch):
        """As KJNodes' Krea2 Prompt Weight: an attention object of another pack, which hands no options on."""
        for block in krea2_model.model.diffusion_model.blocks[:1]:

            def forward(x, freqs=None, mask=None, transformer_options=None, _forward=block.attn.forward):
                return _forward(x, freqs, mask, {})

            forward.__module__ = "custom_nodes.somebody"
            monkeypatch.setattr(block.attn, "forward", forward)
        with caplog.at_level(logging.WARNING):
            draw(*heavy[:2])
        said = [r.getMessage() for r in caplog.records if "reached 1 of 2 attention layers" in r.getMessage()]
        assert len(said) == 1 and "custom_nodes.somebody" in said[0]

    def test_weight_one_asks_nobody(self, bridge, krea2_model, library, caplog):
        with caplog.at_level(logging.WARNING):
            draw(*pool(bridge, krea2_model, hidden_states(library))[:2])
        assert not [r for r in caplog.records if "UniFusion" in r.getMessage()]


@pytest.mark.needs("weights")
class TestNegativeWeights:
    """What -1 means, as an equation; it works at CFG 1 and stays out of the negative."""

    @staticmethod
    def attention(bridge, weights, q, k, v):
        from comfy.ldm.modules.attention import attention_pytorch

        carrier = bridge("drawers.token_bias").TokenWeights(torch.tensor([weights]))
        return carrier(attention_pytorch, q, k, v, q.shape[1], skip_reshape=True)

    @pytest.mark.parametrize("weight", [1.0, 0.5, 2.0])
    def test_minus_w_is_twice_the_rest_less_w(self, bridge, weight):
        q, k, v = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
        plus, minus, gone = (self.attention(bridge, [1.0, w], q, k, v) for w in (weight, -weight, 0.0))
        logits = (q @ k.transpose(-1, -2)) * 8**-0.5
        logits[..., 1] += torch.tensor(weight).log()
        rest = 1 - logits.softmax(-1)[..., 1]  # Z_others / Z, (1, heads, queries)
        rest = rest.transpose(1, 2)[..., None].expand(-1, -1, -1, 8).flatten(2)
        torch.testing.assert_close(minus, 2 * rest * gone - plus, rtol=1e-4, atol=1e-5)
        assert (minus - plus).abs().max() > 1e-2

    def test_it_draws_another_picture_at_cfg_1_and_meets_zero(self, bridge, krea2_model, library):
        hidden = hidden_states(library)
        pictures = {}
        for weight in (1.0, 0.0, -1e-6, -1.0, -2.0):
            model, positive, _ = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: weight}))
            pictures[weight] = draw(model, positive)
        torch.testing.assert_close(pictures[-1e-6], pictures[0.0], rtol=1e-3, atol=1e-4)
        assert all((pictures[-1.0] - pictures[other]).abs().max() > 1e-3 for other in (1.0, 0.0, -2.0))

    def test_it_never_reaches_the_negative(self, bridge, krea2_model, library):
        """At CFG 3 the unconditional prediction is the one of a positive without the weight."""
        hidden, below, seen = hidden_states(library), hidden_states(library, 1), []
        for weight in (1.0, -1.0):
            model, positive, negative = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: weight}), below)
            model.set_model_sampler_post_cfg_function(
                lambda args: seen.append(args["uncond_denoised"]) or args["denoised"]
            )
            draw(model, positive, negative, cfg=3.0, steps=1)
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-5)

    def test_inspect_sees_it_as_the_pool_does(self, bridge, krea2_model, library):
        hidden = weighted(library, hidden_states(library), {FIRST: -1.0})
        pages, *_ = bridge("actions.look_inside").run(hidden, krea2_model)
        assert torch.isfinite(pages).all()
        fusion = bridge("drawers.fusion_model")
        model = fusion.FusionModel(krea2_model)
        from unifusion_pack.unifusion.attribution import look

        seen = model.through_pooling(hidden.states, fusion.refiner_bias(hidden), look)
        assert torch.equal(seen.pooled, model.pool(hidden, [1.0] * 12, True))

    def test_everything_negative_is_refused(self, bridge, krea2_model, library):
        hidden = hidden_states(library)._replace(weights=torch.full((18,), -1.0))
        with pytest.raises(ValueError, match="nothing to subtract from"):
            pool(bridge, krea2_model, hidden)


class TestReferenceLatents:
    """Trials, line 27: another pack's forward may take reference latents without a method."""

    @pytest.mark.needs("reference latents")
    def test_a_replaced_forward_is_not_second_guessed(self, bridge, krea2_model, library, monkeypatch):
        model, positive, _ = pool(bridge, krea2_model, hidden_states(library))
        positive[0][1]["reference_latents"] = [torch.zeros(1, 16, 1, 8, 8)]
        with pytest.raises(ValueError, match="Edit Model Reference Method"):
            bridge("actions.draw").guider(model, positive, positive, cfg=1.0)
        network = krea2_model.model.diffusion_model

        def forward(*args, _forward=network._forward, **kwargs):
            return _forward(*args, **kwargs)

        forward.__module__ = "custom_nodes.moodboard"
        monkeypatch.setattr(network, "_forward", forward)
        bridge("actions.draw").guider(model, positive, positive, cfg=1.0)
