"""Batches of a tensor of images, augmented and normalised on their device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from data_sets.augmentation import (
    crop_padding,
    cutout,
    mixup,
    randaugment,
    random_colors,
    random_crop,
    random_flip,
    random_rotation,
)


class BatchLoader:
    """Yield `(images float32 [B, C, H, W], labels)` from a uint8 split, on `device`.

    `index` chooses images and their order without copying them; None takes all. Images that are on
    the device already stay there: an epoch's order goes over once, and no batch waits for the host.

    Labels are int64 `[B]`, or float `[B, K]` under mixup. The order of epoch `e` depends on
    `(seed, e)` alone; augmentation draws from torch's global generator of the images' device (mixup
    and RandAugment from the CPU's). Where mixup rises over `mixup_epochs`, a batch is mixed with a
    probability that follows from its epoch and number alone.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        index: Tensor | None = None,
        mean: list[float],
        std: list[float],
        num_classes: int,
        training: bool = False,
        augmentation: str = "none",
        flip: bool = True,
        cutout_size: int = 0,
        rotation: float = 0.0,
        color: float = 0.0,
        mixup_alpha: float = 0.0,
        mixup_epochs: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.images, self.labels, self.num_classes = images, labels, num_classes
        self.index = torch.arange(len(images)) if index is None else index
        self.batch_size = min(batch_size, len(self.index))
        self.training, self.augmentation, self.flip = training, augmentation, flip
        self.cutout_size, self.rotation, self.color = cutout_size, rotation, color
        self.mixup_epochs = mixup_epochs
        self.mixup = mixup(mixup_alpha, num_classes) if mixup_alpha > 0 else None
        self.seed, self.epoch, self.device = seed, 0, torch.device(device)
        self.mean = torch.tensor(mean, device=self.device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=self.device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        """Batches an epoch. Training drops the last partial batch (batch norm needs full ones)."""
        full, rest = divmod(len(self.index), self.batch_size)
        return full + (0 if self.training or rest == 0 else 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches()

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch's order the next pass has."""
        self.epoch = epoch

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches from number `start` on, as if those before had been drawn."""
        order = self.index
        if self.training:
            # A prime that exceeds any number of epochs: no two seeds share an epoch's order.
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        order = order.to(self.images.device)
        for step in range(start, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self.images[chosen].to(self.device)
            labels = self.labels[chosen].to(self.device)
            images, labels = self._prepare(images, labels)
            yield self._mixed(images, labels, step) if self.mixup is not None else (images, labels)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` → float32, zero mean and unit deviation a channel."""
        return self._standardized(images.float().div_(255))

    def _standardized(self, images: Tensor) -> Tensor:
        scaled = images.sub_(self.mean).div_(self.std)
        return scaled.contiguous(memory_format=torch.channels_last)

    def _prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.normalize(images), labels
        if self.augmentation != "none":
            images = random_crop(images, crop_padding(*images.shape[-2:]))
            images = random_flip(images) if self.flip else images
        if self.augmentation == "randaugment":
            images = randaugment(images)
        values = images.float().div_(255)
        if self.color:
            values = random_colors(values, self.color)
        images = self._standardized(values)
        if self.rotation:
            turned = random_rotation(images, self.rotation)
            images = turned.contiguous(memory_format=torch.channels_last)
        if self.cutout_size:
            images = cutout(images, self.cutout_size)
        return images, labels

    def _mixed(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """By mixup; where it rises, only so many batches, the others with labels of that form."""
        assert self.mixup is not None
        if self.mixup_epochs is not None:
            done = self.epoch * len(self) + step
            share = done / max(1, self.mixup_epochs * len(self) - 1)
            if torch.rand(()).item() >= share:
                return images, F.one_hot(labels, self.num_classes).float()
        return self.mixup(images, labels)
