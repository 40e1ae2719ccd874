"""`python main.py --report`: the page anew, from the JSON alone."""

from __future__ import annotations

from pathlib import Path

from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.suite.config_file import config_values, folder_of
from experiment.suite.messages import Mistake, stop_at


def report_command(config: str, console: Console) -> int:
    """`python main.py --report`: needs of the config only where the results are."""
    mistakes: list[Mistake] = []
    results_dir = folder_of(config_values(Path(config)), "RESULTS_DIR", mistakes)
    stop_at(mistakes)
    path = write_report(results_dir)[0]
    console.say(f"report: {path}, with tables and figures beside it")
    return 0
