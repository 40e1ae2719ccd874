"""What a data set has to say of itself, and the records that it says it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from data_sets.fit import Fit
from machine.errors import Refused

SIDES = range(4, 1025)  # pixels that a side of an image may have

FEW = 3  # classes that a line names


class DataError(Refused):
    """Data that is absent, damaged or unusable; `key` is the one of `dataset_args` to blame."""

    def __init__(self, text: str, key: str | None = None):
        super().__init__(f"dataset_args.{key}: {text}" if key else text)
        self.text, self.key = text, key


class DatasetArgs(BaseModel):
    """`dataset_args` of an experiment."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = "CIFAR10"  # a row of DATASET_REGISTRY
    root: str | None = None  # ImageFolder: the folder that holds train/ and test/
    # ImageFolder: side in pixels, or height and width; None = as stored
    image_size: tuple[int, int] | int | None = None
    fit: Fit = "crop"  # ImageFolder: how images of other proportions come to image_size
    in_channels: int | None = None  # ImageFolder: 3 colour (default), 1 grey
    validation_share: float = Field(0.1, gt=0, lt=1)  # of the training images, for all choices
    # so many of the others are trained on, stratified and the same for every seed; None = all
    train_images: int | None = Field(None, ge=1)

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_spelling(cls, size: Any) -> Any:
        """A pair as a tuple, a square as its side: equal sizes are equal arguments."""
        if size is None:
            return None
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if len(sides) != 2 or not all(type(side) is int and side in SIDES for side in sides):
            raise ValueError(
                f"should be a side or (height, width), each of {SIDES[0]} to {SIDES[-1]} pixels"
            )
        return sides[0] if sides[0] == sides[1] else sides

    @field_validator("in_channels")
    @classmethod
    def _channels(cls, channels: int | None) -> int | None:
        if channels not in (None, 1, 3):
            raise ValueError("should be 1 (grey) or 3 (colour)")
        return channels

    def height_and_width(self) -> tuple[int, int] | None:
        """`image_size` as a pair; None where images stay as they are stored."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def idle(self) -> dict[str, str]:
        """Options that another leaves without effect → why."""
        return {"fit": "without image_size"} if self.image_size is None else {}

    def split(self) -> dict[str, float | int]:
        """What says which training images are trained on and which serve choices, for a key."""
        some = {"train_images": self.train_images} if self.train_images is not None else {}
        return {"validation_share": self.validation_share, **some}


class Listing(NamedTuple):
    """How many images a data set has, and how many files beside them."""

    train: tuple[int, ...]  # images of each class
    test: tuple[int, ...]
    passed_over: tuple[tuple[str, int], ...] = ()  # ending, or another word for why; files


class DataInfo(NamedTuple):
    """What a network and a cache key need to know of a data set."""

    name: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]  # height, width
    fingerprint: str  # changes when, and only when, the images or labels do
    listing: Listing | None = None  # None where it is known only once the data are loaded
    bits: int = 16  # of the values in 16-bit image files that do not say it
    warnings: tuple[str, ...] = ()  # what a user should know of the images
    fit: Fit = "crop"  # how an image of other proportions is brought to image_size
    cut_away: float = 0.0  # mean share of an image that fit 'crop' drops

    def summary(self) -> str:
        """'1,234 training images in 2 classes (cat, dog), 200 test images; 3 files passed over'."""
        few = f"{', '.join(self.classes[:FEW])}{', …' if len(self.classes) > FEW else ''}"
        classes = f"{len(self.classes)} classes ({few})"
        if self.listing is None:
            return classes
        text = (
            f"{sum(self.listing.train):,} training images in {classes}, "
            f"{sum(self.listing.test):,} test images"
        )
        if self.bits < 16:
            text += f"; 16-bit values read as {self.bits} bits"
        if self.cut_away:
            text += f"; fit 'crop' drops {self.cut_away:.1%} of an image"
        if passed := self.listing.passed_over:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in passed)
            number = sum(count for _, count in passed)
            text += f"; {number:,} file{'' if number == 1 else 's'} passed over ({kinds})"
        return text

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, for results, with the images of each class."""
        train, test, passed = self.listing or (None, None, ())

        def counts(images: tuple[int, ...] | None) -> dict[str, int] | None:
            return dict(zip(self.classes, images, strict=True)) if images is not None else None

        return {
            "name": self.name,
            "classes": list(self.classes),
            "in_channels": self.in_channels,
            "image_size": list(self.image_size),
            "fingerprint": self.fingerprint,
            "train_images": counts(train),
            "test_images": counts(test),
            "passed_over": dict(passed),
            "bits": self.bits,
            "fit": self.fit,
            "cut_away": self.cut_away,
            "warnings": list(self.warnings),
        }


class Arrays(NamedTuple):
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]` of both splits."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class DatasetEntry:
    """One row of the registry."""

    describe: Callable[[DatasetArgs, Path], DataInfo]  # cheap: no decoding, no download
    load: Callable[[DatasetArgs, Path], Arrays]
    flip: bool = True  # whether a mirrored image keeps its class


def refuse_folder_options(args: DatasetArgs, name: str) -> None:
    for key in ("root", "image_size", "fit", "in_channels"):
        if getattr(args, key) != DatasetArgs.model_fields[key].default:
            raise DataError(f"{name} does not take it; remove the key", key)
