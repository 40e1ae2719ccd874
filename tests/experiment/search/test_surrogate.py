"""The model of a search against scikit-learn's, its gradient, and what luck does to the best."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from experiment.search.space import Features, Way
from experiment.search.surrogate import Costs, Drops, Process
from tests.support.searches import made_up

MACS = {"D": [0.3, 1.0], "P": [0.3, 0.6, 0.9], "Q": [0.1]}
SPACE = made_up(
    {"D": [{"width": 0.5}, {"width": 1.0}], "P": [{"keep": k} for k in (0.3, 0.6, 0.9)], "Q": [{}]},
    MACS,
)


def process(rows: int = 20) -> tuple[Process, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.hstack([rng.normal(size=(rows, 3)), rng.integers(0, 3, size=(rows, 2))])
    found = Process([(0, 1), (1, 3)], 3, 0.2)
    found.theta = np.log([1.3, 0.8, 1.7, 0.02, 0.05])
    return found, x, np.sin(x[:, 0]) + 0.1 * rng.normal(size=rows)


def test_without_luck_it_is_scikit_learns() -> None:
    found, x, y = process()
    x[:, 3:] = 0  # no beginnings: nothing is shared
    found.fit(x, y, sizes=False)
    kernel = ConstantKernel(1.3) * RBF([0.8, 1.7, 1.7])
    other = GaussianProcessRegressor(kernel, alpha=0.05, optimizer=None).fit(x[:, :3], y)
    at = np.random.default_rng(1).normal(size=(7, 5))
    at[:, 3:] = 0
    mean, spread = other.predict(at[:, :3], return_std=True)
    assert found.mean(at) == pytest.approx(mean)
    assert found.spread(at) == pytest.approx(spread)
    covariance = other.predict(at[:, :3], return_cov=True)[1]
    assert found.joint(at) == pytest.approx(covariance)


def test_its_gradient_is_that_of_its_loss() -> None:
    found, x, y = process()
    found.values = y
    apart, shared = found._apart(x, x), found._shared(x, x)
    away = check_grad(
        lambda theta: found._loss(theta, apart, shared)[0],
        lambda theta: found._loss(theta, apart, shared)[1],
        found.theta,
    )
    assert away < 1e-4


def test_shared_beginnings_are_counted_until_they_part() -> None:
    found = Process([(0, 1)], 1, 0.2)
    rows = np.array([[0.0, 4, 5, 6], [0.0, 4, 5, 7], [0.0, 4, 8, 6], [0.0, -1, -1, 0]])
    assert found._shared(rows, rows).tolist() == [
        [3, 2, 1, 0], [2, 3, 1, 0], [1, 1, 3, 0], [0, 0, 0, 0]
    ]  # fmt: skip


def test_the_best_of_many_lucky_ones_is_not_believed() -> None:
    """Taken at its word, the best of many trainings is off by their luck."""

    def truth(way: Way) -> float:
        return 1.5 - 1.5 * SPACE.foreseen[way]["macs"] / 1e6 + 0.1 * len(way)

    apparent, believed = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        runs = {("full", 0, way): truth(way) + 0.6 * rng.normal() for way in SPACE.ways}
        drops = Drops(SPACE, 2.0)
        drops.fit(runs)
        mean, _ = drops.of()
        lucky = min(SPACE.ways, key=lambda way: runs["full", 0, way])
        best = SPACE.ways[int(np.argmin(mean))]
        apparent.append(truth(lucky) - runs["full", 0, lucky])
        believed.append(truth(best) - float(drops.points(mean.min())))
    assert np.mean(apparent) > 0.8
    assert abs(np.mean(believed)) < 0.25


def test_orders_and_strengths_are_told_apart_from_a_part_of_the_chains() -> None:
    def truth(way: Way) -> float:
        order, numbers = [letter for letter, _ in way], dict(way)
        late = {"P", "Q"} <= set(order) and order.index("P") > order.index("Q")
        return 3.0 * late + [4.0, 1.0, 0.0][numbers.get("P", 2)] + 0.5 * ("D" in numbers)

    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(SPACE.ways))[:20]
    drops = Drops(SPACE, 1.0)
    drops.fit({("full", 0, SPACE.ways[i]): truth(SPACE.ways[i]) for i in chosen})
    rest = [way for i, way in enumerate(SPACE.ways) if i not in chosen]
    mean, spread = drops.of(rest)
    away = drops.points(mean) - np.array([truth(way) for way in rest])
    assert np.abs(away).mean() < 0.8
    inside = np.abs(mean - drops.warped([truth(way) for way in rest])) < 2 * spread
    assert inside.mean() > 0.8


def test_costs_follow_counts_until_they_are_seen() -> None:
    """What is twice as dear as counted when P comes first is expected to be so elsewhere too."""

    def truth(way: Way) -> float:
        return (2 if way[0][0] == "P" else 1) * space.foreseen[way]["bitops"]

    space = made_up(SPACE.choices, MACS, counted=False)
    costs = Costs(space, "bitops", Features(space))
    costs.fit({(): 1e9})
    foreseen, wide = costs.of()
    assert np.exp(foreseen) == pytest.approx([space.foreseen[w]["bitops"] for w in space.ways])
    chosen = [way for i, way in enumerate(space.ways) if i % 2]
    costs.fit({(): 1e9} | {way: truth(way) for way in chosen})
    mean, spread = costs.of()
    away = mean - np.log([truth(way) for way in space.ways])
    known = np.array([way in chosen for way in space.ways])
    assert np.abs(away[~known]).mean() < 0.15 and (spread < wide.max()).all()


def test_costs_that_are_counted_are_not_learned() -> None:
    costs = Costs(SPACE, "bitops", Features(SPACE))
    costs.fit({SPACE.ways[3]: 7e9})
    mean, spread = costs.of()
    assert np.exp(mean) == pytest.approx([SPACE.foreseen[w]["bitops"] for w in SPACE.ways])
    assert spread.max() < 0.01
