"""What the store holds, by its records alone: nothing here needs torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine.errors import Refused
from machine.files import canonical_json, sha256


class CheckpointError(Refused):
    """A file that is not, or no longer, a checkpoint of this project; the message names it."""


class Entries:
    """Records of finished stages by key. `say` is told of everything unexpected."""

    def __init__(self, folder: Path | str, say: Callable[[str], None] = print):
        self.folder = Path(folder)
        self.entries = self.folder / "store"
        self.compiled = self.folder / "compiled"  # machine code of int8 networks, made anew if lost
        self.say = say

    def path(self, key: str) -> Path:
        return self.entries / f"{key}.pth"

    def record_path(self, key: str) -> Path:
        return self.entries / f"{key}.json"

    def has(self, key: str) -> bool:
        """Whether an entry is there (it is verified when loaded)."""
        return self.path(key).exists() and self.record_path(key).exists()

    def record(self, key: str) -> dict[str, Any] | None:
        """The record of an entry, verified; None if there is none. A damaged one is set aside."""
        path = self.record_path(key)
        try:
            return _open_record(path)
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            self.set_aside(path, str(error))
            return None

    def keys(self) -> list[str]:
        """The keys of all entries, damaged ones included."""
        return sorted(path.stem for path in self.entries.glob("*.json"))

    def records(self) -> Iterator[dict[str, Any]]:
        """The records that can be read; damage is left for the stage that needs the entry."""
        for key in self.keys():
            try:
                yield _open_record(self.record_path(key))
            except (CheckpointError, OSError):
                continue

    def names(self) -> dict[str, list[str]]:
        """Key → the readable names in the folder that hold its checkpoint, as links or copies."""
        keys, digests = {}, {}
        for record in self.records():
            digests[record["checkpoint_sha256"]] = record["key"]
            if (path := self.path(record["key"])).exists():
                keys[path.stat().st_dev, path.stat().st_ino] = record["key"]
        found: dict[str, list[str]] = defaultdict(list)
        for link in sorted(self.folder.glob("*.pth")):
            key = keys.get((link.stat().st_dev, link.stat().st_ino))
            key = key or digests.get(sha256(link.read_bytes()))
            if key is not None:
                found[key].append(link.stem)
        return dict(found)

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a damaged or foreign file, so that it can be looked at and is not in the way."""
        number = 1
        while (aside := path.with_name(f"{path.name}.aside{number}")).exists():
            number += 1
        path.rename(aside)
        self.say(f"{why}; set aside as {aside.name}")


def _open_record(path: Path) -> dict[str, Any]:
    try:
        sealed = json.loads(path.read_bytes())
        record = sealed["record"]
        intact = sealed["sha256"] == sha256(canonical_json(record))
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{path}: the record is damaged")
    return record
