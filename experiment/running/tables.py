"""Figures in columns: how a metric is written, and tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from experiment.running.metrics import FIGURES, LATENCIES

Cell = str | Text
STATUS_STYLE = {
    **{"done": "green", "failed": "red"},
    **dict.fromkeys(("skipped", "stopped", "interrupted"), "yellow"),
}

# What tables show of a network, where it was taken.
COLUMNS = ("accuracy", "balanced_accuracy", "model_size_mb", "bitops", *LATENCIES)
# What the titles of tables with changes say of these.
BESIDE_BASELINE = (
    "change against the float baseline; × of times as taken in turn with it on its own fastest "
    "engine, named where it is another"
)


class TableRow(NamedTuple):
    """A row of a table of figures."""

    names: Sequence[Cell]
    figures: Sequence[Cell]
    style: str = ""
    ends_section: bool = False


def figure_tables(
    console: RichConsole,
    title: str,
    names: Sequence[str],
    figures: Sequence[str],
    rows: Sequence[TableRow],
) -> list[Table]:
    """One table, or several with the same names where its figures do not fit the width."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="left" if name == "status" else "right")
    for row in rows:
        table.add_row(*row.names, *row.figures, style=row.style, end_section=row.ends_section)
    unbounded = console.options.update_width(10_000)
    if len(figures) == 1 or console.measure(table, options=unbounded).maximum <= console.width:
        return [table]
    half = (len(figures) + 1) // 2
    parts = slice(half), slice(half, None)
    return [
        table
        for part in parts
        for table in figure_tables(
            console,
            title if part == parts[0] else "",
            names,
            figures[part],
            [row._replace(figures=row.figures[part]) for row in rows],
        )
    ]


def shown_columns(
    stats: Iterable[dict[str, Any]], columns: Sequence[str] = COLUMNS
) -> tuple[str, ...]:
    """Those of `columns` for a table of these figures."""
    there = set().union(*stats)
    return tuple(name for name in columns if name in there or not FIGURES[name].optional)


def headings(names: Sequence[str]) -> list[str]:
    return [FIGURES[name].heading for name in names]


def cell(stats: dict[str, Any], change: dict[str, float], name: str) -> str:
    """A figure over seeds as a table shows it, with its change against the baseline: of a time
    with the engine that it is of, and the baseline's where that is another.
    """
    figure = FIGURES[name]
    if name not in stats:
        return "–"
    mean, std, n = stats[name]["mean"], stats[name]["std"], stats[name]["n"]
    text = figure.text(mean, terminal=True)
    if std is not None:
        text += f" ± {figure.text(std, terminal=True)} ({n})"
    engine, its = stats[name].get("engine"), stats[name].get("baseline_engine")
    text += f" {engine}" if engine else ""
    if f"{name}_points" in change:
        text += f" ({change[f'{name}_points']:+.2f})"
    elif f"{name}_ratio" in change:
        other = f" of {its}" if its and its != engine else ""
        text += f" (×{change[f'{name}_ratio']:.2f}{other})"
    return text


def options(spec: dict[str, Any], training: dict[str, Any]) -> str:
    """The options of a stage that tell most: what it has and training_args has not."""
    return " ".join(
        f"{name}={value}"
        for name, value in spec.items()
        if training.get(name) != value
        and value not in ([], {}, None)
        and value is not False
        and not (name == "precision" and training.get(name) == "auto")
    )


def number(value: float | None, digits: int) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"
