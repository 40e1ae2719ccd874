"""Parsing of command lines, the same for the plain run and every subcommand."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from experiment.suite.messages import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse, with its mistakes told as this project tells them."""

    def error(self, message: str) -> NoReturn:
        known = [o for action in self._actions for o in action.option_strings]
        words = message.split() if message.startswith("unrecognized") else []
        close = [
            c for w in words if w.startswith("--") for c in difflib.get_close_matches(w, known)
        ]
        hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
        raise ConfigError([f"command line: {message}; {hint}"])
