"""Ctrl-C saves, says how to go on, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from experiment.running.store import StoredSnapshot
from tests.support.suites import Suites, results, summary


def test_interrupt_saves_says_how_to_go_on_and_resumes(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGINT in the middle of training, as soon as there is a snapshot."""
    slow = 'BASE["training_args"] = {"initial_train_epochs": 12}\n'
    save, pressed = StoredSnapshot.save, []

    def press(snapshot: StoredSnapshot, value: dict[str, Any]) -> None:
        save(snapshot, value)
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StoredSnapshot, "save", press)
    code = suites.run(slow)
    assert code == 130
    printed = suites.capsys.readouterr().out
    assert "stopping after the current step" in printed
    assert "To go on: python main.py --config" in printed
    assert summary(suites)["experiments"][0]["status"] == "interrupted"
    assert suites.run(slow, "--dry-run") == 0
    assert "0 cached, 1 resumable, 0 to run" in suites.capsys.readouterr().out
    assert suites.run(slow) == 0
    stage = results(suites, "Base")["stages"][0]
    assert stage["resumed"] and not stage["cached"]
    assert len(stage["details"]["history"]) == 12
    assert "resumed at epoch" in suites.capsys.readouterr().out
