"""Flow-matching sampling over ComfyUI's own samplers."""

from __future__ import annotations

import math

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ...guidance import resolution_shift, steps_and_resolution_shift, text_and_image_guidance
from ...profiles import AS_THE_MODEL, BY_STEPS_AND_RESOLUTION


def with_shift(model, mu: float):
    """Clone of the model whose schedule is shifted by the log shift ``mu``."""

    class FlowSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        pass

    sampling = FlowSampling(model.model.model_config)
    sampling.set_parameters(shift=mu)
    clone = model.clone()
    clone.add_object_patch("model_sampling", sampling)
    return clone


def image_tokens(latent, model) -> int:
    """Tokens the DiT draws for this latent: latent height x width over the patch area."""
    network = model.model.diffusion_model
    patch = getattr(network, "patch", None) or getattr(network, "patch_size", 1)  # Krea 2's name, and the others'
    patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
    return math.ceil(latent.shape[-2] / patch) * math.ceil(latent.shape[-1] / patch)


def shifted(model, latent, shift: str, mu: float, steps: int = 0):
    """Apply a preset's shift (``"fixed"``, ``"by resolution"``, ``"by steps and resolution"`` or ``"as the model"``)."""
    if shift == AS_THE_MODEL:
        return model
    if shift == BY_STEPS_AND_RESOLUTION:
        return with_shift(model, steps_and_resolution_shift(image_tokens(latent, model), steps))
    return with_shift(model, mu if shift == "fixed" else resolution_shift(image_tokens(latent, model)))


class UniFusionGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with separate scales for text and pictures.

    With equal scales, or without an ``images_only`` branch, this is ComfyUI's own guidance, bit for bit; branches
    whose factor is zero are not computed, unless the MODEL asks for them (``disable_cfg1_optimization``).
    """

    def set_scales(self, text: float, image: float | None = None) -> None:
        """Set the scales; ``image`` None means the same as ``text``."""
        self.set_cfg(text)
        self.image_scale = text if image is None else image

    def set_branches(self, positive, negative, images_only=None) -> None:
        conds = {"positive": positive, "negative": negative}
        if images_only is not None:
            conds["images_only"] = images_only
        self.inner_set_conds(conds)

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (ComfyUI's signature)
        text, image = self.cfg, self.image_scale
        if "images_only" not in self.conds or math.isclose(text, image):
            return super().predict_noise(x, timestep, model_options, seed)
        # n + s_img (i - n) + s_txt (p - i): n has the factor 1 - s_img, i has s_img - s_txt, p has s_txt.
        all_branches = model_options.get("disable_cfg1_optimization", False)
        positive, negative = self.conds["positive"], self.conds["negative"]
        if text == 0 and not all_branches:
            positive = None
        if math.isclose(image, 1.0) and not all_branches:
            negative = None
        conds = [positive, negative, self.conds["images_only"]]
        about = {
            "timestep": timestep,
            "input": x,
            "sigma": timestep,
            "model": self.inner_model,
            "model_options": model_options,
        }
        if "sampler_calc_cond_batch_function" in model_options:
            p, n, i = model_options["sampler_calc_cond_batch_function"]({"conds": conds, **about})
        else:
            p, n, i = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        # A branch that was left out has the factor zero: any finite value serves, and hooks see a sensible one.
        p, n = i if positive is None else p, i if negative is None else n
        for hook in model_options.get("sampler_pre_cfg_function", []):  # hooks of other packs know these two
            p, n = hook({"conds": conds[:2], "conds_out": [p, n], "cond_scale": text, **about})
        guided = text_and_image_guidance(n, i, p, image, text)
        for hook in model_options.get("sampler_post_cfg_function", []):
            guided = hook(
                {
                    "denoised": guided,
                    "cond": positive,
                    "uncond": negative,
                    "cond_scale": text,
                    "uncond_denoised": n,
                    "cond_denoised": p,
                    **about,
                }
            )
        return guided


def in_form(model, latent: dict) -> torch.Tensor:
    """The samples of a latent as a MODEL takes them: an empty latent of any model gets its channels and axes."""
    return comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )


def sample(
    guider: comfy.samplers.CFGGuider, latent: dict, seed: int, steps: int, sampler: str, scheduler: str, denoise: float
) -> dict:
    """Draw with a guider, as the stock KSampler does: same noise, same steps, same preview and progress.

    Args:
        latent: ComfyUI's latent dictionary; ``noise_mask`` and ``batch_index`` are honoured.
        denoise: part of the schedule to run, in (0, 1]; below 1 keeps something of the latent given.

    Returns:
        latent dictionary with new ``samples``.
    """
    model = guider.model_patcher
    start = in_form(model, latent)
    noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    schedule = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    preview = latent_preview.prepare_callback(model, steps)
    samples = guider.sample(
        noise,
        start,
        comfy.samplers.sampler_object(sampler),
        schedule.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=preview,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    out = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    out["samples"] = samples.to(
        device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
    )
    return out
