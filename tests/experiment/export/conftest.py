"""Exported packages are compiled without autotuning, which takes most of the compiling."""

from __future__ import annotations

import pytest

from engines import inductor


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without autotuning, which takes most of the compiling."""
    monkeypatch.setattr(inductor, "SMALL_SETTINGS", {})
