"""How sure differences are: noise of single images, and luck of training, moderated over a study.

A difference d[s, i] of two orders, at seed s on image i, is a mean, the luck of seed s (a normal
variable of variance τ²), what image i prefers in any training, and a rest. Images are many, so what
they add is known; seeds are few, so τ is not. Pairs of a study tell of one another: luck in units
of the rest's noise, which says how much two trainings differ on single images, is alike in all,
λ = τ / sqrt(rest). log λ has a Student distribution with 4 degrees of freedom over pairs; its place
(flat in λ) and its spread (half-normal) are integrated out on a grid. So a pair with much luck is
recognised by its own seeds, pairs that hardly differ from seed to seed are not made to pay for it,
and what is not known of τ widens the interval, as Student's t does. (Moderated variances:
doi:10.2202/1544-6115.1027; flat priors of scales: doi:10.1214/06-BA117A.) How often intervals hold
and verdicts are wrong is simulated by `benchmarks/study_design.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

Array = np.ndarray[Any, np.dtype[Any]]

SPREAD = 0.7  # scale of the half-normal prior of log λ's spread over pairs
TAIL = 4  # degrees of freedom of log λ over pairs
LEAST, MOST = 0.03, 8.0  # of λ; most: times what seeds have shown


@dataclass(frozen=True)
class Sample:
    """Two orders, compared at some seeds: the difference and the variances that it rests on."""

    difference: float  # first order less second, mean over seeds
    seeds: int
    between: float  # variance of the seeds' differences; 0 for one seed
    images: float  # variance of the mean that no number of seeds lowers
    rest: float  # variance of a seed's difference from what an image does in one training alone

    def noise(self, seeds: int) -> float:
        """Variance of the mean over so many seeds, luck of training aside."""
        return self.images + self.rest / seeds


def sample(values: Array) -> Sample:
    """The sample of differences `[S, N]`, of seeds by images (two-way mean squares)."""
    seeds, images = values.shape
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    mean = float(by_seed.mean())
    spread = float(by_image.var(ddof=1)) / images
    if seeds == 1:
        return Sample(mean, 1, 0.0, 0.0, spread)
    rest = ((values - by_seed[:, None] - by_image + mean) ** 2).sum()
    rest = float(rest) / ((seeds - 1) * (images - 1)) / images
    between = float(by_seed.var(ddof=1))
    return Sample(mean, seeds, between, max(spread - rest / seeds, 0.0), rest)


class Certainty:
    """What a study's samples say of the true differences: of each a mixture of normals over τ²."""

    def __init__(self, samples: Sequence[Sample]):
        self.samples = list(samples)
        self.differences = np.array([s.difference for s in samples])
        seeds = np.array([s.seeds for s in samples])
        rest = np.maximum([s.rest for s in samples], 1e-12)
        self.luck, self.weights = _luck(np.array([s.between for s in samples]) / rest, seeds, rest)
        noise = np.array([s.noise(s.seeds) for s in samples])
        self.deviations = np.sqrt(np.maximum(self.luck / seeds[:, None] + noise[:, None], 1e-18))

    def above(self, index: int, bound: float) -> float:
        """Probability that the true difference is above `bound`."""
        z = (self.differences[index] - bound) / self.deviations[index]
        return float(self.weights[index] @ ndtr(z))

    def interval(self, index: int, level: float) -> tuple[float, float]:
        """The interval around the difference that has `level` of the probability."""
        difference = float(self.differences[index])
        half = self.half_width(index, level)
        return difference - half, difference + half

    def half_width(self, index: int, level: float, seeds: int | None = None) -> float:
        """Of the interval; with `seeds`: as expected with so many."""
        deviations = self.deviations[index]
        if seeds is not None:
            noise = self.samples[index].noise(seeds)
            deviations = np.sqrt(np.maximum(self.luck[index] / seeds + noise, 1e-18))

        def beyond(half: float) -> float:
            return 2 * float(self.weights[index] @ ndtr(-half / deviations)) - (1 - level)

        return float(brentq(beyond, 0.0, 40 * float(deviations.max())))

    def spread(self, index: int) -> float:
        """Standard deviation of what is known of the true difference."""
        return float(np.sqrt(self.weights[index] @ self.deviations[index] ** 2))

    def likely_deviation(self, index: int, seeds: int) -> float:
        """Standard error with so many seeds, τ being its median."""
        median = np.searchsorted(self.weights[index].cumsum(), 0.5)
        luck = self.luck[index, min(int(median), self.luck.shape[1] - 1)]
        return float(np.sqrt(luck / seeds + self.samples[index].noise(seeds)))

    def p_different(self, index: int) -> float:
        """One less the level of the interval that just reaches 0."""
        up = self.above(index, 0.0)
        return 2 * min(up, 1 - up)

    def p_equal(self, index: int, margin: float) -> float:
        """One less the level of the interval that just reaches ±`margin`; 1 where none does not."""
        outside = max(self.above(index, margin), 1 - self.above(index, -margin))
        return min(1.0, 2 * outside)


def _luck(ratios: Array, seeds: Array, rest: Array) -> tuple[Array, Array]:
    """τ² `[P, T]` on a grid, and each pair's posterior weights `[P, T]`.

    `ratios` are the variances between seeds over `rest`, the rest's. Where no pair has two seeds
    luck is unknown, and left out.
    """
    if seeds.max(initial=1) < 2:
        return np.zeros((len(seeds), 1)), np.ones((len(seeds), 1))
    grid = np.geomspace(LEAST, MOST * np.sqrt(max(float(ratios.max()), 1.0)), 64)
    total = 1 + grid**2
    degrees = (seeds - 1)[:, None]
    log_likelihood = -0.5 * degrees * (np.log(total) + ratios[:, None] / total)  # χ², [P, T]
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    places, spreads = np.log(grid[::2]), np.linspace(0.1, 3, 12)
    away = (np.log(grid) - places[:, None, None]) / spreads[:, None]  # [M, O, T]
    prior = (1 + away**2 / TAIL) ** (-(TAIL + 1) / 2)
    prior /= prior.sum(axis=-1, keepdims=True)
    evidence = np.tensordot(prior, likelihood, axes=(2, 1)) + 1e-300  # [M, O, P]
    score = np.log(evidence).sum(axis=-1) - 0.5 * (spreads / SPREAD) ** 2 + places[:, None]
    shares = np.exp(score - score.max())
    weights = np.einsum("mo,mot,mop->pt", shares / shares.sum(), prior, 1 / evidence) * likelihood
    return grid**2 * rest[:, None], weights / weights.sum(axis=1, keepdims=True)
