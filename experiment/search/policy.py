"""What to train next: the chain that promises most improvement for what it still costs.

Expected improvement under constraints (Gardner et al. 2014), of several objectives by weights that
change from one choice to the next (ParEGO, Knowles 2006), over the cost of the stages that are not
there yet. A short training comes before the long one where it is likely to save it: it tells of it
as much as the two are alike (Huang et al. 2006), and what is nearly sure to be better needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, qmc

from experiment.outcomes.wish import ACCURACIES, Limit, Wish
from experiment.search.space import Space, Way, beginnings
from experiment.search.surrogate import Costs, Drops, Run
from experiment.study.luck import Array

Figures = Mapping[str, float]  # of a network, among them accuracy_drop
Price = Callable[[str, Way], float]  # kind, way → what its last letter's stages cost
SURE = 0.5  # probability to be within the limits, from which on a chain counts as the best so far
NOTHING = 0.002  # expected improvement, in shares of the objective, below which none is expected
SURELY = 3.0  # standard deviations
LOSSLESS = 0.5  # points, around which drops matter most where the wish has no limit on them


@dataclass(frozen=True)
class Proposal:
    """A chain to be gone on with, and why."""

    kind: str
    way: Way  # as far as it is to be trained now
    aim: Way  # the chain for whose sake
    chance: float  # that this meets the limits, and is better
    gain: float  # expected improvement of the objective
    cost: float  # of all that it lacks
    drop: float  # expected, of `way`, points
    drop_sd: float
    aim_drop: float  # of `aim`
    aim_sd: float


class At(NamedTuple):
    """How a search stood once."""

    tried: int
    best: Way | None


@dataclass
class Policy:
    """What was seen of a space, and what follows for it."""

    space: Space
    wish: Wish
    baseline: Figures
    seed: int = 0  # of the search's runs
    short: bool = False
    runs: dict[Run, Figures] = field(default_factory=dict)
    closed: set[tuple[str, Way]] = field(default_factory=set)  # not gone on with
    refuted: set[Way] = field(default_factory=set)  # failed when they were run again
    course: list[At] = field(default_factory=list)  # after each `fit`

    def __post_init__(self) -> None:
        bounds = [self._as_drop(limit) for limit in self.wish.limits if limit.metric in ACCURACIES]
        self.bound = min(bounds, default=math.inf)
        scale = self.bound if 0 < self.bound < math.inf else LOSSLESS
        self.drops = Drops(self.space, max(scale, LOSSLESS))
        cost_names = [limit.metric for limit in self.wish.limits if limit.metric not in ACCURACIES]
        cost_names += [name for name, _ in self.wish.aims if name not in ACCURACIES]
        self.costs = {
            name: Costs(self.space, name, self.drops.features) for name in dict.fromkeys(cost_names)
        }
        self.index = {way: i for i, way in enumerate(self.space.ways)}
        self.fit()

    def _as_drop(self, limit: Limit) -> float:
        """A limit on the accuracy, as one on what is lost of it."""
        if limit.metric == "accuracy_drop":
            return limit.bound
        return self.baseline["accuracy"] - limit.bound

    # --- what was seen ---------------------------------------------------------------------------

    def observe(self, kind: str, seed: int, way: Way, figures: Figures | None) -> None:
        """Note a run; None where it failed. `fit` draws the conclusions."""
        if figures is None:
            self.closed.add((kind, way))
        else:
            self.runs[kind, seed, way] = figures

    def fit(self, *, noted: bool = True) -> None:
        """Draw the conclusions from what was seen, and note how the search stands."""
        seen = {run: figures["accuracy_drop"] for run, figures in self.runs.items()}
        self.drops.fit(seen, sizes=noted)
        for name, costs in self.costs.items():
            by_way: dict[Way, list[float]] = {}
            for (kind, _, way), figures in self.runs.items():
                if kind == "full" and name in figures:
                    by_way.setdefault(way, []).append(figures[name])
            means = {way: float(np.mean(values)) for way, values in by_way.items()}
            if name in self.baseline:
                means[()] = self.baseline[name]
            costs.fit(means, sizes=noted)
        self.mean, self.spread = self.drops.of()
        self.cost_of = {name: costs.of() for name, costs in self.costs.items()}
        self.chance = self._chance()
        self.done = np.array([("full", self.seed, way) in self.runs for way in self.space.ways])
        tried = sum(seed == self.seed for _, seed, _ in self.runs)
        if tried and noted:
            self.course.append(At(tried, self.best()))

    def in_points(self, mean: float, spread: float) -> tuple[float, float]:
        """A warped drop and its standard deviation as points."""
        low, middle, high = self.drops.points(mean + spread * np.array([-1, 0, 1]))
        return float(middle), float(high - low) / 2

    def expected(self, way: Way, kind: str = "full") -> tuple[float, float]:
        """Its drop at a fresh seed and the standard deviation, points."""
        mean, spread = self.drops.of([way], kind)
        return self.in_points(mean[0], spread[0])

    def out_of_reach(self) -> int:
        """How many ways cannot meet the limits on costs, by count alone."""
        out = np.zeros(len(self.space.ways), bool)
        for limit in self.wish.limits:
            if limit.metric in self.cost_of and limit.metric in self.space.foreseen[()]:
                mean, spread = self.cost_of[limit.metric]
                room = (math.log(max(limit.bound, 1e-12)) - mean) / spread
                out |= (room if limit.sign.startswith("<") else -room) < -SURELY
        return int(out.sum())

    def _chance(self) -> Array:
        """Of every way, that it meets all limits."""
        found = self.drops.within(self.bound, self.mean, self.spread)
        for limit in self.wish.limits:
            if limit.metric in ACCURACIES:
                continue
            mean, spread = self.cost_of[limit.metric]
            room = (math.log(max(limit.bound, 1e-12)) - mean) / spread
            found = found * norm.cdf(room if limit.sign.startswith("<") else -room)
        return found

    # --- objectives ------------------------------------------------------------------------------

    def goals(self) -> tuple[Array, Array]:
        """Mean and standard deviation `[A, W]` of every aim, smaller being better: drops warped,
        costs as logarithms."""
        found = []
        for name, largest in self.wish.aims:
            mean, spread = (self.mean, self.spread) if name in ACCURACIES else self.cost_of[name]
            up = largest if name not in ACCURACIES else (name == "accuracy") != largest
            found.append((-mean if up else mean, spread))
        means, spreads = zip(*found, strict=True)
        return np.stack(means), np.stack(spreads)

    def scalar(self, weights: Array) -> tuple[Array, Array]:
        """The aims as one, by weights (augmented Chebyshev): mean and standard deviation `[W]`."""
        mean, spread = self.goals()
        if len(mean) == 1:
            return mean[0], spread[0]
        low, high = mean.min(axis=1, keepdims=True), mean.max(axis=1, keepdims=True)
        width = np.maximum(high - low, 1e-9)
        mean, spread = (mean - low) / width, spread / width
        parts = weights[:, None] * mean
        total = parts.max(axis=0) + 0.05 * parts.sum(axis=0)
        return total, np.sqrt(((weights[:, None] * spread) ** 2).sum(axis=0))

    def weights(self, number: int) -> Array:
        """Those of the aims at a choice, spread evenly over choices."""
        count = len(self.wish.aims)
        if count == 1:
            return np.ones(1)
        point = qmc.Halton(count, scramble=False).random(number + 2)[-1]
        shares = -np.log(np.clip(point, 1e-9, 1))
        return shares / shares.sum()

    def candidates(self, weights: Array | None = None) -> list[Way]:
        """The chains that were run in full and are likely to meet the limits, the best first."""
        there = self.done & (self.chance >= SURE)
        total, _ = self.scalar(np.ones(len(self.wish.aims)) if weights is None else weights)
        order = np.argsort(np.where(there, total, np.inf), kind="stable")[: there.sum()]
        ways = (self.space.ways[i] for i in order)
        return [way for way in ways if way not in self.refuted]

    def best(self, weights: Array | None = None) -> Way | None:
        return next(iter(self.candidates(weights)), None)

    # --- what next -------------------------------------------------------------------------------

    def gains(self, weights: Array) -> tuple[Array, Array]:
        """Of every way, the expected improvement over the best so far, and the chance of one."""
        total, spread = self.scalar(weights)
        best = self.best(weights)
        bar = total[self.index[best]] if best is not None else float(total.max())
        room = bar - total
        gain = room * norm.cdf(room / spread) + spread * norm.pdf(room / spread)
        there = self.chance * ~self.done
        return there * np.maximum(gain, 0.0), there * norm.cdf(room / spread)

    def lacking(self, kind: str, way: Way) -> list[Way]:
        """The beginnings that were not run."""
        return [b for b in beginnings(way) if (kind, self.seed, b) not in self.runs]

    def choose(self, price: Price, number: int) -> Proposal | None:
        """What to run next, `number` being how often was chosen; None where nothing is promised."""
        found = self.ranked(price, number, 1)
        return found[0] if found else None

    def several(self, price: Price, number: int, count: int) -> list[Proposal]:
        """As many proposals to be run at once, each as if the ones before had come out as expected
        (Ginsbourger et al. 2010)."""
        found: list[Proposal] = []
        while len(found) < count and (next_one := self.choose(price, number)) is not None:
            found.append(next_one)
            if count > 1:
                believed = {"accuracy_drop": next_one.drop}
                self.runs[next_one.kind, self.seed, next_one.way] = believed
                self.fit(noted=False)
        if count > 1 and found:
            for proposal in found:
                del self.runs[proposal.kind, self.seed, proposal.way]
            self.fit(noted=False)
        return found

    def ranked(self, price: Price, number: int, count: int) -> list[Proposal]:
        """The best proposals, each for another chain, the most promising first."""
        gains, chances = self.gains(self.weights(number))
        scores: list[tuple[float, int, str, float]] = []
        told = self.drops.likeness() ** 2 if self.short else 0.0
        prices: dict[tuple[str, Way], float] = {}

        def missing(kind: str, way: Way) -> float:
            """What is to be paid to reach it; infinite behind what is not gone on with."""
            if not way:
                return 0.0
            if (kind, way) not in prices:
                own = 0.0 if (kind, self.seed, way) in self.runs else price(kind, way)
                shut = (kind, way) in self.closed
                prices[kind, way] = math.inf if shut else own + missing(kind, way[:-1])
            return prices[kind, way]

        least = NOTHING * (1 if len(self.wish.aims) == 1 else 0.2)
        for i in map(int, np.flatnonzero(gains > least)):
            way = self.space.ways[i]
            cost = missing("full", way)
            if not 0 < cost < math.inf:
                continue
            scores.append((float(gains[i]) / cost, i, "full", cost))
            before = missing("short", way) if self.short else 0.0
            if 0 < before < math.inf:  # then the long training, unless the short one speaks against
                both = before + float(1 - told * (1 - chances[i])) * cost
                scores.append((float(gains[i]) / both, i, "short", before))
        scores.sort(key=lambda score: (-score[0], score[1]))
        chosen: dict[tuple[str, Way], Proposal] = {}
        for _, i, kind, cost in scores:
            way = self.space.ways[i]
            first = self.lacking(kind, way)[0]
            if (kind, first) in chosen:
                continue
            chosen[kind, first] = Proposal(
                kind, first, way, float(chances[i]), float(gains[i]), cost,
                *self.expected(first, kind),
                *self.in_points(self.mean[i], self.spread[i]),
            )  # fmt: skip
            if len(chosen) == count:
                break
        return list(chosen.values())
