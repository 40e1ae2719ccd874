"""Equal results give equal bytes."""

from __future__ import annotations

from pathlib import Path

from experiment.report.reader import read_folder
from experiment.report.write import write_report


def test_equal_results_give_equal_bytes(small: Path) -> None:
    first = {path.name: path.read_bytes() for path in write_report(small)}
    assert {path.name: path.read_bytes() for path in write_report(small)} == first
    assert read_folder(small).problems == []  # what it wrote does not disturb it
