"""`python main.py compare A B`: two experiments stage by stage, and what differs in their configs.

Stages are paired where the two sequences agree, as difflib finds it; a stage that only one has
there stands alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from rich.table import Table

from experiment.commands.parser import Parser, config_option
from experiment.commands.show import heading
from experiment.report.one_result import read_result, specs, stats_after, stats_at_end
from experiment.report.reader import Result
from experiment.running.console import Console
from experiment.running.metrics import FIGURES, FOOTPRINT, against
from experiment.running.tables import COLUMNS, TableRow, cell, headings, options, shown_columns
from experiment.suite.config_file import folder_named

Pair = tuple[str, int | None, int | None]  # stage, its positions in A and in B
MACHINE = ("device", "cpu", "isa", "threads", "torch", "torchao")  # what latency depends on


def compare_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code."""
    args = _parser().parse_args(arguments)
    folder = folder_named(args.config, "RESULTS_DIR")
    first, second = (read_result(name, folder) for name in (args.first, args.second))
    for letter, result in (("A", first), ("B", second)):
        console.show(heading(result, f"{letter} "))
    title = "Stage by stage: A → B (change from A to B)"
    names = shown_columns([stats_at_end(first), stats_at_end(second)], (*COLUMNS, *FOOTPRINT))
    console.figures(title, ["stage"], headings(names), _stages(first, second, names))
    differences = [*config_differences(first, second), *root_differences(first, second)]
    if differences:
        console.show(_table("What differs in the configuration", differences))
    else:
        console.say("the configurations are the same")
    machines = [
        (f"environment.{key}", first.environment.get(key), second.environment.get(key))
        for key in MACHINE
    ]
    machines = [row for row in machines if row[1] != row[2]]
    if machines:
        title = "Measured under other conditions: compare no latencies in ms, only their ratios"
        console.show(_table(title, machines))
    return 0


def paired(first: list[str], second: list[str]) -> list[Pair]:
    """Stages that belong together; None where one sequence has no such stage there."""
    pairs: list[Pair] = []
    for tag, a, a_end, b, b_end in SequenceMatcher(None, first, second, False).get_opcodes():
        if tag == "equal":
            pairs += zip(first[a:a_end], range(a, a_end), range(b, b_end), strict=True)
        else:
            pairs += [(first[position], position, None) for position in range(a, a_end)]
            pairs += [(second[position], None, position) for position in range(b, b_end)]
    return pairs


def config_differences(first: Result, second: Result) -> Iterator[tuple[str, Any, Any]]:
    """Key, value in A, value in B: sections key by key, then the stages' options."""
    for section in (*("dataset_args", "model_args", "training_args", "deployment_args"), "stop_if"):
        # older files have neither of the last two
        mine, its = (result.config.get(section, {}) for result in (first, second))
        yield from _differing(section, mine, its)
    yield from _differing(
        "",
        {"load_fp32_baseline_from_experiment": first.baseline, "seeds": first.seeds},
        {"load_fp32_baseline_from_experiment": second.baseline, "seeds": second.seeds},
    )
    if first.sequence != second.sequence:
        yield "sequence", " → ".join(first.sequence), " → ".join(second.sequence)
    stages = _by_occurrence(first), _by_occurrence(second)
    for label in {**stages[0], **stages[1]}:
        mine, its = (found.get(label) for found in stages)
        if mine is not None and its is not None:
            yield from _differing(label, mine, its)
        elif mine is not None:
            yield label, options(mine, first.config["training_args"]), None
        elif its is not None:
            yield label, None, options(its, second.config["training_args"])


def root_differences(first: Result, second: Result) -> Iterator[tuple[str, str, str]]:
    """The networks that the two began from, where these are not the same: their keys, a seed."""
    mine, its = _roots(first), _roots(second)
    for seed in sorted(mine.keys() & its.keys()):
        if mine[seed] != its[seed]:
            yield f"began from (seed {seed})", mine[seed][:12], its[seed][:12]


def _roots(result: Result) -> dict[int, str]:
    """Seed → key of the baseline's network, as far as the file says which it was."""
    roots = {}
    for seed in result.seeds:
        for first in result.of_seed(seed)[:1]:
            roots[seed] = first.key if result.baseline is None else first.parent
    return {seed: key for seed, key in roots.items() if key}


def _by_occurrence(result: Result) -> dict[str, dict[str, Any]]:
    """Options by stage: the first finetune of a chain is 'finetune', its second 'finetune 2'."""
    seen: Counter[str] = Counter()
    found = {}
    for name, spec in specs(result):
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} {seen[name]}"] = spec
    return found


def _differing(
    section: str, first: dict[str, Any], second: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    prefix = f"{section}." if section else ""
    for key in {**first, **second}:
        if first.get(key) != second.get(key):
            yield f"{prefix}{key}", first.get(key), second.get(key)


def _stages(first: Result, second: Result, names: Sequence[str]) -> list[TableRow]:
    """A row a pair of stages, then the ends of both chains."""
    known = bool(_roots(first).keys() & _roots(second).keys())
    alike = known and not any(root_differences(first, second))
    rows = []
    for name, a, b in paired(first.sequence, second.sequence):
        only = "" if None not in (a, b) else f" ({'A' if b is None else 'B'} only)"
        rows.append(
            TableRow([f"{name}{only}"], _cells(_at(first, a), _at(second, b), names, alike))
        )
    rows[-1:] = [row._replace(ends_section=True) for row in rows[-1:]]
    ends = [_at(result, len(specs(result)) - 1) for result in (first, second)]
    return [*rows, TableRow(["end"], _cells(ends[0], ends[1], names, alike), style="bold")]


def _at(result: Result, position: int | None) -> dict[str, Any]:
    """Figures after a stage; a baseline's times are its own, so that their ratio to these is 1."""
    stats = stats_after(result, position) if position is not None else {}
    for name in stats if result.baseline is None and position == 0 else ():
        if FIGURES[name].timed:
            stats[name]["ratio"] = 1.0
    return stats


def _cells(
    first: dict[str, Any], second: dict[str, Any], names: Sequence[str], alike: bool
) -> list[str]:
    """Where both began from one network (`alike`), the ratio of two times is that of their ratios
    to this one's, which were taken in turn; else there is none.
    """
    change = against(second, first)
    for name in (name for name in names if FIGURES[name].timed):
        mine, its = (stats.get(name, {}).get("ratio") for stats in (first, second))
        change.pop(f"{name}_ratio", None)
        if alike and mine and its:
            change[f"{name}_ratio"] = its / mine
    cells = []
    for name in names:
        mine, its = (cell(stats, {}, name) for stats in (first, second))
        text = cell(second, change, name)
        cells.append(mine if not second else its if not first else f"{mine} → {text}")
    return cells


def _table(title: str, rows: list[tuple[str, Any, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "A", "B"):
        table.add_column(name, overflow="fold")
    for key, mine, its in rows:
        table.add_row(key, *("–" if value is None else str(value) for value in (mine, its)))
    return table


def _parser() -> Parser:
    parser = Parser(
        "compare",
        description="Two experiments stage by stage, and what differs in their configurations.",
        parents=[config_option("the suite, for its RESULTS_DIR")],
    )
    parser.add_argument("first", metavar="A", help="a name that has results, or a results file")
    parser.add_argument("second", metavar="B", help="the same")
    return parser
