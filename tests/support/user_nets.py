"""A user's file with a network of its own, as the docs show it, and others that go wrong."""

from __future__ import annotations

from pathlib import Path

from tests.support.docs import block

TINY_NET = block("docs/networks.md", "# my_nets.py")

LENET = """
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))
"""

ODD_NETS = """
from torch import nn


class NoClasses(nn.Module):
    def __init__(self, width=8):
        super().__init__()


class TwoOutputs(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images):
        logits = self.head(images.mean((2, 3)))
        return logits, images


class LooksAtValues(TwoOutputs):
    def forward(self, images):
        logits = super().forward(images)[0]
        return logits if logits.sum() > 0 else -logits


class HasNothing(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None].expand(-1, self.num_classes)


class Fails(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        raise RuntimeError("no luck")


class NeedsMore(nn.Module):
    def __init__(self, num_classes, depth):
        super().__init__()
"""


def user_file(folder: Path, text: str = TINY_NET, name: str = "my_nets.py") -> str:
    """Write a file of networks; the architecture's name but for the class."""
    path = folder / name
    path.write_text(text)
    return str(path)
