"""Any folder of images: `train/<class>/` and `test/<class>/`, decoded once and kept."""

from __future__ import annotations

import hashlib
import os
import pickle
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from tqdm import tqdm

from data_sets.fit import Shape, cut_away
from data_sets.folder_files import (
    SPLITS,
    FolderFile,
    FolderFiles,
    ending,
    holds_no_image,
    list_files,
    refuse,
)
from data_sets.images import largest_value, read_header, read_image
from data_sets.source import Arrays, DataError, DataInfo, DatasetArgs, Listing
from machine.files import save_atomically, shown, write_json

TICK = 2 * 10**9  # nanoseconds within which a file can change twice under one time, at most
MUCH_CUT_AWAY = 0.25  # share of the images from which a user is told that it is lost
FEW_LEVELS = 3  # bits of 16-bit values left unused from which a user is told


class Survey(BaseModel):
    """What opening every file has told, kept until a file changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    content: str  # sha256 over the names and bytes of all images
    no_images: list[int]  # positions among the files of those that are none
    tagged: list[int]  # bits of 16-bit values that files say of themselves, each number once
    bits: int  # bits that the largest 16-bit value needs, of files that do not say them
    shapes: list[tuple[int, int, int]]  # height, width, and how many images have them
    warnings: list[str]


class ImageFolder(NamedTuple):
    """A folder whose files have been looked at."""

    info: DataInfo
    images: list[FolderFile]  # those of train/ first


def describe_folder(args: DatasetArgs, data_dir: Path) -> DataInfo:
    return _look(args, data_dir).info


def _look(args: DatasetArgs, data_dir: Path) -> ImageFolder:
    if args.root is None:
        raise DataError("ImageFolder needs the folder with train/ and test/", "root")
    found = list_files(Path(args.root).expanduser())
    survey = _survey(found, data_dir)
    passed_over, no_images = found.passed_over.copy(), set(survey.no_images)
    images = []
    for position, file in enumerate(found.files):
        if position in no_images:
            passed_over[ending(file.path)] += 1
        else:
            images.append(file)
    counts = Counter((file.name[0], file.label) for file in images)
    train, test = (
        tuple(counts[split, label] for label in range(len(found.classes))) for split in SPLITS
    )
    empty = [
        holds_no_image(Path(args.root, split, name))
        for split, numbers in zip(SPLITS, (train, test), strict=True)
        for name, number in zip(found.classes, numbers, strict=True)
        if number == 0
    ]
    refuse(empty, "class folders hold no image")
    passed = tuple(sorted(passed_over.items(), key=lambda each: (-each[1], each[0])))
    size, shapes = args.height_and_width(), {(h, w): count for h, w, count in survey.shapes}
    lost = cut_away(shapes, size) if size is not None and args.fit == "crop" and shapes else 0.0
    info = DataInfo(
        "ImageFolder",
        found.classes,
        args.in_channels or 3,
        _image_size(args, images, survey.bits),
        _fingerprint(args, survey),
        listing=Listing(train, test, passed),
        bits=survey.bits,
        warnings=tuple(
            survey.warnings if lost <= MUCH_CUT_AWAY else [*survey.warnings, _cut(lost)]
        ),
        fit=args.fit,
        cut_away=lost,
    )
    return ImageFolder(info, images)


def _cut(share: float) -> str:
    return (
        f"fit 'crop' cuts {share:.0%} of the images away; set dataset_args.fit to 'pad' or "
        "'stretch', or image_size to their proportions as (height, width)"
    )


def _image_size(args: DatasetArgs, images: Sequence[FolderFile], bits: int) -> tuple[int, int]:
    """Height and width: as wished, or of the first image that can be read."""
    if (size := args.height_and_width()) is not None:
        return size
    problem: DataError | None = None
    for file in images:
        try:
            height, width = _decode(file.path, args, bits).shape[1:]
        except DataError as error:  # loading names all that are damaged
            problem = problem or error
        else:
            return int(height), int(width)
    assert problem is not None
    raise problem


def _fingerprint(args: DatasetArgs, survey: Survey) -> str:
    """sha256 over every image's name and bytes, with the decoding options."""
    options = f"{survey.content} size={args.image_size} channels={args.in_channels or 3}"
    if args.image_size is not None and args.fit != "crop":
        options += f" fit={args.fit}"
    if ranges := sorted({*survey.tagged, survey.bits} - {16}):
        options += f" bits={ranges}"
    return hashlib.sha256(options.encode()).hexdigest()


def _survey(found: FolderFiles, data_dir: Path) -> Survey:
    """What is in the files, opened again only when one has changed since the last time.

    Size and modification time can be kept by who changes a file, the time of the last change of
    anything and the number on the disk cannot. A file so young that another change could fall on
    the same time is not remembered.
    """
    listing = hashlib.sha256(f"{PIL.__version__}\n".encode())
    now, newest = time.time_ns(), 0
    for file in found.files:
        stat = file.path.stat()
        times = f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
        listing.update(f"{'/'.join(file.name)}\0{stat.st_size}\0{times}\n".encode())
        newest = max(newest, stat.st_ctime_ns)
    note = data_dir / "cache" / f"survey_{listing.hexdigest()[:24]}.json"
    try:
        return Survey.model_validate_json(note.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged
        survey = _opened(found.files)
    if newest < now - TICK:
        write_json(note, survey.model_dump())
    return survey


def _opened(files: Sequence[FolderFile]) -> Survey:
    """Open every file. Raises DataError with all that cannot be."""
    content = hashlib.sha256()
    no_images, problems = [], []
    deep: list[FolderFile] = []
    halved: list[FolderFile] = []
    tagged: set[int] = set()
    shapes: Counter[Shape] = Counter()
    for position, file in enumerate(
        tqdm(files, desc="fingerprint", unit="img", disable=None, leave=False)
    ):
        try:
            header = read_header(file.path)
            if header is None:
                no_images.append(position)
                continue
            content.update(f"{'/'.join(file.name)}\0".encode())
            content.update(file.path.read_bytes())
        except OSError as error:
            problems.append(
                f"{shown(file.path)} cannot be read ({error.strerror}); repair or remove it"
            )
            continue
        if header.shape is not None:
            shapes[header.shape] += 1
        if header.deep:
            deep.append(file)
        if header.halved:
            halved.append(file)
        if header.tagged is not None:
            tagged.add(header.tagged)
    refuse(problems, "files cannot be read")
    bits, lost = _range_of(deep)
    return Survey(
        content=content.hexdigest(),
        no_images=no_images,
        tagged=sorted(tagged),
        bits=bits,
        shapes=[(*shape, count) for shape, count in shapes.items()],
        warnings=[*lost, *_colours_lost(halved)],
    )


def _range_of(deep: Sequence[FolderFile]) -> tuple[int, list[str]]:
    """Bits of the 16-bit greys of a set of images, and what to say where levels are lost."""
    if not deep:
        return 16, []
    each = [max(8, largest.bit_length()) for largest in _largest(deep)]
    bits, usual = max(each), statistics.median_low(each)
    if bits - usual < FEW_LEVELS:
        return bits, []
    brightest = shown(deep[each.index(bits)].path)
    return bits, [
        f"half of the {len(deep):,} 16-bit images have values below {2**usual:,}, but "
        f"{brightest} has values of {bits} bits: the others keep {2 ** (8 - bits + usual)} of "
        "256 levels; save all with 8 bits"
    ]


def _colours_lost(halved: Sequence[FolderFile]) -> list[str]:
    """What to say where the upper 8 bits of 16-bit colours hold little of them."""
    levels = 1 + max(_largest(halved), default=255)
    if levels > 2 ** (8 - FEW_LEVELS):
        return []
    return [
        f"{len(halved):,} images have 16-bit colours, of which Pillow reads the upper 8 bits: of "
        f"theirs {levels} of 256 levels ({shown(halved[0].path)}); save them with 8 bits"
    ]


def _largest(files: Sequence[FolderFile]) -> list[int]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(largest_value, [file.path for file in files]))


def load_folder(args: DatasetArgs, data_dir: Path) -> Arrays:
    """Decode a folder once, in parallel; later runs read the cached tensors."""
    info, images = _look(args, data_dir)
    cache = data_dir / "cache" / f"images_{info.fingerprint[:24]}.pt"
    if cache.exists():
        try:
            return Arrays(**torch.load(cache, weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            tqdm.write(f"{cache}: the cached images are damaged ({reason}); decoding them again")
    height, width = info.image_size
    needed = len(images) * info.in_channels * height * width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.6 * memory:
        raise DataError(
            f"ImageFolder: {len(images)} images at {height}×{width} take {needed / 1e9:.1f} GB, "
            f"over 60 % of this machine's {memory / 1e9:.1f} GB; set a smaller image_size"
        )
    out = torch.empty(len(images), info.in_channels, height, width, dtype=torch.uint8)

    other_sizes: dict[int, str] = {}  # position → what to say

    def fill(position: int) -> str | None:
        """Decode one image into its place; what is wrong with it, if anything is."""
        path = images[position].path
        try:
            image = _decode(path, args, info.bits)
        except DataError as error:
            return error.text
        if image.shape[1:] != out.shape[2:]:
            other_sizes[position] = (
                f"{shown(path)} is {image.shape[1]}×{image.shape[2]} pixels, the first image "
                f"{height}×{width}; set dataset_args.image_size to resize all of them"
            )
        else:
            out[position] = image
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        steps = pool.map(fill, range(len(images)))
        bar = tqdm(steps, total=len(images), desc="decode", unit="img", disable=None)
        problems = [problem for problem in bar if problem is not None]
    refuse(
        problems or [other_sizes[first] for first in sorted(other_sizes)[:1]],
        "images cannot be read",
    )
    labels = torch.tensor([image.label for image in images])
    assert info.listing is not None
    cut = sum(info.listing.train)
    arrays = Arrays(out[:cut], labels[:cut], out[cut:], labels[cut:])
    save_atomically(cache, arrays._asdict())
    return arrays


def _decode(path: Path, args: DatasetArgs, bits: int) -> Tensor:
    return read_image(path, args.in_channels or 3, args.height_and_width(), bits, args.fit)
