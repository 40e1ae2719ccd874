"""The convolution block of the CNN, and the choice of its fused training kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks import fused_norm
from networks.args import ACTIVATIONS


class ConvBlock(nn.Module):
    """(depthwise →) convolution → norm → activation → max pooling; `[B, C, H, W]` in and out."""

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

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(self.depthwise(images))
        if self.fused and self.training:
            return fused_norm.norm_relu_pool(maps, self.norm, self.pool)  # type: ignore[arg-type]
        return self.pool(self.activation(self.norm(maps)))


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
