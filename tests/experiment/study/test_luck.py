"""Mean squares against regressions, intervals against Student's, normal and bootstrapped ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.bootstrap import Bootstrap
from experiment.study.luck import Certainty, Sample, sample


def known(difference: float, seeds: int, between: float, *, images: float = 0.1) -> Sample:
    return Sample(difference, seeds, between, images, rest=0.25)


def test_mean_squares_by_hand() -> None:
    """Seeds' means are 2 and 6, images' 2.5, 4 and 5.5; rests are ±0.5 four times."""
    found = sample(np.array([[1.0, 2, 3], [4, 6, 8]]))
    rest = 1 / 2 / 3  # a sum of squares of 1, two degrees of freedom, three images
    assert (found.difference, found.seeds, found.between) == (4, 2, 8)
    assert found.rest == pytest.approx(rest)
    assert found.images == pytest.approx(2.25 / 3 - rest / 2)
    assert found.noise(5) == pytest.approx(found.images + rest / 5)


def test_the_rest_is_that_of_a_regression_on_seeds_and_images() -> None:
    seeds, images = 4, 30
    values = np.random.default_rng(0).normal(size=(seeds, images))
    row, column = (index.ravel() for index in np.indices(values.shape))
    design = np.hstack([np.eye(seeds)[row], np.eye(images)[column]])
    _, residual, rank, _ = np.linalg.lstsq(design[:, :-1], values.ravel(), rcond=None)
    expected = residual.item() / (values.size - rank) / images
    assert sample(values).rest == pytest.approx(expected)


def test_variances_are_found_that_values_were_drawn_with() -> None:
    random, images = np.random.default_rng(0), 500
    found = [
        sample(
            random.normal(0, 2, (3, 1))
            + random.normal(0, 10, images)
            + random.normal(0, 20, (3, images))
        )
        for _ in range(400)
    ]
    assert np.mean([s.images for s in found]) == pytest.approx(100 / images, rel=0.1)
    assert np.mean([s.rest for s in found]) == pytest.approx(400 / images, rel=0.03)
    assert np.mean([s.between for s in found]) == pytest.approx(4 + 400 / images, rel=0.1)


def test_one_seed_has_the_images_noise_alone_as_the_bootstrap_has() -> None:
    """Nothing is known of luck then; both intervals are those of a mean over images."""
    values = np.random.default_rng(0).choice([-100.0, 0, 100], (1, 2000), p=[0.1, 0.8, 0.1])
    low, high = Certainty([sample(values)]).interval(0, 0.95)
    bootstrap = Bootstrap(2000)
    bootstrapped = bootstrap.interval(bootstrap.means(values), 0.95)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.001)
    assert (low, high) == pytest.approx(tuple(map(float, bootstrapped)), rel=0.06)


def test_without_luck_the_bootstrap_counts_the_rest_three_times() -> None:
    """Its variance is images + rest·3/S, which is why it was given up (doi:10.1214/07-AOAS122)."""
    random, images, seeds = np.random.default_rng(0), 2000, 8
    values = random.normal(0, 20, images) + random.normal(0, 30, (seeds, images))
    found, bootstrap = sample(values), Bootstrap(images)
    low, high = bootstrap.interval(bootstrap.means(values), 0.95)
    expected = 1.96 * (found.images + 3 * found.rest / seeds) ** 0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert Certainty([found]).half_width(0, 0.95) < 0.9 * expected


@pytest.mark.parametrize("seeds", [8, 20])
def test_luck_alone_gives_students_interval(seeds: int) -> None:
    """One pair, far more luck than noise: τ has a flat prior, so one degree of freedom is lost."""
    between = 4.0
    found = Certainty([Sample(1.0, seeds, between, 1e-4, 1e-2)])
    scale = ((seeds - 1) / (seeds - 2) * between / seeds) ** 0.5
    for level in 0.8, 0.95:
        expected = scale * stats.t.ppf((1 + level) / 2, seeds - 2)
        assert found.half_width(0, level) == pytest.approx(expected, rel=0.05)


def test_many_seeds_give_the_normal_interval() -> None:
    seeds, between = 400, 1.7
    found = Certainty([known(0.0, seeds, between)])
    expected = 1.96 * (0.1 + between / seeds) ** 0.5
    assert found.half_width(0, 0.95) == pytest.approx(expected, rel=0.02)


def test_intervals_widen_with_the_level_and_narrow_with_seeds() -> None:
    found = Certainty([known(0.4, 3, 0.5), known(-1, 4, 0.2)])
    levels = [found.half_width(0, level) for level in (0.5, 0.8, 0.95, 0.99, 1 - 1e-12)]
    assert levels == sorted(levels) and len(set(levels)) == 5
    seeds = [found.half_width(0, 0.95, n) for n in (3, 4, 8, 10**6)]
    assert seeds == sorted(seeds, reverse=True)
    assert seeds[0] == pytest.approx(found.half_width(0, 0.95))
    assert seeds[-1] == pytest.approx(1.96 * 0.1**0.5, rel=0.01)  # the images' part stays


def test_p_values_are_those_of_intervals_that_just_reach() -> None:
    found = Certainty([known(0.7, 3, 0.4), known(0.05, 5, 0.2, images=0.001)])
    low, _ = found.interval(0, 1 - found.p_different(0))
    assert low == pytest.approx(0, abs=1e-9)
    assert found.above(0, 0.7) == pytest.approx(0.5)
    low, high = found.interval(1, 1 - found.p_equal(1, margin=1.0))
    assert max(-low, high) == pytest.approx(1.0)
    assert found.p_equal(0, margin=0.5) == 1  # the estimate itself is beyond


def test_pairs_tell_of_one_another() -> None:
    """A quiet pair among quiet pairs is surer than alone; a loud one is known by its own seeds."""
    quiet = [known(0.0, 3, between) for between in (0.2, 0.3, 0.15, 0.4, 0.25)]
    alone = Certainty(quiet[:1]).half_width(0, 0.95)
    together = Certainty([*quiet, known(0.0, 3, 9.0)])
    assert Certainty(quiet).half_width(0, 0.95) < 0.7 * alone
    assert together.half_width(0, 0.95) < 0.85 * alone
    assert together.half_width(5, 0.95) > 1.96 * (9.0 / 3) ** 0.5


@pytest.mark.parametrize("luck", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("seeds", [2, 4])
def test_intervals_cover_what_is_true(luck: float, seeds: int) -> None:
    random, pairs, studies = np.random.default_rng(0), 6, 150
    rest, images = 0.5, 0.12
    inside = []
    for _ in range(studies):
        own = random.normal(0, images**0.5, pairs)[:, None]
        own = own + random.normal(0, (luck**2 + rest) ** 0.5, (pairs, seeds))
        found = Certainty(
            [Sample(float(d.mean()), seeds, float(d.var(ddof=1)), images, rest) for d in own]
        )
        inside += [found.p_different(index) >= 0.05 for index in range(pairs)]
    error = (0.95 * 0.05 / (studies * pairs)) ** 0.5
    assert np.mean(inside) > 0.95 - 3 * error
