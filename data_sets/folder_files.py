"""Which files of `train/<class>/` and `test/<class>/` are looked at, and under which names.

Names count in Unicode form NFC, so that a folder means the same when a Mac has written it, and with
bytes that are not UTF-8 as `\\xNN`, so that they can be printed, kept and trained on anywhere.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_sets.images import image_endings
from data_sets.source import DataError
from machine.files import shown

SPLITS = ("train", "test")
HIDDEN = "hidden"  # names with a dot first, and the folder that a Mac adds to archives
NAMED = 10  # problems that are named before they are only counted


class FolderFile(NamedTuple):
    """A file in a class folder, which may be an image."""

    path: Path
    name: tuple[str, ...]  # split, class, …, file, as they count
    label: int


class FolderFiles(NamedTuple):
    """What a folder of images holds, before a file is opened."""

    classes: tuple[str, ...]
    files: list[FolderFile]  # those of train/ first, sorted by class and name
    passed_over: Counter[str]  # ending, or another word for why → files


def list_files(root: Path) -> FolderFiles:
    """Every file that may be an image. Raises DataError with all that is wrong."""
    problems: list[str] = []
    passed_over: Counter[str] = Counter()
    folders = {split: _classes(root / split, passed_over, problems) for split in SPLITS}
    inside = {
        (split, name): list(_below(folder, passed_over, problems))
        for split, named in folders.items()
        for name, folder in named.items()
    }
    problems += [
        holds_no_image(folders[split][name]) for (split, name), paths in inside.items() if not paths
    ]
    refuse(problems, "entries cannot be used")
    classes = tuple(sorted(folders["train"]))
    if len(classes) < 2:
        raise DataError(f"ImageFolder: {shown(root / 'train')} needs at least two class folders")
    if odd := sorted(folders["train"].keys() ^ folders["test"].keys()):
        raise DataError(
            f"ImageFolder: {shown(root)}: these classes are in only one of train/ and test/: "
            f"{', '.join(odd)}"
        )
    files = []
    for split in SPLITS:
        for label, name in enumerate(classes):
            within = folders[split][name]
            found = [
                FolderFile(
                    path, (split, name, *map(counted, path.relative_to(within).parts)), label
                )
                for path in inside[split, name]
            ]
            files += sorted(found, key=lambda file: (file.name, file.path))
    return FolderFiles(classes, files, passed_over)


def holds_no_image(folder: Path) -> str:
    return f"class folder {shown(folder)} holds no image; add images or remove the folder"


def counted(name: str) -> str:
    """A name as it counts: in Unicode form NFC, bytes that are not UTF-8 as `\\xNN`."""
    return unicodedata.normalize("NFC", shown(name))


def ending(path: Path) -> str:
    """What a file that is passed over is counted under."""
    return shown(path.suffix.lower()) or "no ending"


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise DataError where there are problems: the first ten, each on a line, and their count."""
    if len(problems) == 1:
        raise DataError(f"ImageFolder: {problems[0]}")
    if problems:
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        lines = [f"ImageFolder: {len(problems)} {what}", *problems[:NAMED], *more]
        raise DataError("\n  ".join(lines))


def _classes(folder: Path, passed_over: Counter[str], problems: list[str]) -> dict[str, Path]:
    """Class → its folder; two that differ only in Unicode form are a problem."""
    if not folder.is_dir():
        raise DataError(
            f"ImageFolder: {shown(folder)} is not a folder; expected "
            f"{folder.name}/<class>/<image> in it"
        )
    found: dict[str, Path] = {}
    for entry in _entries(folder, passed_over, problems):
        if not entry.is_dir():
            passed_over[ending(Path(entry.name))] += 1
            continue
        path = Path(entry.path)
        other = found.setdefault(counted(entry.name), path)
        if other != path:
            names = " and ".join(ascii(each.name) for each in (other, path))
            problems.append(
                f"{shown(path)} looks like another class folder ({names}); make them one, or "
                "rename one"
            )
    return found


def _below(folder: Path, passed_over: Counter[str], problems: list[str]) -> Iterator[Path]:
    """The files in a folder and its subfolders, linked ones too, each subfolder once.

    What lies above is no subfolder, though a link may lead there.
    """
    above = {*folder.absolute().parents, *folder.resolve().parents}
    seen = {_identity(parent) for parent in above}
    real, linked = [folder], list[Path]()  # a folder is read under its own name where it has one
    while real or linked:
        here = real.pop() if real else linked.pop(0)
        if (identity := _identity(here)) in seen:
            passed_over["link to a folder that is read already"] += 1
            continue
        seen.add(identity)
        for entry in _entries(here, passed_over, problems):
            path = Path(entry.path)
            if entry.is_file():
                yield path
            elif not entry.is_dir():
                passed_over["no file"] += 1  # a pipe or a device, which would be waited for
            elif path.suffix and path.suffix.lower() in image_endings():
                problems.append(
                    f"{shown(path)} is a folder with an image's name; rename or remove it"
                )
            else:
                (linked if entry.is_symlink() else real).append(path)


def _entries(
    folder: Path, passed_over: Counter[str], problems: list[str]
) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, but for hidden names and links to nothing."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{shown(folder)} cannot be read ({error.strerror}); open it or remove it")
        return
    for entry in found:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            passed_over[HIDDEN] += 1
            continue
        try:
            os.stat(entry)  # noqa: PTH116 - a link's target
        except OSError as error:
            what = "is a link to nothing" if entry.is_symlink() else "cannot be read"
            problems.append(f"{shown(entry.path)} {what} ({error.strerror}); repair or remove it")
        else:
            yield entry


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
