"""The user's own folder for what this machine has compiled and measured: code that is run.

Nobody else may write there. It never lies beside checkpoints, which people hand to each other.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
import tempfile
from pathlib import Path

VARIABLE = "COMPRESSION_CACHE_DIR"  # moves the folder
APPLICATION = "compression-order"


def cache_folder() -> Path:
    """The folder, made where it is not there; one that others could write to is not used.

    Then, and where none can be made, it is a temporary one, of which a line on standard error tells
    once; it is removed when the program ends.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _checked(Path(named))
    from platformdirs import user_cache_path

    return _checked(user_cache_path(APPLICATION, appauthor=False))


@functools.cache
def _checked(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = unsafe(folder)
    except OSError as error:
        why = f"cannot be made ({error.strerror})"
    if why is None:
        return folder
    print(
        f"{folder} {why}: what is compiled and measured lies in a temporary folder for as long as "
        f"this program runs; name another folder in {VARIABLE}",
        file=sys.stderr,
    )
    return Path(_temporary().name)


def unsafe(folder: Path) -> str | None:
    """Why somebody else could put code into a folder; None where only its user can.

    So it is, too, if others could put another folder in its place, or in that of one above it.
    """
    if not hasattr(os, "getuid"):  # Windows: the folder is in the user's own profile
        return None
    place = folder.resolve()
    for path in (place, *place.parents):
        about = path.stat()
        if about.st_uid not in ((os.getuid(),) if path == place else (os.getuid(), 0)):
            return f"belongs to another user ({path})"
        others = stat.S_IWOTH | (stat.S_IWGRP if path == place else 0)
        sticky = path != place and about.st_mode & stat.S_ISVTX
        if about.st_mode & others and not sticky:
            return f"can be written to by other users ({path})"
    return None


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"{APPLICATION}-")
