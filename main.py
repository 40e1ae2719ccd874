"""Command line of the suite: check the config, plan the chains, run what is not in the store yet.

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
    python main.py store ls|verify|gc                what is stored, is it intact, remove the rest
    python main.py doctor                            what is missing here, and the remedy

Exit codes: 0 all done, 1 some experiment failed, 2 wrong config or command line and nothing ran,
130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from experiment.doctor_command import doctor_command
from experiment.installation import cannot_start

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without → or ×
    if sys.argv[1:2] == ["doctor"]:
        sys.exit(doctor_command(sys.argv[2:]))  # before torch, which may be what is broken

try:
    from dataset import DataError
    from experiment.baselines import UserQuitError
    from experiment.chain import plan
    from experiment.command_line import Parser
    from experiment.compare_command import compare_command
    from experiment.console import Console
    from experiment.execution import add_execution_options, execution
    from experiment.export_command import export_command
    from experiment.messages import ConfigError, unknown
    from experiment.predict_command import predict_command
    from experiment.report import report_command
    from experiment.run import run_suite
    from experiment.schema import load_suite
    from experiment.sensitivity_command import sensitivity_command
    from experiment.show_command import show_command
    from experiment.store import CheckpointError, Store
    from experiment.store_command import store_command
    from experiment.study_command import study_command
    from experiment.torchrun import led_by_the_first
    from parallel import TeamError
    from stages.state import Interrupted, StageError
    from train_eval import NonFiniteLossError, get_optimizer, get_scheduler
except Exception as broken:  # whatever a half-installed package raises
    if __name__ != "__main__":
        raise
    print(cannot_start(broken), file=sys.stderr)
    sys.exit(2)

SUBCOMMANDS = {
    "store": store_command,
    "sensitivity": sensitivity_command,
    "export": export_command,
    "study": study_command,
    "show": show_command,
    "compare": compare_command,
    "predict": predict_command,
    "doctor": doctor_command,
}

__all__ = ["get_optimizer", "get_scheduler", "main", "run_experiment", "run_suite"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Under torchrun the first process does that."""
    return led_by_the_first(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    console = Console()
    try:
        if arguments[:1] and arguments[0] in SUBCOMMANDS:
            return SUBCOMMANDS[arguments[0]](arguments[1:], console)
        if arguments[:1] and not arguments[0].startswith("-"):
            raise ConfigError([f"command line: {unknown(arguments[0], SUBCOMMANDS, 'a command')}"])
        args = _parser().parse_args(arguments)
        console.quiet = args.quiet
        where = execution(args)
        if args.report:
            return report_command(args.config, console)
        suite = load_suite(args.config, overrides=args.set, only=args.only)
        chains = plan(suite)
        if args.dry_run:
            console.dry_run(chains, Store(suite.model_dir, console.say))
            return 0
        more = {"remeasure": args.remeasure, "tensorboard": args.tensorboard}
        results = run_suite(suite, args.baseline, console, execution=where, **more)
    except ConfigError as error:
        return _refuse(error.problems)
    except (DataError, CheckpointError) as error:
        return _refuse([str(error)])
    except (UserQuitError, KeyboardInterrupt):
        return 130
    except Interrupted:
        command = " ".join(["python main.py", *arguments])
        console.note(f"\ninterrupted; what was done is saved. To go on: {command}")
        return 130
    except (StageError, NonFiniteLossError, TeamError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot go on: {error}; files written before are intact", file=sys.stderr)
        return 1
    return 1 if results.failures() else 0


def run_experiment(name: str, config: Path | str = "config.py", **options: Any) -> dict[str, Any]:
    """Run one experiment of a config (with the baseline it needs); returns its results as written.

    `options` are `overrides` of `load_suite` and those of `run_suite`.
    """
    overrides = options.pop("overrides", None)
    suite = load_suite(config, overrides=overrides, only=[name])
    return run_suite(suite, **options).experiments[name]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python main.py",
        description="Run chains of compression stages, in any order, and measure every stage.",
        epilog=f"Commands, each with --help: {', '.join(SUBCOMMANDS)}. "
        "Exit codes: 0 done, 1 an experiment failed, 2 wrong config, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="config.py", metavar="FILE", help="the suite to run")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="some experiments; baselines and teachers come along",
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="override one key in every experiment, e.g. training_args.batch_size=64 (repeatable)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", action="store_true", help="print the plan: each stage, cached or to run"
    )
    instead.add_argument(
        "--report", action="store_true", help="rebuild the report from results/*.json alone"
    )
    parser.add_argument(
        "--baseline",
        choices=["ask", "reuse", "retrain"],
        default="ask",
        help="trained baselines: ask (default; reuse where there is no terminal), reuse, retrain",
    )
    parser.add_argument(
        "--remeasure",
        action="store_true",
        help="take the metrics of stored stages again (on another or a quieter machine)",
    )
    add_execution_options(parser)
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="curves, figures and hparams for TensorBoard in RESULTS_DIR/tensorboard",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no bars, and lines only where something is wrong"
    )
    return parser


def _refuse(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
