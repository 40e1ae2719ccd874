"""Networks of users that a graph of channels may get wrong."""

from __future__ import annotations

OWN = '''
import torch
import torch.nn.functional as F
from torch import nn


class Hybrid(nn.Module):
    """A CNN beside a Transformer with a class token, joined: what gradients' graphs confuse."""

    def __init__(self, num_classes, in_channels=3, image_size=(32, 32), dim=24, heads=2):
        super().__init__()
        self.heads = heads
        self.first = nn.Conv2d(in_channels, 12, 3, 2, 1)
        self.first_norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 16, 3, 2, 1)
        self.slope = nn.PReLU(16)
        self.embed = nn.Linear(16, dim)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + image_size[0] * image_size[1] // 16, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 40)
        self.fc2 = nn.Linear(40, dim)
        self.last = nn.LayerNorm(dim)
        self.head = nn.Linear(dim + 16 + 16 * 4, num_classes)

    def forward(self, images):
        x = F.relu(self.first_norm(self.first(images)))
        maps = self.slope(self.second(x))
        tokens = self.embed(maps.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], 1) + self.position
        b, n, _ = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.3).softmax(-1)
        tokens = tokens + self.proj((weights @ v).transpose(1, 2).flatten(2))
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        grid = F.adaptive_avg_pool2d(maps, 2).flatten(1)
        return self.head(torch.cat([self.last(tokens)[:, 0], maps.mean((2, 3)), grid], 1))


class Tied(nn.Module):
    """Layers used twice, tensors with two names, a gate of one channel, a grouped convolution."""

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.gate = nn.Conv2d(16, 1, 1)
        self.left, self.right = nn.Linear(16, 20), nn.Linear(20, 16)
        self.again = nn.Linear(16, 20)
        self.again.weight = self.left.weight
        self.free = nn.Conv2d(16, 10, 1)
        self.head = nn.Linear(26, num_classes)

    def forward(self, images):
        x = F.relu(self.first(images))
        x = F.relu(self.twice(x)) + x
        x = F.relu(self.twice(x))
        x = self.grouped(x) * torch.sigmoid(self.gate(x))
        y = self.right(F.relu(self.left(x.mean((2, 3)))) + self.again(x.amax((2, 3))))
        return self.head(torch.cat([y, F.relu(self.free(x)).mean((2, 3))], 1))


class Halves(nn.Module):
    """Code that asks for half of what there is: what a cut would make wrong without a word."""

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        value, gate = self.first(images).chunk(2, dim=1)
        return self.head(F.relu(self.second(value * gate)).mean((2, 3)))


class Counting(nn.Module):
    """A graph that looks right, and code that counts channels."""

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 12, 3, padding=1)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        x = F.relu(self.first(images))
        x = x / x.shape[1]
        return self.head(F.relu(self.second(x)).mean((2, 3)))
'''
