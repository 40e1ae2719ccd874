"""Writing files so that a crash, a full disk or a second process leaves old or new, never half."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NAME_BYTES = 200  # of the 255 that file systems take; endings, '.tmp' and '.aside1' need the rest


def bounded_name(name: str) -> str:
    """A name for a file, without its ending: as it is where it has at most NAME_BYTES bytes.

    Of a longer one the middle gives way to a digest of the whole, so that names stay apart.
    """
    content = name.encode(errors="surrogateescape")
    if len(content) <= NAME_BYTES:
        return name
    middle = f"..{sha256(content)[:12]}.."
    room = (NAME_BYTES - len(middle)) // 2
    ends = content[:room], content[-room:]
    return middle.join(end.decode(errors="ignore") for end in ends)  # no half of a character


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename over it. On OSError `path` is as it was."""
    with _replacing(path) as file:
        file.write(content)


def save_atomically(path: Path, value: Any) -> None:
    """The same by torch.save, without a second copy in memory."""
    import torch  # seconds; who only reads JSON does without

    with _replacing(path) as file:
        torch.save(value, file)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities, which JSON lacks, as null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 has lone surrogates, which stand in JSON as \udcNN.
    write_atomically(path, text.encode(errors="backslashreplace") + b"\n")


def shown(path: Path | str) -> str:
    """A path as it can be printed and kept: bytes of it that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def finite(value: Any) -> Any:
    """Plain data as JSON holds it: string keys, lists, null for NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def canonical_json(value: Any) -> bytes:
    """One byte string for equal values: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tensor_bytes(value: Any) -> bytes:
    """`value` (tensors and plain data) as torch.save writes it."""
    import torch  # seconds; who only reads JSON does without

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
