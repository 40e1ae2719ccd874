"""The figures of a network: their paths in a record, means over seeds, and changes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

# Figures that get mean and deviation over seeds, as paths into a stage's metrics.
SUMMARISED = {
    "accuracy": ("accuracy",),
    "loss": ("loss",),
    "params": ("params",),
    "nonzero_params": ("nonzero_params",),
    "model_size_mb": ("model_size_mb",),
    "macs": ("macs",),
    "bitops": ("bitops",),
    "latency_ms_batch_1": ("inference_time_ms", "batch_1", "median"),
    "latency_ms_batch_64": ("inference_time_ms", "batch_64", "median"),
}


def final_metrics(result: dict[str, Any], seeds: list[int] | None = None) -> dict[str, Any]:
    """Metric → mean, std and n over seeds (None: all), of the last stage of each seed's chain."""
    length = len(result["config"]["sequence"])
    last = []
    for seed in result["seeds"] if seeds is None else seeds:
        stages = [stage for stage in result["stages"] if stage["seed"] == seed]
        if len(stages) == length:
            last.append(stages[-1]["metrics"])
    summary = {}
    for name in SUMMARISED:
        found = (metric(metrics, name) for metrics in last)
        values = [value for value in found if value is not None]
        if values:
            summary[name] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "n": len(values),
            }
    return summary


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


def metric(metrics: dict[str, Any], name: str) -> float | None:
    """A figure of SUMMARISED among a stage's metrics; None where it was not taken."""
    value: Any = metrics
    for part in SUMMARISED[name]:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def summarised(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value) and n."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }
