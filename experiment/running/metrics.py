"""Every figure that is shown of a network: where it stands, its unit, and its words. One table.

Console, `show`, the report's tables, charts and pictures, studies and TensorBoard all read it.
"""

from __future__ import annotations

import statistics
from collections import Counter
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
    optional: bool = False  # tables have no column of it where nothing has a value

    @property
    def timed(self) -> bool:
        """Whether it is a time, which holds beside one that was taken in turn with it alone."""
        return self.path[0] == "inference_time_ms"

    @property
    def label(self) -> str:
        """What stands beside an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float, *, terminal: bool = False) -> str:
        """A value in the figure's unit: '1,486.0'."""
        few = terminal and self.terminal_digits is not None
        return f"{value / self.scale:,.{self.terminal_digits if few else self.digits}f}"


BATCH_SIZES = tuple(2**power for power in range(9))  # that `deployment_args` may name: 1 to 256


def _latency(size: int) -> Figure:
    return Figure(
        f"latency_ms_batch_{size}", ("inference_time_ms", f"batch_{size}", "median"),
        f"latency at batch {size}", "ms", f"ms at {size}", f"ms at {size}",
        digits=3 if size < 16 else 2, better="faster", worse="slower", optional=True,
    )  # fmt: skip


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("accuracy", ("accuracy",), "accuracy", "%", "accuracy %", "accuracy (%)", digits=2,
               better="more accurate", worse="less accurate", lower_is_better=False),
        Figure("balanced_accuracy", ("balanced_accuracy",), "balanced accuracy", "%", "balanced %",
               "balanced (%)", digits=2, optional=True,
               better="more accurate", worse="less accurate", lower_is_better=False),
        Figure("validation_accuracy", ("validation", "accuracy"), "validation accuracy", "%",
               "validation %", "validation (%)", digits=2,
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
        *map(_latency, BATCH_SIZES),
        Figure("peak_memory_mb", ("peak_memory_mb",), "peak memory", "MB", "peak MB", digits=1,
               optional=True),
        Figure("joules_per_image", ("joules_per_image",), "energy an image", "mJ", "mJ an image",
               scale=1e-3, optional=True, better="less energy", worse="more energy"),
    )
}  # fmt: skip
LATENCIES = tuple(name for name, figure in FIGURES.items() if figure.timed)  # by batch size
FOOTPRINT = ("peak_memory_mb", "joules_per_image")  # of running a network on its fastest engine
UNLIKE = 1.5  # times: what the same network may differ by on a machine that is left alone


class Stat(BaseModel):
    """A figure over seeds."""

    mean: float
    std: float | None = None  # None for one seed
    n: int = 1
    ratio: float | None = None  # of a time to the baseline's, taken in turn; None where it was not
    engine: str | None = None  # that a time is of; None in files of earlier versions
    baseline_engine: str | None = None  # the baseline's own fastest, which `ratio` is to

    @property
    def on_engines(self) -> str:
        """What a speed-up compares, in brackets; nothing where the engines are not known."""
        if self.engine is None or self.baseline_engine is None:
            return ""
        its = f"the float baseline on its own fastest engine, {self.baseline_engine}"
        return f" ({self.engine}, against {its})"


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
    """Figure → mean, standard deviation (None for one value) and n, over the metrics of `runs`.

    Of a time 'ratio' as well, to the baseline's that was taken in turn with it, and the engines
    that both are of.
    """
    found = [measured(metrics) for metrics in runs]
    summary: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        values = [figures[name] for figures in found if name in figures]
        if not values:
            continue
        summary[name] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
        }
        if figure.timed:
            summary[name] |= _beside_baseline([_time(metrics, name) for metrics in runs])
    return summary


def _beside_baseline(times: list[dict[str, Any]]) -> dict[str, Any]:
    """Of times over seeds: the mean ratio, and engines, joined where seeds differ."""
    ratios = [_ratio(time) for time in times]
    told: dict[str, Any] = {}
    if None not in ratios:
        told["ratio"] = statistics.fmean(filter(None, ratios))
    for side in ("engine", "baseline_engine"):
        engines = dict.fromkeys(str(time[side]) for time in times if time.get(side))
        if engines:
            told[side] = " or ".join(engines)
    return told


def _time(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """What was noted of a batch size beside its median; {} where it was not timed."""
    time = metrics.get("inference_time_ms")
    time = time.get(FIGURES[name].path[1]) if isinstance(time, dict) else None
    return time if isinstance(time, dict) else {}


def time_ratio(metrics: dict[str, Any], name: str) -> float | None:
    """A time over the baseline's that was taken in turn with it; None where none was."""
    return _ratio(_time(metrics, name))


def _ratio(time: dict[str, Any]) -> float | None:
    speedup = time.get("speedup", time.get("speedup_over_baseline"))  # the latter in older files
    return 1 / speedup if speedup else None


def ratio_in_turn(metrics: dict[str, Any], name: str) -> float | None:
    """A network's time over its baseline's, taken in turn with it; None where it was not."""
    return _ratio(_time(metrics, name))


def final_metrics(result: dict[str, Any], seeds: list[int] | None = None) -> dict[str, Any]:
    """`summarised` over seeds (None: all), of the last stage of each seed's chain."""
    last = {stage["seed"]: stage["metrics"] for stage in result["stages"]}
    ended = [s for s in seeds_at_end(result) if seeds is None or s in seeds]
    return summarised([last[seed] for seed in ended])


def seeds_at_end(result: dict[str, Any]) -> list[int]:
    """The seeds whose chain came to its last stage; one that failed or was stopped did not."""
    stages = Counter(stage["seed"] for stage in result["stages"])
    length = len(result["config"]["sequence"])
    return [seed for seed in result["seeds"] if stages[seed] == length]


def against(final: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """Accuracies in points lost or won; all else as a ratio to the baseline (0.25 = a quarter).

    Of times, the ratio that was taken in turn; without one there is no change to tell.
    """
    changes = {}
    for name in final.keys() & baseline.keys():
        mine, theirs = final[name]["mean"], baseline[name]["mean"]
        if FIGURES[name].unit == "%":
            changes[f"{name}_points"] = mine - theirs
        elif FIGURES[name].timed:
            if final[name].get("ratio"):
                changes[f"{name}_ratio"] = final[name]["ratio"]
        elif theirs:
            changes[f"{name}_ratio"] = mine / theirs
    return dict(sorted(changes.items()))


def not_its_baseline(result: dict[str, Any], baseline: dict[str, Any] | None) -> str | None:
    """Why a chain cannot be compared with the results its baseline has now; None where it can.

    Its first stage has to have begun from the network that these are of, on every seed.
    """
    name = result["baseline"]
    if baseline is None:
        return f"its baseline {name} has no results here"
    for seed in result["seeds"]:
        mine = next((stage for stage in result["stages"] if stage["seed"] == seed), None)
        its = [stage for stage in baseline["stages"] if stage["seed"] == seed]
        if mine is None or mine.get("parent") is None:  # not begun, or of an earlier version
            continue
        if not its:
            return f"the results of its baseline {name} have no seed {seed}"
        for what, begun, here in (
            ("key", mine["parent"], its[-1].get("key")),
            ("sha256", mine.get("parent_sha256"), its[-1].get("checkpoint_sha256")),
        ):
            if begun != here:
                return (
                    f"it began from another {name} than the one whose results are here "
                    f"({what} {str(begun)[:12]}, not {str(here)[:12]}); "
                    "run it again, by --only, to have it from this one"
                )
    return None


def moved_times(metrics: dict[str, Any], baseline: dict[str, Any]) -> str | None:
    """Says that a baseline's own times and those taken in turn with a network do not agree.

    Then the two were measured under unlike conditions, and only ratios in turn tell anything.
    """
    apart = []
    own_times = baseline.get("inference_time_ms", {})
    for batch, time in metrics.get("inference_time_ms", {}).items():
        own = own_times.get(batch, {})
        here, there = time.get("baseline_median"), own.get("median")
        if not here or not there or time.get("device") != own.get("device"):
            continue
        if time.get("baseline_engine") and not own.get("engine"):
            return (
                "the baseline's own times were taken by an earlier version, in PyTorch alone; the "
                "ratios here are to its fastest engine; --remeasure takes all times again"
            )
        if max(here / there, there / here) >= UNLIKE:
            apart.append(
                f"{here:.3g} ms{_by(time.get('baseline_engine'))} at {batch} beside this network, "
                f"{there:.3g}{_by(own.get('engine'))} when stored"
            )
    if not apart:
        return None
    return (
        f"the baseline took {'; '.join(apart)}: measured under unlike conditions, so only the "
        "ratios, taken in turn, hold; --remeasure takes all times again"
    )


def _by(engine: str | None) -> str:
    return f" by {engine}" if engine else ""
