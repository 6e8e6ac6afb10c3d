"""Scales for text and for pictures: equal ones are ComfyUI's guidance bit for bit; no branch is computed in vain."""

import pytest
import torch
from random_states import FIRST, SECOND, hidden_states, pool, repeated, weighted, without

LATENT = {"samples": torch.zeros(1, 16, 1, 8, 12)}


@pytest.fixture
def library():
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


@pytest.fixture
def branches(bridge, krea2_model, library):
    """MODEL and the conditionings positive, images only, negative; each of another length, so each runs by itself."""
    positive = hidden_states(library)
    images = without(library, hidden_states(library, 1), [2])
    nothing = without(library, hidden_states(library, 2), [FIRST, SECOND])._replace(grids=())
    return bridge("actions.pool").run(krea2_model, positive, negative=nothing, images_only=images)[:4]


def draw(bridge, model, positive, negative, images, cfg, image_guidance, steps=3):
    preset = {
        "preset": "custom",
        "steps": steps,
        "cfg": cfg,
        "sampler": "euler",
        "scheduler": "simple",
        "shift": "as the model",
        "mu": 0.0,
    }
    return bridge("actions.draw").run(
        model,
        positive,
        negative,
        images_only=images,
        latent=LATENT,
        seed=7,
        preset=preset,
        image_guidance=image_guidance,
    )["samples"]


def sampler_custom_advanced(guider, model, steps=3):
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise, SamplerCustomAdvanced

    noise, sampler = RandomNoise.execute(7)[0], KSamplerSelect.execute("euler")[0]
    sigmas = BasicScheduler.execute(model, "simple", steps, 1.0)[0]
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, LATENT)[0]["samples"]


def count_forwards(model) -> list[int]:
    """Tokens of every forward pass of this MODEL."""
    import comfy.patcher_extension

    passes = []

    def note(executor, x, timesteps, context, *args, **kwargs):
        passes.append(context.shape[1])
        return executor(x, timesteps, context, *args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", note)
    return passes


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_equal_scales_are_comfyuis_guidance_bit_for_bit(bridge, branches, cfg, node):
    from comfy_extras.nodes_custom_sampler import CFGGuider

    model, positive, negative, images = branches
    stock = sampler_custom_advanced(CFGGuider.execute(model, positive, negative, cfg)[0], model)
    guider = node("UniFusionGuider").execute(model, positive, cfg, cfg, negative, images)[0]
    assert torch.equal(sampler_custom_advanced(guider, model), stock)
    assert torch.equal(draw(bridge, model, positive, negative, images, cfg, cfg), stock)
    assert torch.equal(draw(bridge, model, positive, negative, images, cfg, -1.0), stock)


@pytest.mark.parametrize(("cfg", "image"), [(3.0, 1.5), (2.0, 1.0), (0.0, 2.0), (1.0, 2.0), (2.0, 0.0)])
def test_different_scales_follow_the_formula(bridge, branches, node, cfg, image):
    """One euler step ends in the guided prediction, so the formula can be checked on latents."""
    model, positive, negative, images = branches
    p, n, i = (draw(bridge, model, one, None, None, 1.0, -1.0, 1) for one in (positive, negative, images))
    expected = n + image * (i - n) + cfg * (p - i)
    torch.testing.assert_close(
        draw(bridge, model, positive, negative, images, cfg, image, 1), expected, rtol=1e-4, atol=1e-4
    )
    guider = node("UniFusionGuider").execute(model, positive, cfg, image, negative, images)[0]
    torch.testing.assert_close(sampler_custom_advanced(guider, model, 1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cfg", "image", "passes"),
    [(3.0, 1.5, 3), (3.0, 3.0, 2), (3.0, 1.0, 2), (0.0, 2.0, 2), (0.0, 1.0, 1), (1.0, 1.0, 1), (1.0, 2.0, 3)],
)
def test_branches_that_cancel_are_not_computed(bridge, branches, cfg, image, passes):
    model, positive, negative, images = branches
    seen = count_forwards(model)
    draw(bridge, model, positive, negative, images, cfg, image, 2)
    assert len(seen) == 2 * passes


@pytest.mark.parametrize("image", [1.5, 1.0])
def test_hooks_of_other_nodes_are_called_with_all_they_expect(bridge, branches, image):
    model, positive, negative, images = branches
    before = draw(bridge, model, positive, negative, images, 3.0, image)
    called = []

    def pre(args):
        cond, uncond = args["conds_out"]
        called.append("pre")
        return [cond, uncond]

    def post(args):
        assert {
            "cond",
            "uncond",
            "cond_scale",
            "model",
            "uncond_denoised",
            "cond_denoised",
            "sigma",
            "model_options",
            "input",
            "denoised",
        } <= args.keys()
        called.append("post")
        return args["denoised"] + 0.1

    model.set_model_sampler_pre_cfg_function(pre)
    model.set_model_sampler_post_cfg_function(post)
    after = draw(bridge, model, positive, negative, images, 3.0, image)
    assert called == ["pre", "post"] * 3
    assert not torch.equal(after, before)


def test_a_negative_that_holds_the_same_as_images_only_is_refused(bridge, branches):
    model, positive, negative, _ = branches
    with pytest.raises(ValueError, match="'negative' and 'images only' are the same"):
        draw(bridge, model, positive, negative, negative, 3.0, 2.0)


def test_missing_branches_are_refused_by_name(bridge, branches):
    model, positive, negative, images = branches
    with pytest.raises(ValueError, match="needs the 'images only' conditioning"):
        draw(bridge, model, positive, negative, None, 3.0, 2.0)
    with pytest.raises(ValueError, match="needs a negative"):
        draw(bridge, model, positive, None, images, 3.0, 2.0)
    with pytest.raises(ValueError, match="needs a negative"):
        draw(bridge, model, positive, None, None, 3.0, -1.0)
    draw(bridge, model, positive, None, images, 3.0, 1.0)  # the negative's factor is zero


def test_a_cfg_function_for_one_scale_is_refused_by_name(bridge, branches):
    model, positive, negative, images = branches
    model.set_model_sampler_cfg_function(lambda args: args["uncond"])
    with pytest.raises(ValueError, match="CFG function of its own"):
        draw(bridge, model, positive, negative, images, 3.0, 2.0)
    draw(bridge, model, positive, negative, images, 3.0, -1.0)


# The stock reference latent behind the pool


@pytest.mark.needs("reference latents")
@pytest.mark.parametrize("method", ["index", "index_timestep_zero"])
def test_reference_latents_work_behind_the_pool_as_they_do_on_stock_conditioning(bridge, krea2_model, library, method):
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod

    hidden = hidden_states(library)
    latent = {"samples": torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(5))}

    def with_latent(conditioning):
        conditioning = ReferenceLatent.execute(conditioning, latent)[0]
        return FluxKontextMultiReferenceLatentMethod.execute(conditioning, method)[0]

    model, positive, negative = pool(bridge, krea2_model, hidden)
    stock = [[hidden.states.flatten(2), {"pooled_output": None}]]
    ours = draw(bridge, model, with_latent(positive), negative, None, 1.0, -1.0)
    assert torch.equal(ours, draw(bridge, krea2_model, with_latent(stock), negative, None, 1.0, -1.0))
    assert (ours - draw(bridge, model, positive, negative, None, 1.0, -1.0)).abs().max() > 1e-3


@pytest.mark.needs("weights")
def test_reference_latents_work_beside_weights(bridge, krea2_model, library):
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod

    latent = {"samples": torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(5))}
    drawn = []
    for states in (
        weighted(library, hidden_states(library), {FIRST: 2}),
        repeated(library, hidden_states(library), {FIRST: 2}),
    ):
        model, positive, negative = pool(bridge, krea2_model, states)
        positive = FluxKontextMultiReferenceLatentMethod.execute(ReferenceLatent.execute(positive, latent)[0], "index")[
            0
        ]
        drawn.append(draw(bridge, model, positive, negative, None, 1.0, -1.0))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("guided", ["sampler", "guider"])
def test_reference_latents_without_a_method_are_refused_instead_of_ignored(
    bridge, krea2_model, library, lacking, guided
):
    from comfy_extras.nodes_edit_model import ReferenceLatent

    model, positive, negative = pool(bridge, krea2_model, hidden_states(library))
    positive = ReferenceLatent.execute(positive, LATENT)[0]
    with pytest.raises(ValueError, match=lacking.get("reference latents", "Edit Model Reference Method")):
        if guided == "guider":
            bridge("actions.draw").guider(model, positive, negative, cfg=1.0)
        else:
            draw(bridge, model, positive, negative, None, 1.0, -1.0)


def test_the_loaders_model_draws_as_the_pools(bridge, krea2_model, branches):
    model, positive, negative, images = branches
    assert model is not krea2_model
    first = draw(bridge, model, positive, negative, images, 3.0, 1.5)
    assert torch.equal(first, draw(bridge, krea2_model, positive, negative, images, 3.0, 1.5))


def test_auto_is_what_a_new_sampler_has_and_says_between_which_presets_it_chose(bridge, node, krea2_model):
    preset = next(one for one in node("UniFusionDiTSampler").define_schema().inputs if one.id == "preset")
    assert preset.options[0].key == "auto"
    draw = bridge("actions.draw")
    (said,) = draw.notes({"preset": "auto"}, krea2_model)
    assert "'auto' draws with 'Krea 2 Turbo': 8 steps, CFG 1" in said and "'Krea 2 Raw'" in said
    (said,) = draw.notes({"preset": "UniFusion miniature"}, krea2_model)
    assert "'UniFusion miniature' belongs to another model than this MODEL (Krea 2)" in said
    assert draw.notes({"preset": "Krea 2 Raw"}, krea2_model) == []
    assert draw.notes({"preset": "custom"}, krea2_model) == draw.notes({"preset": "auto"}, None) == []


def test_a_missing_negative_is_said_before_the_queue(server):
    graph = {
        "1": {"class_type": "UniFusionLoadModel", "inputs": {"model": "bundled miniature"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a star"}},
        "4": {
            "class_type": "UniFusionDiTSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["3", 0],
                "latent_image": ["2", 0],
                "seed": 1,
                "preset": "UniFusion miniature",
                "denoise": 1.0,
            },
        },
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    }
    with pytest.raises(ValueError, match="CFG 2 needs a negative, but none is connected"):
        server.submit(graph)
