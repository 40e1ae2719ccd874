"""Ctrl-C saves, says how to go on, and the next run goes on; what cannot save is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

from experiment.running.store import StoredSnapshot
from machine.errors import Interrupted
from machine.stop_signal import StopSignal
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_ask_is_ended_where_it_is(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an evaluation, which only computes, and a compilation, which waits for a compiler."""
    monkeypatch.setattr("machine.stop_signal.GRACE_SECONDS", 0.2)

    def evaluation() -> None:
        while True:
            sum(range(1000))

    def compilation() -> None:
        compiler = subprocess.Popen(["sleep", "60"])
        try:
            compiler.communicate()
        finally:
            compiler.kill()
            compiler.wait()

    for work in evaluation, compilation:
        press = threading.Timer(0.1, os.kill, (os.getpid(), number))
        with pytest.raises(Interrupted), StopSignal().listening(lambda text: None):
            started = time.monotonic()
            press.start()  # not before somebody listens: the signal would end the tests
            try:
                work()
            except Exception as error:  # as compilers and libraries catch what goes wrong in them
                raise AssertionError("the signal came as an error") from error
        assert 0.3 < time.monotonic() - started < 5
        press.join()


def test_who_asks_has_the_time_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machine.stop_signal.GRACE_SECONDS", 0.5)
    stop = StopSignal()
    with stop.listening(lambda text: None):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        time.sleep(0.8)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_in_the_measuring_ends_the_run_and_keeps_the_training(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machine.stop_signal.GRACE_SECONDS", 0.2)

    def endless(*about: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            sum(range(1000))

    with monkeypatch.context() as patch:
        patch.setattr("experiment.running.step.measure", endless)
        assert suites.run() == 130
    printed = suites.capsys.readouterr().out
    assert "measuring" in printed and "interrupted; what was done is saved" in printed
    assert summary(suites)["experiments"][0]["status"] == "interrupted"
    assert suites.run() == 0
    stage = results(suites, "Base")["stages"][0]
    assert stage["resumed"] and len(stage["details"]["history"]) == 2


def test_a_compiler_that_the_signal_ended_is_no_failure(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a terminal goes to every process, so that what waits for one sees it fail."""

    def compiled(*about: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("g++ failed")

    monkeypatch.setattr("experiment.running.step.measure", compiled)
    assert suites.run() == 130
    assert summary(suites)["experiments"][0]["status"] == "interrupted"
