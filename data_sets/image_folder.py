"""Any folder of images: `train/<class>/` and `test/<class>/`, decoded once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data_sets.fit import Shape, cut_away
from data_sets.images import read_image, shape_of
from data_sets.source import Arrays, DataError, DataInfo, DatasetArgs
from machine.files import save_atomically, write_json

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}


def _list_folder(args: DatasetArgs) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """Class names, and per split the sorted files with their labels."""
    if args.root is None:
        raise DataError("ImageFolder needs the folder with train/ and test/", "root")
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


def describe_folder(args: DatasetArgs, data_dir: Path) -> DataInfo:
    classes, splits = _list_folder(args)
    size = args.height_and_width()
    fingerprint, shapes = _folder_fingerprint(args, splits, data_dir)
    crops = size is not None and args.fit == "crop" and shapes
    if size is None:
        height, width = _decode(splits["train"][0][0], args).shape[1:]
    else:
        height, width = size
    return DataInfo(
        "ImageFolder",
        classes,
        args.in_channels or 3,
        (int(height), int(width)),
        fingerprint,
        args.fit,
        cut_away(shapes, size) if size is not None and crops else 0.0,
    )


def _folder_fingerprint(
    args: DatasetArgs, splits: dict[str, list[tuple[Path, int]]], data_dir: Path
) -> tuple[str, Counter[Shape]]:
    """sha256 over every file's name and bytes, with the decoding options; shapes of the images.

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
        known = json.loads(note.read_text())
        digest, shapes = known["content"], Counter({(h, w): n for h, w, n in known["shapes"]})
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: read the files
        shapes = Counter()
        for path in tqdm(files, desc="fingerprint", unit="img", disable=None, leave=False):
            content.update(f"{path.relative_to(root)}\0".encode())
            content.update(path.read_bytes())
            with path.open("rb") as file:
                shape = shape_of(file)
            shapes += Counter([shape] if shape else [])
        digest = content.hexdigest()
        counted = [[*shape, count] for shape, count in shapes.items()]
        write_json(note, {"content": digest, "files": len(files), "shapes": counted})
    options = f"{digest} size={args.image_size} channels={args.in_channels or 3}"
    if args.image_size is not None and args.fit != "crop":
        options += f" fit={args.fit}"
    return hashlib.sha256(options.encode()).hexdigest(), shapes


def load_folder(args: DatasetArgs, data_dir: Path) -> Arrays:
    """Decode a folder once, in parallel; later runs read the cached tensors."""
    info = describe_folder(args, data_dir)
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
    return read_image(path, args.in_channels or 3, args.height_and_width(), args.fit)
