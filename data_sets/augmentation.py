"""Augmentation of whole batches of images, and how much of an image it can hide.

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


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Turn each float image of `[B, C, H, W]` about its centre, bilinear, zeros outside.

    `angles` `[B]` are in degrees, counter-clockwise, as torchvision's `rotate` has them.
    """
    height, width = images.shape[-2:]
    turns = angles.deg2rad()
    cos, sin, none = turns.cos(), turns.sin(), torch.zeros_like(turns)
    across = torch.stack([cos, -sin * height / width, none], 1)  # of a grid from -1 to 1 each way
    down = torch.stack([sin * width / height, cos, none], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def random_rotation(images: Tensor, degrees: float) -> Tensor:
    """`rotate` each image by its own angle, uniform within ± `degrees`."""
    angles = torch.rand(len(images), 1, device=images.device).squeeze(1)
    return rotate(images, (2 * angles - 1) * degrees)


def adjust_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation of images `[B, C, H, W]` from 0 to 1.

    `factors` `[3, B]` are each image's, 1 for none, as torchvision's `adjust_*` have them. Images
    that are not of three channels have no saturation.
    """
    brightness, contrast, saturation = factors[..., None, None, None]  # [B, 1, 1, 1] each
    images = (images * brightness).clamp_(0, 1)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = images.sub_(mean).mul_(contrast).add_(mean).clamp_(0, 1)
    if images.shape[1] == 3:
        grey = _grey(images)
        images = images.sub_(grey).mul_(saturation).add_(grey).clamp_(0, 1)
    return images


def random_colors(images: Tensor, strength: float) -> Tensor:
    """`adjust_colors` by factors of each image's own, uniform within 1 ± `strength`.

    torchvision's ColorJitter without hue, but for its order, which it draws.
    """
    factors = torch.rand(3, len(images), device=images.device)
    return adjust_colors(images, 1 + (2 * factors - 1) * strength)


def _grey(images: Tensor) -> Tensor:
    """Luma `[B, 1, H, W]` by the weights of ITU-R 601; of other than three channels their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


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


def hidden_by_rotation(degrees: float, height: int, width: int) -> float:
    """The largest share of an image that a turn by up to `degrees` moves out of sight.

    Counted on a grid of points, at every degree up to a right angle, after which it is no more.
    """
    turns = torch.arange(0, min(degrees, 90) + 1).clamp(max=degrees).deg2rad().view(-1, 1, 1)
    places = (torch.arange(100) + 0.5) / 100 - 0.5
    rows, columns = places * height, places * width
    along = turns.cos() * columns - turns.sin() * rows[:, None]  # [angles, rows, columns]
    across = turns.sin() * columns + turns.cos() * rows[:, None]
    inside = (along.abs() <= width / 2 + 1e-4) & (across.abs() <= height / 2 + 1e-4)
    return 1 - inside.float().mean((1, 2)).min().item()


def hidden_by_cutout(size: int, height: int, width: int) -> float:
    """The largest share of an image that cutout's square covers."""
    return min(size, height) * min(size, width) / (height * width)


def mixup(alpha: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """torchvision's mixup (arXiv:1710.09412): images, labels `[B]` → images, labels `[B, K]`."""
    from torchvision.transforms import v2  # a second of importing, which few runs need

    return v2.MixUp(alpha=alpha, num_classes=num_classes)
