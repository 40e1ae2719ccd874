"""`python main.py`: check the config, plan the chains, run what is not in the store yet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment.commands.parser import Parser, running_options, suite_options
from experiment.running.console import Console
from experiment.running.executor_options import Execution, execution
from machine.errors import Interrupted
from machine.installation import starting

if TYPE_CHECKING:
    from experiment.running.results import Results
    from experiment.suite.records import Suite


def run_command(arguments: list[str], console: Console, commands: Sequence[str]) -> int:
    """The plain run; returns the exit code. `commands` are the others, which the help names."""
    args = _parser(commands).parse_args(arguments)
    console.quiet = args.quiet
    where = execution(args)
    if args.report:
        from experiment.commands.report import report_command

        return report_command(args.config, console)
    with starting():
        from experiment.running.run_view import RunView
        from experiment.running.store import Store
        from experiment.suite.chains import plan
        from experiment.suite.schema import load_suite
    suite = load_suite(args.config, overrides=args.set, only=args.only)
    if args.dry_run:
        view = RunView(console)
        view.dry_run(plan(suite), Store(suite.model_dir, console.say))
        view.remarks(suite)
        return 0
    more = {"remeasure": args.remeasure, "tensorboard": args.tensorboard}
    results = run_suite(suite, args.baseline, console, execution=where, **more)
    return 1 if results.failures() else 0


def run_suite(
    suite: Suite,
    baseline: str = "reuse",
    console: Console | None = None,
    *,
    remeasure: bool = False,
    tensorboard: bool = False,
    execution: Execution | None = None,
) -> Results:
    """`run_chains`, then a closing table and the report; an interrupted run has the report too."""
    from experiment.report.write import write_report
    from experiment.running.run import run_chains
    from experiment.running.run_view import RunView

    console = console or Console()
    more: dict[str, Any] = {"remeasure": remeasure, "tensorboard": tensorboard}
    try:
        results = run_chains(suite, baseline, console, execution=execution, **more)
    except Interrupted:
        write_report(suite.results_dir)
        raise
    RunView(console).closing(results)
    console.say(f"report: {write_report(suite.results_dir)[0]}")
    return results


def _parser(commands: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        description="Run chains of compression stages, in any order, and measure every stage.",
        epilog=f"Commands, each with --help: {', '.join(commands)}. "
        "Exit codes: 0 done, 1 an experiment failed, 2 wrong config, 130 interrupted.",
        parents=[suite_options("the suite to run"), running_options(baseline="ask")],
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="some experiments; baselines and teachers come along",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", action="store_true", help="print the plan: each stage, cached or to run"
    )
    instead.add_argument(
        "--report", action="store_true", help="rebuild the report from results/*.json alone"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="curves, figures and hparams for TensorBoard in RESULTS_DIR/tensorboard",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no bars, and lines only where something is wrong"
    )
    return parser
