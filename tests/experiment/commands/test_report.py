"""A run writes the report, also when it is interrupted, and so does the command."""

from __future__ import annotations

import json
from typing import Any

import main
from machine.errors import Interrupted
from tests.support.html import Tags
from tests.support.suites import Suites


def test_a_run_writes_the_report(suites: Suites) -> None:
    text = """
        EXPERIMENT_CONFIGS += [chain("SQ", {"prune": {"mode": "structural", "ratio": 0.4}}, "ptq")]
    """
    assert suites.run(text) == 0
    written = suites.results / "report.html"
    assert f"report: {written}" in suites.capsys.readouterr().out
    tags = Tags(written.read_text())
    data = json.loads(tags.scripts[0])
    by_name = {item["name"]: item for item in data["experiments"]}
    assert by_name["SQ"]["sequence"] == "prune → ptq"
    assert by_name["SQ"]["steps"][0]["layer_macs"]
    assert by_name["Base"]["curves"][0]["train_loss"]
    # From the JSON alone: no data set, no checkpoints, and a suite that could not run here.
    before = written.read_bytes()
    written.unlink()
    lost = 'DEFAULT_DATASET_CONFIG = {"name": "ImageFolder", "root": "/not/there"}'
    assert suites.run(lost, "--report") == 0
    assert written.read_bytes() == before


def test_an_interrupted_run_writes_the_report(suites: Suites, monkeypatch: Any) -> None:
    def interrupted(*args: Any) -> None:
        raise Interrupted

    monkeypatch.setattr("experiment.running.executor.SerialExecutor.run", interrupted)
    assert suites.run() == 130
    assert (suites.results / "report.html").exists()


def test_report_on_the_command_line(suites: Suites) -> None:
    assert suites.run("", "--report") == 0
    assert "No results yet" in (suites.results / "report.html").read_text()
    assert not suites.models.exists()
    assert suites.run("RESULTS_DIR = 3", "--report") == 2
    assert "RESULTS_DIR: 3 is not a folder name" in suites.capsys.readouterr().err
    assert suites.run("", "--report", "--dry-run") == 2
    assert main.main(["--config", "nowhere.py", "--report"]) == 2
