"""An entry of a store made by hand."""

from __future__ import annotations

from pathlib import Path

from machine.files import canonical_json, sha256, write_json


def stored(folder: Path, key: str) -> Path:
    """A record, and beside it a checkpoint that no network is in; returns the latter's path."""
    path = folder / "store" / f"{key}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.encode())
    record = {
        "key": key,
        "stage": "train",
        "finished": "2026-11-25T00:00:00+00:00",
        "metrics": {"accuracy": 90.0},
        "checkpoint_sha256": sha256(path.read_bytes()),
    }
    sealed = {"sha256": sha256(canonical_json(record)), "record": record}
    write_json(path.with_suffix(".json"), sealed)
    return path
