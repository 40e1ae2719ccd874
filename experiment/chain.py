"""A chain as a plan: every stage with its key and its file's name, and how one stage is run."""

from __future__ import annotations

import ast
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dataset import Dataset, preprocessing
from experiment.measure import measure
from experiment.messages import stop_at
from experiment.schema import Experiment, Suite
from experiment.store import Store
from experiment.teachers import WORDS, teacher_of
from files import canonical_json, sha256
from stages import STAGES
from stages.calibration import calibrated
from stages.state import Context, ModelState, StageSpec, initial_state

HOME = Path(__file__).parent.parent
QUANT_SOURCES = {
    "stages/quantization.py", "stages/quant_fx.py", "stages/quant_pt2e.py", "stages/fake_quant.py",
    "stages/compiled.py", "stages/graph_rewrites.py", "stages/calibration.py",
}  # fmt: skip
EXIT_SOURCES = {"stages/exits.py", "stages/calibration.py"}
TEACHER_SOURCES = {"stages/teacher.py", "stages/transfer.py"}  # of a stage that has a teacher
Outcome = tuple[ModelState, dict[str, Any]]  # of a step: state and record


@dataclass(frozen=True)
class Step:
    """One stage of one chain at one seed."""

    experiment: Experiment
    seed: int
    stage: str
    spec: StageSpec
    key: str
    before: Step | None  # whose network it starts from
    teacher: Step | None  # whose network teaches
    checkpoint: str  # readable name, without folder and ending
    settings: dict[str, Any]  # all that the key is a digest of

    @property
    def parent(self) -> str | None:
        """The key of the stage before."""
        return self.before.key if self.before else None

    @property
    def label(self) -> str:
        return f"{self.experiment.name}: {self.spec.tags()[1]}"


@dataclass(frozen=True)
class Chain:
    """One experiment at one seed, with the chain that trains its baseline."""

    experiment: Experiment
    seed: int
    steps: tuple[Step, ...]
    baseline: Chain | None

    @property
    def name(self) -> str:
        seeds = len(self.experiment.seeds)
        return self.experiment.name + (f" (seed {self.seed})" if seeds > 1 else "")

    def all_steps(self) -> tuple[Step, ...]:
        """All that the chain rests on and its own steps, each after what it needs."""
        found: dict[str, Step] = {}

        def visit(step: Step) -> None:
            for other in (step.before, step.teacher):
                if other is not None and other.key not in found:
                    visit(other)
            found[step.key] = step

        visit(self.steps[-1])
        return tuple(found.values())


def plan(suite: Suite) -> list[Chain]:
    """Every chain of the suite, each after those it needs, all keys known before anything runs."""
    chains: dict[tuple[str, int], Chain] = {}
    for experiment in suite.experiments:
        for seed in experiment.seeds:
            baseline = chains[experiment.baseline, seed] if experiment.baseline else None
            steps = _steps(experiment, seed, baseline, chains, suite)
            chains[experiment.name, seed] = Chain(experiment, seed, steps, baseline)
    _check_names(list(chains.values()))
    return list(chains.values())


def _check_names(chains: list[Chain]) -> None:
    """Two networks must not take turns under one file name. Raises ConfigError."""
    owners: dict[str, Step] = {}
    problems = []
    for step in (step for chain in chains for step in chain.steps):
        other = owners.setdefault(step.checkpoint, step)
        if other.key != step.key:
            problems.append(
                f"{step.experiment.name}: its checkpoint {step.checkpoint}.pth is also one of "
                f"{other.experiment.name}; rename one of them"
            )
    stop_at(problems)


def _steps(
    experiment: Experiment,
    seed: int,
    baseline: Chain | None,
    chains: dict[tuple[str, int], Chain],
    suite: Suite,
) -> tuple[Step, ...]:
    steps = list(baseline.steps) if baseline else []
    start = len(steps)
    names = _checkpoint_names(experiment, seed)
    for (stage, spec), name in zip(experiment.sequence, names, strict=True):
        before = steps[-1] if steps else None
        teacher = _teacher(spec, seed, steps, chains)
        so_far = [*(step.spec for step in steps), spec]
        settings = _settings(experiment, seed, stage, spec, before, teacher, so_far, suite.device)
        key = sha256(canonical_json(settings))
        steps.append(Step(experiment, seed, stage, spec, key, before, teacher, name, settings))
    return tuple(steps[start:])


def _teacher(
    spec: StageSpec, seed: int, so_far: list[Step], chains: dict[tuple[str, int], Chain]
) -> Step | None:
    """The step whose network a stage's teacher is; `so_far` begins with the baseline's."""
    name = teacher_of(spec)
    if name is None:
        return None
    if name in WORDS:
        return so_far[0 if name == "baseline" else -1]
    return chains[name, seed].steps[-1]


def _settings(
    experiment: Experiment,
    seed: int,
    stage: str,
    spec: StageSpec,
    before: Step | None,
    teacher: Step | None,
    so_far: list[StageSpec],
    device: torch.device,
) -> dict[str, Any]:
    sources = set(_sources(STAGES[stage].run.__module__))
    sources -= QUANT_SOURCES | EXIT_SOURCES | TEACHER_SOURCES
    if any(hasattr(s, "quant") for s in so_far):
        sources |= QUANT_SOURCES
    if any(hasattr(s, "exits") for s in so_far):
        sources |= EXIT_SOURCES
    if teacher is not None:
        sources |= TEACHER_SOURCES
    return {
        "parent": before.key if before else None,
        "stage": stage,
        # what teaches counts, not what it is called
        "spec": spec.settings() | ({"teacher": teacher.key} if teacher else {}),
        "data": {
            "fingerprint": experiment.data.fingerprint,
            "validation_share": experiment.dataset_args.validation_share,
        },
        "model_args": experiment.model_args if before is None else None,
        "seed": seed,
        "deterministic": experiment.training.deterministic,
        "device": device.type,
        "source": sha256("".join(_code_digest(HOME / s) for s in sorted(sources)).encode()),
        "torch": torch.__version__,
    }


@functools.cache
def _sources(module: str) -> frozenset[str]:
    """The project's files that a stage's module imports, and those that they import.

    Left out: dataset.py, whose images count by their fingerprint, and files.py.
    """
    path = module.replace(".", "/") + ".py"
    if path in ("dataset.py", "files.py") or not (HOME / path).exists():
        return frozenset()
    found = {path}
    for node in ast.parse((HOME / path).read_text()).body:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            found |= _sources(name)
    return frozenset(found)


@functools.cache
def _code_digest(path: Path) -> str:
    """Digest of a file's code; comments, docstrings and layout do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        if is_text and isinstance(first.value.value, str):
            first.value.value = ""
    return sha256(ast.unparse(tree).encode())


def _checkpoint_names(experiment: Experiment, seed: int) -> list[str]:
    """Long tags, except that what came before the last quantization is short.

    NAME_pruned_40_finetuned, then NAME_p40_f_quantized_ptq_int8.
    """
    prefix = experiment.name + (f"_seed{seed}" if seed != experiment.training.seed else "")
    tags: list[str] = []
    names = []
    shorts: list[str] = []
    for stage, spec in experiment.sequence:
        short, long = spec.tags()
        if stage == "train":
            names.append(f"{prefix}_fp32_baseline")
            continue
        tags = [*shorts, long] if hasattr(spec, "quant") else [*tags, long]
        shorts.append(short)
        names.append("_".join([prefix, *tags]))
    return names


# --- running one stage -------------------------------------------------------------------------


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
                test = Context(dataset(), device, step.seed).loaders(batch_size=256).test
                record = {**record, "metrics": measure(state, test, device, store.compiled)}
                record = store.put_record(step.key, record)
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
        state = _computed(step, parent[0] if parent else None, ctx)
        seconds = time.perf_counter() - started + ctx.earlier_seconds
        metrics = measure(state, ctx.loaders(batch_size=256).test, device, store.compiled)
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


def _computed(step: Step, before: ModelState | None, ctx: Context) -> ModelState:
    """What the step's stage makes of `before`, calibrated; raises whatever the stage raises."""
    deterministic = step.experiment.training.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    if step.spec.warnings():
        ctx.details["warnings"] = step.spec.warnings()
    before = before or initial_state(step.experiment.model_args, step.seed)
    return calibrated(STAGES[step.stage].run(before, step.spec, ctx), ctx)


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
