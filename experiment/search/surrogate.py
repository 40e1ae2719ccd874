"""What trained chains say of the others: a Gaussian process of what a chain loses, costs by ratio.

The drop of accuracy is smooth in which letters there are, how strong, in which order, how much is
left of the network, and how shortly it was trained; beside that, luck: every stage adds some, and a
chain inherits that of its beginnings, so what two chains share of their way they share of luck. A
chain is judged at a fresh seed, without the luck that it had: what was lucky does not look better
than it is. (Gaussian processes: Rasmussen and Williams 2006.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.stats import norm

from experiment.search.space import KINDS, Features, Space, Way, beginnings
from experiment.study.luck import Array

Run = tuple[str, int, Way]  # kind, seed, way
NOT_COUNTED = 0.1  # of the logarithm of costs, what counts typically miss
KNOWN = 1e-3  # of the logarithm of what is counted exactly
EXACT = ("macs", "params", "bitops")  # figures that may be
LUCK = 0.4  # points, typically, by which two trainings of a chain differ from their mean
LEAST_TO_FIT = 6  # runs, from which on the kernel's own sizes are fitted


class Process:
    """Regression by a Gaussian process over rows of features and of beginnings.

    The kernel is a · exp(-Σ d² / 2ℓ²), d being the distance in a group of columns and ℓ the group's
    length, plus b for every stage from the beginning that two rows share, plus noise c. Sizes are
    the most probable ones under weak log-normal priors, without which a dozen runs would be fitted
    to the last digit; scikit-learn's processes take none, nor kernels over groups of columns.
    """

    SPREADS = (1.5, 0.7, 0.7, 0.7)  # of the priors of log a, ℓ, b, c
    TYPICAL = (1.0, 2.0)  # medians of a and ℓ

    def __init__(self, groups: Sequence[tuple[int, int]], codes: int, luck: float):
        """`codes`: column from which on beginnings stand, as numbers; 0 for none, and below 0 for
        one that nothing else shares. `luck`: of a training, a standard deviation, as is typical."""
        self.groups, self.codes = groups, codes
        a, length, variance = np.log([*self.TYPICAL, luck**2])
        self.prior = np.array([a, *[length] * len(groups), variance - np.log(2), variance])
        deep, wide, luck, noise = self.SPREADS
        self.widths = np.array([deep, *[wide] * len(groups), luck, noise])
        self.theta = self.prior.copy()  # logarithms of a, ℓ of every group, b, c

    def fit(self, rows: Array, values: Array, *, sizes: bool) -> None:
        """Take these as seen; `sizes`: and find the kernel's."""
        self.seen, self.values = rows, values
        if sizes:
            apart, shared = self._apart(rows, rows), self._shared(rows, rows)
            found = minimize(
                self._loss, self.theta, args=(apart, shared), jac=True, method="L-BFGS-B",
                bounds=np.stack([self.prior - 4 * self.widths, self.prior + 4 * self.widths]).T,
                options={"maxiter": 40},
            )  # fmt: skip
            self.theta = found.x
        kernel = self.covariance(rows, rows, luck=True) + self.noise * np.eye(len(rows))
        self.factor = cho_factor(kernel, lower=True)
        self.solved = cho_solve(self.factor, values)

    @property
    def luck(self) -> float:
        return float(np.exp(self.theta[-2]))

    @property
    def noise(self) -> float:
        return float(np.exp(self.theta[-1]))

    def covariance(self, one: Array, other: Array, *, luck: bool = False) -> Array:
        """Between two sets of rows `[N, M]`, noise left out; with or without shared luck."""
        found = self._smooth(self._apart(one, other), self.theta)
        return found + self.luck * self._shared(one, other) if luck else found

    def mean(self, rows: Array) -> Array:
        return self.covariance(rows, self.seen, luck=True) @ self.solved

    def spread(self, rows: Array) -> Array:
        """Standard deviation of what is smooth, luck of a training left out."""
        cross = self.covariance(rows, self.seen, luck=True)
        known = solve_triangular(self.factor[0], cross.T, lower=True)
        return np.sqrt(np.maximum(np.exp(self.theta[0]) - (known**2).sum(axis=0), 1e-8))

    def joint(self, rows: Array) -> Array:
        """Covariance of what is smooth `[N, N]`."""
        cross = self.covariance(rows, self.seen, luck=True)
        return self.covariance(rows, rows) - cross @ cho_solve(self.factor, cross.T)

    def _apart(self, one: Array, other: Array) -> Array:
        """Squared distances in each group `[G, N, M]`."""
        return np.stack([cdist(one[:, a:b], other[:, a:b], "sqeuclidean") for a, b in self.groups])

    def _shared(self, one: Array, other: Array) -> Array:
        """How many stages from the beginning are the same training `[N, M]`."""
        one, other = one[:, self.codes :], other[:, self.codes :]
        same = (one[:, None, :] == other[None, :, :]) & (one[:, None, :] > 0)
        return np.cumprod(same, axis=2).sum(axis=2).astype(float)

    def _smooth(self, apart: Array, theta: Array) -> Array:
        lengths = np.exp(theta[1:-2])
        return np.exp(theta[0] - 0.5 * np.tensordot(lengths**-2, apart, axes=1))

    def _loss(self, theta: Array, apart: Array, shared: Array) -> tuple[float, Array]:
        """Of the values seen, less the logarithm of their probability and of the priors', and its
        gradient."""
        smooth, eye = self._smooth(apart, theta), np.eye(len(shared))
        b, c = np.exp(theta[-2:])
        factor = cho_factor(smooth + b * shared + c * eye, lower=True)
        solved = cho_solve(factor, self.values)
        away = (theta - self.prior) / self.widths
        loss = 0.5 * self.values @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        inner = np.outer(solved, solved) - cho_solve(factor, eye)
        lengths = np.exp(theta[1:-2])
        by_group = (smooth * d / at**2 for d, at in zip(apart, lengths, strict=True))
        parts = [smooth, *by_group, b * shared, c * eye]
        gradient = np.array([-0.5 * (inner * part).sum() for part in parts])
        return float(loss), gradient + away / self.widths


class Drops:
    """Accuracy drops, in points below the baseline, of all ways; from those of some runs."""

    def __init__(self, space: Space, scale: float):
        """`scale`: points around which drops matter most."""
        self.space, self.scale = space, scale
        self.features = Features(space)
        self.deepest = max((len(way) for way in space.ways), default=1)
        self.numbers: dict[Run, int] = {}  # of beginnings
        self.process = Process(self.features.groups, self.features.width, LUCK / scale)
        self.fitted_on = 0
        self._rows: dict[str, Array] = {}

    def warped(self, drop: Any) -> Any:
        """Drops with those far away brought nearer, of which more need not be known."""
        return np.arcsinh(np.asarray(drop) / self.scale)

    def points(self, value: Any) -> Any:
        return self.scale * np.sinh(value)

    def fit(self, runs: Mapping[Run, float], *, sizes: bool = True) -> None:
        """From the drop of every run, in points; `sizes`: and the kernel's, where it is time."""
        rows = [
            [*self.features.row(way, kind), *self._codes(kind, seed, way)]
            for kind, seed, way in runs
        ]
        # The baseline loses nothing.
        rows.append([*self.features.row((), "full"), *[0] * self.deepest])
        values = self.warped([*runs.values(), 0.0])
        self.center = float(values.mean())
        due = sizes and len(runs) >= LEAST_TO_FIT and len(runs) >= 1.1 * self.fitted_on
        self.process.fit(np.array(rows), values - self.center, sizes=due)
        if due:
            self.fitted_on = len(runs)

    def of(self, ways: Sequence[Way] | None = None, kind: str = "full") -> tuple[Array, Array]:
        """Mean and standard deviation of warped drops at a fresh seed, luck left out; of all ways,
        or of some."""
        rows = self.rows(ways, kind)
        return self.process.mean(rows) + self.center, self.process.spread(rows)

    def joint(self, ways: Sequence[Way]) -> tuple[Array, Array]:
        """Mean `[W]` and covariance `[W, W]` of warped drops, luck left out."""
        rows = self.rows(ways, "full")
        return self.process.mean(rows) + self.center, self.process.joint(rows)

    def within(self, bound: float, mean: Array, spread: Array) -> Array:
        """Probability that a drop is at most `bound` points."""
        return norm.cdf((self.warped(bound) - mean) / spread)

    def likeness(self) -> float:
        """Correlation of a chain's drop when it is trained for short and in full."""
        rows = np.concatenate([self.rows([self.space.ways[-1]], kind) for kind in KINDS])
        covariance = self.process.covariance(rows, rows)
        return float(covariance[0, 1] / covariance[0, 0])

    def rows(self, ways: Sequence[Way] | None, kind: str) -> Array:
        """Rows of ways at a fresh seed."""
        if ways is None:
            if kind not in self._rows:
                self._rows[kind] = self.rows(self.space.ways, kind)
            return self._rows[kind]
        depth = np.arange(self.deepest)
        codes = np.array([-1.0 * (depth < len(way)) for way in ways])
        return np.hstack([self.features.rows(ways, kind), codes.reshape(len(ways), self.deepest)])

    def _codes(self, kind: str, seed: int, way: Way) -> list[int]:
        codes = [
            self.numbers.setdefault((kind, seed, begin), len(self.numbers) + 1)
            for begin in beginnings(way)
        ]
        return codes + [0] * (self.deepest - len(codes))


class Costs:
    """A figure that is counted or measured, of all ways: foreseen, set right by what was seen.

    What a count misses, such as how many images exits let go once the network behind them is cut,
    is as smooth in letters, strengths and orders as drops are.
    """

    def __init__(self, space: Space, name: str, features: Features):
        self.space, self.name, self.features = space, name, features
        self.basis = name if name in space.foreseen[()] else "macs"
        self.process = Process(features.groups, features.width, 1.0)
        self.logs = self._log_of(space.ways)
        self.rows = features.rows(space.ways, "full")
        self.exact = space.counted if name in EXACT else set[Way]()
        self.known = np.array([way in self.exact for way in space.ways])
        self.center = 0.0

    def _log_of(self, ways: Sequence[Way]) -> Array:
        return np.log([self.space.foreseen[way][self.basis] for way in ways])

    def fit(self, measured: Mapping[Way, float], *, sizes: bool = True) -> None:
        """From the figure of every full run, and the baseline's as that of ()."""
        seen = {w: value for w, value in measured.items() if value > 0 and w not in self.exact}
        rest = np.log(list(seen.values())) - self._log_of(list(seen))
        self.center = float(rest.mean()) if len(rest) else 0.0
        rows = self.features.rows(list(seen), "full")
        sizes = sizes and len(seen) >= LEAST_TO_FIT
        self.process.fit(rows, (rest - self.center) / NOT_COUNTED, sizes=sizes)

    def of(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm at a fresh seed, of all ways."""
        away = self.center + NOT_COUNTED * self.process.mean(self.rows)
        spread = NOT_COUNTED * self.process.spread(self.rows)
        mean = self.logs + np.where(self.known, 0.0, away)
        return mean, np.where(self.known, KNOWN, np.maximum(spread, KNOWN))
