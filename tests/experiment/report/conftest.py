"""A small results folder for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.report_samples import small_suite


@pytest.fixture
def small(tmp_path: Path) -> Path:
    small_suite(tmp_path)
    return tmp_path
