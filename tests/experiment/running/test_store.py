"""Every flipped byte is found, set aside and computed again; snapshots belong to their parents."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from experiment.running.store import Store
from tests.support.store_samples import stored
from tests.support.suites import CHAINS, Suites, results


def test_every_flipped_byte_is_found(run_before: Suites) -> None:
    """One byte of each file of the store in turn: told, set aside, computed again, same result."""
    before = {s["stage"]: s["metrics"]["accuracy"] for s in results(run_before, "PFQ")["stages"]}
    keys = {s["key"] for name in ("Base", "PFQ") for s in results(run_before, name)["stages"]}
    folder = run_before.models / "store"
    files = sorted(folder / f"{key}{suffix}" for key in keys for suffix in (".pth", ".json"))
    assert len(files) == 8
    for number, path in enumerate(files):
        content = bytearray(path.read_bytes())
        content[len(content) * (number + 1) // 10] ^= 1
        path.write_bytes(content)
        run_before.capsys.readouterr()
        assert run_before.run(CHAINS, "--only", "PFQ") == 0
        assert "set aside as" in run_before.capsys.readouterr().out, path
        stages = results(run_before, "PFQ")["stages"] + results(run_before, "Base")["stages"]
        assert [stage["cached"] for stage in stages].count(False) == 1
        assert {
            s["stage"]: s["metrics"]["accuracy"] for s in stages if s["stage"] != "train"
        } == before


def test_snapshots_are_verified_and_belong_to_their_parents_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.snapshot("k", "a" * 64).save({"epoch": 3})
    assert store.snapshot("k", "a" * 64).load() == {"epoch": 3}
    assert store.snapshot("k", "b" * 64).load() is None
    assert "began from other weights" in capsys.readouterr().out
    snapshot = store.snapshot("k")
    snapshot.save({"epoch": 4})
    content = bytearray(snapshot.path.read_bytes())
    for position in (0, 70, len(content) - 1):
        content[position] ^= 1
        snapshot.path.write_bytes(content)
        assert snapshot.load() is None
        assert "the snapshot is damaged; set aside" in capsys.readouterr().out
        content[position] ^= 1


def test_names_are_links_and_copies(tmp_path: Path) -> None:
    one, two = stored(tmp_path, "1" * 64), stored(tmp_path, "2" * 64)
    stored(tmp_path, "3" * 64)
    os.link(one, tmp_path / "A_pruned.pth")
    os.link(one, tmp_path / "B_pruned.pth")
    shutil.copy(two, tmp_path / "C.pth")  # as a folder that was copied has them
    (tmp_path / "foreign.pth").write_bytes(b"something else")
    assert Store(tmp_path).names() == {"1" * 64: ["A_pruned", "B_pruned"], "2" * 64: ["C"]}
