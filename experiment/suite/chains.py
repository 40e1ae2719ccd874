"""A chain as a plan: every stage with its key and its file's name, and how one stage is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiment.suite.keys import settings_of
from experiment.suite.messages import Mistake, stop_at
from experiment.suite.records import Experiment, Outline, Suite
from experiment.suite.teachers import WORDS
from machine.files import bounded_name, canonical_json, sha256
from stages.stage import StageSpec


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
    leaving: Outline  # what is known of its network
    checkpoint: str  # readable name, without folder and ending
    settings: dict[str, Any]  # all that the key is a digest of

    @property
    def parent(self) -> str | None:
        """The key of the stage before."""
        return self.before.key if self.before else None

    @property
    def label(self) -> str:
        return f"{self.experiment.name}: {self.spec.tags()[1]}"


Records = Callable[[str], dict[str, Any] | None]  # key → record; None where there is none


class Stop(NamedTuple):
    """Where a chain ends before its last stage."""

    step: Step  # the last that runs
    why: str


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

    def stopped(self, records: Records) -> Stop | None:
        """Where its `stop_if` ends it, as far as there are records; None where it goes on.

        After the last stage there is nothing to stop.
        """
        stop_if, baseline = self.experiment.stop_if, None
        if not stop_if.bounds:
            return None
        if self.baseline is not None:
            baseline = _on_validation(records(self.baseline.steps[-1].key))
        for step in self.steps[:-1]:
            figures = _on_validation(records(step.key))
            if figures is None or (baseline is None and stop_if.accuracy_drop is not None):
                return None
            why = stop_if.why(figures, baseline)
            if why is not None:
                return Stop(step, why)
        return None

    def ahead(self, records: Records) -> tuple[Step, ...]:
        """Its steps, but for those that are not run by what the records tell."""
        stop = self.stopped(records)
        return self.steps if stop is None else self.steps[: self.steps.index(stop.step) + 1]


def _on_validation(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """None as well where an early version measured a stage, which is then measured again."""
    return record["metrics"].get("validation") if record is not None else None


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
    mistakes = []
    for step in (step for chain in chains for step in chain.steps):
        other = owners.setdefault(step.checkpoint, step)
        if other.key != step.key:
            text = (
                f"its checkpoint {step.checkpoint}.pth is also one of {other.experiment.name}; "
                "rename one of them"
            )
            mistakes.append(Mistake(step.experiment.name, text))
    stop_at(mistakes)


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
    for passage, name in zip(experiment.passages(), names, strict=True):
        stage, spec, _, leaving = passage
        before = steps[-1] if steps else None
        teacher = _teacher(spec, seed, steps, chains)
        settings = settings_of(
            experiment,
            seed,
            passage,
            before.key if before else None,
            teacher.key if teacher else None,
            suite.device,
        )
        key = sha256(canonical_json(settings))
        steps.append(
            Step(experiment, seed, stage, spec, key, before, teacher, leaving, name, settings)
        )
    return tuple(steps[start:])


def _teacher(
    spec: StageSpec, seed: int, so_far: list[Step], chains: dict[tuple[str, int], Chain]
) -> Step | None:
    """The step whose network a stage's teacher is; `so_far` begins with the baseline's."""
    name = spec.teacher_name
    if name is None:
        return None
    if name in WORDS:
        return so_far[0 if name == "baseline" else -1]
    return chains[name, seed].steps[-1]


def _checkpoint_names(experiment: Experiment, seed: int) -> list[str]:
    """Long tags, except that what came before the last quantization is short.

    NAME_pruned_40_finetuned, then NAME_p40_f_quantized_ptq_int8. Of very long ones the middle goes.
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
        tags = [*shorts, long] if spec.quantizes else [*tags, long]
        shorts.append(short)
        names.append(bounded_name("_".join([prefix, *tags])))
    return names
