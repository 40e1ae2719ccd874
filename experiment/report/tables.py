"""`summary.csv`, `summary.md` and `summary.tex`: the ends of all chains, mean ± std over seeds.

Accuracy and its change are the test split's; the validation share's stands before them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from experiment.report.rows import COSTS, JUDGE, Row, shown_costs, signed
from experiment.running.metrics import FIGURES, LATENCIES

COLUMNS = ("model_size_mb", "bitops", *LATENCIES)  # the latter where they were taken
ACCURACIES = ("accuracy", "balanced_accuracy", JUDGE)
LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\to$", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$",
}  # fmt: skip


def csv_table(rows: Sequence[Row]) -> str:
    """A line an experiment: raw means, deviations, changes against the baseline, and the engines
    that times and the baseline's, taken in turn with them, are of.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = shown_costs(rows)
    figures = [name for name in FIGURES if name not in COSTS or name in costs]
    timed = [name for name in costs if FIGURES[name].timed]
    measured = [f"{name}_{part}" for name in figures for part in ("mean", "std")]
    ratios = [f"{name}_ratio" for name in costs]
    engines = [f"{name}_{side}" for name in timed for side in ("engine", "baseline_engine")]
    head = ["experiment", "baseline", "dataset", "stages", "status", "n"]
    points = [f"{name}_points" for name in ACCURACIES]
    writer.writerow([*head, *measured, *points, *ratios, *engines])
    for row in rows:
        stats = [row.final.get(name) for name in figures]
        means = [part for s in stats for part in ((s.mean, s.std) if s else (None, None))]
        n = row.final["accuracy"].n if "accuracy" in row.final else 0
        changes = [row.changes.get(name) for name in points]
        about = [row.name, row.result.baseline, row.dataset, row.sequence, row.result.status, n]
        times = [row.final.get(name) for name in timed]
        ran = [part for s in times for part in ((s.engine, s.baseline_engine) if s else ("", ""))]
        writer.writerow([*about, *means, *changes, *(row.ratio(name) for name in costs), *ran])
    return text.getvalue()


def markdown_table(rows: Sequence[Row]) -> str:
    """A table for a README."""
    columns = _columns(rows)
    head = _head(columns)
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += [
        "| " + " | ".join(_escaped(cell) for cell in _cells(row, columns)) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def latex_table(rows: Sequence[Row]) -> str:
    """A table for a paper; needs the package booktabs."""
    columns = _columns(rows)
    head = _head(columns)
    lines = [
        r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}",
        r"\toprule",
        *[" & ".join(_latex(cell) for cell in head) + r" \\", r"\midrule"],
        *[" & ".join(_latex(cell) for cell in _cells(row, columns)) + r" \\" for row in rows],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[Row]) -> list[str]:
    costs = shown_costs(rows)
    return [name for name in COLUMNS if name in costs]


def _head(columns: Sequence[str]) -> list[str]:
    judged, accuracy, *costs = (FIGURES[name].caption for name in (JUDGE, "accuracy", *columns))
    return ["experiment", "stages", judged, accuracy, "change (points)", *costs]


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    note = "" if row.done else f" ({row.result.status})"
    change = "–" if row.test_change is None else signed(row.test_change)
    judged, accuracy, *costs = (_figure(row, name) for name in (JUDGE, "accuracy", *columns))
    return [row.name + note, row.sequence, judged, accuracy, change, *costs]


def _figure(row: Row, name: str) -> str:
    """As elsewhere, but without a comma between thousands, which a spreadsheet may misread; a time
    with its engine.
    """
    stat, figure = row.final.get(name), FIGURES[name]
    if stat is None:
        return "–"
    text = figure.text(stat.mean)
    text = text if stat.std is None else f"{text} ± {figure.text(stat.std)} ({stat.n})"
    return text.replace(",", "") + (f" {stat.engine}" if stat.engine else "")


def _escaped(text: str) -> str:
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return text


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)
