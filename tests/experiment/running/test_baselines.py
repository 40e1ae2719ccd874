"""A trained baseline is asked for, kept, retrained or told to be stale."""

from __future__ import annotations

import pytest

from tests.support.suites import Suites, cached


def test_retrain_recomputes_and_keeps_the_old_file(suites: Suites) -> None:
    assert suites.run() == 0
    assert suites.run("", "--baseline", "retrain") == 0
    assert cached(suites, "Base") == [False]
    assert list((suites.models / "store").glob("*.aside1"))


@pytest.mark.parametrize(("answer", "expected"), [("", True), ("n", False)])
def test_a_terminal_is_asked(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool
) -> None:
    assert suites.run() == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: answer)
    suites.capsys.readouterr()
    assert suites.run() == 0
    assert cached(suites, "Base") == [expected]
    printed = suites.capsys.readouterr().out
    assert printed.count("Base is trained") == 1 and "Reuse it?" in printed


def test_the_end_of_the_input_stops_the_run(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert suites.run() == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda *size: "")
    assert suites.run() == 130


def test_a_stale_baseline_is_told_with_what_differs(suites: Suites) -> None:
    assert suites.run() == 0
    suites.capsys.readouterr()
    assert suites.run("", "--set", "training_args.learning_rate=0.01") == 0
    printed = suites.capsys.readouterr().out
    assert "Base: stale, it was trained with other settings" in printed
    assert "spec.learning_rate: 0.005 → 0.01" in printed
    assert cached(suites, "Base") == [False]
