"""A study's JSON, read back, and its findings in words: what terminal, page and JSON all say.

The words are below the study and the report, since both show them: the study writes them into its
JSON, and those of a file that an earlier version wrote are made when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field, model_validator

from experiment.running.metrics import FOOTPRINT, Stat, Stats

COSTS = {  # of a study → its figure
    "bitops": "bitops",
    "latency_ms": "latency_ms_batch_1",
    **{name: name for name in FOOTPRINT},
}
ALWAYS = ("bitops", "latency_ms")  # in tables even where no pair was compared at them
WORDS = {
    "bitops": "BitOps", "latency_ms": "latency", "latency_ms_batch_1": "latency at batch 1",
    "model_size_mb": "size", "peak_memory_mb": "peak memory", "joules_per_image": "energy",
}  # fmt: skip
RATIOS = ("bitops", "latency_ms_batch_1", "model_size_mb")  # of a chain to its baseline
Written = str | dict[str, dict[str, Any]]  # a stage as a config names it


class Finding(BaseModel):
    """One sentence, and what it is about: 'order', 'undecided', 'cycle', 'best', ..."""

    kind: str
    text: str


class Difference(BaseModel):
    """Accuracy of one order less that of the other at equal cost, in points."""

    difference: float | None = None
    interval: tuple[float, float] | None = None
    win_probability: float | None = None
    decided: bool = False
    method: str = "none"
    reason: str | None = None

    @property
    def text(self) -> str:
        """With its interval; '≥' where the costs leave only a bound."""
        if self.difference is None:
            return "–"
        bound = "≥ " if self.method == "dominance" else ""
        sure = " ({:+.2f} to {:+.2f})".format(*self.interval) if self.interval else ""
        return f"{bound}{self.difference:+.2f}{sure}"


class Pair(Difference):
    """Two stages, `first` → `second` less `second` → `first`."""

    first: str
    second: str
    cost: str = "bitops"
    wins: tuple[float, int] | None = None
    at_equal: dict[str, Difference] = {}
    test_difference: float | None = None

    def at(self, cost: str) -> Difference:
        """The difference at equal `cost`, a key of COSTS."""
        return self.at_equal.get(cost, self if cost == self.cost else Difference())

    @property
    def won(self) -> str:
        return "–" if self.wins is None else f"{self.wins[0]:g} of {self.wins[1]}"


class TestFigures(BaseModel):
    """What a chain did on the test split, which decides nothing."""

    accuracy_drop: float | None = None


class ChainFigures(BaseModel):
    """A chain on the validation share; without metrics where it failed."""

    name: str
    metrics: Stats = {}
    accuracy_drop: float | None = None
    test: TestFigures = TestFigures()

    @property
    def accuracy(self) -> Stat | None:
        return self.metrics.get("accuracy")

    @property
    def text(self) -> str:
        """Its accuracy as tables show it."""
        if self.accuracy is None:
            return "–"
        spread = self.accuracy.std
        return f"{self.accuracy.mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


class Baseline(BaseModel):
    metrics: Stats = {}


class Case(BaseModel):
    """A pair with a third stage between its two."""

    first: str
    second: str
    between: str
    verdict: str


class ThirdStage(BaseModel):
    holds: int
    flips: int
    open: int
    cases: list[Case] = []


class Permutations(BaseModel):
    """Orders of all stages: as pairs predict them, and as they were measured."""

    n: int
    kendall_tau: float | None = None  # None where one ranking has only ties
    p_value: float | None = None
    kendall_tau_between_seeds: float | None = None
    predicted_best: str
    measured_best: str
    measured_rank_of_predicted_best: int


class Best(BaseModel):
    """The cheapest chain that loses at most `within` points."""

    within: float
    chain: str
    accuracy_drop: float
    test_accuracy_drop: float
    bitops_ratio: float = Field(gt=0)
    latency_ms_batch_1_ratio: float | None = None
    peak_memory_mb_ratio: float | None = None
    joules_per_image_ratio: float | None = None


class Method(BaseModel):
    confidence: float | None = None
    covers: str = ""


class Plan(BaseModel):
    stages: dict[str, Written | list[Written]] = {}  # by letter


class StudyResult(BaseModel):
    """`study_NAME.json`. Raises ValidationError for a field of another shape."""

    order: list[str] = []
    order_is_certain: bool = True
    pairs: list[Pair] = []
    undecided: list[tuple[str, str]] = []
    cycles: list[list[str]] = []
    third_stage: ThirdStage | None = None
    permutations: Permutations | None = None
    best: list[Best] = []
    chains: list[ChainFigures] = []
    baseline: Baseline = Baseline()
    failed: list[str] = []
    config: Plan = Plan()
    method: Method = Method()
    findings: list[Finding] = []

    @model_validator(mode="after")
    def _in_words(self) -> StudyResult:
        self.findings = self.findings or list(_findings(self))
        return self

    def ranking(self) -> list[ChainFigures]:
        """The chains that came to their end, the most accurate first."""
        done = [(chain.accuracy.mean, chain) for chain in self.chains if chain.accuracy]
        return [chain for _, chain in sorted(done, key=lambda item: -item[0])]

    @property
    def costs(self) -> list[str]:
        """Those of COSTS at which tables compare orders."""
        there = {cost for pair in self.pairs for cost in (pair.cost, *pair.at_equal)}
        return [cost for cost in COSTS if cost in there or cost in ALWAYS]

    @property
    def shown_ratios(self) -> list[str]:
        """RATIOS, and what running took where it was measured."""
        return [*RATIOS, *(name for name in FOOTPRINT if name in self.baseline.metrics)]

    def ratios(self, chain: ChainFigures) -> list[str]:
        """`shown_ratios` as tables show them, that of a time with its engine."""
        cells = []
        for name in self.shown_ratios:
            mine, its = chain.metrics.get(name), self.baseline.metrics.get(name)
            engine = f" {mine.engine}" if mine and mine.engine else ""
            cells.append(
                f"×{mine.mean / its.mean:.3f}{engine}" if mine and its and its.mean else "–"
            )
        return cells


def _findings(study: StudyResult) -> Iterator[Finding]:
    certain = "" if study.order_is_certain else ", by estimate where pairs are undecided"
    yield Finding(kind="order", text=f"order: {' → '.join(study.order) or 'none'}{certain}")
    if study.undecided:
        pairs = ", ".join(" / ".join(pair) for pair in study.undecided)
        yield Finding(kind="undecided", text=f"undecided: {pairs}")
    for cycle in study.cycles:
        text = f"cycle: {' → '.join([*cycle, *cycle[:1]])}; no order suits all of these"
        yield Finding(kind="cycle", text=text)
    for pair in study.pairs:
        sides = {WORDS[c]: (d.difference or 0) > 0 for c, d in pair.at_equal.items() if d.decided}
        if len(set(sides.values())) > 1:
            *words, last = sides
            text = f"{pair.first} / {pair.second}: {', '.join(words)} and {last} decide differently"
            yield Finding(kind="costs", text=text)
    yield from _chance(study)
    yield from _longer_orders(study)
    told = ""
    for best in study.best:
        if best.chain != told:
            yield Finding(kind="best", text=_best(study, best))
        told = best.chain
    if study.failed:
        yield Finding(kind="failed", text=f"failed: {', '.join(study.failed)}")


def _best(study: StudyResult, best: Best) -> str:
    """Its costs against the baseline's."""
    figures = next((chain.metrics for chain in study.chains if chain.name == best.chain), {})
    costs = [f"BitOps 1/{1 / best.bitops_ratio:.1f}"]
    for cost, name in COSTS.items():
        ratio = getattr(best, f"{name}_ratio")
        if cost != "bitops" and ratio is not None:
            engines = figures[name].on_engines if name in figures else ""
            costs.append(f"{WORDS[cost]} ×{ratio:.2f}{engines}")
    return (
        f"within {best.within:g} points: {best.chain}, {', '.join(costs)}, drop "
        f"{best.accuracy_drop:.2f} (test split {best.test_accuracy_drop:.2f})"
    )


def _chance(study: StudyResult) -> Iterator[Finding]:
    count = sum(pair.interval is not None for pair in study.pairs)
    if count > 1 and study.method.confidence is not None:
        chance = count * (1 - study.method.confidence)
        text = (
            "each interval stands for itself: were there no differences at all, about "
            f"{chance:.1f} of these {count} pairs would be decided by chance"
        )
        yield Finding(kind="chance", text=text)


def _longer_orders(study: StudyResult) -> Iterator[Finding]:
    """What orders of three and more stages say of those of two."""
    third, orders = study.third_stage, study.permutations
    if third is not None:
        text = (
            f"a stage between the two of a pair: the pair's order holds in {third.holds} cases, "
            f"flips in {third.flips}, cannot be told in {third.open}"
        )
        yield Finding(kind="third_stage", text=text)
        for case in third.cases:
            if case.verdict == "flips":
                text = f"{case.first} → {case.second} flips with {case.between} between"
                yield Finding(kind="flip", text=text)
    if orders is not None and orders.kendall_tau is not None and orders.p_value is not None:
        repeat = orders.kendall_tau_between_seeds
        text = (
            f"{orders.n} orders of all stages: Kendall's tau {orders.kendall_tau:+.2f} "
            f"(p = {orders.p_value:.2g}) between the ranking that pairs predict and the measured "
            f"one{f'; between seeds {repeat:+.2f}' if repeat is not None else ''}; predicted best "
            f"{orders.predicted_best} comes in place {orders.measured_rank_of_predicted_best}, "
            f"measured best {orders.measured_best}"
        )
        yield Finding(kind="permutations", text=text)
