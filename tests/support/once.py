"""What is made once for all tests, whichever of pytest's processes comes first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None] = lambda folder: None
) -> Path:
    """A folder that `make` has filled; for reading, since other tests look at it as well."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def copy_with_links(source: Path, target: Path) -> None:
    """Copy a folder; files that were one file under two names are so in the copy."""
    copies: dict[int, str] = {}

    def copy(path: str, to: str) -> str:
        first = copies.setdefault(Path(path).stat().st_ino, to)
        if first == to:
            return shutil.copy2(path, to)
        Path(to).hardlink_to(first)
        return to

    shutil.copytree(source, target, copy_function=copy)
