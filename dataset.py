"""Data sets: what is known of each without reading it, and its splits as uint8 tensors.

`DATASET_REGISTRY` is the one list. A row says how to describe a data set cheaply (classes, size,
fingerprint) and how to load it; a user's own data set is one more row.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_sets.batches import BatchLoader
from data_sets.cifar import cifar
from data_sets.digits import describe_digits, load_digits_arrays
from data_sets.image_folder import describe_folder, load_folder
from data_sets.images import channel_statistics, read_image
from data_sets.mirrored import swapped_classes
from data_sets.source import Arrays, DataError, DataInfo, DatasetArgs, DatasetEntry, Listing

__all__ = [  # what a notebook takes from here; some of it is made behind the door
    "DATASET_REGISTRY", "Arrays", "DataError", "DataInfo", "DataLoaders", "Dataset",
    "DatasetArgs", "DatasetEntry", "channel_statistics", "describe", "fastest_evaluation_batch",
    "get_dataloaders", "load_dataset", "preprocessing", "read_image",
]  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """A loaded data set, its validation share already split off."""

    info: DataInfo
    arrays: Arrays
    train_index: Tensor
    validation_index: Tensor
    mean: list[float]
    std: list[float]
    flip: bool
    placed: dict[str, Arrays] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def swapped_when_flipped(self) -> list[tuple[str, str]]:
        """Pairs of classes that are one another's mirror image: see `swapped_classes`."""
        pairs = swapped_classes(self.arrays.train_images, self.arrays.train_labels)
        return [(self.info.classes[a], self.info.classes[b]) for a, b in pairs]

    def on(self, device: torch.device | str) -> Arrays:
        """The arrays on a device, copied once; left on the CPU where they take half its memory."""
        device = torch.device(device)
        if device.type == "cpu":
            return self.arrays
        if str(device) not in self.placed:
            needed = sum(values.nbytes for values in self.arrays)
            room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
            fits = 2 * needed < room
            self.placed[str(device)] = (
                Arrays(*(v.to(device) for v in self.arrays)) if fits else self.arrays
            )
        return self.placed[str(device)]


class DataLoaders(NamedTuple):
    """The four loaders of a run; iterate each for `(images, labels)` batches."""

    train: BatchLoader
    validation: BatchLoader
    test: BatchLoader
    calibration: BatchLoader  # training images, in a fixed random order, without augmentation


def describe(args: DatasetArgs, data_dir: Path | str) -> DataInfo:
    """Classes, shape and fingerprint of a data set. Raises DataError."""
    return _entry(args).describe(args, Path(data_dir))


def load_dataset(args: DatasetArgs, data_dir: Path | str) -> Dataset:
    """Load (download, decode) a data set, split off its validation share, keep `train_images`.

    The split is stratified and the same for every seed; a share of the training images is a part
    of any larger one. Raises DataError.
    """
    entry = _entry(args)
    info = entry.describe(args, Path(data_dir))
    arrays = entry.load(args, Path(data_dir))
    train, validation = _split(args, arrays.train_labels.numpy())
    mean, std = channel_statistics(arrays.train_images)
    if info.listing is None:
        counts = (
            tuple(labels.bincount(minlength=len(info.classes)).tolist())
            for labels in (arrays.train_labels, arrays.test_labels)
        )
        info = info._replace(listing=Listing(*counts))
    return Dataset(
        info,
        arrays,
        torch.from_numpy(np.sort(train)),
        torch.from_numpy(np.sort(validation)),
        mean,
        std,
        entry.flip,
    )


def _split(args: DatasetArgs, labels: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Positions of the images that are trained on, and of those that serve choices."""
    from sklearn.model_selection import train_test_split  # two seconds of importing

    try:
        train, validation = train_test_split(
            np.arange(len(labels)),
            test_size=args.validation_share,
            stratify=labels,
            random_state=0,
        )
    except ValueError as error:
        raise DataError(
            f"{args.name}: {len(labels)} training images cannot be split with "
            f"validation_share={args.validation_share} ({error}); add images or change the share"
        ) from None
    if args.train_images is None:
        return train, validation
    classes = len(np.unique(labels))
    if not classes <= args.train_images <= len(train):
        raise DataError(
            f"{args.train_images} should be from {classes}, one a class, to the {len(train)} "
            "training images that validation_share leaves",
            "train_images",
        )
    return _shares(labels[train], train)[: args.train_images], validation


def _shares(labels: np.ndarray[Any, Any], positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`positions` in an order of which every beginning has the classes in their proportions."""
    mixed = np.random.default_rng(0).permutation(len(labels))
    place = np.empty(len(labels))  # of an image within its class, from 0 to 1
    for label in np.unique(labels):
        own = mixed[labels[mixed] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return positions[np.lexsort((labels, place))]


def get_dataloaders(
    dataset: Dataset | dict[str, Any],
    batch_size: int = 128,
    *,
    evaluation_batch_size: int | None = None,
    augmentation: str = "standard",
    flip: Literal["auto"] | bool = "auto",
    cutout: int = 0,
    rotation: float = 0.0,
    color: float = 0.0,
    mixup: float = 0.0,
    mixup_epochs: int | None = None,
    seed: int = 0,
    data_dir: Path | str = "data",
    device: torch.device | str = "cpu",
) -> DataLoaders:
    """Train, validation, test and calibration loaders, deterministic for a seed.

    `dataset` is a loaded Dataset or the `dataset_args` of one. `evaluation_batch_size` is of the
    validation and test loaders (None: as the others). `flip` mirrors half of the images ('auto':
    as the data set's row in DATASET_REGISTRY says), `cutout` is the square's side in pixels,
    `rotation` the largest angle in degrees, `color` the largest change of brightness, contrast and
    saturation, `mixup` the alpha of its Beta distribution (arXiv:1710.09412), and `mixup_epochs`
    the length of a training over which the share of mixed batches grows from 0 to 1 (None: all are
    mixed). Raises DataError.
    """
    if isinstance(dataset, dict):
        dataset = load_dataset(DatasetArgs(**dataset), data_dir)
    arrays = dataset.on(device)
    order = torch.Generator().manual_seed(seed)
    mixed = dataset.train_index[torch.randperm(len(dataset.train_index), generator=order)]

    def loader(
        images: Tensor, labels: Tensor, index: Tensor, size: int | None = None, **options: Any
    ) -> BatchLoader:
        classes = len(dataset.info.classes)
        return BatchLoader(
            images,
            labels,
            size or batch_size,
            index=index,
            mean=dataset.mean,
            std=dataset.std,
            num_classes=classes,
            seed=seed,
            device=device,
            **options,
        )

    train = arrays.train_images, arrays.train_labels
    test = torch.arange(len(arrays.test_labels))
    return DataLoaders(
        train=loader(
            *train,
            dataset.train_index,
            training=True,
            augmentation=augmentation,
            flip=dataset.flip if flip == "auto" else flip,
            cutout_size=cutout,
            rotation=rotation,
            color=color,
            mixup_alpha=mixup,
            mixup_epochs=mixup_epochs,
        ),
        validation=loader(*train, dataset.validation_index, evaluation_batch_size),
        test=loader(arrays.test_images, arrays.test_labels, test, evaluation_batch_size),
        calibration=loader(*train, mixed),
    )


def fastest_evaluation_batch(image_size: tuple[int, int], device: torch.device | str) -> int:
    """Images a batch at which a forward pass is fastest, by the number of pixels.

    On the CPU 64 images of 32×32 pixels, as then feature maps stay in the cache (2,690 images/s of
    the default network on one core; 1,540 at 256); on a GPU as wide as is surely safe.
    """
    pixels = 2**16 if torch.device(device).type == "cpu" else 2**21
    return max(1, pixels // (image_size[0] * image_size[1]))


def preprocessing(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of its data, as plain data: enough to classify a new image."""
    return {
        "name": dataset.info.name,
        "classes": list(dataset.info.classes),
        "mean": dataset.mean,
        "std": dataset.std,
        "fit": dataset.info.fit,
        "bits": dataset.info.bits,
    }


def _entry(args: DatasetArgs) -> DatasetEntry:
    if args.name not in DATASET_REGISTRY:
        close = difflib.get_close_matches(args.name, DATASET_REGISTRY, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(DATASET_REGISTRY)}"
        raise DataError(f"{args.name!r} is not a data set; {hint}", "name")
    return DATASET_REGISTRY[args.name]


DATASET_REGISTRY: dict[str, DatasetEntry] = {
    "CIFAR10": cifar("CIFAR10"),
    "CIFAR100": cifar("CIFAR100"),
    "ImageFolder": DatasetEntry(describe_folder, load_folder),
    "Digits": DatasetEntry(describe_digits, load_digits_arrays, flip=False),
}
