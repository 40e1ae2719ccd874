"""What is written of a study: findings as plain data and in words, and every chain's figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from experiment.outcomes.study import COSTS, RATIOS, StudyResult
from experiment.running.metrics import FOOTPRINT, metric, summarised
from experiment.running.results import Results
from experiment.study.analysis import Analysis
from experiment.study.comparison import Evidence, ScoreScale, drops
from experiment.study.literature import Letter, claims
from experiment.study.plan import Link, Study
from experiment.study.rounds import POWER, Rounds
from experiment.study.statistics import TOLERANCE
from experiment.study.validation import OnValidation
from machine.files import finite

Found = Mapping[str, Mapping[int, OnValidation]]  # chain → seed → its network

DROPS = (0.5, 1.0, 2.0)  # points, for which the best chain is named
FROM_RESULTS = ("suite", "command", "git_commit", "environment", "started")
UNITS = {"accuracy": "points", "loss": "nats"}


def analysis_of(study: Study, found: Found) -> Analysis:
    """What the chains that came to their end say of one another."""
    config = study.config
    classes = len(study.experiment(config.baseline).data.classes)
    everyone = [_figures(runs) for runs in found.values()]
    largest = {
        cost: max((f[name]["mean"] for f in everyone if name in f), default=1.0)
        for cost, name in COSTS.items()
    }
    guessing = 100 / classes if config.compare == "accuracy" else -math.log(classes)
    return Analysis(
        list(config.stages),
        list(dict.fromkeys(link.order for link in study.links)),
        [
            _evidence(link.name, link.order, link.strengths, found[link.name], config.compare)
            for link in study.links
            if link.name in found
        ],
        ScoreScale(guessing, largest),
        cost=config.cost,
        confidence=config.confidence,
        margin=config.equal_within,
        left_out=_costs_left_out(found),
    )


def report_of(
    study: Study,
    results: Results,
    found: Found,
    rounds: Rounds,
    whole: tuple[str, Mapping[str, str]] | None,
    course: Mapping[str, Any],
) -> dict[str, Any]:
    """`study_NAME.json`; `whole` is the order of all letters that pairs predict, and those beside
    it that were run (order → why), `course` what was run: rounds, spent.
    """
    config, baseline = study.config, found.get(study.config.baseline, {})
    links = [link for link in study.links if link.name in results.experiments]
    base, analysis = _figures(baseline), analysis_of(study, found)
    chains = [_chain(study, link, results, found, base) for link in links]
    for row, known in zip([r for r in chains if "metrics" in r], _drops(study, found), strict=True):
        row |= known
    findings = analysis.findings(rounds, config.all_orders(), whole)
    tests = {row["name"]: row["test"]["accuracy"]["mean"] for row in chains if "test" in row}
    for pair in findings["pairs"]:
        pair["test_difference"] = _test_difference(pair, tests)
    failed = [row["name"] for row in chains if row["status"] != "done"]
    report = {
        "study": config.name,
        "status": "failed" if failed else "done",
        **findings,
        **course,
        "literature": claims(
            _letters(study),
            findings["pairs"],
            _disturbances(study, found),
            findings["third_stage"],
        ),
        "margin": config.equal_within,
        "compare": config.compare,
        "best": _best(chains, base, config.cost),
        "chains": chains,
        "baseline": {
            "name": config.baseline,
            "metrics": base,
            "test": {"accuracy": _test_accuracy(results, config.baseline)},
        },
        "failed": failed,
        "config": config.model_dump(),
        "seeds": sorted({seed for runs in found.values() for seed in runs}),
        "splits": {
            "decisions": "validation",
            "images": analysis.images,
            "reported_only": "test",
        },
        "method": _method(study, rounds, analysis),
        **{name: results.shared[name] for name in FROM_RESULTS},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    words = StudyResult.model_validate(finite(report)).findings
    return {**report, "findings": [finding.model_dump() for finding in words]}


def _method(study: Study, rounds: Rounds, analysis: Analysis) -> dict[str, Any]:
    """How it was decided."""
    config = study.config
    return {
        "cost": config.cost,
        "compare": config.compare,
        "unit": UNITS[config.compare],
        "margin": config.equal_within,
        "confidence": config.confidence,
        "family": "Holm",
        "spending": f"(seeds / {rounds.most})^{POWER}" if config.by_rounds else None,
        "luck": "hierarchical",
        "covers": "images and seeds" if rounds.least > 1 else "images alone (one seed)",
        "cost_tolerance": {cost: TOLERANCE[cost] for cost in analysis.costs},
        "costs_left_out": dict(analysis.left_out),
        "hypervolume_reference": {
            config.compare: analysis.reference.score,
            **{cost: analysis.reference.costs[cost] for cost in analysis.costs},
        },
    }


def _evidence(
    name: str,
    order: str,
    strengths: tuple[tuple[str, int], ...],
    by_seed: Mapping[int, OnValidation],
    compare: str,
) -> Evidence:
    seeds = tuple(sorted(by_seed))
    runs = [by_seed[seed] for seed in seeds]
    if compare == "loss":
        score = np.stack([-run.losses for run in runs if run.losses is not None])
    else:
        score = 100 * np.stack([run.correct for run in runs]).astype(np.float32)
    return Evidence(
        name,
        order,
        strengths,
        seeds,
        score,
        {
            cost: np.array([metric(run.metrics, name) for run in runs], dtype=float)
            for cost, name in COSTS.items()
            if all(metric(run.metrics, name) is not None for run in runs)
        },
    )


def _drops(study: Study, found: Found) -> list[dict[str, Any]]:
    """Of every chain that came to an end, what is known of its drop of accuracy, and its seeds."""
    names = [link.name for link in study.links if link.name in found]
    if study.config.baseline not in found:
        return [{} for _ in names]
    baseline, *chains = (
        _evidence(name, "", (), found[name], "accuracy") for name in (study.config.baseline, *names)
    )
    known = drops(baseline, chains, study.config.confidence)
    return [row | {"seeds": list(c.seeds)} for row, c in zip(known, chains, strict=True)]


def _letters(study: Study) -> dict[str, Letter]:
    """What each letter does, by the stages of any chain that has it."""
    found = {}
    for link in study.links:
        for origin, (stage, spec) in zip(
            link.origins, study.experiment(link.name).sequence, strict=True
        ):
            if origin.letter is not None and (stage == "distill" or spec.quantizes):
                freezes = spec.quantizes and spec.freezes is True
                found[origin.letter] = Letter(stage == "distill", spec.quantizes, freezes)
    return found


def _disturbances(study: Study, found: Found) -> dict[str, float]:
    """Letter → how much score its stages alone cost, the mean over strengths and seeds."""
    compare, base = study.config.compare, found.get(study.config.baseline)
    lost: dict[str, list[float]] = {}
    for link in study.links:
        if base is not None and len(link.order) == 1 and link.name in found:
            own = _evidence(link.name, "", (), found[link.name], compare)
            whole = _evidence("", "", (), base, compare)
            start = whole.score[whole.at(own.seeds)]
            lost.setdefault(link.order, []).append(float((start - own.score).mean()))
    return {letter: statistics.fmean(values) for letter, values in lost.items()}


def _costs_left_out(found: Found) -> dict[str, str]:
    """Costs that not every network has, and why, so that orders are not compared at them."""
    left_out = {}
    for cost, name in COSTS.items():
        for chain, runs in found.items():
            without = [run.metrics for run in runs.values() if metric(run.metrics, name) is None]
            if without and cost not in left_out:
                why = without[0].get("energy_unknown") if name == "joules_per_image" else None
                left_out[cost] = f"{chain} has no {cost}" + (f": {why}" if why else "")
    return left_out


def _chain(
    study: Study,
    link: Link,
    results: Results,
    found: Found,
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
    if link.name in found and base:
        accuracy = _test_accuracy(results, link.name)
        start = _test_accuracy(results, study.config.baseline)
        figures = _figures(found[link.name])
        row["metrics"] = figures
        row["accuracy_drop"] = base["accuracy"]["mean"] - figures["accuracy"]["mean"]
        times = next(iter(found[link.name].values())).metrics["inference_time_ms"]
        row["device"] = next(time["device"] for time in times.values())
        row["test"] = {"accuracy": accuracy, "accuracy_drop": start["mean"] - accuracy["mean"]}
    return row


def _figures(by_seed: Mapping[int, OnValidation]) -> dict[str, Any]:
    """Figure → mean, std and n over seeds."""
    return summarised([by_seed[seed].metrics for seed in sorted(by_seed)])


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
