"""A run whose standard streams are closed does what any run does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.home import HOME
from tests.support.suites import Suites, results

REPORT = """
import json, os
from machine.streams import open_streams
open_streams()
kinds = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
inherited = os.system("readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 > $REPORT.child")
with open(os.environ["REPORT"], "w") as file:
    json.dump([file.fileno(), kinds, inherited], file)
print("→")
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_opened_on_nothing(closed: tuple[int, ...], suites: Suites) -> None:
    """Files get numbers from 3 on, in this process; what it starts finds the streams open."""
    report = suites.folder / "report"
    closing = " ".join(f"{number}>&-" for number in closed)
    command = f'exec "$0" -c "$1" {closing}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, REPORT], cwd=HOME, env={"REPORT": str(report)}
    )
    assert done.returncode == 0
    number, kinds, failed = json.loads(report.read_text())
    assert number > 2 and not failed
    assert all(kinds[stream] == "/dev/null" for stream in closed)


@pytest.mark.timeout(300)
def test_int8_is_measured_without_standard_output(suites: Suites) -> None:
    """oneDNN tells what it runs through standard output, which the measuring reads."""
    path = suites.write('EXPERIMENT_CONFIGS += [chain("Q", "ptq")]\n')
    command = 'exec "$0" main.py --config "$1" >&- 2>&- <&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, str(path)], cwd=HOME)
    assert done.returncode == 0, json.dumps(results(suites, "Q")["errors"])
    assert results(suites, "Q")["status"] == "done"
