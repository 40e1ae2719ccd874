"""Small networks that are not hybrids, with statistics and biases that are not trivial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import Network, build_network, resolved_args
from tests.support.user_nets import TINY_NET, user_file

# Every way in which a layer can be more or less than a layer.
ODD_LAYERS = """
import torch
import torch.nn.functional as F
from torch import nn


class Standardized(nn.Conv2d):
    def forward(self, images):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(images, weight, self.bias, self.stride, self.padding)


class Odd(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=8):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.own = Standardized(width, width, 3, padding=1)
        self.twice = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.recurrent = nn.Conv2d(width, width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.read_twice = nn.Conv2d(width, width, 1)
        self.norm4 = nn.BatchNorm2d(width)
        self.plain = nn.Conv2d(2 * width, width, 1, bias=False)
        self.norm5 = nn.BatchNorm2d(width, affine=False)
        self.never = nn.Conv2d(width, width, 1)
        self.bare = nn.Parameter(torch.randn(width, width, 1, 1) / width**0.5)
        self.line = nn.Conv1d(width, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.act = nn.ReLU()
        self.tokens = nn.Linear(width, width)
        self.norm6 = nn.BatchNorm1d(16)
        self.features = nn.Linear(2 * width, 16)
        self.norm7 = nn.BatchNorm1d(16)
        self.left = nn.Linear(16, num_classes)
        self.right = nn.Linear(16, num_classes)

    def forward(self, images):
        x = F.relu(self.stem(images)) + 0.5
        x = F.max_pool2d(x, 2)
        x = self.act(self.norm1(self.twice(x))) + x
        x = self.act(self.norm2(self.twice(x)))
        x = self.act(self.norm3(self.recurrent(x)))
        x = self.act(self.norm3(self.recurrent(x)))
        x = F.silu(self.own(x)) * x
        y = self.read_twice(x)
        x = torch.cat([self.norm4(y), F.relu(y)], 1)
        x = F.relu(self.norm5(self.plain(x)))
        x = self.up(F.conv2d(x, self.bare))
        x = self.line(x.flatten(2)).unflatten(2, x.shape[2:])
        x = F.avg_pool2d(x, 2)
        tokens = self.norm6(self.tokens(x.flatten(2).transpose(1, 2)))
        x = torch.cat([x.mean((2, 3)), tokens.amax(1)], 1)
        x = F.gelu(self.norm7(self.features(x)))
        return self.left(x) + torch.tanh(self.right(x))
"""
# Modules alone, each called once: what torchao's quantizer knows by itself.
MODULES = """
import torch
from torch import nn


class Modules(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=8):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)
        self.main = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.relu = nn.ReLU()
        self.left = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Hardswish())
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential(nn.Linear(2 * width, 16), nn.GELU())
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        x = self.pool(self.stem(images))
        x = self.relu(self.main(x) + x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(self.hidden(self.flatten(self.mean(x))))
"""
# One encoder layer of torch's own, which outside training runs as one kernel.
ENCODER = """
from torch import nn


class Encoder(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=8):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, 2, 2)
        self.layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.layer(self.patches(images).flatten(2).transpose(1, 2)).mean(1))
"""
FILES = {"TinyNet": TINY_NET, "Odd": ODD_LAYERS, "Modules": MODULES, "Encoder": ENCODER}
VIT = {
    "architecture": "torchvision:VisionTransformer",
    **{"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32},
}
RESNET18 = {"architecture": "torchvision:resnet18", "stem": "small"}
MOBILENET = {"architecture": "torchvision:mobilenet_v3_small", "stem": "small"}


def written(folder: Path, name: str, **args: Any) -> dict[str, Any]:
    """The arguments of one of FILES, written into `folder`."""
    return {"architecture": f"{user_file(folder, FILES[name], f'{name}.py')}:{name}", **args}


def images_for(count: int = 32, side: int = 16) -> Tensor:
    """Noise, the same at every call."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def other(args: dict[str, Any], side: int = 16, classes: int = 10) -> Network:
    """A network of these arguments in eval mode, as seed 0 and a few batches leave it."""
    torch.manual_seed(0)
    network = build_network(
        resolved_args({"image_size": side, "in_channels": 3, "num_classes": classes, **args})
    )
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 1 or not value.any():  # norms, biases, heads that begin with zeros
                value.add_(torch.randn_like(value) / 5)
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for momentum in (1.0, 0.1):  # statistics of the images: else logits differ by little
            for norm in norms:
                norm.momentum = momentum
            network.train()(images_for(side=side))
    return network.eval()
