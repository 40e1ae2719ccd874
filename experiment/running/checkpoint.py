"""The checkpoint file: tensors and plain data, read safely or refused in one line.

torch is imported where a file is read: who only lists what is stored does without its seconds.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from machine.errors import Refused

if TYPE_CHECKING:
    from stages.state import ModelState

FORMAT = 1


class CheckpointError(Refused):
    """A file that is not, or no longer, a checkpoint of this project; the message names it."""


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    state: ModelState
    key: str  # that it was stored under
    data: dict[str, Any] | None  # see `dataset.preprocessing`; None in files of earlier versions


def load_checkpoint(path: Path | str) -> ModelState:
    """The state in any checkpoint file of this project. Raises CheckpointError."""
    return read_checkpoint(path).state


def read_key(path: Path) -> str:
    """The key that a checkpoint file was stored under. Raises CheckpointError."""
    return read_checkpoint(path).key


def read_checkpoint(path: Path | str) -> Checkpoint:
    """All that a checkpoint file of this project holds. Raises CheckpointError."""
    path = Path(path)
    try:
        return open_checkpoint(path.read_bytes(), path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def open_checkpoint(content: bytes, path: Path) -> Checkpoint:
    from stages.state import from_plain

    plain = load_plain(content, path)
    try:
        if plain["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: written in format {plain['format']}, this version reads {FORMAT}"
            )
        return Checkpoint(from_plain(plain["state"]), plain["key"], plain.get("data"))
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: is not a checkpoint of this project") from None


def load_plain(content: bytes, path: Path) -> Any:
    """Tensors and plain data only: a file that would run code is refused."""
    import torch

    if not content.startswith(b"PK"):  # the zip archive that torch.save makes
        raise CheckpointError(f"{path}: is not a checkpoint of this project")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # remarks on foreign pickle protocols
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and plain data and may run code"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
