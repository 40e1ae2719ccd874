"""`python main.py study [NAME]`: plan and run an order study, and show what it found."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from rich.table import Table

from experiment.commands.parser import Parser, running_options, suite_options
from experiment.outcomes.side_by_side import SideBySide, side_by_side
from experiment.outcomes.study import WORDS, StudyResult
from experiment.outcomes.verdicts import interval_text
from experiment.outcomes.wish import Wish, parse_wish
from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.running.executor_options import Execution, execution
from experiment.running.run_view import RunView
from experiment.running.store import Store
from experiment.study.course import Course, Spent
from experiment.study.plan import Study, load_studies, load_study, named_studies
from experiment.study.recommend import recommendation
from experiment.study.run import first_and_most, run_study, study_path
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
    names = named_studies(args.config, args.name)
    studies = [load_study(args.config, name, overrides=args.set) for name in names]
    if args.dry_run:
        return max(_dry_run(study, console) for study in studies)
    codes, found = [], {}
    for study in studies:
        code, report = _run(study, args, where, wish, console)
        codes.append(code)
        found[study.config.name] = StudyResult.model_validate(finite(report))
    for beside in side_by_side(found):
        console.say("")
        console.rich.print(_table_beside(args.name, beside))
        console.say(beside.said)
    return max(codes)


def _run(
    study: Study, args: Namespace, where: Execution, wish: Wish | None, console: Console
) -> tuple[int, dict[str, Any]]:
    """One study: its exit code and its report."""
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
    return (0 if found and not report["failed"] else 1), report


def _parser() -> Parser:
    parser = Parser(
        "study",
        description="Compare orders of compression stages: ORDER_STUDIES of a config.",
        epilog="Exit codes: 0 done, 1 a chain failed or none meets --recommend, 2 wrong config.",
        parents=[suite_options(), running_options(baseline="reuse")],
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="a study, of each baseline that it names; without it they are listed",
    )
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
        rounds = study.by_rounds
        seeds = f"{rounds.min} to {rounds.max}" if rounds else len(study.all_seeds or [0])
        console.say(f"{study.name:24} {orders} from {study.baseline}, seeds {seeds}: {stages}")
    return 0


def _named(item: Any) -> str:
    return item if isinstance(item, str) else next(iter(item))


def _dry_run(study: Study, console: Console) -> int:
    """The chains and stages of the first round, and what all rounds may come to."""
    first, most = first_and_most(study)
    chains = plan(first)
    store = Store(study.suite.model_dir, console.say)
    own = [chain for chain in chains if chain.baseline is not None]
    alone = sum(len(chain.all_steps()) for chain in own)
    names = {chain.experiment.name for chain in own}
    epochs = sorted({study.epochs[name] for name in names})
    view = RunView(console)
    view.dry_run(chains, store)
    view.remarks(study.suite)
    course = Course(store)
    course.count(most)
    least, all_of_them = course.spent(first), course.spent(most)
    seeds = len({chain.seed for chain in own})
    console.say(
        f"study {study.config.name}: {len(names)} chains, {seeds} seeds; {least.stages} "
        f"different stages (each chain by itself: {alone}); {epochs} epochs after the baseline"
    )
    if study.config.by_rounds is not None:
        console.say(
            f"rounds: the first {_cost(least)}, all {study.config.by_rounds.max} seeds for every "
            f"pair {_cost(all_of_them)}"
            + ("; then at most " + _longer(study) if study.config.verify else "")
        )
    return 0


def _cost(spent: Spent) -> str:
    hours = f", about {spent.hours:.1f} hours" if spent.hours is not None else ""
    return f"{spent.stages} stages, {spent.epochs} epochs{hours}"


def _longer(study: Study) -> str:
    """How many orders of all letters `verify` runs."""
    orders = len(study.config.stages) + (study.config.papers_order() is not None)
    return f"{orders} orders of all stages"


# --- what was found ----------------------------------------------------------------------------


def show(name: str, study: StudyResult, console: Console) -> None:
    """The findings of a study on the terminal."""
    console.say("")
    console.rich.print(_pair_table(name, study))
    console.rich.print(_chain_table(study))
    for finding in study.findings:
        console.say(finding.text)


def _pair_table(name: str, study: StudyResult) -> Table:
    title, method = f"Study {name}: {study.compared}", study.method
    if method.confidence is not None:
        title += f", {method.confidence:.0%} interval over {method.covers}"
    judged = study.margin is not None  # else a file that has neither sure intervals nor verdicts
    table = Table(title=title, title_justify="left")
    equal = [f"equal {WORDS[cost]}" for cost in study.costs]
    sure = ["sure of all together", "seeds"] if judged else []
    for heading in ("pair", *equal, *sure, "better in", "test split", "verdict"):
        table.add_column(heading, justify="left" if heading in ("pair", "verdict") else "right")
    for pair in study.pairs:
        difference, interval, why = pair.test_difference, pair.sure_interval, pair.why_open(study)
        certain = "–" if interval is None else interval_text(interval, study.unit)
        table.add_row(
            f"{pair.first} → {pair.second}",
            *(pair.at(cost).text(study.unit) for cost in study.costs),
            *([certain, f"{pair.n.seeds}"] if judged else []),
            f"{pair.won} runs",
            "–" if difference is None else f"{difference:+.2f}",
            f"{pair.said(study)}: {why}" if why else pair.said(study),
        )
    return table


def _table_beside(name: str, beside: SideBySide) -> Table:
    table = Table(title=f"Studies {name}, side by side", title_justify="left")
    for heading in ("pair", *(f"from {baseline}" for baseline in beside.baselines)):
        table.add_column(heading)
    for pair, texts in beside.rows:
        table.add_row(pair, *texts)
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
        sure = chain.drop_interval
        drops[0] += f" ({interval_text(sure)})" if sure else ""
        table.add_row(chain.name, chain.text, drops[0], *study.ratios(chain), drops[1])
    return table
