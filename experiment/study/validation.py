"""The final networks of a study, measured on the validation share alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataset import Dataset, load_dataset
from engines import ENGINES
from engines.deployment_args import DeploymentArgs
from experiment.running.console import Console
from experiment.running.measure import measure
from experiment.running.metrics import FOOTPRINT, metric
from experiment.running.results import Results
from experiment.running.store import Store
from experiment.study.plan import Study
from experiment.study.statistics import Array
from experiment.suite.chains import Chain, plan
from machine.errors import Interrupted
from machine.stop_signal import StopSignal
from machine.waiting import considerate_waiting
from stages.deployment import deploy
from stages.latency import Rival, fastest_engines
from stages.stage import Context
from stages.state import ModelState, form
from training.losses import final_logits


@dataclass(frozen=True)
class OnValidation:
    """A final network on the validation share."""

    correct: Array  # [N] of bool
    metrics: dict[str, Any]  # as `measure` gives them
    form: str  # of its architecture, int8 and exits: equal forms run the same code


def finals_on_validation(
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
    with stop.listening(console.say), considerate_waiting():
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
        root = store.load(chain.all_steps()[0].key)
        assert root is not None, chain.name
        found = _measured(state, record, dataset(), device, root[0])
        kept.save(found)
    bits = np.unpackbits(found["correct"].numpy(), count=found["images"])
    return OnValidation(bits.astype(bool), found["metrics"], form(state))


@torch.inference_mode()
def _measured(
    state: ModelState,
    record: dict[str, Any],
    dataset: Dataset,
    device: torch.device,
    root: ModelState,
) -> dict[str, Any]:
    """Which images it gets right, by the engine that counts (where this machine lacks it, by the
    preferred one), and its metrics; `record` has those on the test split.

    What a network costs does not depend on the images, unless some leave early: then it is
    measured anew, in turn with the network `root` that its chain began from.
    """
    metrics = record["metrics"]
    args = DeploymentArgs.model_construct(**record["deployment"])  # checked, on another machine too
    deployed = deploy(state, device)
    loader = deployed.loaders(Context(dataset, device, seed=0)).validation
    here = {
        size: name
        for size, name in fastest_engines(metrics["inference_time_ms"]).items()
        if ENGINES[name].unavailable() is None
    }
    network = (deployed.on(here, args.threads) if here else deployed).network
    right = [final_logits(network(images)).argmax(1) == labels for images, labels in loader]
    correct = torch.cat(right).cpu().numpy()
    if state.exits is not None:
        metrics = measure(deployed, loader, loader, args, Rival(deploy(root, deployed.device)))
    else:
        metrics = {**metrics, **metrics["validation"]}
    return {
        "correct": torch.from_numpy(np.packbits(correct)),
        "images": len(correct),
        "metrics": metrics,
    }


def with_shared_latency(found: Mapping[str, list[OnValidation]]) -> dict[str, list[OnValidation]]:
    """The same, each latency, peak memory and energy the median over all networks of one form,
    which run the same code.

    Each latency counts as its ratio to the baseline's that was taken in turn with it, times what
    the baseline took in the median. So equal networks cannot differ by what else the machine did
    while one of them was timed, nor any two by when they were.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    unit: dict[str, list[float]] = defaultdict(list)  # of the baseline, by batch
    footprints: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in (run for runs in found.values() for run in runs):
        for name in FOOTPRINT:
            value = metric(run.metrics, name)
            footprints[run.form, name] += [] if value is None else [value]
        for batch, taken in run.metrics["inference_time_ms"].items():
            its = taken.get("baseline_median", taken["median"])
            speedup = (
                taken.get("speedup", taken.get("speedup_over_baseline")) or its / taken["median"]
            )
            times[run.form, batch].append(1 / speedup)
            unit[batch].append(its)

    def shared(run: OnValidation) -> OnValidation:
        own = {}
        for batch, taken in run.metrics["inference_time_ms"].items():
            ratio = statistics.median(times[run.form, batch])
            own[batch] = {**taken, "median": ratio * statistics.median(unit[batch])}
        known = [name for name in FOOTPRINT if footprints[run.form, name]]
        footprint = {name: statistics.median(footprints[run.form, name]) for name in known}
        return replace(run, metrics={**run.metrics, **footprint, "inference_time_ms": own})

    return {name: [shared(run) for run in runs] for name, runs in found.items()}
