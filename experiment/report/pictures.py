"""The three pictures for a paper: accuracy against BitOps, size and latency, with Pareto fronts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment.report.rows import Row, front, groups
from experiment.running.metrics import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PICTURES = {
    "accuracy_bitops": "bitops",
    "accuracy_size": "model_size_mb",
    "accuracy_latency": "latency_ms_batch_1",
}


# Okabe and Ito's, as in the page: chains, the front, baselines.
LOOKS: dict[str, dict[str, Any]] = {
    "chain": {"marker": "o", "color": "#56B4E9", "markersize": 4, "zorder": 2},
    "Pareto front": {"marker": "o", "color": "#0072B2", "markersize": 5.5, "zorder": 3},
    "baseline": {"marker": "D", "color": "#000000", "markersize": 5, "zorder": 4},
}
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "r",
}


def pictures(rows: Sequence[Row]) -> dict[str, bytes]:
    """File name → content, PNG and SVG; a set of three for each test split."""
    import matplotlib

    finished = [row for row in rows if row.done and "accuracy" in row.final]
    splits = groups(finished, lambda row: row.dataset)
    files = {}
    for split, members in splits.items():
        for name, cost in PICTURES.items():
            shown = [row for row in members if cost in row.final]
            if not shown:
                continue
            stem = name if len(splits) == 1 else f"{name}_{_file_part(split)}"
            with matplotlib.rc_context(STYLE):
                figure = tradeoff(shown, cost, split)
                for kind, options in (("png", {"dpi": 300}), ("svg", {"metadata": {"Date": None}})):
                    content = io.BytesIO()
                    figure.savefig(content, format=kind, **options)
                    files[f"{stem}.{kind}"] = content.getvalue()
    return files


def tradeoff(rows: Sequence[Row], cost: str, title: str) -> Figure:
    """Accuracy against one cost, a column of a paper wide; bars are one standard deviation."""
    from matplotlib.figure import Figure

    axis = FIGURES[cost]
    figure = Figure(figsize=(3.5, 2.7), layout="constrained")
    axes = figure.add_subplot(xlabel=axis.label, ylabel="accuracy (%)")
    axes.set_title(title.replace("$", r"\$"), fontsize=8)
    on_front = front(rows, cost)
    corners = sorted((r for r in rows if r.name in on_front), key=lambda r: r.final[cost].mean)
    axes.step(
        [row.final[cost].mean / axis.scale for row in corners],
        [row.final["accuracy"].mean for row in corners],
        where="post",
        color="#0072B2",
        linewidth=0.8,
        linestyle=":",
        zorder=1,
    )
    for kind, look in LOOKS.items():
        members = [row for row in rows if _kind(row, on_front) == kind]
        if members:
            axes.errorbar(
                [row.final[cost].mean / axis.scale for row in members],
                [row.final["accuracy"].mean for row in members],
                xerr=[(row.final[cost].std or 0) / axis.scale for row in members],
                yerr=[row.final["accuracy"].std or 0 for row in members],
                **{"linestyle": "none", "elinewidth": 0.7, "capsize": 1.5, "label": kind, **look},
            )
    if axis.log:
        axes.set_xscale("log")
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _kind(row: Row, on_front: list[str]) -> str:
    if row.is_baseline:
        return "baseline"
    return "Pareto front" if row.name in on_front else "chain"


def _file_part(split: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in split)
