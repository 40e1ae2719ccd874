"""Image files as uint8 tensors, and the statistics of a set of them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_sets.fit import Fit, fitted
from data_sets.source import DataError
from machine.files import shown

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 2**29  # pixels of an image that is decoded whole: 2 GiB in colour
PILLOW_PIXELS = 2 * (1024**3 // 4 // 3)  # pixels above which Pillow by itself refuses a file
MAX_SAMPLE_VALUE = 281  # the tag of a TIFF; its default is the largest value that fits
UNREAD = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # formats that Pillow leaves to others

_header = threading.Lock()  # Pillow's limit stands for the whole process
_large = threading.Lock()  # one image above Pillow's limit at a time, whatever the threads


class Header(NamedTuple):
    """What the beginning of an image file says of its values."""

    deep: bool  # greys of 16 bits, of whose range the file says nothing
    tagged: int | None  # bits of such greys, where it does
    halved: bool  # colours of 16 bits, of which Pillow reads the upper 8
    shape: tuple[int, int] | None = None  # height and width, upright; None where it is damaged


def read_image(
    path: Path,
    in_channels: int,
    size: tuple[int, int] | None = None,
    bits: int = 16,
    fit: Fit = "crop",
) -> Tensor:
    """One image as uint8 `[C, H, W]`, upright, brought to `size` as `fit` says.

    `size` is height and width; None leaves it as it is stored. `bits` are those of the values in
    16-bit files that do not say it. An image of up to 2**29 pixels is decoded; a JPEG of more is
    decoded at a fraction of its size where `size` asks for no more. Raises DataError.
    """
    from PIL import ImageOps  # only folders of images need it

    try:
        with open_image(path) as image:
            if size is not None and _is_large(image):  # to twice the size, which costs no detail
                image.draft(None, (2 * max(size), 2 * max(size)))
            with _room_for(image):
                ImageOps.exif_transpose(image, in_place=True)
                upright = _eight_bits(image, bits)
                mode = "L" if in_channels == 1 else "RGB"
                upright = upright if upright.mode == mode else upright.convert(mode)
                if size is not None:
                    upright = fitted(upright, size, fit)
                pixels = np.array(upright)
    except Exception as error:  # damage surfaces as whatever a decoder happens to raise
        raise DataError(
            f"{shown(path)} is not a readable image ({_reason(error)}); repair or remove it"
        ) from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The file with its header read, of any size; a name that is no image's needs a magic number.

    Pillow's guard against decompression bombs is lifted for the header alone: who decodes has to
    ask for the size. Raises whatever Pillow raises.
    """
    from PIL import Image

    endings, formats, recognised = _readable()
    with _header:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            known = path.suffix.lower() in endings
            image = Image.open(path, formats=formats if known else recognised)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > PILLOW_PIXELS


def _room_for(image: Image.Image) -> AbstractContextManager[object]:
    """Within it the image may be decoded; raises ValueError where it is too large for that."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width}×{image.height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million are "
            "decoded, 2 GiB in colour: save it smaller"
        )
    return _large if _is_large(image) else nullcontext()


def read_header(path: Path) -> Header | None:
    """What a file says of itself without being decoded; None where it is no image.

    A file that is named as an image and is none is taken for one: reading it says what is wrong.
    Raises OSError where the file cannot be opened.
    """
    from PIL import ExifTags

    try:
        with open_image(path) as image:
            tagged = _tagged_bits(image)
            # Where a PNG says nothing before its pixels, Pillow decodes it to look behind them.
            quick = image.format != "PNG" or "exif" in image.info
            lying = quick and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            shape = image.size if lying else image.size[::-1]
            return Header(tagged is None and _is_deep(image), tagged, _is_halved(image), shape)
    except Exception as error:  # see read_image
        if isinstance(error, OSError) and error.errno is not None:
            raise
        endings, *_ = _readable()
        return Header(False, None, False) if path.suffix.lower() in endings else None


def largest_value(path: Path) -> int:
    """Of an image as Pillow decodes it, its alpha aside; 0 where it is damaged."""
    try:
        with open_image(path) as image, _room_for(image):
            bands = image.getbands()
            extrema = np.array(image.getextrema()).reshape(len(bands), 2)
    except Exception:  # see read_image, which says so in its turn
        return 0
    return int(max(high for (_, high), band in zip(extrema, bands, strict=True) if band != "A"))


def _eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """The image with 16-bit greys scaled down by their bits; Pillow would clip them to white."""
    from PIL import Image

    if not _is_deep(image):
        if image.mode in ("I", "F"):
            raise ValueError("32-bit values, whose range nothing tells; save it with 8 or 16 bits")
        return image
    values = np.asarray(image)
    largest, tagged = int(values.max()), _tagged_bits(image)
    if tagged is not None and largest < 2**tagged:
        bits = tagged
    elif largest >= 2**bits:
        raise ValueError(f"values up to {largest}, and those of its data set have {bits} bits")
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16-bit greys, which of some formats Pillow holds in 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _is_halved(image: Image.Image) -> bool:
    """Whether Pillow, which has no mode for 16-bit colours, reads the upper 8 bits of such.

    Asked before the image is decoded, which forgets it.
    """
    from PIL.ImageFile import ImageFile

    colours = image.mode in ("LA", "RGB", "RGBA", "CMYK")
    if not colours or not isinstance(image, ImageFile) or not image.tile:
        return False
    args = image.tile[0].args
    if image.format == "PPM":
        return "65535" in str(args)  # other ranges are scaled to 8 bits
    return ";16" in str(args)


def _tagged_bits(image: Image.Image) -> int | None:
    """Bits of the values of a 16-bit TIFF, where its tags tell that they are less than 16."""
    from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

    if not isinstance(image, TiffImageFile) or not _is_deep(image):
        return None
    largest = int(np.max(image.tag_v2.get(MAX_SAMPLE_VALUE, 2**16 - 1)))
    bits = max(8, min(*image.tag_v2[BITSPERSAMPLE], 16, largest.bit_length()))
    return bits if bits < 16 else None


@functools.cache
def _readable() -> tuple[frozenset[str], list[str], list[str]]:
    """Endings of images, the formats that are read, and those among them with a magic number."""
    from PIL import Image

    Image.init()  # a tenth of a second: what is usual is known without, but not what is not
    formats = [name for name in Image.OPEN if name not in UNREAD]
    endings = {end for end, name in Image.registered_extensions().items() if name in formats}
    recognised = [name for name in formats if Image.OPEN[name][1] is not None]
    return frozenset(endings), formats, recognised


def image_endings() -> frozenset[str]:
    """The endings by which a file is known as an image, in lower case, each with its dot."""
    return _readable()[0]


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image, as far as Pillow can tell"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0]


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
