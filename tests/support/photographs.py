"""CIFAR-10 as JPEG files, for who has the archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_sets.source import DatasetArgs
from tests.support.home import HOME

ARCHIVE = HOME.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
needs_archive = pytest.mark.skipif(
    not ARCHIVE.exists(), reason="the CIFAR-10 JPEG archive is not here"
)


def photographs(folder: Path, endings: Iterable[str]) -> DatasetArgs:
    """The files of both splits whose names end so, unpacked into `folder`."""
    endings = tuple(endings)
    with tarfile.open(ARCHIVE) as archive:
        wanted = [m for m in archive if m.isfile() and m.name.endswith(endings)]
        archive.extractall(folder / "cifar", wanted, filter="data")
    root = next((folder / "cifar").rglob("train")).parent
    return DatasetArgs(name="ImageFolder", root=str(root))
