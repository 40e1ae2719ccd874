"""The ResNets for CIFAR's 32×32 images (section 4.2 of arXiv:1512.03385), to compare with.

Modules are named as torchvision names those of its ResNets; the benchmarks of Torch-Pruning and of
contrastive distillation (arXiv:1910.10699) name theirs in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from networks.exits import ExitHead, ExitingNetwork, check_exits
from networks.foreign import NetworkError

SHORTCUTS = ("projection", "pad")
STAGES = ("layer1", "layer2", "layer3")


class ResNetCifar(ExitingNetwork):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`.

    `depth` is 6n + 2 (20, 32, 44, 56, 110): three stages of n blocks of two convolutions, with
    `width`, twice and four times as many channels. Where channels double, `shortcut` 'projection'
    is a convolution 1×1 with batch norm, 'pad' (the paper's for CIFAR, option A) every second pixel
    and zeros for the new channels: no parameters. Exits can stand after 'layer1' and 'layer2'.
    Raises NetworkError for what builds no network.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        depth: int = 20,
        width: int = 16,
        shortcut: str = "projection",
        exits: Sequence[str] = (),
    ):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise NetworkError(f"should be 6n + 2, as 20, 32, 44, 56 or 110, not {depth}", "depth")
        if width < 1:
            raise NetworkError(f"should be at least 1, not {width}", "width")
        if shortcut not in SHORTCUTS:
            raise NetworkError(f"is one of {', '.join(SHORTCUTS)}", "shortcut")
        try:
            check_exits(exits, self.exit_places())
        except ValueError as error:
            raise NetworkError(str(error), "exits") from None
        widths = [width, width, 2 * width, 4 * width]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        for stage, (name, before, after) in enumerate(
            zip(STAGES, widths, widths[1:], strict=False)
        ):
            blocks = [BasicBlock(before, after, 2 if stage else 1, shortcut)]
            blocks += [BasicBlock(after, after, 1, shortcut) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(name, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            # Without values there is nothing to draw, which would import TorchDynamo, 1.4 s.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if exits:
            channels = dict(zip(STAGES, widths[1:], strict=True))
            self.exits = nn.ModuleDict({p: ExitHead(channels[p], num_classes) for p in exits})

    def exit_places(self) -> list[str]:
        return list(STAGES[:-1])

    def span(self, after: str, to: str, stream: Tensor, *pooled: Tensor) -> tuple[Tensor, ...]:
        if after == "image":
            stream = self.relu(self.bn1(self.conv1(stream)))
        first = STAGES.index(after) + 1 if after in STAGES else 0
        last = STAGES.index(to) + 1 if to in STAGES else None
        for stage in STAGES[first:last]:
            stream = self.get_submodule(stage)(stream)  # [B, C, h, w]
        features = self.avgpool(stream).flatten(1)  # [B, C]
        if to != "head":
            return self.exits[to](features), stream
        return (self.fc(features),)


class BasicBlock(nn.Module):
    """Two convolutions 3×3 beside a shortcut: `[B, C, H, W]` → `[B, channels, h, w]`."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = (
                PaddedShortcut(channels - in_channels, stride)
                if shortcut == "pad"
                else nn.Sequential(
                    nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                    nn.BatchNorm2d(channels),
                )
            )

    def forward(self, maps: Tensor) -> Tensor:
        branch = self.relu1(self.bn1(self.conv1(maps)))
        branch = self.bn2(self.conv2(branch))
        return self.relu2(branch + self.downsample(maps))


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps[:, :, :: self.stride, :: self.stride]
        return F.pad(maps, (0, 0, 0, 0, 0, self.new_channels))
