"""Data sets: what is known of each without reading it, and its splits as uint8 tensors.

`DATASET_REGISTRY` is the one list. A row says how to describe a data set cheaply (classes, size,
fingerprint) and how to load it; a user's own data set is one more row.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm import tqdm

from augmentation import BatchLoader
from files import save_atomically, write_json

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}


class DataError(ValueError):
    """Data that is absent, damaged or unusable; the message is one line with the remedy."""


class DatasetArgs(BaseModel):
    """`dataset_args` of an experiment."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = "CIFAR10"  # a row of DATASET_REGISTRY
    root: str | None = None  # ImageFolder: the folder that holds train/ and test/
    image_size: int | None = Field(None, ge=4, le=1024)  # ImageFolder: pixels; None = as stored
    in_channels: int | None = None  # ImageFolder: 3 colour (default), 1 grey
    validation_share: float = Field(0.1, gt=0, lt=1)  # of the training images, for all choices

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASET_REGISTRY:
            raise ValueError(f"is not a data set; allowed: {', '.join(DATASET_REGISTRY)}")
        return name

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
    return DATASET_REGISTRY[args.name].describe(args, Path(data_dir))


def load_dataset(args: DatasetArgs, data_dir: Path | str) -> Dataset:
    """Load (download, decode) a data set and split off its validation share.

    The split is stratified and the same for every seed. Raises DataError.
    """
    entry = DATASET_REGISTRY[args.name]
    info = entry.describe(args, Path(data_dir))
    arrays = entry.load(args, Path(data_dir))
    try:
        train, validation = train_test_split(
            np.arange(len(arrays.train_labels)),
            test_size=args.validation_share,
            stratify=arrays.train_labels.numpy(),
            random_state=0,
        )
    except ValueError as error:
        raise DataError(
            f"{args.name}: {len(arrays.train_labels)} training images cannot be split with "
            f"validation_share={args.validation_share} ({error}); add images or change the share"
        ) from None
    mean, std = channel_statistics(arrays.train_images)
    return Dataset(
        info,
        arrays,
        torch.from_numpy(np.sort(train)),
        torch.from_numpy(np.sort(validation)),
        mean,
        std,
        entry.flip,
    )


def get_dataloaders(
    dataset: Dataset | dict[str, Any],
    batch_size: int = 128,
    *,
    evaluation_batch_size: int | None = None,
    augmentation: str = "standard",
    cutout: int = 0,
    mixup: float = 0.0,
    seed: int = 0,
    data_dir: Path | str = "data",
    device: torch.device | str = "cpu",
) -> DataLoaders:
    """Train, validation, test and calibration loaders, deterministic for a seed.

    `dataset` is a loaded Dataset or the `dataset_args` of one. `evaluation_batch_size` is of the
    validation and test loaders (None: as the others). `cutout` is the square's side in
    pixels, `mixup` the alpha of its Beta distribution (arXiv:1710.09412). Raises DataError.
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
            flip=dataset.flip,
            cutout_size=cutout,
            mixup_alpha=mixup,
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
    }


def read_image(path: Path, in_channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """One image as uint8 `[C, H, W]`: upright, shorter side resized, centre cropped.

    `size` is height and width; None leaves it as it is stored. Raises DataError.
    """
    try:
        with Image.open(path) as image:
            upright = _eight_bits(ImageOps.exif_transpose(image), image.format)
            upright = upright.convert("L" if in_channels == 1 else "RGB")
            if size is not None:
                upright = ImageOps.fit(upright, size[::-1], Image.Resampling.BICUBIC)
            pixels = np.array(upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); repair or remove it") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """The image with 16-bit greys scaled down, which Pillow's conversion clips to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):  # Pillow 10: I
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


# --- CIFAR, in the original archive ------------------------------------------------------------


def _cifar(kind: type[torchvision.datasets.CIFAR10], name: str) -> DatasetEntry:
    def describe(args: DatasetArgs, data_dir: Path) -> DataInfo:
        _only(args, name)
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


def _only(args: DatasetArgs, name: str) -> None:
    for key in ("root", "image_size", "in_channels"):
        if getattr(args, key) is not None:
            raise DataError(f"dataset_args.{key}: {name} does not take it; remove the key")


# --- Digits, inside scikit-learn ---------------------------------------------------------------


def _describe_digits(args: DatasetArgs, data_dir: Path) -> DataInfo:
    _only(args, "Digits")
    arrays = _load_digits(args, data_dir)
    content = arrays.train_images.numpy().tobytes() + arrays.test_images.numpy().tobytes()
    classes = tuple(str(i) for i in range(10))
    return DataInfo("Digits", classes, 1, (8, 8), hashlib.sha256(content).hexdigest())


def _load_digits(args: DatasetArgs, data_dir: Path) -> Arrays:
    """1,797 handwritten digits of 8×8 pixels, one in five kept for the test split."""
    digits = load_digits()
    images = torch.from_numpy((digits.images * 15).astype(np.uint8))[:, None]  # 0..16 → 0..240
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=0
    )
    return Arrays(images[train], labels[train], images[test], labels[test])


# --- ImageFolder: any folder of images ---------------------------------------------------------


def _list_folder(args: DatasetArgs) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """Class names, and per split the sorted files with their labels."""
    if args.root is None:
        raise DataError("dataset_args.root: ImageFolder needs the folder with train/ and test/")
    root = Path(args.root).expanduser()
    splits: dict[str, list[tuple[Path, int]]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split in ("train", "test"):
        folder = root / split
        if not folder.is_dir():
            raise DataError(
                f"ImageFolder: {folder} is not a folder; expected {split}/<class>/<image> in it"
            )
        names[split] = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
        splits[split] = []
        for label, name in enumerate(names[split]):
            files = sorted(
                p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS
            )
            if not files:
                raise DataError(
                    f"ImageFolder: class folder {folder / name} holds no image "
                    f"({', '.join(sorted(IMAGE_ENDINGS))}); add images or remove the folder"
                )
            splits[split] += [(path, label) for path in files]
    if len(names["train"]) < 2:
        raise DataError(f"ImageFolder: {root / 'train'} needs at least two class folders")
    if names["train"] != names["test"]:
        odd = ", ".join(sorted(set(names["train"]) ^ set(names["test"])))
        raise DataError(
            f"ImageFolder: {root}: these classes are in only one of train/ and test/: {odd}"
        )
    return names["train"], splits


def _describe_folder(args: DatasetArgs, data_dir: Path) -> DataInfo:
    classes, splits = _list_folder(args)
    size = args.image_size
    if size is None:
        height, width = _decode(splits["train"][0][0], args).shape[1:]
    else:
        height = width = size
    fingerprint = _folder_fingerprint(args, splits, data_dir)
    return DataInfo(
        "ImageFolder", classes, args.in_channels or 3, (int(height), int(width)), fingerprint
    )


def _folder_fingerprint(
    args: DatasetArgs, splits: dict[str, list[tuple[Path, int]]], data_dir: Path
) -> str:
    """sha256 over every file's name and bytes, with the decoding options.

    Read again only when a name, size or modification time has changed since the last time.
    """
    root = Path(args.root or "").expanduser()
    listing, content = hashlib.sha256(), hashlib.sha256()
    files = [path for split in splits.values() for path, _ in split]
    for path in files:
        stat = path.stat()
        line = f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        listing.update(line.encode())
    note = data_dir / "cache" / f"fingerprint_{listing.hexdigest()[:24]}.json"
    try:
        digest = json.loads(note.read_text())["content"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: read the files
        for path in tqdm(files, desc="fingerprint", unit="img", disable=None, leave=False):
            content.update(f"{path.relative_to(root)}\0".encode())
            content.update(path.read_bytes())
        digest = content.hexdigest()
        write_json(note, {"content": digest, "files": len(files)})
    options = f"{digest} size={args.image_size} channels={args.in_channels or 3}"
    return hashlib.sha256(options.encode()).hexdigest()


def _load_folder(args: DatasetArgs, data_dir: Path) -> Arrays:
    """Decode a folder once, in parallel; later runs read the cached tensors."""
    info = _describe_folder(args, data_dir)
    cache = data_dir / "cache" / f"images_{info.fingerprint[:24]}.pt"
    if cache.exists():
        try:
            return Arrays(**torch.load(cache, weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            tqdm.write(f"{cache}: the cached images are damaged ({reason}); decoding them again")
    _, splits = _list_folder(args)
    files = [path for split in splits.values() for path, _ in split]
    height, width = info.image_size
    needed = len(files) * info.in_channels * height * width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.6 * memory:
        raise DataError(
            f"ImageFolder: {len(files)} images at {height}×{width} take {needed / 1e9:.1f} GB, "
            f"over 60 % of this machine's {memory / 1e9:.1f} GB; set a smaller image_size"
        )
    out = torch.empty(len(files), info.in_channels, height, width, dtype=torch.uint8)

    def fill(position: int) -> None:
        image = _decode(files[position], args)
        if image.shape[1:] != out.shape[2:]:
            raise DataError(
                f"ImageFolder: {files[position]} is {image.shape[1]}×{image.shape[2]} pixels, the "
                f"first image {height}×{width}; set dataset_args.image_size to resize all of them"
            )
        out[position] = image

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        steps = pool.map(fill, range(len(files)))
        for _ in tqdm(steps, total=len(files), desc="decode", unit="img", disable=None):
            pass
    labels = torch.tensor([label for split in splits.values() for _, label in split])
    cut = len(splits["train"])
    arrays = Arrays(out[:cut], labels[:cut], out[cut:], labels[cut:])
    save_atomically(cache, arrays._asdict())
    return arrays


def _decode(path: Path, args: DatasetArgs) -> Tensor:
    size = None if args.image_size is None else (args.image_size, args.image_size)
    return read_image(path, args.in_channels or 3, size)


DATASET_REGISTRY: dict[str, DatasetEntry] = {
    "CIFAR10": _cifar(torchvision.datasets.CIFAR10, "CIFAR10"),
    "CIFAR100": _cifar(torchvision.datasets.CIFAR100, "CIFAR100"),
    "ImageFolder": DatasetEntry(_describe_folder, _load_folder),
    "Digits": DatasetEntry(_describe_digits, _load_digits, flip=False),
}
