"""The three pictures for a paper: accuracy against BitOps, size and latency, with Pareto fronts.

They show the test split; who is on a front is chosen by the validation share.

A picture says in its metadata what it was drawn from. One that says the same is kept: drawing a set
takes seconds, most of a run in which everything comes from the store.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment.report.rows import Row, first_latency, front, groups
from experiment.running.metrics import FIGURES, Figure
from machine.files import bounded_name, canonical_json, finite, sha256, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PICTURES = {
    "accuracy_bitops": "bitops",
    "accuracy_size": "model_size_mb",
}  # and accuracy_latency, at the smallest batch size
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


class Mark(NamedTuple):
    """One experiment in a picture; its cost is in the figure's unit."""

    kind: str  # a key of LOOKS
    on_front: bool
    cost: float
    cost_std: float
    accuracy: float
    accuracy_std: float


def draw_pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Bring the pictures in `folder` up to date, PNG and SVG: a set of three for each test split.

    Pictures of what is no longer there are removed. Returns the paths of those that are.
    """
    finished = [row for row in rows if row.done and "accuracy" in row.final]
    splits = groups(finished, lambda row: row.dataset)
    pictures = {**PICTURES, "accuracy_latency": first_latency(finished)}
    paths = []
    for split, members in splits.items():
        for name, cost in pictures.items():
            shown = [row for row in members if cost in row.final]
            if shown:
                stem = name if len(splits) == 1 else f"{name}_{_file_part(split)}"
                paths += _drawn(
                    folder / bounded_name(stem), _marks(shown, cost), FIGURES[cost], split
                )
    for old in folder.glob("accuracy_*"):
        if old not in paths and old.suffix in (".png", ".svg"):
            old.unlink()
    return paths


def _drawn(stem: Path, marks: list[Mark], axis: Figure, title: str) -> list[Path]:
    """A picture's two files, drawn anew where they are missing or of other data or code."""
    digest = sha256(canonical_json(finite([_artist(), marks, axis.label, axis.log, title])))
    about: dict[Path, dict[str, Any]] = {
        stem.with_name(f"{stem.name}.png"): {"dpi": 300, "metadata": {"Description": digest}},
        stem.with_name(f"{stem.name}.svg"): {"metadata": {"Description": digest, "Date": None}},
    }
    if not all(path.exists() and digest.encode() in path.read_bytes() for path in about):
        import matplotlib  # takes most of a second, which only a new picture is worth

        with matplotlib.rc_context(STYLE):
            drawing = tradeoff(marks, axis, title)
            for path, options in about.items():
                content = io.BytesIO()
                drawing.savefig(content, format=path.suffix[1:], **options)
                write_atomically(path, content.getvalue())
    return list(about)


@functools.cache
def _artist() -> list[str]:
    """What draws: this file, and matplotlib, whose version is known without starting it."""
    return [Path(__file__).read_text(), metadata.version("matplotlib")]


def _marks(rows: Sequence[Row], cost: str) -> list[Mark]:
    on_front, scale = front(rows, cost), FIGURES[cost].scale
    marks = []
    for row in rows:
        x, y, best = row.final[cost], row.final["accuracy"], row.name in on_front
        kind = "baseline" if row.is_baseline else "Pareto front" if best else "chain"
        spread = (x.std or 0) / scale, y.std or 0
        marks.append(Mark(kind, best, row.cost(cost) / scale, spread[0], y.mean, spread[1]))
    return marks


def tradeoff(marks: Sequence[Mark], axis: Figure, title: str) -> Drawing:
    """Accuracy against one cost, a column of a paper wide; bars are one standard deviation."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(3.5, 2.7), layout="constrained")
    axes = drawing.add_subplot(xlabel=axis.label, ylabel="test accuracy (%)")
    axes.set_title(title.replace("$", r"\$"), fontsize=8)
    corners = sorted((mark for mark in marks if mark.on_front), key=lambda mark: mark.cost)
    axes.plot(  # no staircase: on the split that did not choose them, one may lie below another
        [mark.cost for mark in corners],
        [mark.accuracy for mark in corners],
        color="#0072B2",
        linewidth=0.8,
        linestyle=":",
        zorder=1,
    )
    for kind, look in LOOKS.items():
        members = [mark for mark in marks if mark.kind == kind]
        if members:
            axes.errorbar(
                [mark.cost for mark in members],
                [mark.accuracy for mark in members],
                xerr=[mark.cost_std for mark in members],
                yerr=[mark.accuracy_std for mark in members],
                **{"linestyle": "none", "elinewidth": 0.7, "capsize": 1.5, "label": kind, **look},
            )
    if axis.log:
        axes.set_xscale("log")
    axes.grid(alpha=0.3, linewidth=0.5)
    drawing.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return drawing


def _file_part(split: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in split)
