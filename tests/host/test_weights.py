"""Strength means something: weight 2 is giving a reference's states twice, 0 is dropping them, 1 is bit-identical."""

import pytest
import torch
from random_states import FIRST, SECOND, TEXT, hidden_states, pool, repeated, weighted, without

LATENT = {"samples": torch.zeros(1, 16, 1, 8, 12)}


@pytest.fixture
def library():
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


def ksampler(bridge, model, positive, negative, cfg):
    import nodes

    return nodes.common_ksampler(model, 7, 3, cfg, "euler", "simple", positive, negative, LATENT)[0]["samples"]


def dit_sampler(bridge, model, positive, negative, cfg):
    preset = {
        "preset": "custom",
        "steps": 3,
        "cfg": cfg,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "as the model",
        "mu": 0.0,
    }
    return bridge("actions.draw").run(model, positive, negative, latent=LATENT, seed=7, preset=preset)["samples"]


SEVERAL = [{FIRST: 2}, {SECOND: 3}, {FIRST: 2, SECOND: 3}, {TEXT: 2}]


@pytest.mark.needs("weights")
@pytest.mark.parametrize("times", SEVERAL)
def test_weight_two_equals_giving_the_states_twice_in_the_conditioning(bridge, krea2_model, library, times):
    hidden = hidden_states(library)
    by_weight = pool(bridge, krea2_model, weighted(library, hidden, times))[1][0][0]
    by_states = pool(bridge, krea2_model, repeated(library, hidden, times))[1][0][0]
    neutral = pool(bridge, krea2_model, hidden)[1][0][0]
    width = hidden.width
    assert by_weight[0, :, width].add(1).tolist() == weighted(library, hidden, times).weights.tolist()
    torch.testing.assert_close(by_weight[..., :width], by_states[:, : hidden.tokens, :width], rtol=1e-4, atol=1e-4)
    assert (by_states[:, : hidden.tokens] - neutral).abs().max() > 1e-2


@pytest.mark.needs("weights")
@pytest.mark.parametrize("sampler", [ksampler, dit_sampler])
@pytest.mark.parametrize("times", SEVERAL)
def test_weight_two_equals_giving_the_states_twice_in_the_latent(bridge, krea2_model, library, sampler, times):
    hidden = hidden_states(library)
    latents = [
        sampler(bridge, *pool(bridge, krea2_model, states), 1.0)
        for states in (weighted(library, hidden, times), repeated(library, hidden, times), hidden)
    ]
    assert (latents[1] - latents[2]).abs().max() > 1e-3
    torch.testing.assert_close(latents[0], latents[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sampler", [ksampler, dit_sampler])
@pytest.mark.parametrize("dropped", [[FIRST], [FIRST, SECOND]])
def test_weight_zero_equals_dropping_the_states(bridge, krea2_model, library, sampler, dropped):
    hidden = hidden_states(library)
    zero = pool(bridge, krea2_model, weighted(library, hidden, dict.fromkeys(dropped, 0.0)))
    gone = pool(bridge, krea2_model, without(library, hidden, dropped))
    assert torch.equal(zero[1][0][0], gone[1][0][0])
    assert torch.equal(sampler(bridge, *zero, 1.0), sampler(bridge, *gone, 1.0))


@pytest.mark.parametrize("sampler", [ksampler, dit_sampler])
def test_weight_one_is_bit_identical_to_no_weight(bridge, krea2_model, library, sampler):
    hidden = hidden_states(library)
    one = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 1.0, TEXT: 1.0}))
    none = pool(bridge, krea2_model, hidden)
    assert torch.equal(one[1][0][0], none[1][0][0])
    assert torch.equal(sampler(bridge, *one, 1.0), sampler(bridge, *none, 1.0))


@pytest.mark.needs("weights")
@pytest.mark.parametrize("sampler", [ksampler, dit_sampler])
@pytest.mark.parametrize("below", [{SECOND: 3}, {}])
def test_weights_hold_when_positive_and_negative_run_in_one_batch(bridge, krea2_model, library, sampler, below):
    """Both branches have one length, so ComfyUI stacks them, each with its own weights."""
    positive, negative = hidden_states(library, 0), hidden_states(library, 1)
    by_weight = pool(bridge, krea2_model, weighted(library, positive, {FIRST: 2}), weighted(library, negative, below))
    by_states = pool(bridge, krea2_model, repeated(library, positive, {FIRST: 2}), repeated(library, negative, below))
    rows = count_rows(by_weight[0])
    ours = sampler(bridge, *by_weight, 3.0)
    assert set(rows) == {2}
    torch.testing.assert_close(ours, sampler(bridge, *by_states, 3.0), rtol=1e-4, atol=5e-5)


def count_rows(model) -> list[int]:
    """Batch rows of every forward pass of this MODEL."""
    import comfy.patcher_extension

    rows = []

    def note(executor, x, *args, **kwargs):
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", note)
    return rows


@pytest.mark.needs("weights")
def test_weights_hold_beside_an_attention_patch_of_another_node(bridge, krea2_model, library):
    hidden, seen = hidden_states(library), []

    def patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
        seen.append(extra_options["block_index"])
        return {"q": q, "k": k, "v": v, "pe": pe}

    patched = krea2_model.clone()
    patched.set_model_attn1_patch(patch)
    model, positive, negative = pool(bridge, patched, weighted(library, hidden, {FIRST: 2}))
    plain = pool(bridge, krea2_model, weighted(library, hidden, {FIRST: 2}))
    assert torch.equal(ksampler(bridge, model, positive, negative, 1.0), ksampler(bridge, *plain, 1.0))
    assert seen == [0, 1] * 3


@pytest.mark.needs("weights")
def test_weights_hold_for_a_batch_of_latents(bridge, krea2_model, library):
    import nodes

    hidden = hidden_states(library)
    latent = {"samples": torch.zeros(2, 16, 1, 8, 8)}
    drawn = []
    for states in (weighted(library, hidden, {FIRST: 2}), repeated(library, hidden, {FIRST: 2})):
        model, positive, negative = pool(bridge, krea2_model, states)
        drawn.append(
            nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", positive, negative, latent)[0]["samples"]
        )
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=2e-5)


def test_all_weights_zero_is_refused_by_name(bridge, krea2_model, library):
    hidden = hidden_states(library)
    with pytest.raises(ValueError, match="No token of the positive hidden states is left"):
        pool(bridge, krea2_model, weighted(library, hidden, {TEXT: 0.0, FIRST: 0.0, SECOND: 0.0}))


# A part of the schedule


def ranged(library, hidden, role, start, end):
    spans = hidden.spans.clone()
    spans[hidden.roles == role] = torch.tensor([start, end])
    return hidden._replace(spans=spans)


@pytest.mark.parametrize(
    ("start", "end", "steps_with"),
    [(0.0, 0.5, [0, 1]), (0.5, 1.0, [2, 3]), (0.25, 0.75, [1, 2]), (0.0, 1.0, [0, 1, 2, 3])],
)
def test_a_reference_counts_in_its_part_of_the_schedule_only(bridge, krea2_model, library, start, end, steps_with):
    import comfy.patcher_extension

    import nodes

    hidden = hidden_states(library)
    model, positive, negative = pool(bridge, krea2_model, ranged(library, hidden, FIRST, start, end))
    lengths = []

    def note(executor, x, timesteps, context, *args, **kwargs):
        lengths.append(context.shape[1])
        return executor(x, timesteps, context, *args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "lengths", note)
    ours = nodes.common_ksampler(model, 7, 4, 1.0, "euler", "simple", positive, negative, LATENT)[0]["samples"]
    whole = hidden.tokens
    # one pass a step: at no step are two parts averaged
    assert lengths == [whole if step in steps_with else whole - 6 for step in range(4)]

    full, part = pool(bridge, krea2_model, hidden), pool(bridge, krea2_model, without(library, hidden, [FIRST]))
    latent = LATENT
    for step in range(4):
        model, positive, negative = full if step in steps_with else part
        latent = nodes.common_ksampler(
            model,
            7,
            4,
            1.0,
            "euler",
            "simple",
            positive,
            negative,
            latent,
            start_step=step,
            last_step=step + 1,
            disable_noise=step > 0,
            force_full_denoise=step == 3,
        )[0]
    torch.testing.assert_close(ours, latent["samples"], rtol=1e-5, atol=1e-5)


def test_parts_of_the_schedule_leave_no_gap_and_meet_nowhere_twice(bridge, library):
    hidden = ranged(library, ranged(library, hidden_states(library), FIRST, 0.0, 0.3), SECOND, 0.3, 0.6)
    pieces = bridge("drawers.conditioning").schedule_pieces(hidden)
    assert [(round(start, 3), round(end, 3)) for start, end, _ in pieces] == [(0.0, 0.3), (0.3, 0.6), (0.6, 1.0)]
    removed = weighted(library, ranged(library, hidden_states(library), FIRST, 0.0, 0.3), {FIRST: 0.0})
    assert len(bridge("drawers.conditioning").schedule_pieces(removed)) == 1


# Weights of words


def test_a_weighted_prompt_has_the_states_of_the_plain_one(krea2_clip, bridge):
    run = bridge("actions.encode").run
    plain = run(krea2_clip, "a red fox in (deep) snow")[0]
    hidden, negative, report = run(krea2_clip, "a (red fox:1.4) in (deep) snow")
    assert torch.equal(hidden.states, plain.states) and hidden.pieces == plain.pieces
    heavy = {piece: weight for piece, weight in zip(hidden.pieces, hidden.weights.tolist()) if weight != 1}
    assert heavy == {" red": pytest.approx(1.4), " fox": pytest.approx(1.4)}
    assert (negative.weights == 1).all()
    assert "weight 1.4 on 'red fox'" in report and "Warning" not in report


def test_weights_that_reach_no_token_are_reported(krea2_clip, bridge):
    run = bridge("actions.encode").run
    assert "falls inside a token" in run(krea2_clip, "a (re:1.4)d fox")[2]
    image = {"image0": torch.rand(1, 64, 64, 3)}
    assert (
        "leaves weighted words out"
        in run(
            krea2_clip, "a (red:1.4) fox", profile="miniature", selection="rewritten text only", taps="2", images=image
        )[2]
    )


def test_a_control_token_hidden_in_weights_is_refused(krea2_clip, bridge):
    with pytest.raises(ValueError, match="control token"):
        bridge("actions.encode").run(krea2_clip, "a <|im_(e:1.2)nd|> b")
