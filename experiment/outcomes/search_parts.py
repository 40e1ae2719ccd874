"""What a search's JSON holds: what was tried, confirmed, what mattered, what comes next.

The file is rewritten after every stage, so one of a search that runs still, or was interrupted,
reads as well; and what was not known when it was written is null, or not there.
"""

from __future__ import annotations

import pprint
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from experiment.outcomes.study import COSTS, WORDS, Plan, TestFigures
from experiment.outcomes.verdicts import Interval, interval_text
from experiment.outcomes.wish import ACCURACIES, Limit, Wish, parse_wish
from experiment.running.metrics import FIGURES
from experiment.suite.messages import ConfigError

COUNTS = {"bitops": "BitOps", "macs": "MACs", "params": "parameters"}  # told as 1/20, not ×0.05


def _known(value: Any) -> Any:
    """Without what is null, so that a null reads like a field that is not there."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return value


Figures = Annotated[dict[str, float], BeforeValidator(_known)]  # by name, as wishes have them


class Part(BaseModel):
    """A part of the file; a null is as if its field were not there."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return _known(value)


class Expected(Part):
    """What the search's model says of a chain's drop: its mean and standard deviation, points."""

    accuracy_drop: float | None = None
    sd: float | None = None

    @property
    def text(self) -> str:
        if self.accuracy_drop is None:
            return "–"
        return f"{self.accuracy_drop:.2f}" + (f" ± {self.sd:.2f}" if self.sd is not None else "")


class Chain(Part):
    """An order of letters, and how hard each letter's stages go."""

    name: str
    order: str = ""
    strengths: dict[str, dict[str, Any]] = {}  # letter → option → value

    @property
    def arrows(self) -> str:
        return " → ".join(self.order) or "–"

    @property
    def settings(self) -> str:
        """'D width 0.5; P keep.macs 0.45'; nothing where no strength was chosen."""
        return "; ".join(
            f"{letter} {', '.join(f'{option} {value}' for option, value in options.items())}"
            for letter, options in self.strengths.items()
            if options
        )


class Tried(Chain):
    number: int | None = None
    kind: str = "full"  # 'short': trained for a share of the epochs
    hours: float | None = None  # spent by the search up to and with it
    figures: Figures = {}  # none where it failed
    expected: Expected = Expected()
    failed: str | None = None
    stopped: str | None = None  # by stop_if, before its end

    @property
    def drop(self) -> float | None:
        return self.figures.get("accuracy_drop")


class Moment(Part):
    """The best chain so far by the model's estimate, after a stage."""

    hours: float | None = None
    tried: int | None = None  # how many chains by then
    best: str | None = None
    figures: Figures = {}


class Confirmed(Part):
    """Means over fresh seeds, and the interval of the drop."""

    accuracy_drop: float | None = None
    interval: Interval | None = None
    seeds: list[int] = []
    figures: Figures = {}

    @property
    def text(self) -> str:
        if self.accuracy_drop is None:
            return "–"
        sure = f" ({interval_text(self.interval)})" if self.interval else ""
        return f"{self.accuracy_drop:.2f}{sure}"


class Finalist(Chain):
    apparent: Figures = {}  # at the search's seed
    expected: Expected = Expected()
    confirmed: Confirmed | None = None
    test: TestFigures = TestFigures()
    meets: bool | None = None  # None: not yet run again
    failed: str | None = None  # why it could not be run again

    @property
    def figures(self) -> dict[str, float]:
        """Confirmed ones where there are any, and the apparent ones of what was not run again."""
        if self.confirmed is None:
            return self.apparent
        drop = self.confirmed.accuracy_drop
        known = {} if drop is None else {"accuracy_drop": drop}
        return {**self.apparent, **self.confirmed.figures, **known}

    @property
    def verdict(self) -> str:
        if self.failed is not None:
            return "failed"
        return {None: "not run again yet", True: "yes", False: "no"}[self.meets]


class Winner(Chain):
    confirmed_chance: float | None = None  # that the limits on the accuracy hold
    config: dict[str, Any] = {}  # its entry of EXPERIMENT_CONFIGS

    @property
    def entry(self) -> str:
        """The entry as a config file has it."""
        return pprint.pformat(self.config, sort_dicts=False, width=99) + ","


class OnFront(Chain):
    figures: Figures = {}
    expected: Expected = Expected()
    confirmed: bool = False


class Effect(Part):
    """Points of accuracy, by the search's model, with their 95 % interval."""

    effect: float
    interval: Interval | None = None

    @property
    def certain(self) -> bool:
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def text(self) -> str:
        sure = f" ({interval_text(self.interval)})" if self.interval else ""
        return f"{self.effect:+.2f}{sure}"


class OrderEffect(Effect):
    """What `first` → `second` has over the reverse."""

    first: str
    second: str

    @property
    def what(self) -> str:
        return f"{self.first} before {self.second}"

    def turned(self) -> OrderEffect:
        """With the better order first."""
        if self.effect >= 0:
            return self
        sure = self.interval and (-self.interval[1], -self.interval[0])
        return OrderEffect(first=self.second, second=self.first, effect=-self.effect, interval=sure)


class StrengthEffect(Effect):
    letter: str
    option: str
    start: Any = Field(None, alias="from")
    end: Any = Field(None, alias="to")

    @property
    def what(self) -> str:
        return f"{self.letter} {self.option} from {self.start} to {self.end}"


class LetterEffect(Effect):
    letter: str

    @property
    def what(self) -> str:
        return f"with {self.letter}, against without"


AnyEffect = OrderEffect | StrengthEffect | LetterEffect


class Mattered(Part):
    orders: list[OrderEffect] = []
    strengths: list[StrengthEffect] = []
    letters: list[LetterEffect] = []


class Next(Chain):
    kind: str = "full"
    expected: Expected = Expected()
    foreseen: Figures = {}  # costs, which are known without training
    chance: float | None = None  # to meet the limits and be better
    hours: float | None = None


class Space(Part):
    chains: int | None = None
    impossible: int = 0
    impossible_why: list[str] = []
    beyond: int = 0  # cannot meet a limit on costs, by what they are made of; never trained


class Spent(Part):
    hours: float = 0
    epochs: float = 0
    stages: int = 0
    stored: int = 0  # stages beside these that were in the store before
    budget_hours: float | None = None
    budget_epochs: float | None = None
    hours_final: float | None = None  # of hours, those of the finalists' fresh seeds


class Baseline(Part):
    name: str = ""
    figures: Figures = {}


class Splits(Part):
    images: int | None = None


def within(limit: Limit, figures: dict[str, float]) -> bool | None:
    """Whether figures meet a limit; None where its own is not known."""
    return limit.allows(figures[limit.metric]) if limit.metric in figures else None


class Searched(Part):
    """All that a search did and found; its costs are told beside the baseline's."""

    search: str = ""
    wish: str = ""
    status: str = "unknown"
    stopped_by: str | None = None
    config: Plan = Plan()
    splits: Splits = Splits()
    baseline: Baseline = Baseline()
    space: Space = Space()
    tried: list[Tried] = []
    course: list[Moment] = []
    finalists: list[Finalist] = []
    winner: Winner | None = None
    front: list[OnFront] = []
    mattered: Mattered = Mattered()
    next: list[Next] = []
    spent: Spent = Spent()

    @cached_property
    def asks(self) -> Wish | None:
        """The wish, which was checked before the search began; None in a damaged file."""
        try:
            return parse_wish(self.wish, several=True)
        except ConfigError:
            return None

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.asks.limits if self.asks else ()

    @property
    def aims(self) -> tuple[tuple[str, bool], ...]:
        """Each objective: its figure, and whether it is to be large."""
        return self.asks.aims if self.asks else ()

    @property
    def costs(self) -> list[str]:
        """The figures of the wish other than accuracies; BitOps where it names none."""
        named = [*(name for name, _ in self.aims), *(limit.metric for limit in self.limits)]
        return [name for name in dict.fromkeys(named) if name not in ACCURACIES] or ["bitops"]

    @property
    def asked(self) -> str:
        """Its limits, or the whole wish where it has none."""
        return ", ".join(map(str, self.limits)) or "the wish"

    @property
    def names_tried(self) -> int:
        return len({chain.name for chain in self.tried})

    @property
    def won(self) -> Finalist | None:
        """The winner with what was confirmed of it."""
        if self.winner is None:
            return None
        return next((one for one in self.finalists if one.name == self.winner.name), None)

    def hours_at(self, moment: Moment) -> float | None:
        """When it was: its own hours, or those of the last chain tried by then."""
        tried = (one.hours for one in self.tried if one.number == moment.tried)
        return moment.hours if moment.hours is not None else next(tried, None)

    def within(self, figures: dict[str, float]) -> bool | None:
        """Whether the figures meet every limit; None where that cannot be told."""
        met = [within(limit, figures) for limit in self.limits]
        return False if False in met else None if None in met else True

    def ratio(self, figures: dict[str, float], name: str) -> float | None:
        """Of a cost to the baseline's."""
        mine, its = figures.get(name), self.baseline.figures.get(name)
        return mine / its if mine is not None and its else None

    def against_baseline(self, figures: dict[str, float]) -> Iterator[str]:
        """Each of `costs` beside the baseline's: 'BitOps 1/23.6', 'latency ×0.21'."""
        for name in self.costs:
            ratio = self.ratio(figures, name)
            if ratio is not None:
                yield f"{word(name)} {ratio_text(ratio, name)}"

    def cell(self, figures: dict[str, float], name: str) -> tuple[str, str]:
        """A cost as tables show it, in its unit, and its ratio to the baseline's."""
        if name not in figures:
            return "–", ""
        figure, ratio = FIGURES.get(COSTS.get(name, name)), self.ratio(figures, name)
        text = figure.text(figures[name]) if figure else f"{figures[name]:.4g}"
        return text, "" if ratio is None else ratio_text(ratio, name)


def word(name: str) -> str:
    """A figure's name in a sentence."""
    figure = FIGURES.get(COSTS.get(name, name))
    return COUNTS.get(name) or WORDS.get(name) or (figure.title if figure else name)


def heading(name: str) -> str:
    """A figure above a column, with its unit: 'M BitOps'."""
    figure = FIGURES.get(COSTS.get(name, name))
    return figure.heading if figure else name


def ratio_text(ratio: float, name: str) -> str:
    return f"1/{1 / ratio:.1f}" if name in COUNTS and ratio > 0 else f"×{ratio:.2f}"
