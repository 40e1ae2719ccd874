"""`python main.py study [NAME]`: plan and run an order study, and show what it found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from experiment.commands.parser import Parser
from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.running.executor_options import add_execution_options, execution
from experiment.running.run_view import RunView
from experiment.running.store import Store
from experiment.study.plan import Study, load_studies, load_study
from experiment.study.recommend import parse_wish, recommendation
from experiment.study.run import run_study, study_path
from experiment.suite.chains import plan
from machine.errors import Interrupted

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
    show(report, console)
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
        prog="python main.py study",
        description="Compare orders of compression stages: ORDER_STUDIES of a config.",
        epilog="Exit codes: 0 done, 1 a chain failed or none meets --recommend, 2 wrong config.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="a study; without it they are listed")
    parser.add_argument("--config", default="config.py", metavar="FILE")
    parser.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--baseline", choices=["ask", "reuse", "retrain"], default="reuse")
    parser.add_argument("--remeasure", action="store_true", help="take all metrics again")
    add_execution_options(parser)
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
    RunView(console).dry_run(chains, Store(study.suite.model_dir, console.say))
    console.say(
        f"study {study.config.name}: {len(study.links)} chains, {seeds} seeds; {len(stages)} "
        f"different stages (each chain by itself: {alone}); {epochs} epochs after the baseline"
    )
    return 0


# --- what was found ----------------------------------------------------------------------------


def show(report: dict[str, Any], console: Console) -> None:
    """The findings of a study on the terminal."""
    console.say("")
    console.rich.print(_pair_table(report))
    console.rich.print(_chain_table(report))
    for line in findings(report):
        console.say(line)


def _pair_table(report: dict[str, Any]) -> Table:
    method = report["method"]
    percent = f"{method['confidence']:.0%}"
    title = (
        f"Study {report['study']}: accuracy of first → second less that of second → first, points, "
        f"{percent} interval over {method['covers']}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("pair", "equal BitOps", "equal latency", "better in", "test split", ""):
        table.add_column(heading, justify="left" if heading in ("pair", "") else "right")
    for pair in report["pairs"]:
        at = pair["at_equal"]
        won, runs = pair["wins"]
        difference = pair["test_difference"]
        table.add_row(
            f"{pair['first']} → {pair['second']}",
            _difference(at["bitops"]),
            _difference(at["latency_ms"]),
            f"{won:g} of {runs} runs",
            "–" if difference is None else f"{difference:+.2f}",
            "decided" if pair["decided"] else f"undecided: {pair['reason']}",
        )
    return table


def _difference(entry: dict[str, Any]) -> str:
    if entry["difference"] is None:
        return "–"
    low, high = entry["interval"]
    sign = "≥ " if entry["method"] == "dominance" else ""
    return f"{sign}{entry['difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def _chain_table(report: dict[str, Any]) -> Table:
    rows = [row for row in report["chains"] if "metrics" in row]
    rows.sort(key=lambda row: -row["metrics"]["accuracy"]["mean"])
    more = f" (best {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    title = f"Chains by accuracy on the validation share{more}"
    table = Table(title=title, title_justify="left")
    for heading in ("chain", "accuracy %", "drop", "BitOps", "ms at 1", "size", "test drop"):
        table.add_column(heading, justify="left" if heading == "chain" else "right")
    for row in rows[:SHOWN]:
        accuracy = row["metrics"]["accuracy"]
        spread = f" ± {accuracy['std']:.2f}" if accuracy["std"] is not None else ""
        ratios = [
            row["metrics"][name]["mean"] / report["baseline"]["metrics"][name]["mean"]
            for name in ("bitops", "latency_ms_batch_1", "model_size_mb")
        ]
        table.add_row(
            row["name"],
            f"{accuracy['mean']:.2f}{spread}",
            f"{row['accuracy_drop']:.2f}",
            *(f"×{ratio:.3f}" for ratio in ratios),
            f"{row['test']['accuracy_drop']:.2f}",
        )
    return table


def findings(report: dict[str, Any]) -> Iterator[str]:
    """The findings in sentences."""
    certain = "" if report["order_is_certain"] else ", by estimate where pairs are undecided"
    yield f"order: {' → '.join(report['order'])}{certain}"
    undecided = [" / ".join(pair) for pair in report["undecided"]]
    if undecided:
        yield f"undecided: {', '.join(undecided)}"
    for cycle in report["cycles"]:
        yield f"cycle: {' → '.join([*cycle, cycle[0]])}; no order suits all of these"
    for pair in report["pairs"]:
        at = pair["at_equal"].values()
        signs = {entry["difference"] > 0 for entry in at if entry["decided"]}
        if len(signs) > 1:
            yield f"{pair['first']} / {pair['second']}: BitOps and latency decide differently"
    count = sum(pair["interval"] is not None for pair in report["pairs"])
    chance = count * (1 - report["method"]["confidence"])
    if count > 1:
        yield (
            f"each interval stands for itself: were there no differences at all, about "
            f"{chance:.1f} of these {count} pairs would be decided by chance"
        )
    third = report["third_stage"]
    if third is not None:
        yield (
            f"a stage between the two of a pair: the pair's order holds in {third['holds']} cases, "
            f"flips in {third['flips']}, cannot be told in {third['open']}"
        )
        for case in third["cases"]:
            if case["verdict"] == "flips":
                yield f"  {case['first']} → {case['second']} flips with {case['between']} between"
    orders = report["permutations"]
    if orders is not None:
        repeat = orders["kendall_tau_between_seeds"]
        yield (
            f"{orders['n']} orders of all stages: Kendall's tau {orders['kendall_tau']:+.2f} "
            f"(p = {orders['p_value']:.2g}) between the ranking that pairs predict and the "
            f"measured one{f'; between seeds {repeat:+.2f}' if repeat is not None else ''}; "
            f"predicted best {orders['predicted_best']} comes in place "
            f"{orders['measured_rank_of_predicted_best']}, measured best {orders['measured_best']}"
        )
    last = None
    for best in report["best"]:
        if best["chain"] == last:
            continue
        last = best["chain"]
        yield (
            f"within {best['within']:g} points: {best['chain']}, BitOps "
            f"1/{1 / best['bitops_ratio']:.1f}, latency ×{best['latency_ms_batch_1_ratio']:.2f}, "
            f"drop {best['accuracy_drop']:.2f} (test split {best['test_accuracy_drop']:.2f})"
        )
    if report["failed"]:
        yield f"failed: {', '.join(report['failed'])}"
