"""Runs whose times nobody looks at."""

from __future__ import annotations

import pytest

from engines.footprint import Footprint


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Time each network for an instant; no ratio is refused for what so few rounds disagree on."""
    some = Footprint(100.0, 50.0)  # else a process that imports torch
    patch.setattr("experiment.running.measure.footprint", lambda *about: some)
    patch.setattr("machine.timing.LATENCY_SECONDS", 0.01)
    patch.setattr("stages.latency.UNSTEADY", float("inf"))
