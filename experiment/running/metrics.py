"""Every figure that is shown of a network: where it stands, its unit, and its words. One table.

Console, `show`, the report's tables, charts and pictures, studies and TensorBoard all read it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator


@dataclass(frozen=True)
class Figure:
    """One figure; `scale` brings what was measured into `unit`."""

    name: str  # its key in results, summaries and tables
    path: tuple[str, ...]  # where it stands in a stage's metrics
    title: str
    unit: str
    heading: str  # of its column on the terminal
    caption: str = ""  # of its column in summary.md and summary.tex
    scale: float = 1
    digits: int = 3
    terminal_digits: int | None = None  # where the terminal has room for fewer; None: `digits`
    log: bool = False  # drawn on a logarithmic axis
    better: str = "smaller"
    worse: str = "larger"
    lower_is_better: bool = True

    @property
    def label(self) -> str:
        """What stands beside an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float, *, terminal: bool = False) -> str:
        """A value in the figure's unit: '1,486.0'."""
        few = terminal and self.terminal_digits is not None
        return f"{value / self.scale:,.{self.terminal_digits if few else self.digits}f}"


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("accuracy", ("accuracy",), "accuracy", "%", "accuracy %", "accuracy (%)", digits=2,
               better="more accurate", worse="less accurate", lower_is_better=False),
        Figure("loss", ("loss",), "loss", "", "loss", digits=4),
        Figure("params", ("params",), "parameters", "thousands", "k params", scale=1e3, digits=1,
               better="fewer", worse="more"),
        Figure("nonzero_params", ("nonzero_params",), "nonzero parameters", "thousands",
               "k nonzero", scale=1e3, digits=1, better="fewer", worse="more"),
        Figure("model_size_mb", ("model_size_mb",), "size as deployed", "MB", "size MB",
               "size (MB)"),
        Figure("macs", ("macs",), "MACs an image", "millions", "M MACs", scale=1e6, digits=2,
               better="fewer MACs", worse="more MACs"),
        Figure("bitops", ("bitops",), "BitOps an image", "millions", "M BitOps", "BitOps (M)",
               scale=1e6, digits=1, terminal_digits=0, log=True,
               better="fewer BitOps", worse="more BitOps"),
        Figure("latency_ms_batch_1", ("inference_time_ms", "batch_1", "median"),
               "latency at batch 1", "ms", "ms at 1", "ms at 1", better="faster", worse="slower"),
        Figure("latency_ms_batch_64", ("inference_time_ms", "batch_64", "median"),
               "latency at batch 64", "ms", "ms at 64", "ms at 64", digits=2,
               better="faster", worse="slower"),
    )
}  # fmt: skip


class Stat(BaseModel):
    """A figure over seeds."""

    mean: float
    std: float | None = None  # None for one seed
    n: int = 1


def _finite(stats: Any) -> Any:
    """Without figures that are null, as a diverged loss is."""
    if not isinstance(stats, dict):
        return stats
    return {
        name: stat
        for name, stat in stats.items()
        if not (isinstance(stat, dict) and stat.get("mean") is None)
    }


Stats = Annotated[dict[str, Stat], BeforeValidator(_finite)]  # by figure, as files hold them


def metric(metrics: dict[str, Any], name: str) -> float | None:
    """A figure among a stage's metrics; None where it was not taken."""
    value: Any = metrics
    for part in FIGURES[name].path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def measured(metrics: dict[str, Any]) -> dict[str, float]:
    """Every figure that a stage's metrics have."""
    found = ((name, metric(metrics, name)) for name in FIGURES)
    return {name: value for name, value in found if value is not None}


def summarised(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figure → mean, standard deviation (None for one value) and n, over the metrics of `runs`."""
    found = [measured(metrics) for metrics in runs]
    summary = {}
    for name in FIGURES:
        values = [figures[name] for figures in found if name in figures]
        if values:
            summary[name] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "n": len(values),
            }
    return summary


def final_metrics(result: dict[str, Any], seeds: list[int] | None = None) -> dict[str, Any]:
    """`summarised` over seeds (None: all), of the last stage of each seed's chain."""
    length = len(result["config"]["sequence"])
    last = []
    for seed in result["seeds"] if seeds is None else seeds:
        stages = [stage for stage in result["stages"] if stage["seed"] == seed]
        if len(stages) == length:
            last.append(stages[-1]["metrics"])
    return summarised(last)


def against(final: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """Accuracy in points lost or won; all else as a ratio to the baseline (0.25 = a quarter)."""
    changes = {}
    for name in final.keys() & baseline.keys():
        mine, theirs = final[name]["mean"], baseline[name]["mean"]
        if name == "accuracy":
            changes["accuracy_points"] = mine - theirs
        elif theirs:
            changes[f"{name}_ratio"] = mine / theirs
    return dict(sorted(changes.items()))
