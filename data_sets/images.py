"""Image files as uint8 tensors, and the statistics of a set of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from data_sets.fit import Fit, fitted
from data_sets.source import DataError

if TYPE_CHECKING:
    from PIL import Image


def read_image(
    path: Path, in_channels: int, size: tuple[int, int] | None = None, fit: Fit = "crop"
) -> Tensor:
    """One image as uint8 `[C, H, W]`, upright, brought to `size` as `fit` says.

    `size` is height and width; None leaves it as it is stored. Raises DataError.
    """
    from PIL import Image, ImageOps  # only folders of images need it

    try:
        with Image.open(path) as image:
            upright = _eight_bits(ImageOps.exif_transpose(image), image.format)
            upright = upright.convert("L" if in_channels == 1 else "RGB")
            if size is not None:
                upright = fitted(upright, size, fit)
            pixels = np.array(upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); repair or remove it") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def shape_of(file: BinaryIO) -> tuple[int, int] | None:
    """Height and width of an image, upright, by its header; None where it has none."""
    from PIL import ExifTags, Image

    try:
        with Image.open(file) as image:
            lying = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size if lying else image.size[::-1]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """The image with 16-bit greys scaled down, which Pillow's conversion clips to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):  # Pillow 10: I
        from PIL import Image

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit values, whose range nothing tells; save it with 8 or 16 bits")
    return image


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel of uint8 `[N, C, H, W]`, on the scale 0 to 1."""
    total, squares = 0.0, 0.0
    for chunk in images.split(4096):
        values = chunk.double().div_(255)
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = torch.as_tensor(total) / count
    std = (torch.as_tensor(squares) / count - mean.square()).clamp_min(1e-6).sqrt()
    return mean.tolist(), std.tolist()
