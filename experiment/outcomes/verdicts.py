"""What a study decided: verdicts on pairs, rounds, whole orders, claims, and the words for them.

A verdict is 'first' or 'second' (that order is better for sure), 'equal' (the sure interval lies
within ±margin) or 'open'. Files of before know 'decided' alone: its verdict is read from that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Verdict = Literal["first", "second", "equal", "open"]
Interval = tuple[float, float]
DIGITS = {"points": 2, "nats": 3}  # that differences are shown with
NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)


class Finding(BaseModel):
    """One sentence, and what it is about: 'headline', 'open', 'cycle', 'best', ..."""

    kind: str
    text: str


class Difference(BaseModel):
    """Accuracy (or loss) of one order against the other's at equal cost; positive: it is better."""

    difference: float | None = None
    interval: Interval | None = None  # of this pair by itself
    sure_interval: Interval | None = None  # that holds for all pairs and looks together
    win_probability: float | None = None
    decided: bool = False
    verdict: Verdict = "open"
    within_margin: bool = False  # the sure interval lies within ±margin
    method: str = "none"
    reason: str | None = None

    @model_validator(mode="after")
    def _verdict_of_an_old_file(self) -> Difference:
        if self.decided and "verdict" not in self.model_fields_set:
            self.verdict = "first" if (self.difference or 0) > 0 else "second"
        return self

    def text(self, unit: str = "points") -> str:
        """With its own interval; '≥' where the costs leave only a bound."""
        if self.difference is None:
            return "–"
        bound = "≥ " if self.method == "dominance" else ""
        own = f" ({interval_text(self.interval, unit)})" if self.interval else ""
        return f"{bound}{self.difference:+.{DIGITS[unit]}f}{own}"


class Sample(BaseModel):
    """How much a pair's difference rests on."""

    seeds: int = 0
    strengths: int = 0
    images: int = 0


class Pair(Difference):
    """Two stages, `first` → `second` less `second` → `first`."""

    first: str
    second: str
    cost: str = "bitops"
    wins: tuple[float, int] | None = None
    at_equal: dict[str, Difference] = {}
    test_difference: float | None = None
    n: Sample = Sample()
    settled_in_round: int | None = None
    next_half_width: float | None = None  # expected of the sure interval with one more seed
    lacking: Literal["images", "seeds"] | None = None

    def at(self, cost: str) -> Difference:
        """The difference at equal `cost`, one that studies know."""
        return self.at_equal.get(cost, self if cost == self.cost else Difference())

    @property
    def name(self) -> str:
        return f"{self.first} / {self.second}"

    @property
    def won(self) -> str:
        return "–" if self.wins is None else f"{self.wins[0]:g} of {self.wins[1]}"

    def said(self, study: Verdicts) -> str:
        """The verdict as tables show it."""
        if self.verdict == "equal":
            return f"equal within {study.margin_text}"
        if self.verdict == "open":
            return "open"
        winner = self.first if self.verdict == "first" else self.second
        less = f", by less than {study.margin:g}" if self.within_margin and study.margin else ""
        return f"{winner} first{less}"

    def why_open(self, study: Verdicts) -> str:
        """What an open pair lacks; nothing of a settled one."""
        if self.verdict != "open":
            return ""
        if self.lacking == "images":
            return "images are lacking, which no further seed replaces"
        if self.lacking == "seeds":
            return f"seeds are lacking{self._next(study)}"
        return self.reason or "the interval leaves it open"

    def _next(self, study: Verdicts) -> str:
        if self.next_half_width is None:
            return ""
        width = f"±{self.next_half_width:.{DIGITS[study.unit]}f}"
        return f"; one more would bring the interval to about {width}"


class RoundPair(BaseModel):
    """A pair after a round; `interval` is the sure one."""

    first: str
    second: str
    difference: float | None = None
    interval: Interval | None = None
    verdict: Verdict = "open"
    seeds: int

    def turned(self) -> RoundPair:
        """The same with the two stages exchanged."""
        turned: dict[str, Verdict] = {"first": "second", "second": "first"}
        return RoundPair(
            first=self.second,
            second=self.first,
            difference=None if self.difference is None else -self.difference,
            interval=None if self.interval is None else (-self.interval[1], -self.interval[0]),
            verdict=turned.get(self.verdict, self.verdict),
            seeds=self.seeds,
        )


class Round(BaseModel):
    round: int
    pairs: list[RoundPair] = []


class SeedRange(BaseModel):
    min: int
    max: int


class Spent(BaseModel):
    """What was trained, against all seeds for every pair (`_fixed`)."""

    stages: int
    stages_fixed: int
    epochs: float | None = None
    epochs_fixed: float | None = None
    hours: float | None = None
    hours_fixed: float | None = None  # an estimate
    seeds: SeedRange | None = None
    most_seeds: int | None = None
    budget_hours: float | None = None
    budget_epochs: float | None = None
    stopped_by: Literal["settled", "seeds", "images", "budget", "fixed"] = "fixed"


class WholeOrder(Difference):
    """The predicted order less this one."""

    order: str
    why: str = ""


class Verification(BaseModel):
    """Whether another order of all letters is better than the one that pairs predict."""

    predicted: str
    orders: list[WholeOrder] = []
    confirmed: bool | None = None


class Case(BaseModel):
    """A pair with other stages between its two, or in the longer `orders`."""

    first: str
    second: str
    between: str = ""
    orders: list[str] = []
    verdict: str

    @property
    def where(self) -> str:
        return (
            f"in {' against '.join(self.orders)}" if self.orders else f"with {self.between} between"
        )


class ThirdStage(BaseModel):
    holds: int
    flips: int
    open: int
    cases: list[Case] = []


class Claim(BaseModel):
    """What a paper says about orders, and how many of the study's comparisons say so too."""

    claim: str
    source: str
    verdict: Literal["holds", "fails", "open"]
    in_favour: int = Field(0, alias="for")
    against: int = 0
    undecided: int = Field(0, alias="open")
    pairs: list[list[str]] = []  # those against
    largest_loss: float | None = None  # what doing the other at most costs, where that is known


class Method(BaseModel):
    confidence: float | None = None
    covers: str = ""
    unit: Literal["points", "nats"] = "points"
    family: str | None = None


class Verdicts(BaseModel):
    """All that a study decided; of a file of before, `margin` is None."""

    order: list[str] = []
    order_is_certain: bool = True
    pairs: list[Pair] = []
    undecided: list[tuple[str, str]] = []
    cycles: list[list[str]] = []
    margin: float | None = None
    compare: Literal["accuracy", "loss"] = "accuracy"
    rounds: list[Round] = []
    spent: Spent | None = None
    verification: Verification | None = None
    third_stage: ThirdStage | None = None
    literature: list[Claim] = []
    method: Method = Method()

    @property
    def unit(self) -> str:
        return self.method.unit

    @property
    def margin_text(self) -> str:
        return "the margin" if self.margin is None else f"±{self.margin:g} {self.unit}"

    @property
    def family_text(self) -> str:
        """How sure the verdicts are: '95 % sure of all together'."""
        if self.method.confidence is None:
            return ""
        together = "all together" if self.method.family else "each by itself"
        return f"{100 * self.method.confidence:g} % sure of {together}"

    @property
    def compared(self) -> str:
        """What a difference is: accuracy of an order less the other's, or loss the other way."""
        one, other = "first → second", "second → first"
        one, other = (one, other) if self.compare == "accuracy" else (other, one)
        return f"{self.compare} of {one} less that of {other}, {self.unit}"

    def history(self, pair: Pair) -> list[RoundPair]:
        """The pair's sure intervals in its own direction, one for each number of seeds.

        They end where it was settled; judged again with the same seeds, the last counts.
        """
        by_seeds: dict[int, RoundPair] = {}
        for entry in (entry for each in self.rounds for entry in each.pairs):
            if {entry.first, entry.second} == {pair.first, pair.second}:
                same = entry.first == pair.first
                by_seeds[entry.seeds] = entry if same else entry.turned()
                if entry.verdict != "open":
                    break
        return [by_seeds[seeds] for seeds in sorted(by_seeds)]


# --- in words ------------------------------------------------------------------------------------


def interval_text(interval: Sequence[float], unit: str = "points") -> str:
    digits = DIGITS[unit]
    return " to ".join(f"{value:+.{digits}f}" for value in interval)


def headline(study: Verdicts) -> str:
    """The study in one sentence: the order, what is certain about it, and what it rests on."""
    by_verdict = [pair.verdict for pair in study.pairs]
    equal = by_verdict.count("equal")
    different = len(by_verdict) - by_verdict.count("open") - equal
    if not study.pairs:
        return "No order found: the study has no pair to compare."
    count, settled = len(by_verdict), different + equal
    whole = f"{number(count)} pair{'' if count == 1 else 's'}"
    order, rest = _arrows(study), _rests_on(study)
    if not settled:
        by_estimate = f"; by estimates alone it would be {order}" if order else ""
        none = "its one pair is open" if count == 1 else f"none of {whole} is settled"
        return f"No order is certain yet: {none}{rest}{by_estimate}."
    parts = [f"{number(different)} by a difference"] if different else []
    if equal:
        parts.append(f"{number(equal)} within {study.margin_text} of equal")
    share = (
        f"all {whole} are" if settled == count else f"{number(settled)} of {whole} {verb(settled)}"
    )
    share = "its one pair is" if count == 1 else share
    found = f"Order found: {order}"
    if not different:
        found = "Order does not matter" if settled == count else f"By estimate {order}"
    return f"{found}; {share} settled ({', '.join(parts)}){rest}{_doubts(study)}."


def _arrows(study: Verdicts) -> str:
    """'D → P ≈ Q': neighbours whose order does not matter have no arrow between them."""
    equal = [{pair.first, pair.second} for pair in study.pairs if pair.verdict == "equal"]
    text = "".join(study.order[:1])
    for before, after in itertools.pairwise(study.order):
        text += f" {'≈' if {before, after} in equal else '→'} {after}"
    return text


def _rests_on(study: Verdicts) -> str:
    seeds = sorted({pair.n.seeds for pair in study.pairs if pair.n.seeds})
    images = max(pair.n.images for pair in study.pairs)
    parts = []
    if seeds:
        spread = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        parts.append(f"{spread} seed{'' if seeds == [1] else 's'}")
    if images:
        parts.append(f"{images:,} validation images")
    return "".join(f", {part}" for part in [*parts, study.family_text] if part)


def _doubts(study: Verdicts) -> str:
    """Open pairs and circles: where the order is one by estimate."""
    parts = []
    still = [pair for pair in study.pairs if pair.verdict == "open"]
    if still:
        text = f"{listed([pair.name for pair in still])} {verb(len(still))} open"
        neighbours = [{a, b} for a, b in itertools.pairwise(study.order)]
        beside = any({pair.first, pair.second} in neighbours for pair in still)
        parts.append(f"{text}{', the order there by estimate' if beside else ''}")
    if study.cycles:
        parts.append(f"no order suits all: {listed([_circle(cycle) for cycle in study.cycles])}")
    return "".join(f"; {part}" for part in parts)


def of_pairs(study: Verdicts) -> Iterator[Finding]:
    """Pairs whose order does not matter, or little, those that are open, and circles."""
    for pair in study.pairs:
        sure = _sure(pair, study)
        if pair.verdict == "equal":
            text = f"{pair.name}: equal within {study.margin_text}{sure}, so order does not matter"
            yield Finding(kind="equal", text=text)
        elif pair.verdict != "open" and pair.within_margin:
            text = f"{pair.name}: {pair.said(study)} {study.unit}{sure}"
            yield Finding(kind="small", text=text)
    for pair in study.pairs:
        if pair.verdict == "open":
            text = f"{pair.name} is open{_sure(pair, study)}: {pair.why_open(study)}"
            yield Finding(kind="undecided", text=text)
    for cycle in study.cycles:
        text = f"cycle: {_circle(cycle)}; no order suits all of these"
        yield Finding(kind="cycle", text=text)


def _circle(cycle: Sequence[str]) -> str:
    return " → ".join([*cycle, *cycle[:1]])


def _sure(pair: Pair, study: Verdicts) -> str:
    """' (+0.12 points, surely -0.50 to +0.74)'; nothing where there is no difference."""
    if pair.difference is None:
        return ""
    value = f"{pair.difference:+.{DIGITS[study.unit]}f} {study.unit}"
    if pair.sure_interval is not None:
        return f" ({value}, surely {interval_text(pair.sure_interval, study.unit)})"
    return f" ({value}{f', {interval_text(pair.interval, study.unit)}' if pair.interval else ''})"


def listed(words: Sequence[str]) -> str:
    """'A', 'A and B', 'A, B and C'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def verb(count: int) -> str:
    return "is" if count == 1 else "are"
