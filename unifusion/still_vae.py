"""Wan 2.1's VAE as a network for still pictures: that of Krea 2, Qwen-Image and the miniature.

Wan 2.1 (github.com/Wan-Video/Wan2.1, ``wan/modules/vae.py``) is a causal video autoencoder: for one
frame only the last temporal slice of each 3-D kernel meets data. So this network is 2-D with Wan's
parameter names, and :func:`from_wan` takes its kernels from that last slice.

Pictures are (B, 3, H, W) in -1..1, latents (B, 16, H / 8, W / 8) with about zero mean and unit
variance per channel: what ComfyUI's latent format ``Wan21`` hands to a diffusion model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 16
MULTIPLES = (1, 2, 4, 4)

# Per-channel statistics of Wan 2.1's latents, fixed in every host that loads this layout
# (ComfyUI latent_formats.Wan21, diffusers AutoencoderKLWan).
WAN_MEAN = (
    -0.7571,
    -0.7089,
    -0.9113,
    0.1075,
    -0.1745,
    0.9653,
    -0.1517,
    1.5508,
    0.4134,
    -0.0715,
    0.5517,
    -0.3632,
    -0.1922,
    -0.9497,
    0.2503,
    -0.2921,
)
WAN_STD = (
    2.8184,
    1.4541,
    2.3275,
    2.6558,
    1.2196,
    1.7708,
    2.6052,
    2.0743,
    3.2687,
    2.1526,
    2.8652,
    1.5579,
    1.6382,
    1.1253,
    2.8251,
    1.9160,
)


class UnitPower(torch.autograd.Function):
    """x / rms(x) over channels, with a backward written out: half of a training step was spent here."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        power = (x * x).sum(1, keepdim=True, dtype=torch.float32) / x.shape[1]
        scale = (power + 1e-12).rsqrt().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        return torch.addcmul(grad, y, (grad * y).mean(1, keepdim=True), value=-1).mul_(scale)


class ChannelNorm(nn.Module):
    """Every pixel's channels scaled to root mean square ``gamma`` (Wan's ``RMS_norm``).

    ``gamma`` stays at one in training from nothing: the convolution that follows can do its work.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = UnitPower.apply(x)
        return y * self.gamma.to(y.dtype) if self.gamma.requires_grad or not self.training else y


class StillConv(nn.Conv2d):
    """A convolution that is 3-D in Wan's file."""


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(inputs),
            nn.SiLU(),
            StillConv(inputs, outputs, 3, padding=1),
            ChannelNorm(outputs),
            nn.SiLU(),
            nn.Identity(),  # Wan's dropout, kept for its place in the names
            StillConv(outputs, outputs, 3, padding=1),
        )
        self.shortcut = StillConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class AttentionBlock(nn.Module):
    """Single-head attention over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).mT.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(mixed.mT.reshape(x.shape))


class Resample(nn.Module):
    """Halve (``down``) or double width and height; doubling also halves the channels."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        if down:
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        else:
            self.resample = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels))


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ChannelNorm(channels), nn.SiLU(), StillConv(channels, outputs, 3, padding=1))


class Encoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = [dim * m for m in (1, *MULTIPLES)]
        self.conv1 = StillConv(3, dim, 3, padding=1)
        layers = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:])):
            layers += [ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs)]
            if level < 3:
                layers.append(Resample(outputs, down=True))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(widths[-1])
        self.head = _head(widths[-1], 2 * LATENT_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = [dim * m for m in (MULTIPLES[-1], *MULTIPLES[::-1])]
        self.conv1 = StillConv(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.middle = _middle(widths[0])
        layers = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:])):
            inputs = inputs if level == 0 else inputs // 2
            layers += [ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs), ResidualBlock(outputs, outputs)]
            if level < 3:
                layers.append(Resample(outputs, down=False))
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(dim, 3)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(z))))


class StillVAE(nn.Module):
    """Encoder and decoder for single pictures.

    ``statistics`` normalises latents; while training it follows the data, and ``to_wan`` of the recipe folds
    it into ``conv1`` and ``conv2`` together with Wan's fixed mean and deviation.

    Args:
        dim: width of the first level; 96 in Wan 2.1, 16 in the miniature.
    """

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.encoder = Encoder(dim)
        self.conv1 = StillConv(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.conv2 = StillConv(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(dim)
        self.statistics = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02, eps=1e-8)

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 16, H / 8, W / 8), normalised; the mean of Wan's posterior."""
        mean = self.conv1(self.encoder(picture))[:, :LATENT_CHANNELS]
        return self.statistics(mean.float())

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 16, h, w), normalised -> (B, 3, 8 h, 8 w) about in -1..1."""
        return self.decoder(self.conv2(latent))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> StillVAE:
        """Kaiming start with small residual outputs: the default start stays on a background-only plateau."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
                if name.endswith(("residual.6", ".proj")):
                    module.weight.mul_(0.1)
        return self


@torch.no_grad()
def from_wan(state: dict[str, Tensor]) -> StillVAE:
    """The still-picture network of a Wan 2.1 state dict, in evaluation mode, float32."""
    model = StillVAE(state["decoder.head.0.gamma"].shape[0])
    still = {}
    for name, target in model.state_dict().items():
        if not name.startswith("statistics"):
            value = state[name].float()
            still[name] = value[:, :, -1] if value.ndim == 5 else value.reshape(target.shape)
    mean, std = torch.tensor(WAN_MEAN), torch.tensor(WAN_STD)
    still["conv2.bias"] = still["conv2.bias"] + still["conv2.weight"].flatten(1) @ mean
    still["conv2.weight"] = still["conv2.weight"] * std[None, :, None, None]
    still["statistics.running_mean"], still["statistics.running_var"] = mean, std.square()
    still["statistics.num_batches_tracked"] = torch.tensor(0)
    model.load_state_dict(still)
    return model.eval().requires_grad_(False)
