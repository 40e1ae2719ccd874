"""Pictures of what `python main.py sensitivity` measured."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from methods.pruning.sensitivity import Curves
from methods.quantization.sensitivity import Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def plot(curves: Curves, title: str) -> Figure:
    """Accuracy against ratio, a line a dimension."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot(
        title=title, xlabel="share of units removed", ylabel="validation accuracy (%)"
    )
    markers, colours = itertools.cycle("os^vD*Px"), itertools.cycle(COLOURS)
    for name, points in curves.items():
        style = "-" if name.startswith("cnn") else "--"  # the line says the kind
        ratios, accuracies = zip(*points, strict=True)
        axes.plot(ratios, accuracies, style, marker=next(markers), color=next(colours), label=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_layers(choice: Choice, title: str) -> Figure:
    """SQNR and accuracy, a bar a layer, the most sensitive on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.28 * len(choice.scan)), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [entry.layer for entry in choice.scan]
    colours = [COLOURS[5] if name in choice.float_layers else COLOURS[0] for name in names]
    left.barh(names, [entry.sqnr_db for entry in choice.scan], color=colours)
    left.set_xlabel("SQNR of the logits (dB)")
    left.invert_yaxis()
    drops = [entry.accuracy - choice.float_accuracy for entry in choice.scan]
    right.barh(names, drops, color=colours)
    right.set_xlabel("validation accuracy against float (points)")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    return figure
