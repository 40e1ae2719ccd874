"""Running a study and writing `results/study_NAME.json`.

Chains run as any suite does. Then every final network is measured once more, on the validation
share: these figures, and which images it got right, are all that the findings rest on. Accuracies
on the test split, which the suite takes after every stage, are only put beside them at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from experiment.running.console import Console
from experiment.running.executor_options import Execution
from experiment.running.metrics import FOOTPRINT, metric, summarised
from experiment.running.results import Results
from experiment.running.run import run_chains
from experiment.running.store import Store
from experiment.running.study_result import COSTS, RATIOS, StudyResult
from experiment.study.analysis import Analysis, Evidence, ScoreScale
from experiment.study.plan import Link, Study
from experiment.study.statistics import RESAMPLES, TOLERANCE
from experiment.study.validation import OnValidation, finals_on_validation, with_shared_latency
from experiment.suite.chains import plan
from machine.files import finite, write_json

DROPS = (0.5, 1.0, 2.0)  # points, for which the best chain is named
FROM_RESULTS = ("suite", "command", "git_commit", "environment", "started")


def study_path(study: Study) -> Path:
    return study.suite.results_dir / f"study_{study.config.name}.json"


def run_study(
    study: Study,
    console: Console,
    *,
    baseline: str = "reuse",
    remeasure: bool = False,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Run every chain that is not in the store, and find what they say; returns what is written.

    `baseline`, `remeasure` and `execution` as in `run_chains`, which raises.
    """
    more: dict[str, Any] = {"remeasure": remeasure, "execution": execution}
    progress = console
    if not remeasure and baseline != "retrain" and _nothing_to_run(study):
        console.say("every chain is in the store; what they gave is in the files of each")
        progress = Console(quiet=True)
    results = run_chains(study.suite, baseline, progress, **more)
    found = with_shared_latency(finals_on_validation(study, results, console))
    report = _report(study, results, found)
    write_json(study_path(study), report)
    return report


def _nothing_to_run(study: Study) -> bool:
    store = Store(study.suite.model_dir)
    return all(store.has(step.key) for chain in plan(study.suite) for step in chain.steps)


# --- the report --------------------------------------------------------------------------------


def _report(study: Study, results: Results, found: dict[str, list[OnValidation]]) -> dict[str, Any]:
    config, baseline = study.config, found.get(study.config.baseline, [])
    base = _figures(baseline)
    chains = [_chain(study, link, results, found, base) for link in study.links]
    evidence = [_evidence(link, found[link.name]) for link in study.links if link.name in found]
    classes = len(study.experiment(config.baseline).data.classes)
    everyone = [base, *(_figures(found[link.name]) for link in study.links if link.name in found)]
    largest = {
        cost: max((f[name]["mean"] for f in everyone if name in f), default=1.0)
        for cost, name in COSTS.items()
    }
    left_out = _costs_left_out(found)
    analysis = Analysis(
        list(config.stages),
        config.all_orders(),
        evidence,
        ScoreScale(100 / classes, largest),
        cost=config.cost,
        confidence=config.confidence,
        left_out=left_out,
    )
    findings = analysis.findings()
    tests = {row["name"]: row["test"]["accuracy"]["mean"] for row in chains if "test" in row}
    for pair in findings["pairs"]:
        pair["test_difference"] = _test_difference(pair, tests)
    report = {
        "study": config.name,
        "status": "done" if len(evidence) == len(study.links) else "failed",
        **findings,
        "best": _best(chains, base, config.cost),
        "chains": chains,
        "baseline": {
            "name": config.baseline,
            "metrics": base,
            "test": {"accuracy": _test_accuracy(results, config.baseline)},
        },
        "failed": [row["name"] for row in chains if row["status"] != "done"],
        "config": config.model_dump(),
        "seeds": list(study.experiment(study.links[0].name).seeds),
        "splits": {
            "decisions": "validation",
            "images": analysis.images,
            "reported_only": "test",
        },
        "method": {
            "cost": config.cost,
            "confidence": config.confidence,
            "resamples": RESAMPLES,
            "covers": "images and seeds" if analysis.seeds > 1 else "images alone (one seed)",
            "cost_tolerance": {cost: TOLERANCE[cost] for cost in analysis.costs},
            "costs_left_out": left_out,
            "hypervolume_reference": {
                "accuracy": 100 / classes,
                **{cost: largest[cost] for cost in analysis.costs},
            },
        },
        **{name: results.shared[name] for name in FROM_RESULTS},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    words = StudyResult.model_validate(finite(report)).findings
    return {**report, "findings": [finding.model_dump() for finding in words]}


def _evidence(link: Link, runs: Sequence[OnValidation]) -> Evidence:
    return Evidence(
        link.name,
        link.order,
        link.strengths,
        np.stack([run.correct for run in runs]),
        {
            cost: np.array([metric(run.metrics, name) for run in runs], dtype=float)
            for cost, name in COSTS.items()
            if all(metric(run.metrics, name) is not None for run in runs)
        },
    )


def _costs_left_out(found: dict[str, list[OnValidation]]) -> dict[str, str]:
    """Costs that not every network has, and why, so that orders are not compared at them."""
    left_out = {}
    for cost, name in COSTS.items():
        for chain, runs in found.items():
            without = [run.metrics for run in runs if metric(run.metrics, name) is None]
            if without and cost not in left_out:
                why = without[0].get("energy_unknown") if name == "joules_per_image" else None
                left_out[cost] = f"{chain} has no {cost}" + (f": {why}" if why else "")
    return left_out


def _chain(
    study: Study,
    link: Link,
    results: Results,
    found: dict[str, list[OnValidation]],
    base: dict[str, Any],
) -> dict[str, Any]:
    """One row of `chains`: 'metrics' are of the validation share, 'test' is for the reader."""
    result = results.experiments[link.name]
    row = {
        "name": link.name,
        "order": link.order,
        "strengths": dict(link.strengths),
        "sequence": [name for name, _ in study.experiment(link.name).sequence],
        "epochs": study.epochs[link.name],
        "status": result["status"],
        "errors": result["errors"],
        "results_file": results.path(link.name).name,
        "config": link.config(study.config),
    }
    if link.name in found:
        accuracy = _test_accuracy(results, link.name)
        start = _test_accuracy(results, study.config.baseline)
        figures = _figures(found[link.name])
        row["metrics"] = figures
        row["accuracy_drop"] = base["accuracy"]["mean"] - figures["accuracy"]["mean"]
        times = found[link.name][0].metrics["inference_time_ms"]
        row["device"] = next(time["device"] for time in times.values())
        row["test"] = {"accuracy": accuracy, "accuracy_drop": start["mean"] - accuracy["mean"]}
    return row


def _figures(runs: Sequence[OnValidation]) -> dict[str, Any]:
    """Figure → mean, std and n over seeds."""
    return summarised([run.metrics for run in runs])


def _test_accuracy(results: Results, name: str) -> dict[str, Any]:
    return results.experiments[name]["final"].get("accuracy", {})


def _test_difference(pair: dict[str, Any], tests: dict[str, float]) -> float | None:
    """Mean over strengths and seeds of the two orders' difference on the test split."""
    one, other = pair["chains"].values()
    if not one:
        return None
    return statistics.fmean(tests[a] - tests[b] for a, b in zip(one, other, strict=True))


def _best(
    chains: Sequence[dict[str, Any]], base: dict[str, Any], cost: str
) -> list[dict[str, Any]]:
    """The cheapest chain within each of DROPS, by the validation share."""
    best = []
    for drop in DROPS:
        within = [
            row
            for row in chains
            if row.get("accuracy_drop", drop + 1) <= drop and COSTS[cost] in row["metrics"]
        ]
        if not within:
            continue
        row = min(within, key=lambda row: row["metrics"][COSTS[cost]]["mean"])
        ratios = {
            f"{name}_ratio": row["metrics"][name]["mean"] / base[name]["mean"]
            for name in (*RATIOS, *FOOTPRINT)
            if name in row["metrics"] and base.get(name, {}).get("mean")
        }
        best.append(
            {
                "within": drop,
                "chain": row["name"],
                "accuracy_drop": row["accuracy_drop"],
                "test_accuracy_drop": row["test"]["accuracy_drop"],
                **ratios,
            }
        )
    return best
