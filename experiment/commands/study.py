"""`python main.py study [NAME]`: plan and run an order study, and show what it found."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from experiment.commands.parser import Parser, running_options, suite_options
from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.running.executor_options import execution
from experiment.running.run_view import RunView
from experiment.running.store import Store
from experiment.running.study_result import WORDS, StudyResult
from experiment.study.plan import Study, load_studies, load_study
from experiment.study.recommend import parse_wish, recommendation
from experiment.study.run import run_study, study_path
from experiment.suite.chains import plan
from machine.errors import Interrupted
from machine.files import finite

SHOWN = 12  # chains in the closing table


def study_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code: 1 where a chain failed or none is recommended."""
    args = _parser().parse_args(arguments)
    where = execution(args)
    wish = parse_wish(args.recommend) if args.recommend is not None else None
    if args.name is None:
        return _list(args.config, console)
    study = load_study(args.config, args.name, overrides=args.set)
    if args.dry_run:
        return _dry_run(study, console)
    how = {"baseline": args.baseline, "remeasure": args.remeasure}
    try:
        report = run_study(study, console, execution=where, **how)
    except Interrupted:
        write_report(study.suite.results_dir)
        raise
    show(study.config.name, StudyResult.model_validate(finite(report)), console)
    page = write_report(study.suite.results_dir)[0]
    console.say(f"written to {study_path(study)}; report: {page}")
    found = True
    if wish is not None:
        found, text = recommendation(wish, report)
        console.say("")
        console.say(text)
        if found and args.set:
            console.say(f"# to be run with --set {' --set '.join(args.set)}, as the study was")
    return 0 if found and not report["failed"] else 1


def _parser() -> Parser:
    parser = Parser(
        "study",
        description="Compare orders of compression stages: ORDER_STUDIES of a config.",
        epilog="Exit codes: 0 done, 1 a chain failed or none meets --recommend, 2 wrong config.",
        parents=[suite_options(), running_options(baseline="reuse")],
    )
    parser.add_argument("name", nargs="?", help="a study; without it they are listed")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument(
        "--recommend",
        metavar="WISH",
        help='the best chain for e.g. "accuracy_drop<=0.5, min latency_ms", as a config entry',
    )
    return parser


def _list(config: str, console: Console) -> int:
    studies = load_studies(config)
    if not studies:
        console.say(f"{config}: no studies; ORDER_STUDIES is empty (see configs/order_study_*.py)")
        return 0
    for study in studies:
        orders = study.orders if isinstance(study.orders, str) else f"{len(study.orders)} orders"
        stages = "; ".join(
            f"{letter} = {' → '.join(_named(item) for item in study.sequence(letter))}"
            for letter in study.stages
        )
        seeds = len(study.seeds or [0])
        console.say(f"{study.name:24} {orders} from {study.baseline}, seeds {seeds}: {stages}")
    return 0


def _named(item: Any) -> str:
    return item if isinstance(item, str) else next(iter(item))


def _dry_run(study: Study, console: Console) -> int:
    chains = plan(study.suite)
    own = [chain for chain in chains if chain.baseline is not None]
    stages = {step.key for chain in chains for step in chain.steps}
    alone = sum(len(chain.all_steps()) for chain in own)
    seeds = len({chain.seed for chain in own})
    epochs = sorted(set(study.epochs.values()))
    view = RunView(console)
    view.dry_run(chains, Store(study.suite.model_dir, console.say))
    view.remarks(study.suite)
    console.say(
        f"study {study.config.name}: {len(study.links)} chains, {seeds} seeds; {len(stages)} "
        f"different stages (each chain by itself: {alone}); {epochs} epochs after the baseline"
    )
    return 0


# --- what was found ----------------------------------------------------------------------------


def show(name: str, study: StudyResult, console: Console) -> None:
    """The findings of a study on the terminal."""
    console.say("")
    console.rich.print(_pair_table(name, study))
    console.rich.print(_chain_table(study))
    for finding in study.findings:
        console.say(finding.text)


def _pair_table(name: str, study: StudyResult) -> Table:
    title = (
        f"Study {name}: accuracy of first → second less that of second → first, points, "
        f"{study.method.confidence:.0%} interval over {study.method.covers}"
    )
    table = Table(title=title, title_justify="left")
    equal = [f"equal {WORDS[cost]}" for cost in study.costs]
    for heading in ("pair", *equal, "better in", "test split", ""):
        table.add_column(heading, justify="left" if heading in ("pair", "") else "right")
    for pair in study.pairs:
        difference = pair.test_difference
        table.add_row(
            f"{pair.first} → {pair.second}",
            *(pair.at(cost).text for cost in study.costs),
            f"{pair.won} runs",
            "–" if difference is None else f"{difference:+.2f}",
            "decided" if pair.decided else f"undecided: {pair.reason}",
        )
    return table


def _chain_table(study: StudyResult) -> Table:
    chains = study.ranking()
    more = f" (best {SHOWN} of {len(chains)})" if len(chains) > SHOWN else ""
    title = f"Chains by accuracy on the validation share{more}"
    table = Table(title=title, title_justify="left")
    ratios = [WORDS[name] for name in study.shown_ratios]
    for heading in ("chain", "accuracy %", "drop", *ratios, "test drop"):
        table.add_column(heading, justify="left" if heading == "chain" else "right")
    for chain in chains[:SHOWN]:
        drops = [f"{drop:.2f}" for drop in (chain.accuracy_drop, chain.test.accuracy_drop)]
        table.add_row(chain.name, chain.text, drops[0], *study.ratios(chain), drops[1])
    return table
