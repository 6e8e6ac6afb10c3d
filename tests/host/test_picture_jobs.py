"""Away from a picture, and a part of a picture, from the nodes to the latent."""

import pytest
import torch
from test_references import picture


@pytest.fixture(scope="module")
def miniature(pack):
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    with torch.inference_mode():
        return load(BUNDLED)


@pytest.fixture
def reference(node):
    return lambda image, **how: node("UniFusionReference").execute(
        image, "", how.pop("strength", 1.0), "default", **how
    )[0]


@pytest.fixture
def run(bridge, miniature):
    """VLM Encode, the pool and two steps of ComfyUI's own sampler: (latent, hidden, negative, report)."""

    def act(references, prompt="a circle at the center", profile="auto", cfg=1.0):
        import nodes

        hidden, negative, report = bridge("actions.encode").run(
            miniature[1], prompt, references=references, profile=profile, selection="images and prompt"
        )
        model, positive, below = bridge("actions.pool").run(miniature[0], hidden, negative=negative)[:3]
        latent = {"samples": torch.zeros(1, 16, 1, 16, 16)}
        drawn = nodes.common_ksampler(model, 3, 2, cfg, "euler", "simple", positive, below, latent)[0]["samples"]
        return drawn, hidden, negative, report

    return act


def test_without_a_job_nothing_changes(run, reference):
    plain = run(reference(picture(128, 128)))[0]
    assert torch.equal(run(reference(picture(128, 128), job="whole"))[0], plain)
    assert torch.equal(run(reference(picture(128, 128), job="default"))[0], plain)


@pytest.mark.needs("weights")
@pytest.mark.parametrize("job", ["style", "palette", "layout", "subject", "read, not shown"])
def test_every_job_draws_something_else_than_the_whole(run, reference, job):
    drawn, hidden, _, report = run(reference(picture(128, 128), job=job))
    assert torch.isfinite(drawn).all() and (drawn - run(reference(picture(128, 128)))[0]).abs().max() > 1e-3
    assert f"job '{job}'" in report


def test_read_not_shown_equals_strength_zero_and_the_words_have_seen_it(run, reference, bridge, miniature):
    shown = run(reference(picture(128, 128), job="read, not shown"))
    removed = run(reference(picture(128, 128), strength=0.0))
    assert torch.equal(shown[0], removed[0])
    words = shown[1].roles == 2
    alone = bridge("actions.encode").run(miniature[1], "a circle at the center", selection="images and prompt")[0]
    assert not torch.equal(shown[1].states[:, words], alone.states[:, alone.roles == 2])


@pytest.mark.needs("weights")
def test_away_goes_the_other_way_and_never_leaks_into_the_negative(run, reference, bridge):
    away = run(reference(picture(128, 128), strength=-0.5))
    assert (away[1].weights[away[1].roles == 16] == -0.5).all() and "away from it" in away[3]
    to, none = run(reference(picture(128, 128), strength=0.5))[0], run(reference(picture(128, 128), strength=0.0))[0]
    assert (away[0] - none).abs().max() > 1e-3
    moved, opposite = (to - none).flatten(), (away[0] - none).flatten()
    assert torch.nn.functional.cosine_similarity(moved, opposite, dim=0) < 0


def test_a_negative_with_pictures_leaves_those_out_that_are_drawn_away_from(bridge, reference, miniature):
    from dataclasses import replace

    encode = bridge("actions.encode")
    vlm = bridge("encoders.text_encoder").VLM(miniature[1])
    profile = replace(vlm.profile, negative_pictures=True)
    pictures = encode.gather(reference(picture(128, 128), strength=-1.0), None, profile, side=vlm.picture_side)
    negative = encode.empty_prompt(encode.Reading(vlm, profile, pictures, profile.taps, "everything", "fp32"))
    assert (negative.weights[negative.roles == 16] == 0).all()


def test_jobs_of_combine_are_for_pictures_without_one(node, reference):
    combine = node("UniFusionMultiReferenceCombine").execute
    given = reference(picture(64, 64), job="subject", references=reference(picture(64, 64)))
    made = combine(0, "one view", "own labels", given, {"image0": picture(64, 64)}, job="palette")
    assert [one.job.name for one in made[0]] == ["palette", "subject", "palette"]
    assert "job 'subject'" in made[2] and made[1].shape[-1] == 3
    assert [one.job.name for one in combine(0, "one view", "own labels", given)[0]] == ["whole", "subject"]


def test_a_board_may_draw_away(node):
    board = '[{"slot": "image0", "name": "it", "strength": -0.5, "on": true}]'
    made = node("UniFusionMultiReferenceCombine").execute(
        0, "one view", "own labels", None, {"image0": picture(64, 64)}, board
    )
    assert made[0][0].strength == -0.5 and "away from it" in made[2]


@pytest.mark.parametrize("strength", [-2.5, float("nan"), float("inf"), float("-inf")])
def test_strengths_out_of_range_are_refused(reference, strength):
    with pytest.raises(ValueError, match="must be -2 or more"):
        reference(picture(64, 64), strength=strength)


def test_unknown_jobs_are_refused(reference, node):
    with pytest.raises(ValueError, match="A picture has no job 'mood'"):
        reference(picture(64, 64), job="mood")
    with pytest.raises(ValueError, match="A picture has no job 'mood'"):
        node("UniFusionMultiReferenceCombine").execute(
            0, "one view", "own labels", None, {"image0": picture(64, 64)}, job="mood"
        )


@pytest.mark.needs("weights")
@pytest.mark.parametrize(
    "how", [dict(job="palette"), dict(job="subject"), dict(strength=-0.75), dict(job="style", end=0.5)]
)
def test_jobs_and_away_are_saved_and_loaded_bit_equal(run, reference, bridge, how):
    library = bridge("actions.encode").HiddenStates
    hidden = run(reference(picture(128, 128), **how))[1]
    from unifusion_pack.unifusion.hidden_states import from_tensors, to_tensors

    back = from_tensors(*to_tensors(hidden))
    assert isinstance(back, library)
    for name in ("states", "roles", "weights", "spans"):
        assert torch.equal(getattr(back, name), getattr(hidden, name))


def test_moving_a_job_costs_the_encoder_nothing(reference, run, miniature):
    from test_sliders import forwards

    run(reference(picture(128, 128, 5)))
    with forwards(miniature[1]) as calls:
        for job in ("style", "palette", "layout", "subject", "read, not shown"):
            run(reference(picture(128, 128, 5), job=job))
        run(reference(picture(128, 128, 5), strength=-1.0))
    assert calls == []
