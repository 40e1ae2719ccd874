"""One step of a chain: from the store, or computed, measured and put there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch

from dataset import DataLoaders, Dataset, preprocessing
from engines.deployment_args import DeploymentArgs
from experiment.running.measure import measure
from experiment.running.store import Store
from experiment.suite.chains import Step
from machine.files import canonical_json, sha256
from machine.waiting import considerate_waiting
from methods.casting import FLOAT32
from stages import STAGES
from stages.deployment import Deployed, calibrated, deploy
from stages.latency import Rival, fastest_engines
from stages.stage import Context, StageError, StageSpec
from stages.state import ModelState, initial_state

# The baseline that was timed last, ready to run, by content, device and arguments: chains that come
# one after another begin from the same, and making one takes a second.
_RIVALS: dict[tuple[str, str, str], Rival] = {}
Outcome = tuple[ModelState, dict[str, Any]]  # of a step: state and record


def run_step(
    step: Step,
    store: Store,
    outcome: Callable[[Step], Outcome],
    dataset: Callable[[], Dataset],
    device: torch.device,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
    recompute: bool = False,
    remeasure: bool = False,
) -> tuple[dict[str, Any], bool]:
    """The step's record, and whether it came from the store, where its network now is.

    `outcome` gives what an earlier step made, asked for where it is needed. An entry made from
    other weights than its parent or teacher now has is computed anew, and so is any under
    `recompute`, the old one set aside; `remeasure` takes only the metrics again. Raises whatever
    the stage raises.
    """

    def now(other: Step | None) -> str | None:
        record = store.record(other.key) if other is not None else None
        return record["checkpoint_sha256"] if record is not None else None

    origin = {"parent_sha256": now(step.before), "teacher_sha256": now(step.teacher)}
    with store.lock(step.key, stop_requested), considerate_waiting() as neighbours:
        found = store.verified(step.key)
        aside = "to be computed anew" if recompute else None
        if found is not None and origin != {name: found.get(name) for name in origin}:
            aside = "was made from other weights than its parent or teacher now has"
        args = step.experiment.deployment.model_dump()
        if found is not None and aside is None:
            # Of a version that did not take all metrics, or on other engines.
            lacking = found.get("deployment") != args
            if (remeasure or lacking) and (loaded := store.load(step.key)) is not None:
                say("       measuring")
                metrics = _remeasured(step, loaded[0], outcome, dataset(), device)
                found = store.put_record(
                    step.key, {**found, "metrics": metrics, "deployment": args}
                )
            store.name(step.key, step.checkpoint)
            return found, True
        started = time.perf_counter()
        parent = outcome(step.before) if step.before else None
        teacher = outcome(step.teacher) if step.teacher else None
        origin = {"parent_sha256": _sha(parent), "teacher_sha256": _sha(teacher)}
        snapshot = store.snapshot(step.key, sha256(canonical_json(origin)))
        ctx = Context(
            dataset(),
            device,
            step.seed,
            snapshot,
            stop_requested=stop_requested,
            say=say,
            teacher=teacher[0] if teacher else None,
        )
        resumed = snapshot.exists()
        deployed = _computed(step, parent[0] if parent else None, ctx)
        computed = time.perf_counter()
        say("       measuring")
        metrics = _measured(step, deployed, deployed.loaders(ctx), outcome)
        measured = time.perf_counter()
        if found is not None:
            for path in (store.path(step.key), store.record_path(step.key)):
                store.set_aside(path, f"{path.name}: {aside}")
        record = {
            **_described(step, deployed.state),
            **origin,
            "seconds": measured - started + ctx.earlier_seconds,
            "measuring_seconds": measured - computed,
            "crowded_share": round(neighbours.share(), 3),
            "resumed": resumed,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "details": ctx.details,
            "deployment": args,
            "metrics": metrics,
        }
        record = store.put(step.key, deployed.state, record, preprocessing(ctx.dataset))
        store.name(step.key, step.checkpoint)
        return record, False


def _remeasured(
    step: Step,
    state: ModelState,
    outcome: Callable[[Step], Outcome],
    dataset: Dataset,
    device: torch.device,
) -> dict[str, Any]:
    deployed = deploy(state, device)
    return _measured(step, deployed, deployed.loaders(Context(dataset, device, step.seed)), outcome)


def _measured(
    step: Step, deployed: Deployed, loaders: DataLoaders, outcome: Callable[[Step], Outcome]
) -> dict[str, Any]:
    """The metrics, timed in turn with the network that the chain began from."""
    args = step.experiment.deployment
    first = step
    while first.before is not None:
        first = first.before
    rival = None if first is step else _rival(*outcome(first), deployed.device, args)
    return measure(deployed, loaders.test, loaders.validation, args, rival)


def _rival(
    state: ModelState, record: dict[str, Any], device: torch.device, args: DeploymentArgs
) -> Rival:
    """A baseline on the engines that were the fastest when it was measured itself, likewise."""
    key = record["checkpoint_sha256"], str(device), args.model_dump_json()
    if key not in _RIVALS:
        rival = Rival(deploy(state, device))
        if record.get("deployment") == args.model_dump():
            rival.fastest = fastest_engines(record["metrics"]["inference_time_ms"])
            rival.deployed = rival.deployed.on(rival.fastest, args.threads)
        _RIVALS.clear()
        _RIVALS[key] = rival
    return _RIVALS[key]


def _sha(outcome: Outcome | None) -> str | None:
    return outcome[1]["checkpoint_sha256"] if outcome is not None else None


def _computed(step: Step, before: ModelState | None, ctx: Context) -> Deployed:
    """What the step's stage makes of `before`, calibrated; raises whatever the stage raises."""
    deterministic = step.experiment.training.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    for warning in step.spec.warnings():
        ctx.warn(warning)
    for warning in _swapped(step.spec, ctx.dataset):
        ctx.say(f"  warning: {warning}")  # now, and not only after hours of training
        ctx.warn(warning)
    before = before or initial_state(step.experiment.model_args, step.seed)
    after = STAGES[step.stage].run(before, step.spec, ctx)
    _check_declared(step, after, ctx)
    if _settings(after) == _settings(before) and all(
        torch.equal(value, before.weights[name]) for name, value in after.weights.items()
    ):
        ctx.warn(f"{step.stage} changed nothing: {step.spec.why_nothing}")
    exits, left = len(before.model_args["exits"]), len(after.model_args["exits"])
    if left < exits:
        ctx.warn(f"{step.stage} took {exits - left} of {exits} early exits along with their layers")
    return calibrated(after, ctx)


def _swapped(spec: StageSpec, dataset: Dataset) -> list[str]:
    """Classes that flips confuse, where the stage trains on mirrored images."""
    if not (dataset.flip if spec.flips == "auto" else spec.flips):
        return []
    return [
        f"classes {one!r} and {other!r} are one another's mirror image, and half of the images are "
        "mirrored in training; set training_args.flip to False"
        for one, other in dataset.swapped_when_flipped
    ]


def _settings(state: ModelState) -> list[Any]:
    """A state but for its weights, and for the ranges and thresholds that are found by these."""
    exits = state.exits and state.exits.stale(len(state.model_args["exits"]))
    return [state.model_args, state.quant and state.quant.settings(), exits, state.precision]


def _check_declared(step: Step, after: ModelState, ctx: Context) -> None:
    """Raise StageError where a stage did what no Spec declares: its key lacks code then."""
    trained = "history" in ctx.details
    for done, declared, what, missing in (
        (after.quant is not None, step.leaving.int8, "is quantized", "quantizes = True"),
        (bool(after.model_args["exits"]), step.leaving.exits, "has exits", "adds_exits = True"),
        (after.precision != FLOAT32, step.leaving.bf16, "is bfloat16", "casts = True"),
        (trained, step.spec.epochs_trained > 0, "was trained", "epochs_trained, by FitSpec"),
    ):
        if done and not declared:
            raise StageError(
                f"{step.stage}: its network {what}, which {type(step.spec).__name__} does not "
                f"declare; add {missing}"
            )


def _described(step: Step, state: ModelState) -> dict[str, Any]:
    """The part of a record that tells what was run."""
    return {
        "stage": step.stage,
        "key": step.key,
        "parent": step.parent,
        "teacher": step.teacher.key if step.teacher else None,
        "settings": step.settings,
        "seed": step.seed,
        "quant": state.quant.settings() if state.quant else None,
        "exits": state.exits.plain() if state.exits else None,
        "precision": state.precision,
    }
