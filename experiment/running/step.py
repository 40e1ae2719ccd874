"""One step of a chain: from the store, or computed, measured and put there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch

from dataset import Dataset, preprocessing
from experiment.running.measure import measure
from experiment.running.store import Store
from experiment.suite.chains import Step
from machine.files import canonical_json, sha256
from stages import STAGES
from stages.deployment import Deployed, calibrated, deploy
from stages.stage import Context, StageError
from stages.state import ModelState, initial_state

Outcome = tuple[ModelState, dict[str, Any]]  # of a step: state and record


def run_step(
    step: Step,
    parent: Outcome | None,
    store: Store,
    dataset: Callable[[], Dataset],
    device: torch.device,
    *,
    teacher: Outcome | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
    recompute: bool = False,
    remeasure: bool = False,
) -> tuple[ModelState, dict[str, Any], bool]:
    """The step's state, its record, and whether it came from the store.

    `parent` is the state and record before it (None: it starts from nothing), `teacher` those of
    what teaches it. An entry made from other weights than theirs is computed anew, and so is any
    under `recompute`, the old one set aside; `remeasure` takes only the metrics again. Raises
    whatever the stage raises.
    """
    parent_sha = parent[1]["checkpoint_sha256"] if parent else None
    teacher_sha = teacher[1]["checkpoint_sha256"] if teacher else None
    origin = {"parent_sha256": parent_sha, "teacher_sha256": teacher_sha}
    with store.lock(step.key, stop_requested):
        found = store.load(step.key)
        aside = "to be computed anew" if recompute else None
        if found is not None and origin != {name: found[1].get(name) for name in origin}:
            aside = "was made from other weights than its parent or teacher now has"
        if found is not None and aside is None:
            state, record = found
            if remeasure:
                deployed = deploy(state, device, store.compiled)
                test = deployed.loaders(Context(dataset(), device, step.seed)).test
                record = store.put_record(step.key, {**record, "metrics": measure(deployed, test)})
            store.name(step.key, step.checkpoint)
            return state, record, True
        started = time.perf_counter()
        snapshot = store.snapshot(step.key, sha256(canonical_json(origin)))
        ctx = Context(
            dataset(),
            device,
            step.seed,
            snapshot,
            stop_requested=stop_requested,
            say=say,
            teacher=teacher[0] if teacher else None,
            artefacts=store.compiled,
        )
        resumed = snapshot.exists()
        deployed = _computed(step, parent[0] if parent else None, ctx)
        state = deployed.state
        seconds = time.perf_counter() - started + ctx.earlier_seconds
        metrics = measure(deployed, deployed.loaders(ctx).test)
        if found is not None:
            for path in (store.path(step.key), store.record_path(step.key)):
                store.set_aside(path, f"{path.name}: {aside}")
        record = {
            **_described(step, state),
            **origin,
            "seconds": seconds,
            "resumed": resumed,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "details": ctx.details,
            "metrics": metrics,
        }
        record = store.put(step.key, state, record, preprocessing(ctx.dataset))
        store.name(step.key, step.checkpoint)
        return state, record, False


def _computed(step: Step, before: ModelState | None, ctx: Context) -> Deployed:
    """What the step's stage makes of `before`, calibrated; raises whatever the stage raises."""
    deterministic = step.experiment.training.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    if step.spec.warnings():
        ctx.details["warnings"] = step.spec.warnings()
    before = before or initial_state(step.experiment.model_args, step.seed)
    after = STAGES[step.stage].run(before, step.spec, ctx)
    _check_declared(step, after, ctx)
    return calibrated(after, ctx)


def _check_declared(step: Step, after: ModelState, ctx: Context) -> None:
    """Raise StageError where a stage did what no Spec declares: its key lacks code then."""
    trained = "history" in ctx.details
    for done, declared, what, missing in (
        (after.quant is not None, step.leaving.int8, "is quantized", "quantizes = True"),
        (bool(after.model_args["exits"]), step.leaving.exits, "has exits", "adds_exits = True"),
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
    }
