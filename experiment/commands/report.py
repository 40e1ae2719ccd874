"""`python main.py --report`: the page anew, from the JSON alone."""

from __future__ import annotations

from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.suite.config_file import folder_named


def report_command(config: str, console: Console) -> int:
    """`python main.py --report`: needs of the config only where the results are."""
    path = write_report(folder_named(config, "RESULTS_DIR"))[0]
    console.say(f"report: {path}, with tables and figures beside it")
    return 0
