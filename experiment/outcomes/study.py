"""A study's JSON, read back, and its findings in words: what terminal, page and JSON all say.

The words are below the study and the report, since both show them: the study writes them into its
JSON, and those of a file that an earlier version wrote are made when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field, model_validator

from experiment.outcomes.verdicts import (
    DIGITS,
    Finding,
    Interval,
    Verdicts,
    Verification,
    WholeOrder,
    headline,
    interval_text,
    listed,
    number,
    of_pairs,
)
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


class TestFigures(BaseModel):
    """What a chain did on the test split, which decides nothing."""

    accuracy_drop: float | None = None


class ChainFigures(BaseModel):
    """A chain on the validation share; without metrics where it failed."""

    name: str
    metrics: Stats = {}
    accuracy_drop: float | None = None
    drop_interval: Interval | None = None  # of accuracy_drop, over images and seeds
    drop_sd: float | None = None  # its standard error
    seeds: list[int] = []
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
    name: str | None = None
    metrics: Stats = {}


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


class Plan(BaseModel):
    stages: dict[str, Written | list[Written]] = {}  # by letter


class StudyResult(Verdicts):
    """`study_NAME.json`. Raises ValidationError for a field of another shape."""

    permutations: Permutations | None = None
    best: list[Best] = []
    chains: list[ChainFigures] = []
    baseline: Baseline = Baseline()
    failed: list[str] = []
    config: Plan = Plan()
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
    yield Finding(kind="headline", text=headline(study))
    yield from of_pairs(study)
    for pair in study.pairs:
        verdicts = {WORDS[cost]: found.verdict for cost, found in pair.at_equal.items()}
        sides = {cost: v for cost, v in verdicts.items() if v in ("first", "second")}
        if len(set(sides.values())) > 1:
            *words, last = sides
            text = f"{pair.first} / {pair.second}: {', '.join(words)} and {last} decide differently"
            yield Finding(kind="costs", text=text)
    yield from _chance(study)
    yield from _of_rounds(study)
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
    chain = next((chain for chain in study.chains if chain.name == best.chain), None)
    figures = chain.metrics if chain is not None else {}
    sure = chain.drop_interval if chain is not None else None
    costs = [f"BitOps 1/{1 / best.bitops_ratio:.1f}"]
    for cost, name in COSTS.items():
        ratio = getattr(best, f"{name}_ratio")
        if cost != "bitops" and ratio is not None:
            engines = figures[name].on_engines if name in figures else ""
            costs.append(f"{WORDS[cost]} ×{ratio:.2f}{engines}")
    return (
        f"within {best.within:g} points: {best.chain}, {', '.join(costs)}, drop "
        f"{best.accuracy_drop:.2f} ({f'{interval_text(sure)}; ' if sure else ''}"
        f"test split {best.test_accuracy_drop:.2f})"
    )


def _chance(study: StudyResult) -> Iterator[Finding]:
    count = sum(pair.interval is not None for pair in study.pairs)
    if study.margin is None and count > 1 and study.method.confidence is not None:
        chance = count * (1 - study.method.confidence)
        text = (
            "each interval stands for itself: were there no differences at all, about "
            f"{chance:.1f} of these {count} pairs would be decided by chance"
        )
        yield Finding(kind="chance", text=text)


def _of_rounds(study: StudyResult) -> Iterator[Finding]:
    """What rounds saved, and why the last was the last."""
    spent = study.spent
    if spent is None or spent.stopped_by == "fixed":
        return
    most = spent.seeds.max if spent.seeds else spent.most_seeds
    more = []
    if spent.epochs is not None and spent.epochs_fixed:
        more.append(f"{spent.epochs:g} of {spent.epochs_fixed:g} epochs")
    if spent.hours is not None and spent.hours_fixed:
        more.append(f"{spent.hours:.1f} of about {spent.hours_fixed:.1f} hours")
    share = f" ({100 * spent.stages / spent.stages_fixed:.0f} %)" if spent.stages_fixed else ""
    yield Finding(
        kind="saved",
        text=f"{spent.stages} of {spent.stages_fixed} stages trained{share}, against {most} seeds "
        f"for every pair{''.join(f'; {part}' for part in more)}",
    )
    budgets = {"hours": spent.budget_hours, "epochs": spent.budget_epochs}
    of = " or ".join(f"{value:g} {name}" for name, value in budgets.items() if value is not None)
    why = {
        "settled": "every pair that can be compared is settled",
        "seeds": f"more seeds, up to {most}, would hardly settle what is open",
        "images": "no further seed would settle what is open; more validation images might",
        "budget": f"the budget{f' of {of}' if of else ''} allows no more",
    }[spent.stopped_by]
    last = f" after round {study.rounds[-1].round}" if study.rounds else ""
    yield Finding(kind="stopped", text=f"stopped{last}: {why}")


def _longer_orders(study: StudyResult) -> Iterator[Finding]:
    """What orders of three and more stages say of those of two, and what papers say of both."""
    if study.verification is not None:
        yield Finding(kind="verification", text=_verified(study.verification, study.unit))
    third = study.third_stage
    if third is not None:
        text = (
            f"further stages beside a pair: its order holds in {third.holds} cases, flips in "
            f"{third.flips}, cannot be told in {third.open}"
        )
        yield Finding(kind="third_stage", text=text)
        for case in third.cases:
            if case.verdict == "flips":
                text = f"{case.first} → {case.second} flips {case.where}"
                yield Finding(kind="flip", text=text)
    orders = study.permutations
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
    for claim in study.literature:
        against = f" ({listed([' / '.join(pair) for pair in claim.pairs])})" if claim.pairs else ""
        verdict = "stays open" if claim.verdict == "open" else claim.verdict
        text = (
            f"“{claim.claim}” ({claim.source}) {verdict}: {claim.in_favour} for, "
            f"{claim.against} against{against}, {claim.undecided} open"
        )
        if claim.largest_loss is not None:
            lost = f"{claim.largest_loss:.{DIGITS[study.unit]}f} {study.unit}"
            text += f"; the other order costs at most {lost}"
        yield Finding(kind="literature", text=text)


def _verified(found: Verification, unit: str) -> str:
    def told(orders: list[WholeOrder]) -> str:
        return listed([f"{one.order} ({one.why})" if one.why else one.order for one in orders])

    if not found.orders:
        return f"not verified: {found.predicted} could not be run as a whole"
    others = f"{number(len(found.orders))} other order{'' if len(found.orders) == 1 else 's'}"
    if found.confirmed:
        same = [one for one in found.orders if one.verdict == "equal"]
        more = f"; as good: {told(same)}" if same else ""
        return f"verified: of {others} of all stages none is better than {found.predicted}{more}"
    if found.confirmed is False:
        better = [one for one in found.orders if one.verdict == "second"]
        values = ", ".join(one.text(unit) for one in better)
        return (
            f"not confirmed: pairs predict {found.predicted}, whose difference to {told(better)} "
            f"is {values} {unit}"
        )
    still = [one for one in found.orders if one.verdict == "open"]
    return (
        f"not yet verified: of {others} of all stages none is better than {found.predicted} for "
        f"sure; open: {told(still)}"
    )


def percent(probability: float) -> str:
    """As a figure that is itself an estimate: none is 0 or 1."""
    if not 0.01 <= probability <= 0.99:
        return "> 99 %" if probability > 0.5 else "< 1 %"
    return f"{100 * probability:.0f} %"
