"""Running a study and writing `results/study_NAME.json`.

Chains run as any suite does. Then every final network is measured once more, on the validation
share: these figures, and which images it got right, are all that the findings rest on. Accuracies
on the test split, which the suite takes after every stage, are only put beside them at the end.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataset import Dataset, load_dataset
from experiment.chain import Chain, plan
from experiment.console import Console
from experiment.execution import Execution
from experiment.executor import StopSignal
from experiment.measure import measure
from experiment.order import RESAMPLES, TOLERANCE, Array
from experiment.results import SUMMARISED, Results, metric
from experiment.run import run_suite
from experiment.store import Store
from experiment.study import Link, Study
from experiment.study_analysis import Analysis, Evidence, Reference
from files import canonical_json, sha256, write_json
from stages.state import Context, Interrupted, ModelState, deploy
from train_eval import evaluate, final_logits

COSTS = {"bitops": "bitops", "latency_ms": "latency_ms_batch_1"}
DROPS = (0.5, 1.0, 2.0)  # points, for which the best chain is named
FROM_RESULTS = ("suite", "command", "git_commit", "environment", "started")


@dataclass(frozen=True)
class OnValidation:
    """A final network on the validation share."""

    correct: Array  # [N] of bool
    metrics: dict[str, Any]  # as `measure` gives them
    form: str  # of its architecture, int8 and exits: equal forms run the same code


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

    `baseline`, `remeasure` and `execution` as in `run_suite`, which raises.
    """
    more: dict[str, Any] = {"remeasure": remeasure, "execution": execution}
    progress = console
    if not remeasure and baseline != "retrain" and _nothing_to_run(study):
        console.say("every chain is in the store; what they gave is in the files of each")
        progress = Console(quiet=True)
    results = run_suite(study.suite, baseline, progress, table=False, **more)
    found = with_shared_latency(_on_validation(study, results, console))
    report = _report(study, results, found)
    write_json(study_path(study), report)
    return report


def _nothing_to_run(study: Study) -> bool:
    store = Store(study.suite.model_dir)
    return all(store.has(step.key) for chain in plan(study.suite) for step in chain.steps)


def _on_validation(
    study: Study, results: Results, console: Console
) -> dict[str, list[OnValidation]]:
    """Experiment → its final network on the validation share, a seed; those that came to an end."""
    store = Store(study.suite.model_dir, console.note)
    names = [study.config.baseline, *(link.name for link in study.links)]
    done = [name for name in names if results.experiments[name]["status"] == "done"]
    chains = [chain for chain in plan(study.suite) if chain.experiment.name in done]
    missing = [c for c in chains if not store.validation(c.steps[-1].key).exists()]
    console.say("")
    console.say(
        f"{len(chains)} networks on the validation share"
        + (f", {len(missing)} to be measured" if missing else ", all measured before")
    )
    loaded: list[Dataset] = []

    def dataset() -> Dataset:
        if not loaded:
            loaded.append(load_dataset(chains[0].experiment.dataset_args, study.suite.data_dir))
        return loaded[0]

    found: dict[str, list[OnValidation]] = {name: [] for name in done}
    stop = StopSignal()
    with stop.listening(console.say):
        in_order = sorted(chains, key=lambda c: c.experiment.seeds.index(c.seed))
        unseen = console.quiet or None  # None: where there is no terminal
        for chain in tqdm(in_order, "validation share", unit="net", leave=False, disable=unseen):
            if stop():
                raise Interrupted
            found[chain.experiment.name].append(
                on_validation(chain, store, dataset, study.suite.device)
            )
    return found


def on_validation(
    chain: Chain, store: Store, dataset: Callable[[], Dataset], device: torch.device
) -> OnValidation:
    """What a finished chain's network does on the validation share, kept beside it in the store."""
    key = chain.steps[-1].key
    stored = store.load(key)
    assert stored is not None, key
    state, record = stored
    kept = store.validation(key, record["checkpoint_sha256"])
    found = kept.load()
    if found is None:
        found = _measured(state, record["metrics"], dataset(), device, store.compiled)
        kept.save(found)
    bits = np.unpackbits(found["correct"].numpy(), count=found["images"])
    return OnValidation(bits.astype(bool), found["metrics"], _form(state))


@torch.inference_mode()
def _measured(
    state: ModelState,
    metrics: dict[str, Any],
    dataset: Dataset,
    device: torch.device,
    artefacts: Path,
) -> dict[str, Any]:
    """Which images it gets right, and its metrics; `metrics` are those on the test split.

    What a network costs does not depend on the images, unless some leave early.
    """
    runs_on = device if state.quant is None else torch.device("cpu")
    network = deploy(state, device, artefacts)
    loader = Context(dataset, runs_on, seed=0).loaders(batch_size=256).validation
    right = [final_logits(network(images)).argmax(1) == labels for images, labels in loader]
    correct = torch.cat(right).cpu().numpy()
    if state.exits is not None:
        metrics = measure(state, loader, device, artefacts, network)
    else:
        quality = evaluate(network, loader)
        metrics = {**metrics, "accuracy": quality.accuracy, "loss": quality.loss}
    return {
        "correct": torch.from_numpy(np.packbits(correct)),
        "images": len(correct),
        "metrics": metrics,
    }


def _form(state: ModelState) -> str:
    """Digest of all that decides how long a network takes."""
    parts = {
        "model_args": state.model_args,
        "quant": state.quant.settings() if state.quant else None,
        "exits": state.exits.plain() if state.exits else None,
    }
    return sha256(canonical_json(parts))


def with_shared_latency(found: Mapping[str, list[OnValidation]]) -> dict[str, list[OnValidation]]:
    """The same, each latency the median over all networks of one form, which run the same code.

    So equal networks cannot differ by what else the machine did while one of them was timed.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in (run for runs in found.values() for run in runs):
        for batch, taken in run.metrics["inference_time_ms"].items():
            times[run.form, batch].append(taken["median"])

    def shared(run: OnValidation) -> OnValidation:
        own = {
            batch: {**taken, "median": statistics.median(times[run.form, batch])}
            for batch, taken in run.metrics["inference_time_ms"].items()
        }
        return replace(run, metrics={**run.metrics, "inference_time_ms": own})

    return {name: [shared(run) for run in runs] for name, runs in found.items()}


# --- the report --------------------------------------------------------------------------------


def _report(study: Study, results: Results, found: dict[str, list[OnValidation]]) -> dict[str, Any]:
    config, baseline = study.config, found.get(study.config.baseline, [])
    base = _figures(baseline)
    chains = [_chain(study, link, results, found, base) for link in study.links]
    evidence = [_evidence(link, found[link.name]) for link in study.links if link.name in found]
    classes = len(study.experiment(config.baseline).data.classes)
    everyone = [base, *(_figures(found[link.name]) for link in study.links if link.name in found)]
    largest = {
        cost: max((figures[name]["mean"] for figures in everyone if figures), default=1.0)
        for cost, name in COSTS.items()
    }
    analysis = Analysis(
        list(config.stages),
        config.all_orders(),
        evidence,
        Reference(100 / classes, largest),
        cost=config.cost,
        confidence=config.confidence,
    )
    findings = analysis.findings()
    tests = {row["name"]: row["test"]["accuracy"]["mean"] for row in chains if "test" in row}
    for pair in findings["pairs"]:
        pair["test_difference"] = _test_difference(pair, tests)
    return {
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
            "cost_tolerance": TOLERANCE,
            "hypervolume_reference": {"accuracy": 100 / classes, **largest},
        },
        **{name: results.shared[name] for name in FROM_RESULTS},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _evidence(link: Link, runs: Sequence[OnValidation]) -> Evidence:
    return Evidence(
        link.name,
        link.order,
        link.strengths,
        np.stack([run.correct for run in runs]),
        {
            cost: np.array([metric(run.metrics, name) for run in runs], dtype=float)
            for cost, name in COSTS.items()
        },
    )


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
        row["device"] = found[link.name][0].metrics["inference_time_ms"]["batch_1"]["device"]
        row["test"] = {"accuracy": accuracy, "accuracy_drop": start["mean"] - accuracy["mean"]}
    return row


def _figures(runs: Sequence[OnValidation]) -> dict[str, Any]:
    """Metric → mean, std and n over seeds."""
    return {
        name: summarised(
            [value for run in runs if (value := metric(run.metrics, name)) is not None]
        )
        for name in SUMMARISED
        if runs
    }


def summarised(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value) and n."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


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
        within = [row for row in chains if row.get("accuracy_drop", drop + 1) <= drop]
        if not within:
            continue
        row = min(within, key=lambda row: row["metrics"][COSTS[cost]]["mean"])
        ratios = {
            f"{name}_ratio": row["metrics"][name]["mean"] / base[name]["mean"]
            for name in ("bitops", "latency_ms_batch_1", "model_size_mb")
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
