"""Parsing of command lines, the same for the plain run and every subcommand."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from experiment.messages import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse, with its mistakes told as this project tells them."""

    def error(self, message: str) -> NoReturn:
        known = [o for action in self._actions for o in action.option_strings]
        unknown = next((w for w in message.split() if w.startswith("--") and w not in known), "")
        close = difflib.get_close_matches(unknown, known, 1)
        hint = f"did you mean {close[0]}?" if unknown and close else "see python main.py --help"
        raise ConfigError([f"command line: {message}; {hint}"])
