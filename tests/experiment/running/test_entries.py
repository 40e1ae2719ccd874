"""The store's records, read without its networks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from experiment.running.entries import Entries
from tests.support.store_samples import stored


def test_names_are_links_and_copies(tmp_path: Path) -> None:
    one, two = stored(tmp_path, "1" * 64), stored(tmp_path, "2" * 64)
    stored(tmp_path, "3" * 64)
    os.link(one, tmp_path / "A_pruned.pth")
    os.link(one, tmp_path / "B_pruned.pth")
    shutil.copy(two, tmp_path / "C.pth")  # as a folder that was copied has them
    (tmp_path / "foreign.pth").write_bytes(b"something else")
    assert Entries(tmp_path).names() == {"1" * 64: ["A_pruned", "B_pruned"], "2" * 64: ["C"]}
