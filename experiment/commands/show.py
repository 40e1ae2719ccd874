"""`python main.py show NAME`: one experiment on the terminal, from its results file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiment.commands.parser import Parser, config_option
from experiment.report.engine_view import (
    batches_of,
    engine_rows,
    over_float_form,
    reasons_left_out,
)
from experiment.report.one_result import at, read_result, specs, stats_after, stats_at_end
from experiment.report.reader import Result, StageEntry
from experiment.running.console import Console
from experiment.running.metrics import FOOTPRINT, LATENCIES, against, not_its_baseline
from experiment.running.tables import (
    BESIDE_BASELINE,
    STATUS_STYLE,
    TableRow,
    cell,
    headings,
    number,
    options,
    shown_columns,
)
from experiment.suite.config_file import folder_named
from experiment.suite.messages import ConfigError

LINE = 120  # characters, of settings
COLUMNS = (
    *("accuracy", "balanced_accuracy", "validation_accuracy", "loss"),
    *("model_size_mb", "params", "macs", "bitops"),
    *(*LATENCIES, *FOOTPRINT),
)


def show_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code."""
    args = _parser().parse_args(arguments)
    folder = folder_named(args.config, "RESULTS_DIR")
    result = read_result(args.experiment, folder)
    baseline, remark = _baseline(result, args.experiment, folder)
    console.show(heading(result))
    console.say(
        f"   suite {result.suite} | seed{'s' if len(result.seeds) > 1 else ''} "
        f"{', '.join(map(str, result.seeds))} | written {result.written} | commit "
        f"{(result.git_commit or 'unknown')[:12]}"
    )
    console.say(f"   run by: {result.command}")
    for error in result.errors:
        where = f"seed {error.get('seed')}, {error.get('stage') or 'before its first stage'}"
        console.warn(f"{where}: {error.get('message')}")
    if remark:
        console.warn(remark)
    _show_stages(result, baseline, console)
    for warning in _warnings(result, baseline):
        console.warn(warning)
    ends = [chain[-1] for chain in map(result.of_seed, result.seeds) if chain]
    for entry in ends:
        _show_engines(entry.metrics, _of_seed(result, entry), console)
        if entry.metrics.get("exits"):
            console.show(_exits(entry.metrics["exits"], _of_seed(result, entry)))
    console.show(_settings(result, min(console.rich.width, LINE)))
    for entry in ends:
        console.say(f"network after {entry.stage}{_of_seed(result, entry)}: {entry.checkpoint}")
    return 0


def heading(result: Result, mark: str = "━━ ") -> Text:
    """Name, status, the chain in a line, and where it was stopped."""
    start = f"from {result.baseline}: " if result.baseline else ""
    return Text.assemble(
        (f"{mark}{result.experiment}  ", "bold"),
        (result.status, STATUS_STYLE.get(result.status, "")),
        f"\n   {start}{' → '.join(result.sequence)}",
        *((f"\n   {words}", STATUS_STYLE["stopped"]) for words in result.stops),
    )


def _baseline(result: Result, name: str, folder: Path) -> tuple[Result | None, str]:
    """The baseline's results, or why there is nothing to compare with."""
    if result.baseline is None:
        return None, ""
    folder = Path(name).parent if name.endswith(".json") else folder
    try:
        baseline = read_result(result.baseline, folder)
    except ConfigError as error:
        return None, f"no change against the baseline: {error}"
    reason = not_its_baseline(result.plain(), baseline.plain())
    return (None, f"no change against the baseline: {reason}") if reason else (baseline, "")


def _show_stages(result: Result, baseline: Result | None, console: Console) -> None:
    """A row a stage, with its change against the baseline on the same seeds."""
    base, rows = stats_at_end(baseline, result.seeds) if baseline is not None else {}, []
    after = [stats_after(result, position) for position in range(len(result.sequence))]
    names = shown_columns([base, *after], COLUMNS)
    failed = {
        len(result.of_seed(error.get("seed", 0))) for error in result.errors if error.get("stage")
    }
    if baseline is not None:
        cells = [*_cells(base, {}, names), ""]
        rows.append(TableRow([baseline.experiment], cells, ends_section=True))
    for position, stage in enumerate(result.sequence):
        entries, stats = at(result, position), after[position]
        missing = "failed" if position in failed else "did not run"
        took = f"{sum(e.seconds or 0 for e in entries):,.1f}" if entries else missing
        its = stats_at_end(baseline, [e.seed for e in entries]) if baseline is not None else {}
        cells = [*_cells(stats, against(stats, its), names), took]
        rows.append(TableRow([f"{position + 1} {stage}"], cells, style="" if entries else "dim"))
    title = "Stages"
    if base:
        title += f" ({BESIDE_BASELINE})"
    console.figures(title, ["stage"], [*headings(names), "seconds"], rows)


def _cells(stats: dict[str, Any], change: dict[str, float], names: Sequence[str]) -> list[str]:
    return [cell(stats, change, name) for name in names]


def _warnings(result: Result, baseline: Result | None) -> list[str]:
    found = list(result.remarks)
    for position, stage in enumerate(result.sequence):
        for entry in at(result, position):
            found += [f"{position + 1} {stage}: {text}" for text in entry.warnings(baseline)]
    return list(dict.fromkeys(found))


def _of_seed(result: Result, entry: StageEntry) -> str:
    """Which seed's, where there are several."""
    return f", seed {entry.seed}" if len(result.seeds) > 1 else ""


def _show_engines(metrics: dict[str, Any], of_seed: str, console: Console) -> None:
    """A row an engine that ran the network, then why others did not; nothing of older files."""
    batches = [f"ms at {size}" for size in batches_of(metrics)]
    about = ("int8 layers", "logits off %", "other class %", "ready in s")
    rows = [TableRow([name], cells) for name, *cells in engine_rows(metrics)]
    if rows:
        title = f"Engines at the end{of_seed} (★ the fastest, which counts)"
        console.figures(title, ["engine"], [*batches, *about], rows)
    for line in [*over_float_form(metrics), *reasons_left_out(metrics)]:
        console.say(f"   {line}")
    if metrics.get("energy_unknown"):
        console.say(f"   energy is not known: {metrics['energy_unknown']}")


def _exits(exits: dict[str, Any], of_seed: str) -> Table:
    title = f"Early exits by {exits['criterion']}, at the end{of_seed}"
    table = Table(title=title, title_justify="left")
    for name in ("exit", "leave there %", "threshold", "M MACs", "M BitOps"):
        table.add_column(name, justify="left" if name == "exit" else "right")
    thresholds = [*(f"{threshold:.4g}" for threshold in exits["thresholds"]), "–"]
    columns = exits["places"], exits["share"], thresholds, exits["macs"], exits["bitops"]
    for place, share, threshold, macs, bitops in zip(*columns, strict=False):
        figures = f"{100 * share:.1f}", threshold, f"{macs / 1e6:.2f}", f"{bitops / 1e6:,.0f}"
        table.add_row(str(place), *figures)
    return table


def _settings(result: Result, width: int) -> Table:
    """What the experiment was asked, what its stages found, and the machine."""
    config, table = result.config, Table.grid(padding=(0, 2))
    table.width = width
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("data", options(config["dataset_args"], {}))
    table.add_row("model", options(config["model_args"], {}))
    if any("optimizer" in spec for _, spec in specs(result)):
        table.add_row("training", options(config["training_args"], {}))
    if "deployment_args" in config:  # not in older files
        table.add_row("deployment", options(config["deployment_args"], {}))
    if config.get("stop_if"):
        table.add_row("stop_if", options(config["stop_if"], {}))
    for position, (stage, spec) in enumerate(specs(result)):
        table.add_row(f"{position + 1} {stage}", options(spec, config["training_args"]))
        for entry in at(result, position):
            of_seed = _of_seed(result, entry).removeprefix(", ")
            for line in _found(entry):
                table.add_row(of_seed, line)
    table.add_row("machine", options(result.environment, {}))
    return table


def _found(entry: StageEntry) -> list[str]:
    """What a stage found out or did to the architecture, a line each."""
    widths, history = entry.details.get("widths", {}), entry.details.get("history")
    lines = [f"{name}: {old} → {new}" for name, (old, new) in widths.items()]
    if entry.quant is not None:
        kept = ", ".join(entry.quant["float_layers"]) or "none"
        lines.append(f"int8 by backend {entry.quant['backend']}, layers kept float: {kept}")
    if "float32_layers" in entry.details:
        kept = ", ".join(entry.details["float32_layers"])
        lines.append(f"bfloat16, layers kept float32: {kept}")
    if history:
        end = history[-1]
        losses = [number(end.get(name), 4) for name in ("train_loss", "validation_loss")]
        lines.append(
            f"epoch {len(history)}: loss {losses[0]}, validation loss {losses[1]}, "
            f"{number(end.get('validation_accuracy'), 2)} %"
        )
    return lines


def _parser() -> Parser:
    parser = Parser(
        "show",
        description="One experiment: its stages with their change against the baseline, settings.",
        parents=[config_option("the suite, for its RESULTS_DIR")],
    )
    parser.add_argument("experiment", help="a name that has results, or a results file (.json)")
    return parser
