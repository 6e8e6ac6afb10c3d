"""The still-picture VAE and its Wan 2.1 file say the same."""

import torch

from recipes.miniature.vae_model import WAN_MEAN, WAN_STD, StillVAE, from_wan, to_wan


def random_vae():
    torch.manual_seed(0)
    model = StillVAE(8).initialise()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model.encode(torch.rand(8, 3, 32, 32) * 2 - 1)
    return model.eval()


def test_file_round_trip_changes_nothing():
    model = random_vae()
    again = from_wan(to_wan(model))
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latent = model.encode(picture)
        torch.testing.assert_close(again.encode(picture), latent, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.decode(latent), model.decode(latent), atol=1e-4, rtol=1e-4)
    assert latent.shape == (2, 16, 8, 8)


def test_still_kernels_sit_in_the_newest_frame():
    model = random_vae()
    state = to_wan(model)
    kernel = state["encoder.downsamples.0.residual.2.weight"]
    assert kernel.shape[2:] == (3, 3, 3)
    assert kernel[:, :, :2].abs().max() == 0
    assert torch.equal(kernel[:, :, 2], model.encoder.downsamples[0].residual[2].weight)


def test_latents_of_the_file_have_wans_statistics():
    state = to_wan(random_vae())
    model = from_wan(state)
    torch.testing.assert_close(model.statistics.running_mean, torch.tensor(WAN_MEAN))
    torch.testing.assert_close(model.statistics.running_var.sqrt(), torch.tensor(WAN_STD))
