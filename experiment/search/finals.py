"""Figures of a network as a search takes them, and finalists judged by fresh seeds alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiment.outcomes.study import COSTS
from experiment.outcomes.wish import ACCURACIES, METRICS
from experiment.running.console import Console
from experiment.running.metrics import LATENCIES, final_metrics, metric, time_ratio
from experiment.running.results import Results
from experiment.search.plan import Search
from experiment.search.space import Way
from experiment.study.comparison import Evidence, drops
from experiment.study.validation import OnValidation, finals_on_validation
from experiment.suite.records import Suite

CONFIDENCE = 0.95  # of intervals
Figures = dict[str, float]


def figures_of(
    metrics: Mapping[str, Any],
    baseline_metrics: Mapping[str, Any],
    baseline: Mapping[str, float] | None,
) -> Figures:
    """What a wish may ask for, of metrics whose accuracy is that on the validation share.

    Times count as their ratio to the baseline's that was taken in turn, times what `baseline` took
    (None: the figures are its own).
    """
    found: Figures = {"accuracy": metrics["validation"]["accuracy"]}
    found["accuracy_drop"] = baseline_metrics["validation"]["accuracy"] - found["accuracy"]
    for name in METRICS:
        path = COSTS.get(name, name)
        value = metric(dict(metrics), path) if name not in ACCURACIES else None
        if value is None:
            continue
        if baseline is not None and path in LATENCIES:
            ratio = time_ratio(dict(metrics), path)
            value = ratio * baseline[name] if ratio is not None else value
        found[name] = value
    return found


def confirmed(
    search: Search, way: Way, suite: Suite, results: Results, base: Mapping[str, float]
) -> dict[str, Any]:
    """How a chain did at fresh seeds: the fields of a `Final` that tell of it."""
    name, root = search.name("full", way), search.config.baseline
    nothing: dict[str, Any] = {"figures": [], "confirmed": None, "test": None, "meets": False}
    result = results.experiments[name]
    if result["status"] != "done":
        errors = [error["message"] for error in result["errors"]]
        return {**nothing, "failed": errors[0] if errors else f"is {result['status']}"}
    found = finals_on_validation(suite, {name, root}, Console(quiet=True))
    runs, its = found[name], found[root]
    seeds = [seed for seed in search.fresh_seeds if seed in runs and seed in its]
    figures = [figures_of(runs[s].metrics, its[s].metrics, base) for s in seeds]
    means = {key: statistics.fmean(each[key] for each in figures) for key in figures[0]}
    known = drops(_evidence(its, seeds), [_evidence(runs, seeds)], CONFIDENCE)[0]
    test = {
        of: final_metrics(results.experiments[of], seeds)["accuracy"]["mean"] for of in (name, root)
    }
    return {
        "figures": figures,
        "confirmed": {
            "accuracy_drop": means["accuracy_drop"],
            "interval": known["drop_interval"],
            "sd": known["drop_sd"],
            "seeds": seeds,
            "figures": means,
        },
        "test": {"accuracy": test[name], "accuracy_drop": test[root] - test[name]},
        "meets": all(
            limit.metric in means and limit.allows(means[limit.metric])
            for limit in search.config.parsed_wish.limits
        ),
    }


def _evidence(runs: Mapping[int, OnValidation], seeds: list[int]) -> Evidence:
    score = 100 * np.stack([runs[seed].correct for seed in seeds]).astype(np.float32)
    return Evidence("", "", (), tuple(seeds), score, {})
