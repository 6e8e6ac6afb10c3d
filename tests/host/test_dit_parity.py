"""Equal weights, equal numbers: our DiT and ComfyUI's Krea 2."""

import os
import sys

import pytest
import torch

from unifusion.dit import DiTConfig, SingleStreamDiT
from unifusion.pooling import LayerwiseAttentionPooling


@pytest.fixture(scope="module")
def krea2():
    """ComfyUI's module, from sys.path as the host tests arrange it or from COMFYUI_PATH."""
    root = os.environ.get("COMFYUI_PATH")
    if root and root not in sys.path:
        sys.path.append(root)
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    try:
        args = pytest.importorskip("comfy.cli_args").args
        args.cpu = True
        return pytest.importorskip("comfy.ldm.krea2.model")
    finally:
        sys.argv = arguments


def fill(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return module.eval()


def test_dit_equals_comfyui(krea2):
    import comfy.ops

    sizes = dict(features=256, heads=2, kvheads=1, layers=2, txtdim=40, txtlayers=3)
    ours = fill(SingleStreamDiT(DiTConfig(**sizes)))
    theirs = krea2.SingleStreamDiT(**sizes, dtype=torch.float32, operations=comfy.ops.disable_weight_init).eval()
    theirs.load_state_dict(ours.state_dict())
    latent, t, states = torch.randn(2, 16, 16, 16), torch.tensor([0.2, 0.8]), torch.randn(2, 7, 3, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(latent, t, states), theirs(latent, t, states.flatten(2)), atol=1e-5, rtol=1e-5)


def test_pooling_equals_comfyui(krea2):
    import comfy.ops

    ours = fill(LayerwiseAttentionPooling(4, 240))
    theirs = krea2.TextFusionTransformer(4, 240, 20, 4, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    theirs.load_state_dict(ours.state_dict())
    states = torch.randn(2, 9, 4, 240)
    with torch.no_grad():
        torch.testing.assert_close(ours(states), theirs.eval()(states), atol=1e-5, rtol=1e-5)
