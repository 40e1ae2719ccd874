"""Networks as users write them, for tests: `FILE.py:CLASS` of model_args."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SkipAndJoin(nn.Module):
    """A skip connection, a concatenation, functions in `forward`, values that are overwritten."""

    def __init__(self, width: int = 8, num_classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(width, width, 3, padding="same", dilation=2, groups=2)
        self.last = nn.Conv2d(2 * width, 2 * width, 1)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.stem(images)), inplace=True)
        maps = F.max_pool2d(maps, 2)
        maps = F.relu(maps + self.deep(maps))
        joined = torch.cat([maps, F.relu(self.wide(maps))], dim=1)
        return self.head(F.relu_(self.last(joined)).mean((2, 3)))


class EverySort(nn.Module):
    """What else is found in users' networks, one of each."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, (3, 4), padding="same")
        self.before = nn.BatchNorm2d(16)
        self.third = nn.Conv2d(16, 8, (3, 1), stride=(2, 1), padding=(1, 0))
        self.group, self.slopes = nn.GroupNorm(2, 8), nn.PReLU(8)
        self.head = nn.Linear(8 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        one = F.leaky_relu(self.first(images))
        other = F.elu(self.second(one))
        maps = torch.cat([one + other, torch.sub(other, one.sigmoid(), alpha=2)], dim=1)
        left, right = self.before(maps).chunk(2, dim=1)
        first, _, last = maps.split([4, 8, 4], dim=1)
        maps = self.third(torch.cat([left * right, first, last], dim=1))
        maps = self.slopes(F.hardtanh(self.group(maps)) + maps.tanh() * F.hardsigmoid(maps))
        maps = F.max_pool2d(F.pad(maps, (1, 1, 0, 2)), 3, 2, padding=1, ceil_mode=True)
        maps = F.avg_pool2d(maps, 2, stride=1, padding=1, count_include_pad=False)
        maps = F.interpolate(F.interpolate(maps, scale_factor=2), size=(12, 12), mode="bilinear")
        maps = torch.roll(F.relu6(maps).clamp(min=0.1), (1, -2), (2, 3))
        rows = F.adaptive_avg_pool2d(maps, 4)
        rows = rows.view(rows.size(0), -1)  # of images in order alone
        rows = torch.stack([rows, rows * 2], dim=1)[:, 0].unsqueeze(1).transpose(1, -1)
        return F.log_softmax(self.head(rows.squeeze(-1)), dim=1)


class Cumulative(nn.Module):
    """An operation that OpenVINO's graphs here do not know."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cumsum(self.conv(images), 1).mean((2, 3)))


class Overwriting(nn.Module):
    """Values that are overwritten, and read by another name afterwards."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images))
        same = maps
        maps.relu_()
        added = maps + same
        added.reshape(-1, 64).mul_(2.0)
        self.drop(added).add_(1.0)
        added[:, 0] = 0.5
        added += same
        return self.head(added.mean((2, 3)))
