"""CIFAR-10 and CIFAR-100, from the original archive."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from data_sets.source import (
    Arrays,
    DataError,
    DataInfo,
    DatasetArgs,
    DatasetEntry,
    refuse_folder_options,
)

# --- CIFAR, in the original archive ------------------------------------------------------------


def cifar(kind: type[torchvision.datasets.CIFAR10], name: str) -> DatasetEntry:
    def describe(args: DatasetArgs, data_dir: Path) -> DataInfo:
        refuse_folder_options(args, name)
        count = 100 if issubclass(kind, torchvision.datasets.CIFAR100) else 10
        return DataInfo(name, _cifar_classes(count), 3, (32, 32), kind.tgz_md5)

    def load(args: DatasetArgs, data_dir: Path) -> Arrays:
        archive = data_dir / kind.filename
        # Remove this check and torchvision downloads over a damaged archive without a word.
        if archive.exists():
            found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
            if found != kind.tgz_md5:
                raise DataError(
                    f"{name}: {archive} is damaged or incomplete (md5 {found}, expected "
                    f"{kind.tgz_md5}); delete it, then run again to download it"
                )
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            train = kind(data_dir, train=True, download=True)
            test = kind(data_dir, train=False, download=False)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            raise DataError(
                f"{name}: {kind.filename} is not in {data_dir} and could not be downloaded "
                f"({reason}); put the file into {data_dir}, or run offline: "
                "python main.py --config configs/quickstart.py"
            ) from None

        def images(split: torchvision.datasets.CIFAR10) -> Tensor:
            return torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()

        return Arrays(
            images(train), torch.tensor(train.targets), images(test), torch.tensor(test.targets)
        )

    return DatasetEntry(describe, load)


def _cifar_classes(count: int) -> tuple[str, ...]:
    if count == 10:
        return (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        )
    return tuple(f"class_{i}" for i in range(count))
