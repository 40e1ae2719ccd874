"""Standard input, output and error as every program expects them: open, and never in the way."""

from __future__ import annotations

import io
import os
import sys


def open_streams() -> None:
    """Put what a shell has closed (`>&-`) on the null device; let a terminal print what it can.

    Otherwise the next file that is opened, by whomever, becomes standard output, and Python has
    none to flush.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            os.set_inheritable(opened, True)  # compilers expect it as well
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without → or ×
