"""CIFAR-10 and CIFAR-100, from the original archive."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_sets.source import (
    Arrays,
    DataError,
    DataInfo,
    DatasetArgs,
    DatasetEntry,
    Listing,
    refuse_folder_options,
)


class Archive(NamedTuple):
    """torchvision's file of a data set, which it need not be imported to know."""

    file: str
    md5: str
    classes: tuple[str, ...]


ARCHIVES = {
    "CIFAR10": Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    "CIFAR100": Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        tuple(f"class_{i}" for i in range(100)),
    ),
}


def cifar(name: str) -> DatasetEntry:
    """The registry's row of one of ARCHIVES."""
    known = ARCHIVES[name]
    count = len(known.classes)
    listing = Listing((50_000 // count,) * count, (10_000 // count,) * count)

    def describe(args: DatasetArgs, data_dir: Path) -> DataInfo:
        refuse_folder_options(args, name)
        return DataInfo(name, known.classes, 3, (32, 32), known.md5, listing)

    def load(args: DatasetArgs, data_dir: Path) -> Arrays:
        from torchvision import datasets  # a second of importing, which other data sets need not

        kind = getattr(datasets, name)
        archive = data_dir / known.file
        # Remove this check and torchvision downloads over a damaged archive without a word.
        if archive.exists():
            found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
            if found != known.md5:
                raise DataError(
                    f"{name}: {archive} is damaged or incomplete (md5 {found}, expected "
                    f"{known.md5}); delete it, then run again to download it"
                )
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            train = kind(data_dir, train=True, download=True)
            test = kind(data_dir, train=False, download=False)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            raise DataError(
                f"{name}: {known.file} is not in {data_dir} and could not be downloaded "
                f"({reason}); put the file into {data_dir}, or run offline: "
                "python main.py --config configs/quickstart.py"
            ) from None

        def images(split: Any) -> Tensor:
            return torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()

        return Arrays(
            images(train), torch.tensor(train.targets), images(test), torch.tensor(test.targets)
        )

    return DatasetEntry(describe, load)
