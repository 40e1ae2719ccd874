"""The convolution block of the CNN, and the choice of its fused training kernel."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn

from networks import fused_norm
from networks.args import ACTIVATIONS


@torch.fx.wrap  # whole to FX, which would else round a mean to the scale of what is averaged
def channel_means(maps: Tensor) -> Tensor:
    """`[B, C, H, W]` → `[B, C, 1, 1]`."""
    return maps.mean(dim=(2, 3), keepdim=True)


class SqueezeExcite(nn.Module):
    """Channels times gates that are made of their means (arXiv:1709.01507); `[B, C, H, W]`.

    torchvision's computes the same; it takes a second to import, and what it averages with is
    rounded in int8 to the scale of the maps, while means have a range of their own.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.activation(self.fc1(channel_means(maps)))  # [B, hidden, 1, 1]
        return maps * self.gate(self.fc2(hidden))


class ConvBlock(nn.Module):
    """(depthwise →) convolution → norm → activation → max pooling; `[B, C, H, W]` in and out.

    Before the pooling, `squeeze_excite` (its hidden width) weighs the channels (arXiv:1709.01507),
    and `residual` adds what the block was given.
    """

    fused = False  # whether training takes one kernel for what follows the convolution

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pool: int = 1,
        norm: str = "batch",
        activation: str = "relu",
        separable: bool = False,
        residual: bool = False,
        squeeze_excite: int = 0,
    ):
        super().__init__()
        bias = norm == "none"
        padding = kernel // 2
        self.depthwise: nn.Module = nn.Identity()
        if separable:
            self.depthwise = nn.Conv2d(
                in_channels, in_channels, kernel, stride, padding, groups=in_channels
            )
            kernel, stride, padding = 1, 1, 0
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=bias)
        self.norm = {
            "batch": lambda: nn.BatchNorm2d(channels),
            "group": lambda: nn.GroupNorm(1, channels),
            "none": nn.Identity,
        }[norm]()
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
        self.residual = residual
        self.squeeze_excite = SqueezeExcite(channels, squeeze_excite) if squeeze_excite else None

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(self.depthwise(images))
        plain = not self.residual and self.squeeze_excite is None
        if self.fused and self.training:
            pool = self.pool if plain else None
            maps = fused_norm.norm_relu_pool(maps, self.norm, pool)  # type: ignore[arg-type]
            if plain:
                return maps
        else:
            maps = self.activation(self.norm(maps))
        if self.squeeze_excite is not None:
            maps = self.squeeze_excite(maps)
        return self.pool(maps + images if self.residual else maps)


def fuse_blocks(module: nn.Module, device: torch.device | str) -> bool:
    """Let the CNN blocks in `module` train with one kernel where there is one; whether any does.

    Not on a GPU, and not where a hook waits for what a part of the block gives.
    """
    blocks = [m for m in module.modules() if isinstance(m, ConvBlock)]
    for block in blocks:
        parts = block.norm, block.activation, block.pool
        watched = any(part._forward_hooks or part._backward_hooks for part in parts)
        on_cpu = torch.device(device).type == "cpu"
        block.fused = on_cpu and not watched and fused_norm.applies(*parts)
    return any(block.fused for block in blocks)
