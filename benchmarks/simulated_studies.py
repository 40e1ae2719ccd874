"""Studies of known truth: answers, losses and curves, drawn image by image.

An answer is right where a latent score is above 0. It adds up from the image's difficulty (shared
by all chains of a study), what the image prefers of an order, the noise of each trained network,
and what the order gives in that seed: its true accuracy and the luck of training. So the true
difference of two orders, over all images and trainings there may be, is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from benchmarks.bootstrap import Array
from experiment.study.analysis import Analysis
from experiment.study.comparison import Evidence, ScoreScale
from experiment.study.luck import Sample, sample

LETTERS = "DPQEA"
MARGIN = 0.5  # points
LEAST, MOST = 2, 8  # seeds
ORDER, NETWORK = 0.25, 0.35  # deviations of the score, by order and by network; images': 1
NATS = 0.012  # of loss, as hard to tell apart as a point of accuracy
STEEP = 20.0  # points a decade of costs
MIXED = {6: [5, 3, 1.2, 0.55, 0, 0], 10: [5, 3, 2, 1.2, 0.8, 0.55, 0.3, 0, 0, 0]}  # pairs → points
Random = np.random.Generator


def mixed(random: Random, pairs: int) -> Array:
    """Large, small, hardly above the margin and none."""
    return random.permutation(MIXED[pairs]) * random.choice([-1, 1], pairs)


def ties(random: Random, pairs: int) -> Array:
    """Two groups of letters: within one order does not matter, between them it does."""
    group = np.arange(5) % 2
    both = list(itertools.combinations(range(4 if pairs == 6 else 5), 2))
    return np.array([1.5 * (group[b] - group[a]) for a, b in both], dtype=float)


def cycle(random: Random, pairs: int) -> Array:
    """Of three letters each should come before the next, the last before the first."""
    both = itertools.combinations(range(4 if pairs == 6 else 5), 2)
    return np.array([{(0, 1): 1.5, (1, 2): 1.5, (0, 2): -1.5}.get(pair, 0.5) for pair in both])


TRUTHS: dict[str, Callable[[Random, int], Array]] = {
    "none": lambda random, pairs: np.zeros(pairs),
    "apart": lambda random, pairs: 1.5 * random.choice([-1, 1], pairs),
    "close": lambda random, pairs: random.choice([-1.0, 1.0], pairs),
    "margin": lambda random, pairs: (MARGIN + 0.01) * random.choice([-1, 1], pairs),
    "mixed": mixed,
    "ties": ties,
    "cycle": cycle,
}
LUCKS: dict[str, Callable[[Random, int], Array]] = {  # points, of a seed's difference
    "none": lambda random, pairs: np.zeros(pairs),
    "small": lambda random, pairs: np.full(pairs, 0.6),  # with the images: a point in all
    "large": lambda random, pairs: np.full(pairs, 2.0),
    "lognormal": lambda random, pairs: np.minimum(np.exp(random.normal(-0.3, 1, pairs)), 6),
    "halves": lambda random, pairs: np.where(np.arange(pairs) % 2, 0.25, 2.5),
}


@dataclass(frozen=True)
class Scenario:
    """What studies of one kind are drawn from."""

    letters: int
    luck: str
    truth: str
    images: int = 2000
    scores: str = "answers"  # or 'losses', 'curves'

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(itertools.combinations(LETTERS[: self.letters], 2))

    @property
    def unit(self) -> float:
        """A point's worth."""
        return NATS if self.scores == "losses" else 1.0

    def __str__(self) -> str:
        kind = "" if self.scores == "answers" else f", {self.scores}"
        return f"{self.letters} letters, luck {self.luck}, truth {self.truth}, {self.images}{kind}"


def latent(random: Random, shape: tuple[int, ...], images: int) -> Array:
    """Scores `[pairs, 2, ..., seeds, N]` without what orders give, of unit scale over all."""
    difficulty = random.standard_normal(images, dtype=np.float32)
    order = random.standard_normal((*shape[:2], *[1] * len(shape[2:]), images), dtype=np.float32)
    network = random.standard_normal((*shape, images), dtype=np.float32)
    scale = np.float32(1 / np.sqrt(1 + ORDER**2 + NETWORK**2))
    network *= np.float32(NETWORK)
    network += np.float32(ORDER) * order
    network += difficulty
    network *= scale
    return network


def drawn(scenario: Scenario, random: Random, truth: Array, luck: Array) -> Array:
    """Differences of one study, `[pairs, seeds, N]`, in points or nats."""
    pairs, seeds = len(truth), MOST
    score = latent(random, (pairs, 2, seeds), scenario.images)
    own = random.normal(0, 1, (pairs, 2, seeds)) * luck[:, None, None] / np.sqrt(2)
    own += np.stack([truth, -truth], axis=1)[:, :, None] / 2
    if scenario.scores == "losses":
        score = -np.logaddexp(np.float32(0), np.float32(-1) - 2 * score)
        return score[:, 0] - score[:, 1] + (NATS * (own[:, 0] - own[:, 1]))[..., None]
    level = ndtri(np.clip(0.8 + own / 100, 0.01, 0.99)).astype(np.float32)
    right = score > -level[..., None]
    return 100 * (right[:, 0].astype(np.int8) - right[:, 1])


def curves(scenario: Scenario, random: Random, truth: Array, luck: Array) -> Analysis:
    """A study whose orders have two strengths, at costs that differ by order and by seed."""
    pairs, seeds = len(truth), MOST
    score = latent(random, (pairs, 2, 2, seeds), scenario.images)
    cost = 1e6 * np.array([1, 1.25])[:, None, None] * np.array([1, 0.5])[:, None]
    cost = cost * np.exp(random.normal(0, 0.03, (pairs, 2, 2, seeds)))
    own = random.normal(0, 1, (pairs, 2, 1, seeds)) * luck[:, None, None, None] / np.sqrt(2)
    own += np.stack([truth, -truth], axis=1)[:, :, None, None] / 2
    level = ndtri(0.8 + (own + STEEP * np.log10(cost / 1e6)) / 100).astype(np.float32)
    right = 100 * (score > -level[..., None]).astype(np.float32)
    evidence = [
        Evidence(f"{order}{g}", order, (("", g),), tuple(range(seeds)), right[p, o, g],
                 {"bitops": cost[p, o, g]})
        for p, (a, b) in enumerate(scenario.pairs)
        for o, order in enumerate((a + b, b + a))
        for g in range(2)
    ]  # fmt: skip
    return analysis(LETTERS[: scenario.letters], evidence)


def analysis(letters: str, evidence: list[Evidence]) -> Analysis:
    orders = list(dict.fromkeys(chain.order for chain in evidence))
    return Analysis(letters, orders, evidence, ScoreScale(10.0, {"bitops": 2e6}))


def at_seeds(whole: Analysis, seeds: int) -> Analysis:
    """The study as it was after so many seeds."""
    evidence = [
        Evidence(c.name, c.order, c.strengths, c.seeds[:seeds], c.score[:seeds],
                 {cost: values[:seeds] for cost, values in c.costs.items()})
        for c in whole.evidence
    ]  # fmt: skip
    return analysis("".join(whole.letters), evidence)


@dataclass
class Study:
    """One simulated study: its samples at every number of seeds, in points."""

    truth: Array  # [pairs]
    samples: dict[int, list[Sample]]  # seeds → a pair each
    values: Array | None  # [pairs, seeds, N]; curves have none


def studies(scenario: Scenario, random: Random) -> Iterator[Study]:
    count = len(scenario.pairs)
    while True:
        truth = TRUTHS[scenario.truth](random, count)
        luck = LUCKS[scenario.luck](random, count)
        if scenario.scores == "curves":
            whole = curves(scenario, random, truth, luck)
            parts = {n: at_seeds(whole, n).samples() for n in (2, 3)}
            found = {n: [s for s in part if s is not None] for n, part in parts.items()}
            yield Study(truth, found, None)
            continue
        values = drawn(scenario, random, truth, luck)
        counts = range(LEAST, MOST + 1)
        samples = {n: [sample(pair[:n].astype(float)) for pair in values] for n in counts}
        yield Study(scenario.unit * truth, samples, values)
