"""The final networks of a study, measured on the validation share alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from dataset import Dataset, load_dataset
from engines import ENGINES
from engines.deployment_args import DeploymentArgs
from experiment.running.console import Console
from experiment.running.measure import measure
from experiment.running.metrics import FOOTPRINT, metric
from experiment.running.store import Store
from experiment.study.luck import Array
from experiment.suite.chains import Chain, plan
from experiment.suite.records import Suite
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
    losses: Array | None  # [N] of float32, nats; None where nobody asked for them
    metrics: dict[str, Any]  # as `measure` gives them
    form: str  # of its architecture, int8 and exits: equal forms run the same code


def finals_on_validation(
    suite: Suite, names: Collection[str], console: Console, *, losses: bool = False
) -> dict[str, dict[int, OnValidation]]:
    """Experiment → seed → its final network on the validation share, where it came to an end.

    `names` are those of the experiments that are asked for, `losses` whether each image's is.
    Raises Interrupted.
    """
    store = Store(suite.model_dir, console.note)
    chains = [
        chain
        for chain in plan(suite)
        if chain.experiment.name in names and store.has(chain.steps[-1].key)
    ]
    missing = [c for c in chains if not store.validation(c.steps[-1].key).exists()]
    if missing:
        console.say("")
        console.say(
            f"{len(chains)} networks on the validation share, {len(missing)} to be measured"
        )
    loaded: list[Dataset] = []

    def dataset() -> Dataset:
        if not loaded:
            loaded.append(load_dataset(chains[0].experiment.dataset_args, suite.data_dir))
        return loaded[0]

    found: dict[str, dict[int, OnValidation]] = {}
    stop = StopSignal()
    with stop.listening(console.say), considerate_waiting():
        in_order = sorted(chains, key=lambda c: c.experiment.seeds.index(c.seed))
        unseen = console.quiet or None  # None: where there is no terminal
        for chain in tqdm(in_order, "validation share", unit="net", leave=False, disable=unseen):
            if stop():
                raise Interrupted
            seeds = found.setdefault(chain.experiment.name, {})
            seeds[chain.seed] = on_validation(chain, store, dataset, suite.device, losses=losses)
    return found


def on_validation(
    chain: Chain,
    store: Store,
    dataset: Callable[[], Dataset],
    device: torch.device,
    *,
    losses: bool = False,
) -> OnValidation:
    """What a finished chain's network does on the validation share, kept beside it in the store."""
    key = chain.steps[-1].key
    stored = store.load(key)
    assert stored is not None, key
    state, record = stored
    kept = store.validation(key, record["checkpoint_sha256"])
    found = kept.load()
    if found is None or (losses and "losses" not in found):
        root = store.load(chain.all_steps()[0].key)
        assert root is not None, chain.name
        found = _measured(state, record, dataset(), device, root[0])
        kept.save(found)
    bits = np.unpackbits(found["correct"].numpy(), count=found["images"])
    each = found.get("losses")
    return OnValidation(
        bits.astype(bool), each.numpy() if each is not None else None, found["metrics"], form(state)
    )


@torch.inference_mode()
def _measured(
    state: ModelState,
    record: dict[str, Any],
    dataset: Dataset,
    device: torch.device,
    root: ModelState,
) -> dict[str, Any]:
    """Which images it gets right, each one's loss, and its metrics; `record` has those on the test
    split.

    By the engine that counts; where this machine lacks it, by the preferred one.
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
    right, losses = [], []
    for images, labels in loader:
        logits = final_logits(network(images)).float()
        right.append(logits.argmax(1) == labels)
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
    correct = torch.cat(right).cpu().numpy()
    if state.exits is not None:
        metrics = measure(deployed, loader, loader, args, Rival(deploy(root, deployed.device)))
    else:
        metrics = {**metrics, **metrics["validation"]}
    return {
        "correct": torch.from_numpy(np.packbits(correct)),
        "images": len(correct),
        "losses": torch.cat(losses).cpu(),
        "metrics": metrics,
    }


def with_shared_latency(
    found: Mapping[str, Mapping[int, OnValidation]],
) -> dict[str, dict[int, OnValidation]]:
    """The same, each latency, peak memory and energy the median over all networks of one form,
    which run the same code.

    Each latency counts as its ratio to the baseline's that was taken in turn with it, times what
    the baseline took in the median. So equal networks cannot differ by what else the machine did
    while one of them was timed, nor any two by when they were.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    unit: dict[str, list[float]] = defaultdict(list)  # of the baseline, by batch
    footprints: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in (run for runs in found.values() for run in runs.values()):
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

    return {name: {seed: shared(run) for seed, run in runs.items()} for name, runs in found.items()}
