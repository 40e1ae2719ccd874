"""Parsing of command lines, the same for the plain run and every subcommand.

What several commands take is a parent parser here, for argparse's `parents`.
"""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from experiment.running.executor_options import add_execution_options
from experiment.suite.messages import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse, with its mistakes told as this project tells them, and options in full only."""

    def __init__(self, command: str = "", **more: Any):
        super().__init__(prog=f"python main.py {command}".rstrip(), allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        known = [o for action in self._actions for o in action.option_strings]
        words = message.split() if message.startswith("unrecognized") else []
        close = [
            c for w in words if w.startswith("--") for c in difflib.get_close_matches(w, known)
        ]
        hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
        raise ConfigError([f"command line: {message}; {hint}"])


def config_option(why: str = "the suite") -> Parser:
    """A parent with `--config`."""
    parent = Parser(add_help=False)
    parent.add_argument("--config", default="config.py", metavar="FILE", help=why)
    return parent


def suite_options(why: str = "the suite") -> Parser:
    """A parent with `--config` and `--set`."""
    parent = Parser(add_help=False, parents=[config_option(why)])
    parent.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="override one key in every experiment, e.g. training_args.batch_size=64 (repeatable)",
    )
    return parent


def running_options(baseline: str, *, remeasure: bool = True) -> Parser:
    """A parent with what running chains takes; `baseline` is the default of `--baseline`."""
    parent = Parser(add_help=False)
    parent.add_argument(
        "--baseline",
        choices=["ask", "reuse", "retrain"],
        default=baseline,
        help="trained baselines: ask (reuse where there is no terminal), reuse, retrain; default: "
        "%(default)s",
    )
    if remeasure:
        parent.add_argument(
            "--remeasure",
            action="store_true",
            help="take the metrics of stored stages again (on another or a quieter machine)",
        )
    add_execution_options(parent)
    return parent
