"""Augmentation of whole batches: crop, flip, cutout, RandAugment, mixup; what of it hides images.

A split lives as one uint8 tensor `[N, C, H, W]`. Indexing it and augmenting the batch as tensors
keeps two CPU cores busy with the model instead of with per-image Python transforms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHEAR = 0.09  # pixels a pixel; torchvision's RandAugment at its magnitude, 9 of 30 steps to 0.3


def crop_padding(height: int, width: int) -> tuple[int, int]:
    """How far 'standard' shifts an image up and down, and sideways: an eighth of each side.

    At least a pixel, but nothing where that would be more than a quarter.
    """
    return max(height // 8, min(1, height // 4)), max(width // 8, min(1, width // 4))


def random_crop(images: Tensor, padding: tuple[int, int]) -> Tensor:
    """Shift every image of `[B, C, H, W]` by its own offset, zeros outside.

    `padding` is the largest offset in pixels, of rows and of columns.
    """
    batch, _, height, width = images.shape
    rows, columns = padding
    padded = F.pad(images, (columns, columns, rows, rows))
    device = images.device
    top = torch.randint(0, 2 * rows + 1, (batch, 1), device=device).squeeze(1)
    left = torch.randint(0, 2 * columns + 1, (batch, 1), device=device).squeeze(1)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2r+1, 2c+1, H, W], a view
    return windows[torch.arange(batch, device=device), :, top, left]


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image of `[B, C, H, W]` left to right with probability 1/2."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)


def cutout(images: Tensor, size: int) -> Tensor:
    """Set one `size`×`size` square a float image to 0, the mean after normalisation.

    Centres are uniform over the image, so squares may hang over the edge (arXiv:1708.04552).
    """
    batch, _, height, width = images.shape
    device = images.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    top = torch.randint(0, height, (batch, 1), device=device) - size // 2
    left = torch.randint(0, width, (batch, 1), device=device) - size // 2
    in_rows = (rows >= top) & (rows < top + size)  # [B, H]
    in_columns = (columns >= left) & (columns < left + size)  # [B, W]
    hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)


def randaugment(images: Tensor, group: int = 8) -> Tensor:
    """torchvision's RandAugment (arXiv:1909.13719), drawn anew for every `group` images.

    v2 draws one operation a call, so a whole batch in one call would get a single distortion.
    """
    from torchvision.transforms import v2  # a second of importing, which few runs need

    policy = v2.RandAugment()
    return torch.cat([policy(chunk) for chunk in images.split(group)])


def hidden_by_randaugment(height: int, width: int) -> float:
    """The largest share of an image that one operation of RandAugment moves out of sight.

    That is a shear by SHEAR pixels a pixel: the far end of a strip leaves it altogether.
    """
    shift = SHEAR * max(height, width) / min(height, width)  # of the far end, in short sides
    return max(1 / 8, shift / 2 if shift < 1 else 1 - 1 / (2 * shift))


def hidden_by_cutout(size: int, height: int, width: int) -> float:
    """The largest share of an image that cutout's square covers."""
    return min(size, height) * min(size, width) / (height * width)


def mixup(alpha: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """torchvision's mixup (arXiv:1710.09412): images, labels `[B]` → images, labels `[B, K]`."""
    from torchvision.transforms import v2  # a second of importing, which few runs need

    return v2.MixUp(alpha=alpha, num_classes=num_classes)
