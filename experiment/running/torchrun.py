"""`torchrun ... main.py`: the first process runs the command, the others train along with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from experiment.running.console import NoTerminal
from machine.waiting import considerate_waiting
from stages.fitting import fit
from stages.ranks import take_part
from training.team import join


def led_by_the_first(command: Callable[[], int]) -> int:
    """`command`'s exit code; in a process that only takes part, 0 once the first has finished."""
    team = join()
    if team is None:
        return command()
    if team.rank == 0:
        try:
            return command()
        finally:
            team.dismiss()
    quiet = contextlib.redirect_stderr(NoTerminal(sys.stderr))  # bars are the first process's
    with quiet, considerate_waiting():
        try:
            take_part(team, fit)
        except (RuntimeError, OSError) as error:
            print(f"process {team.rank}: {error}", file=sys.stderr)
            return 1
    return 0
