"""The door to all commands: an unknown command, and an output that closes or knows ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import main
from tests.support.home import HOME
from tests.support.suites import CHAINS, Ran, Suites


def test_an_output_that_knows_ascii_only_or_closes(ran: Ran) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    show = [sys.executable, "main.py", "show", "PF", "--config", str(ran.config)]
    told = subprocess.run(show, cwd=HOME, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and told.stderr == "" and "prune ? finetune" in told.stdout
    doctor = [sys.executable, "main.py", "doctor", "--config", str(ran.config)]
    with subprocess.Popen(
        doctor, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["comparr", "A", "B"]) == 2
    error = capsys.readouterr().err
    assert error == "command line: 'comparr' is not a command; did you mean 'compare'?\n"


def test_run_experiment_is_a_function_too(suites: Suites) -> None:
    path = suites.write(CHAINS)
    result = main.run_experiment("QatPF", path)
    assert result["status"] == "done"
    assert result["final"]["accuracy"]["n"] == 1
