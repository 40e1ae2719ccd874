"""`summary.csv`, `summary.md` and `summary.tex`: the ends of all chains, mean ± std over seeds.

Accuracy and its change are the test split's; the validation share's stands before them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from experiment.report.rows import COSTS, JUDGE, Row, signed
from experiment.running.metrics import FIGURES

COLUMNS = ("model_size_mb", "bitops", "latency_ms_batch_1", "latency_ms_batch_64")
ACCURACIES = ("accuracy", "balanced_accuracy", JUDGE)
LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\to$", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$",
}  # fmt: skip


def csv_table(rows: Sequence[Row]) -> str:
    """A line an experiment: raw means, deviations, and changes against the baseline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = [f"{name}_{part}" for name in FIGURES for part in ("mean", "std")]
    ratios = [f"{name}_ratio" for name in COSTS]
    head = ["experiment", "baseline", "dataset", "stages", "status", "n"]
    points = [f"{name}_points" for name in ACCURACIES]
    writer.writerow([*head, *measured, *points, *ratios])
    for row in rows:
        stats = [row.final.get(name) for name in FIGURES]
        figures = [part for s in stats for part in ((s.mean, s.std) if s else (None, None))]
        n = row.final["accuracy"].n if "accuracy" in row.final else 0
        changes = [row.changes.get(name) for name in points]
        about = [row.name, row.result.baseline, row.dataset, row.sequence, row.result.status, n]
        writer.writerow([*about, *figures, *changes, *(row.ratio(name) for name in COSTS)])
    return text.getvalue()


def markdown_table(rows: Sequence[Row]) -> str:
    """A table for a README."""
    head = _head()
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += ["| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def latex_table(rows: Sequence[Row]) -> str:
    """A table for a paper; needs the package booktabs."""
    head = _head()
    lines = [
        r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}",
        r"\toprule",
        *[" & ".join(_latex(cell) for cell in head) + r" \\", r"\midrule"],
        *[" & ".join(_latex(cell) for cell in _cells(row)) + r" \\" for row in rows],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _head() -> list[str]:
    judged, accuracy, *costs = (FIGURES[name].caption for name in (JUDGE, "accuracy", *COLUMNS))
    return ["experiment", "stages", judged, accuracy, "change (points)", *costs]


def _cells(row: Row) -> list[str]:
    note = "" if row.done else f" ({row.result.status})"
    change = "–" if row.test_change is None else signed(row.test_change)
    judged, accuracy, *costs = (_figure(row, name) for name in (JUDGE, "accuracy", *COLUMNS))
    return [row.name + note, row.sequence, judged, accuracy, change, *costs]


def _figure(row: Row, name: str) -> str:
    """As elsewhere, but without a comma between thousands, which a spreadsheet may misread."""
    stat, figure = row.final.get(name), FIGURES[name]
    if stat is None:
        return "–"
    text = figure.text(stat.mean)
    text = text if stat.std is None else f"{text} ± {figure.text(stat.std)} ({stat.n})"
    return text.replace(",", "")


def _escaped(text: str) -> str:
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return text


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)
