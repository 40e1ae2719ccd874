"""The report's rows of a results folder."""

from __future__ import annotations

from pathlib import Path

from experiment.report.reader import read_folder
from experiment.report.rows import Row, rows_of


def rows(folder: Path) -> dict[str, Row]:
    return {row.name: row for row in rows_of(read_folder(folder))}
