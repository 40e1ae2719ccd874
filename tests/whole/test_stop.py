"""Ctrl-C and SIGTERM while a compiler works: a real run, with all the processes that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.compiler import needs_compiler
from tests.support.home import HOME
from tests.support.suites import Suites, summary


def descendants(pid: int) -> dict[int, str]:
    """Those of a process, with their command lines; what has just ended is left out."""
    found: dict[int, str] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, path.read_text().split()):
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                found |= descendants(child)
        except OSError:
            continue
    return found


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_stop_while_a_compiler_works(
    number: signal.Signals, to_all: bool, suites: Suites
) -> None:
    """A terminal's Ctrl-C goes to the compiler as well; `kill` to the run alone."""
    path = suites.write(
        """
        by = {"engines": ["inductor"]}
        EXPERIMENT_CONFIGS += [chain("Q", {"ptq": {"backend": "pt2e"}}, deployment_args=by)]
        """
    )
    env = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_COMPILE_THREADS"}
    command = [sys.executable, "main.py", "--config", str(path)]
    log_file = suites.folder / "log.txt"
    with log_file.open("w") as log:
        run = subprocess.Popen(
            command, cwd=HOME, env=env, stdout=log, stderr=log, start_new_session=True
        )
    while "] ptq" not in log_file.read_text() or not any(
        "cc1plus" in words for words in descendants(run.pid).values()
    ):
        assert run.poll() is None, log_file.read_text()
        time.sleep(0.05)
    started = descendants(run.pid)
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(run.pid, number)
    assert run.wait(60) == 130, log_file.read_text()
    assert time.monotonic() - began < 30  # 3 s, and torch's own processes come to their end
    printed = log_file.read_text()
    assert "stopping after" in printed and "Traceback" not in printed
    rows = {row["experiment"]: row["status"] for row in summary(suites)["experiments"]}
    assert rows == {"Base": "done", "Q": "interrupted"}
    time.sleep(1)
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
