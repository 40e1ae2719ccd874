"""Command line of the suite: which command, which exit code.

    python main.py                                   run config.py
    python main.py --config configs/quickstart.py    another suite
    python main.py --dry-run                         the plan, without running it
    python main.py --report                          results/report.html anew, from the JSON alone
    python main.py show EXPERIMENT                   its stages, settings and warnings
    python main.py compare A B                       two experiments, stage by stage
    python main.py predict CHECKPOINT IMAGE ...      classes and confidences
    python main.py sensitivity EXPERIMENT            accuracy against pruning, layer by layer
    python main.py export EXPERIMENT --format ...    its network as files for other runtimes
    python main.py study NAME                        an order study of ORDER_STUDIES
    python main.py search NAME                       order and strengths, under a budget: SEARCHES
    python main.py store ls|verify|gc                what is stored, is it intact, remove the rest
    python main.py doctor                            what is missing here, and the remedy

Exit codes: 0 all done, 1 some experiment failed, 2 wrong config or command line and nothing ran,
130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine.errors import Failed, Interrupted, Refused
from machine.installation import starting
from machine.processor import one_of_several
from machine.streams import open_streams

if TYPE_CHECKING:
    from experiment.commands.run import run_suite
    from experiment.running.console import Console
    from training.optimizers import get_optimizer, get_scheduler

__all__ = ["get_optimizer", "get_scheduler", "main", "run_experiment", "run_suite"]

# Each is a file of experiment/commands/, imported when it is asked for: torch alone takes seconds.
COMMANDS = (
    "store",
    "sensitivity",
    "export",
    "study",
    "search",
    "show",
    "compare",
    "predict",
    "doctor",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Under torchrun the first process does that."""
    arguments = sys.argv[1:] if argv is None else argv
    if not one_of_several():
        return _main(arguments)
    from experiment.running.torchrun import led_by_the_first

    return led_by_the_first(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    try:
        with starting():
            from experiment.running.console import Console
    except Refused as error:
        if arguments[:1] != ["doctor"]:
            print(error, file=sys.stderr)
            return 2
        return importlib.import_module("experiment.commands.doctor").doctor_command(arguments[1:])
    console = Console()
    try:
        return _command(arguments, console)
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted:
        command = " ".join(["python main.py", *arguments])
        console.note(f"\ninterrupted; what was done is saved. To go on: {command}")
        return 130
    except KeyboardInterrupt:
        return 130
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # names that the suite makes are bounded: a user's
            print(f"{error.filename}: is too long for a file's name", file=sys.stderr)
            return 2
        print(f"cannot go on: {error}; files written before are intact", file=sys.stderr)
        return 1


def _command(arguments: list[str], console: Console) -> int:
    if not arguments[:1] or arguments[0].startswith("-"):
        with starting():
            from experiment.commands.run import run_command

        return run_command(arguments, console, COMMANDS)
    name, *rest = arguments
    if name not in COMMANDS:
        from experiment.suite.messages import unknown

        raise Refused(f"command line: {unknown(name, COMMANDS, 'a command')}")
    with starting():
        module = importlib.import_module(f"experiment.commands.{name}")
    return getattr(module, f"{name}_command")(rest, console)


def run_experiment(name: str, config: Path | str = "config.py", **options: Any) -> dict[str, Any]:
    """Run one experiment of a config (with the baseline it needs); returns its results as written.

    `options` are `overrides` of `load_suite` and those of `run_suite`.
    """
    from experiment.commands.run import run_suite
    from experiment.suite.schema import load_suite

    overrides = options.pop("overrides", None)
    suite = load_suite(config, overrides=overrides, only=[name])
    return run_suite(suite, **options).experiments[name]


def __getattr__(name: str) -> Any:
    """The doors that a notebook takes by `main.NAME`, imported when they are asked for."""
    homes = {
        "run_suite": "experiment.commands.run",
        "get_optimizer": "training.optimizers",
        "get_scheduler": "training.optimizers",
    }
    if name not in homes:
        raise AttributeError(f"module 'main' has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)


if __name__ == "__main__":
    open_streams()
    sys.exit(main())
