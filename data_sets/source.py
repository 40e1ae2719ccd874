"""What a data set has to say of itself, and the records that it says it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from machine.errors import Refused


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
    image_size: int | None = Field(None, ge=4, le=1024)  # ImageFolder: pixels; None = as stored
    in_channels: int | None = None  # ImageFolder: 3 colour (default), 1 grey
    validation_share: float = Field(0.1, gt=0, lt=1)  # of the training images, for all choices

    @field_validator("in_channels")
    @classmethod
    def _channels(cls, channels: int | None) -> int | None:
        if channels not in (None, 1, 3):
            raise ValueError("should be 1 (grey) or 3 (colour)")
        return channels


class DataInfo(NamedTuple):
    """What a network and a cache key need to know of a data set."""

    name: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]  # height, width
    fingerprint: str  # changes when, and only when, the images or labels do


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
    for key in ("root", "image_size", "in_channels"):
        if getattr(args, key) is not None:
            raise DataError(f"{name} does not take it; remove the key", key)
