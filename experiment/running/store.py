"""The store: every finished stage under its key, verified on load, never overwritten unsaid.

`saved_models/store/<key>.pth` holds the state, `<key>.json` its record with the checkpoint's
sha256. The readable names in `saved_models/` are links to the same content.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from experiment.running.checkpoint import (
    FORMAT,
    CheckpointError,
    load_plain,
    open_checkpoint,
    read_key,
)
from machine.errors import Interrupted
from machine.files import canonical_json, finite, sha256, tensor_bytes, write_atomically, write_json

if TYPE_CHECKING:
    from stages.state import ModelState


class Store:
    """Finished stages by key. `say` is told of everything unexpected."""

    def __init__(self, folder: Path | str, say: Callable[[str], None] = print):
        self.folder = Path(folder)
        self.entries = self.folder / "store"
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

    def verified(self, key: str) -> dict[str, Any] | None:
        """The record of an intact entry; None where it must be computed. Damage is set aside."""
        found = self._content(key)
        return found[0] if found is not None else None

    def load(self, key: str) -> tuple[ModelState, dict[str, Any]] | None:
        """State and record of a key; None where it must be computed. Damage is set aside."""
        found = self._content(key)
        if found is None:
            return None
        record, content = found
        try:
            return open_checkpoint(content, self.path(key)).state, record
        except CheckpointError as error:
            self._set_entry_aside(key, str(error))
            return None

    def _content(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        record = self.record(key)
        if record is None:
            return None
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            self.set_aside(self.record_path(key), f"{self.record_path(key)}: has no checkpoint")
            return None
        if sha256(content) != record["checkpoint_sha256"]:
            self._set_entry_aside(key, f"{self.path(key)}: its sha256 is not the recorded one")
            return None
        return record, content

    def _set_entry_aside(self, key: str, why: str) -> None:
        self.set_aside(self.path(key), why)
        self.set_aside(self.record_path(key), f"{self.record_path(key)}: with it")

    def put(
        self,
        key: str,
        state: ModelState,
        record: dict[str, Any],
        data: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Keep a finished stage; returns its record with the checkpoint's sha256 and size.

        `data` is what the checkpoint says of its data: see `dataset.preprocessing`. The checkpoint
        goes first, so that a record never stands without what it speaks of.
        """
        from stages.state import to_plain  # torch, which a listing of records does without

        content = tensor_bytes(
            {"format": FORMAT, "key": key, "state": to_plain(state), "data": data}
        )
        write_atomically(self.path(key), content)
        written = {"checkpoint_sha256": sha256(content), "checkpoint_bytes": len(content)}
        record = self.put_record(key, {**record, **written})
        self.snapshot(key).clear()
        return record

    def put_record(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write the record alone, beside a checkpoint that stays as it is."""
        record = finite(record)
        sealed = {"sha256": sha256(canonical_json(record)), "record": record}
        write_json(self.record_path(key), sealed)
        self.validation(key).clear()
        return record

    def name(self, key: str, name: str) -> Path:
        """Point `saved_models/<name>.pth` at an entry, saying so where it held something else."""
        link, target = self.folder / f"{name}.pth", self.path(key)
        if link.exists():
            if link.samefile(target) or link.read_bytes() == target.read_bytes():
                return link
            self._displace(link)
        temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
        try:
            os.link(target, temporary)
        except OSError:  # a file system without hard links
            write_atomically(temporary, target.read_bytes())
        temporary.replace(link)
        return link

    def _displace(self, link: Path) -> None:
        try:
            old = read_key(link)
        except CheckpointError as error:
            self.set_aside(link, str(error))
            return
        if self.has(old):
            self.say(f"{link} held other settings' result; that stays in the store as {old[:12]}")
        else:
            self.set_aside(link, f"{link}: its content is not in the store")

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a damaged or foreign file, so that it can be looked at and is not in the way."""
        number = 1
        while (aside := path.with_name(f"{path.name}.aside{number}")).exists():
            number += 1
        path.rename(aside)
        self.say(f"{why}; set aside as {aside.name}")

    def snapshot(self, key: str, parent: str | None = None) -> StoredSnapshot:
        return StoredSnapshot(self.entries / f"{key}.snapshot", self, parent)

    def validation(self, key: str, checkpoint: str | None = None) -> StoredSnapshot:
        """What a study found of an entry on the validation share; `checkpoint` is its sha256."""
        return StoredSnapshot(self.entries / f"{key}.validation", self, checkpoint)

    def is_locked(self, key: str) -> bool:
        """Whether another process is at this key now."""
        lock = FileLock(self.entries / f"{key}.lock")
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    @contextmanager
    def lock(self, key: str, stop_requested: Callable[[], bool]) -> Iterator[None]:
        """Hold a key against other processes; a dead process holds nothing. Raises Interrupted."""
        self.entries.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.entries / f"{key}.lock")
        waiting = False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1 if waiting else 0)
            except Timeout:
                if not waiting:
                    self.say("       another run is at this stage; waiting for its result")
                if stop_requested():
                    raise Interrupted from None
                waiting = True
        try:
            yield
        finally:
            lock.release()


class StoredSnapshot:
    """What belongs to an entry, as the half-way state of its stage, in one verified file.

    `parent` is the sha256 of the weights that the stage began from; a snapshot from others is not
    gone on with.
    """

    def __init__(self, path: Path, store: Store, parent: str | None):
        self.path, self.store = path, store
        self.parent = (parent or "-" * 64).encode()

    def exists(self) -> bool:
        return self.path.exists()

    def save(self, value: dict[str, Any]) -> None:
        content = self.parent + tensor_bytes(value)
        write_atomically(self.path, sha256(content).encode() + content)

    def load(self) -> dict[str, Any] | None:
        if not self.path.exists() or not self.intact():
            return None
        content = self.path.read_bytes()[64:]
        if content[:64] != self.parent:
            self.store.set_aside(self.path, f"{self.path}: the snapshot began from other weights")
            return None
        return load_plain(content[64:], self.path)

    def intact(self) -> bool:
        """Whether the file is as it was written; a damaged one is set aside."""
        content = self.path.read_bytes()
        if sha256(content[64:]).encode() == content[:64]:
            return True
        self.store.set_aside(self.path, f"{self.path}: the snapshot is damaged")
        return False

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


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
