"""How images of any proportions are brought to one size, and how much of them that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
Shape = tuple[int, int]  # height, width

# Each in words, for who brings images to a network that was exported.
IN_WORDS: dict[Fit, str] = {
    "crop": "crop the centre to the proportions of image_size, then bicubic",
    "pad": "bicubic to the largest size within image_size, centred on black",
    "stretch": "bicubic to image_size, whatever the proportions",
}


def fitted(image: Image.Image, size: Shape, fit: Fit) -> Image.Image:
    """The image at `size`: its centre cropped, the whole between black bars, or stretched."""
    from PIL import Image, ImageOps  # only folders of images need it

    if fit == "crop":
        return ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
    if fit == "pad":
        return ImageOps.pad(image, size[::-1], Image.Resampling.BICUBIC)
    return image.resize(size[::-1], Image.Resampling.BICUBIC)


def cut_away(shapes: Mapping[Shape, int], size: Shape) -> float:
    """Mean share of an image that 'crop' drops; `shapes` says how many images are of each shape."""
    kept = 0.0
    for (height, width), count in shapes.items():
        across, down = width / size[1], height / size[0]
        kept += count * min(across, down) / max(across, down)
    return 1 - kept / sum(shapes.values())
