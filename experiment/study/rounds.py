"""Verdicts on the pairs of a study, for all pairs and all looks together, and who gets a seed next.

A pair is settled where an interval leaves out 0 ('first', 'second') or lies within ±margin and has
0 inside ('equal'). The share of studies in which any such verdict is wrong is kept at `error`:

- over pairs by Holm's step-down (1979): with k pairs open, the surest is judged at error / k;
- over looks by alpha spending (Lan and DeMets, doi:10.1093/biomet/70.3.659) with the power family,
  by Bonferroni's inequality, whatever looks have in common: with S of at most M seeds a pair may
  have used (S / M)**POWER of its error. So a study may stop at any round, for any reason, and go on
  later; what was settled is not judged again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy.special import ndtri

from experiment.study.luck import Certainty, Sample

POWER = 2  # of the spending: at 1 looks share the error equally, above, later ones get more
LEAST_ERROR = 1e-12  # of a single look
MANY = 10**6  # seeds, as good as any number
MOVES = 1.5  # standard errors of what further seeds change, by which a difference may yet move
VerdictName = Literal["first", "second", "equal", "open"]


@dataclass(frozen=True)
class Verdict:
    """What a study may say of one pair, all pairs and looks being paid for."""

    name: VerdictName
    interval: tuple[float, float]
    level: float  # of the interval
    p_value: float  # least error of the whole study at which this look settles the pair
    within_margin: bool  # whether the interval lies within ±margin

    @property
    def settled(self) -> bool:
        return self.name != "open"


def verdict_name(interval: tuple[float, float], margin: float) -> VerdictName:
    low, high = interval
    if low > 0:
        return "first"
    if high < 0:
        return "second"
    return "equal" if within(interval, margin) else "open"


def within(interval: tuple[float, float], margin: float) -> bool:
    return -margin <= interval[0] and interval[1] <= margin


def judged(
    certainty: Certainty, index: int, error: float, margin: float, p_value: float
) -> Verdict:
    """The verdict on one sample at one error."""
    interval = certainty.interval(index, 1 - error)
    inside = within(interval, margin)
    return Verdict(verdict_name(interval, margin), interval, 1 - error, p_value, inside)


def step_down(
    certainty: Certainty, shares: Mapping[int, float], error: float, margin: float
) -> dict[int, Verdict]:
    """Verdicts on the samples that `shares` names, each with its share of `error` at this look."""
    p_values = {
        index: min(certainty.p_different(index), certainty.p_equal(index, margin)) / share
        for index, share in shares.items()
    }
    verdicts: dict[int, Verdict] = {}
    count, so_far = len(shares), 0.0
    for place, index in enumerate(sorted(p_values, key=lambda index: p_values[index])):
        so_far = max(so_far, min(1.0, (len(shares) - place) * p_values[index]))
        own = max(error * shares[index] / count, LEAST_ERROR)
        verdicts[index] = judged(certainty, index, own, margin, so_far)
        count -= verdicts[index].settled and so_far <= error  # else all others are judged as this
    return verdicts


@dataclass(frozen=True)
class Look:
    """One round: what was known of every pair after it."""

    samples: tuple[Sample | None, ...]  # None: the pair cannot be compared
    verdicts: tuple[Verdict | None, ...]
    lacking: tuple[str | None, ...]  # of open pairs: 'images' where no number of seeds is enough
    hopeful: tuple[bool, ...]  # open pairs that the seeds which they may get can settle
    next_half_width: tuple[float | None, ...]  # of open pairs, with one more seed


@dataclass
class Rounds:
    """A study's pairs over its rounds; nothing here runs anything."""

    pairs: Sequence[tuple[str, str]]
    least: int  # seeds of every pair in the first round
    most: int  # seeds that a pair may get
    error: float  # 1 - confidence
    margin: float
    seeds: list[int] = field(init=False)  # that each pair has by now
    settled_in: dict[int, int] = field(default_factory=dict)  # pair → round, from 1
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seeds = [self.least] * len(self.pairs)

    def share(self, seeds: int) -> float:
        """The part of a pair's error that the look at so many seeds may use."""
        if self.least == self.most:
            return 1.0
        before = 0.0 if seeds <= self.least else ((seeds - 1) / self.most) ** POWER
        return float((seeds / self.most) ** POWER - before)

    def look(self, samples: Sequence[Sample | None]) -> Look:
        """Judge the pairs that are not settled yet, by samples at their `seeds`."""
        there = [index for index, found in enumerate(samples) if found is not None]
        certainty = Certainty([s for s in samples if s is not None])
        place = {index: number for number, index in enumerate(there)}
        open_pairs = [index for index in there if index not in self.settled_in]
        shares = {place[index]: self.share(self.seeds[index]) for index in open_pairs}
        found = step_down(certainty, shares, self.error, self.margin)
        verdicts: list[Verdict | None] = [None] * len(samples)
        lacking: list[str | None] = [None] * len(samples)
        hopeful = [False] * len(samples)
        widths: list[float | None] = [None] * len(samples)
        for index in self.settled_in:
            verdicts[index] = self.looks[-1].verdicts[index]
        for index in open_pairs:
            verdict = verdicts[index] = found[place[index]]
            if verdict.settled:
                self.settled_in[index] = len(self.looks) + 1
        left = sum(index not in self.settled_in for index in open_pairs)
        for index in open_pairs:
            if index not in self.settled_in:
                at, error = place[index], max(self.error / left, LEAST_ERROR)
                ever = self._may_settle(certainty, at, error * self.share(self.most), MANY)
                lacking[index] = "seeds" if ever else "images"
                last = error * self.share(self.most)
                hopeful[index] = self._may_settle(certainty, at, last, self.most)
                following = error * self.share(min(self.seeds[index] + 1, self.most))
                widths[index] = certainty.half_width(at, 1 - following, self.seeds[index] + 1)
        look = Look(tuple(samples), tuple(verdicts), tuple(lacking), tuple(hopeful), tuple(widths))
        self.looks.append(look)
        return look

    def _may_settle(self, certainty: Certainty, index: int, error: float, seeds: int) -> bool:
        """Whether so many seeds would bring a verdict, were luck of training what is likely, and
        the difference to move as far as it may by `MOVES`."""
        sample = certainty.samples[index]
        now, then = (certainty.likely_deviation(index, n) for n in (sample.seeds, seeds))
        reach = float(-ndtri(error / 2)) * then
        moves = MOVES * max(now**2 - then**2, 0.0) ** 0.5
        distance = abs(sample.difference)
        return distance + moves >= reach or reach + max(distance - moves, 0.0) <= self.margin

    def following(self, order: Sequence[str]) -> list[int]:
        """The pairs that get one more seed: neighbours in the present `order` first; [] at the end.

        Pairs that the seeds which they may get cannot settle get none.
        """
        hopeful = [index for index, own in enumerate(self.looks[-1].hopeful) if own]
        candidates = [index for index in hopeful if self.seeds[index] < self.most]
        neighbours = {frozenset(both) for both in itertools.pairwise(order)}
        near = [index for index in candidates if frozenset(self.pairs[index]) in neighbours]
        return near or candidates

    def add_seeds(self, chosen: Sequence[int]) -> None:
        for index in chosen:
            self.seeds[index] += 1
