"""What the report says, worked out from results: no drawing and no HTML in here.

Every figure is the mean over a chain's seeds; changes are against its baseline on the same seeds.
What is chosen from the rows is chosen by the validation share; the test split only stands beside.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

from experiment.report.reader import Folder, Result, StageEntry
from experiment.running.metrics import (
    FIGURES,
    FOOTPRINT,
    LATENCIES,
    Stat,
    against,
    not_its_baseline,
    summarised,
)
from machine.files import shown

LIMITS = (0.5, 1.0, 2.0)  # points of accuracy that a chain may lose
COSTS = (  # what accuracy is drawn against, where it was taken
    *LATENCIES,
    *("model_size_mb", "bitops", "macs", "params", "nonzero_params"),
    *FOOTPRINT,
)
TRAINING_AFTER = ("finetune", "distill")  # mends what the cut before it broke

JUDGE = "validation_accuracy"  # what a choice goes by
BEST_BY = ("bitops", "model_size_mb")  # and `first_latency`


@dataclass(frozen=True)
class Row:
    """One experiment, with its baseline's figures on the same seeds."""

    result: Result
    baseline: Result | None
    not_compared: str | None = None  # why there is no baseline to compare it with, where it has one

    @property
    def name(self) -> str:
        return self.result.experiment

    @property
    def done(self) -> bool:
        return self.result.status == "done"

    @property
    def stopped(self) -> bool:
        """Whether a chain of it was stopped by its `stop_if`, and none failed."""
        return self.result.status == "stopped"

    @property
    def is_baseline(self) -> bool:
        return self.result.baseline is None

    @property
    def sequence(self) -> str:
        return " → ".join(self.result.sequence)

    @property
    def dataset(self) -> str:
        """The test split that accuracies are of."""
        args = self.result.config.get("dataset_args")
        args = args if isinstance(args, dict) else {}
        root, size = args.get("root"), args.get("image_size")
        text = str(args.get("name", "unknown data set"))
        text += f" {shown(PurePath(str(root)).name)}" if root else ""
        sides = "×".join(map(str, size)) if isinstance(size, list) else size
        return text + (f" at {sides}" if size else "")

    @property
    def final(self) -> dict[str, Stat]:
        return self.result.final

    @cached_property
    def base(self) -> dict[str, Stat]:
        """On the seeds that came to the chain's end; on all where none has, for its start."""
        seeds = self.result.ended or self.result.seeds
        return self.baseline.stats(seeds) if self.baseline else {}

    @cached_property
    def changes(self) -> dict[str, float]:
        """Against the baseline, as `metrics.against` tells them."""
        final, base = (
            {name: stat.model_dump() for name, stat in stats.items()}
            for stats in (self.final, self.base)
        )
        return against(final, base)

    @property
    def drop(self) -> float | None:
        """Points of validation accuracy below the baseline."""
        points = self.changes.get(f"{JUDGE}_points")
        return None if points is None else -points

    @property
    def test_change(self) -> float | None:
        """Points of accuracy on the test split against the baseline, which choose nothing."""
        return self.changes.get("accuracy_points")

    def ratio(self, name: str) -> float | None:
        """Its figure over the baseline's; of times, as taken in turn."""
        return self.changes.get(f"{name}_ratio")

    @cached_property
    def conditions(self) -> set[tuple[Any, Any, bool]]:
        """Under which its times at the end were taken: device, threads, whether on every engine."""
        ends = [entry.metrics for step in self.steps[-1:] for entry in step.entries]
        batches = [time for end in ends for time in end.get("inference_time_ms", {}).values()]
        return {
            (time.get("device"), time.get("threads"), bool(time.get("engine"))) for time in batches
        }

    @property
    def seconds(self) -> float | None:
        """Seconds a seed that its own stages took, when they ran."""
        spent = [entry.seconds for entry in self.result.stages if entry.seconds is not None]
        return sum(spent) / max(1, len({e.seed for e in self.result.stages})) if spent else None

    @cached_property
    def steps(self) -> list[StageFigures]:
        """The stages in order, each with its mean over the seeds that came so far."""
        chains = [self.result.of_seed(seed) for seed in self.result.seeds]
        longest = max((len(chain) for chain in chains), default=0)
        return [
            StageFigures.of([chain[position] for chain in chains if len(chain) > position])
            for position in range(longest)
        ]

    @property
    def start(self) -> dict[str, float]:
        """The baseline's figures, where the chain begins; empty where it is not at hand."""
        return {name: stat.mean for name, stat in self.base.items()}

    def cost(self, name: str) -> float:
        """What it is drawn and put in order by: its figure; of a time, the baseline's times the
        ratio taken in turn, where it was, so that chains measured at other hours stand beside.
        """
        stat, base = self.final[name], self.base.get(name)
        if FIGURES[name].timed and stat.ratio and base is not None:
            return stat.ratio * base.mean
        return stat.mean

    @property
    def comparable_start(self) -> dict[str, float]:
        """The same beside `StageFigures.comparable`."""
        return {n: 1.0 if FIGURES[n].timed else value for n, value in self.start.items()}


@dataclass(frozen=True)
class StageFigures:
    """A stage of a chain, over its seeds."""

    stage: str
    spec: dict[str, Any]
    metrics: dict[str, float]
    comparable: dict[str, float]  # the same, times as their ratio to the baseline's, taken in turn
    stats: dict[str, Stat] = field(repr=False)  # of which both are the means
    entries: list[StageEntry] = field(repr=False)

    @classmethod
    def of(cls, entries: list[StageEntry]) -> StageFigures:
        summary = summarised([entry.metrics for entry in entries])
        stats = {name: Stat(**stat) for name, stat in summary.items()}
        means = {name: stat.mean for name, stat in stats.items()}
        beside = {
            name: stat.ratio if FIGURES[name].timed else stat.mean for name, stat in stats.items()
        }
        comparable = {name: value for name, value in beside.items() if value is not None}
        return cls(entries[0].stage, entries[0].spec, means, comparable, stats, entries)


def rows_of(folder: Folder) -> list[Row]:
    """Every experiment, each baseline before the chains that start from it."""
    by_name = {result.experiment: result for result in folder.results}
    plain = {result.experiment: result.plain() for result in folder.results}
    rows = []
    for result in folder.results:
        reason = None
        if result.baseline is not None:
            reason = not_its_baseline(plain[result.experiment], plain.get(result.baseline))
        base = by_name.get(result.baseline or "") if reason is None else None
        rows.append(Row(result, base, reason))
    order = {name: place for place, name in enumerate(sorted(by_name))}
    return sorted(
        rows, key=lambda r: (r.result.baseline or r.name, not r.is_baseline, order[r.name])
    )


def shown_costs(rows: Iterable[Row]) -> list[str]:
    """Those of COSTS that some chain has at its end."""
    there = {name for row in rows for name in row.final}
    return [cost for cost in COSTS if cost in there or not FIGURES[cost].optional]


def first_latency(rows: Iterable[Row]) -> str:
    """The latency at the smallest batch size that anything was timed at."""
    there = {name for row in rows for step in row.steps for name in step.metrics}
    return next((name for name in LATENCIES if name in there), LATENCIES[0])


def groups(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def pareto(points: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names of the (name, cost, accuracy) points that no other beats, cheapest first.

    One point beats another where it is no worse in both and better in one; equal points stay both.
    """
    front: list[tuple[str, float, float]] = []
    for name, cost, accuracy in sorted(points, key=lambda p: (p[1], -p[2], p[0])):
        if not front or accuracy > front[-1][2] or (cost, accuracy) == front[-1][1:]:
            front.append((name, cost, accuracy))
    return [name for name, _, _ in front]


def front(rows: Iterable[Row], cost: str) -> list[str]:
    """The Pareto front of validation accuracy against a cost, of the experiments that are done.

    Times that were taken under unlike conditions have none; a chain whose baseline is not here is
    on none.
    """
    judged = [
        row
        for row in rows
        if row.done and row.not_compared is None and cost in row.final and JUDGE in row.final
    ]
    if FIGURES[cost].timed and len(set().union(*(row.conditions for row in judged))) > 1:
        return []
    return pareto([(row.name, row.cost(cost), row.final[JUDGE].mean) for row in judged])


def best(rows: Iterable[Row], limit: float, cost: str) -> Row | None:
    """The chain cheapest against its baseline that loses at most `limit` points of validation
    accuracy; None: no chain.

    Only chains that are done and really cheaper than their baseline; of equals the more accurate,
    then the shorter one.
    """
    found = [
        (ratio, row.drop, len(row.result.sequence), row.name, row)
        for row in rows
        if row.done
        and row.drop is not None
        and row.drop <= limit + 1e-9
        and (ratio := row.ratio(cost)) is not None
        and ratio < 1
    ]
    return min(found)[-1] if found else None


@dataclass(frozen=True)
class Effect:
    """What one kind of stage did, over all its different uses: medians and ranges."""

    kind: str
    uses: int
    points: tuple[float, float, float] | None  # median, least, most; of accuracy
    ratios: dict[str, tuple[float, float, float]]  # metric → the same, after over before
    engines: dict[str, tuple[str, str]]  # time → the engines before and after, '' where not known


def effects(rows: Iterable[Row]) -> list[Effect]:
    """What each kind of stage brought, pruning together with the training right after it.

    A stage that several chains share counts once.
    """
    uses: dict[str, dict[str, _Use]] = {}
    for row in rows:
        before, position = row.comparable_start, 0
        engines = {
            name: stat.baseline_engine
            for step in row.steps[:1]
            for name, stat in step.stats.items()
        }
        while position < len(row.steps):
            kind, length = _kind(row.steps, position)
            after = row.steps[position + length - 1]
            if before:
                key = after.entries[0].key or f"{row.name}/{position}"
                its = {name: stat.engine for name, stat in after.stats.items()}
                uses.setdefault(kind, {})[key] = _Use(before, after.comparable, engines, its)
                engines = its
            before, position = after.comparable, position + length
    return [_effect(kind, list(found.values())) for kind, found in sorted(uses.items())]


def _kind(steps: list[StageFigures], position: int) -> tuple[str, int]:
    """The kind of a stage, and how many stages belong to it."""
    step = steps[position]
    if step.stage in ("ptq", "qat"):
        return f"int8 ({step.stage})", 1
    if step.stage == "cast":
        return "bfloat16", 1
    if step.stage != "prune":
        return step.stage.replace("_", " "), 1
    kind = f"pruning ({step.spec.get('mode', 'mask')})"
    if position + 1 < len(steps) and steps[position + 1].stage in TRAINING_AFTER:
        return f"{kind} + {steps[position + 1].stage}", 2
    return f"{kind}, nothing after", 1


class _Use(NamedTuple):
    """A stage's figures before and after, and the engines that its times are of."""

    before: dict[str, float]
    after: dict[str, float]
    engines_before: dict[str, str | None]
    engines_after: dict[str, str | None]


def _effect(kind: str, uses: list[_Use]) -> Effect:
    points = [
        use.after["accuracy"] - use.before["accuracy"]
        for use in uses
        if "accuracy" in use.before and "accuracy" in use.after
    ]
    ratios, engines = {}, {}
    for cost in COSTS:
        having = [use for use in uses if use.before.get(cost) and cost in use.after]
        if having:
            ratios[cost] = _spread([use.after[cost] / use.before[cost] for use in having])
            engines[cost] = (
                _joined(use.engines_before.get(cost) for use in having),
                _joined(use.engines_after.get(cost) for use in having),
            )
    return Effect(kind, len(uses), _spread(points) if points else None, ratios, engines)


def _joined(engines: Iterable[str | None]) -> str:
    return " or ".join(sorted(set(filter(None, engines))))


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def signed(points: float) -> str:
    """A change in points, with a real minus and no minus zero."""
    return f"{points:+.2f}".replace("-0.00", "+0.00").replace("-", "−")
