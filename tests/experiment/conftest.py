"""An order study that is run once, and what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.hurried import hurry
from tests.support.once import made_once
from tests.support.studies import STUDY, study
from tests.support.suites import SUITE


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been run; its config."""

    def make(folder: Path) -> None:
        path = folder / "suite.py"
        path.write_text(SUITE.format(folder=folder) + STUDY)
        with pytest.MonkeyPatch.context() as patch:
            hurry(patch)
            assert study(path, "Tiny") == 0

    return made_once(tmp_path_factory, "study", make) / "suite.py"


@pytest.fixture
def report(tiny_study: Path) -> dict[str, Any]:
    return json.loads((tiny_study.parent / "results" / "study_Tiny.json").read_text())
