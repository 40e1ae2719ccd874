"""Verdicts by hand: Holm's step-down, what looks may spend, who gets a seed, how often wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from experiment.study.luck import Certainty, Sample
from experiment.study.rounds import Rounds, step_down, verdict_name

PAIRS = list(itertools.combinations("DPQ", 2))  # DP, DQ, PQ


def normal(p_value: float) -> Sample:
    """Of one seed, so that the standard error is known: 1."""
    return Sample(float(stats.norm.isf(p_value / 2)), 1, 0.0, images=1.0, rest=0.0)


def at_seeds(difference: float, seeds: int, *, images: float = 0.001) -> Sample:
    """Of a pair without luck."""
    return Sample(difference, seeds, 0.04, images, rest=0.04)


def test_verdicts_are_read_off_the_interval() -> None:
    assert verdict_name((0.1, 3), 0.5) == "first" and verdict_name((-3, -0.1), 0.5) == "second"
    assert verdict_name((-0.4, 0.5), 0.5) == "equal" and verdict_name((-0.4, 0.6), 0.5) == "open"
    assert verdict_name((0.1, 0.3), 0.5) == "first"  # small, yet certain


def test_holm_by_hand() -> None:
    """0.05 / 4, / 3, / 2: 0.03 is above 0.025, so it and what is less sure stay open."""
    certainty = Certainty([normal(p) for p in (0.2, 0.001, 0.03, 0.015)])
    found = step_down(certainty, dict.fromkeys(range(4), 1.0), 0.05, margin=0.5)
    assert [found[i].name for i in range(4)] == ["open", "first", "open", "first"]
    assert [found[i].p_value for i in range(4)] == pytest.approx([0.2, 0.004, 0.06, 0.045])
    levels = [0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3]
    assert [1 - found[i].level for i in range(4)] == pytest.approx(levels)
    for index, level in enumerate(levels):
        half = stats.norm.isf(level / 2)
        middle = certainty.samples[index].difference
        assert found[index].interval == pytest.approx((middle - half, middle + half))


def test_a_look_may_use_its_share_alone() -> None:
    certainty = Certainty([normal(0.03)])
    assert step_down(certainty, {0: 1.0}, 0.05, 0.5)[0].name == "first"
    assert step_down(certainty, {0: 0.5}, 0.05, 0.5)[0].name == "open"
    assert step_down(certainty, {0: 0.5}, 0.05, 0.5)[0].p_value == pytest.approx(0.06)


def test_equal_counts_in_the_family_too() -> None:
    certainty = Certainty([Sample(0.0, 1, 0.0, images=1.0, rest=0.0), normal(0.04)])
    assert certainty.p_equal(0, 2.4) == pytest.approx(2 * stats.norm.sf(2.4))  # 0.016
    found = step_down(certainty, {0: 1.0, 1: 1.0}, 0.05, margin=2.4)
    assert found[0].name == "equal" and found[0].within_margin
    assert found[1].name == "first" and not found[1].within_margin  # one pair was left: 0.05


@pytest.mark.parametrize(("least", "most"), [(2, 8), (1, 3), (3, 4)])
def test_looks_spend_the_error_once(least: int, most: int) -> None:
    rounds = Rounds(PAIRS, least, most, 0.05, 0.5)
    shares = [rounds.share(seeds) for seeds in range(least, most + 1)]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
    assert Rounds(PAIRS, most, most, 0.05, 0.5).share(most) == 1


def test_a_settled_pair_is_not_judged_again_and_gets_no_seed() -> None:
    rounds = Rounds(PAIRS, 2, 8, 0.05, 0.5)
    first = rounds.look([at_seeds(3, 2), at_seeds(0.8, 2, images=0.05), None])
    assert [v.name if v else None for v in first.verdicts] == ["first", "open", None]
    assert rounds.settled_in == {0: 1}
    assert rounds.following("DPQ") == [1]  # no neighbours are open: D / Q is what is left
    rounds.add_seeds([1])
    assert rounds.seeds == [2, 3, 2]
    second = rounds.look([at_seeds(-3, 2), at_seeds(0.8, 3, images=0.05), None])
    assert second.verdicts[0] == first.verdicts[0] and rounds.settled_in[0] == 1
    assert second.lacking[0] is None and second.next_half_width[0] is None


def test_neighbours_in_the_present_order_come_first() -> None:
    rounds = Rounds(PAIRS, 2, 8, 0.05, 0.5)
    open_pair = Sample(1.0, 2, 1.0, images=0.01, rest=0.5)
    rounds.look([open_pair] * 3)
    assert rounds.following("DPQ") == [0, 2]
    assert rounds.following("PDQ") == [0, 1]
    rounds.seeds = [8, 5, 8]
    assert rounds.following("DPQ") == [1]  # neighbours have all that they may get


@pytest.mark.parametrize("seeds", [2, 5])
def test_few_images_are_lacking_whatever_the_seeds(seeds: int) -> None:
    rounds = Rounds([("D", "P")], seeds, 8, 0.05, 0.5)
    look = rounds.look([at_seeds(0.3, seeds, images=4.0)])
    assert look.lacking == ("images",) and look.hopeful == (False,)
    assert look.next_half_width[0] is not None and look.next_half_width[0] > 1.96 * 2
    assert rounds.following("DP") == []


def test_seeds_are_lacking_where_they_would_settle_it() -> None:
    rounds = Rounds([("D", "P")], 2, 8, 0.05, 0.5)
    look = rounds.look([Sample(1.5, 2, 1.0, images=0.01, rest=0.5)])
    assert look.lacking == ("seeds",) and look.hopeful == (True,)
    (verdict,), (width,) = look.verdicts, look.next_half_width
    assert verdict is not None and width is not None
    assert width < (verdict.interval[1] - verdict.interval[0]) / 2


# --- simulated -----------------------------------------------------------------------------------


def drawn(random: np.random.Generator, truth: float, luck: float, most: int) -> np.ndarray:
    """Differences of every pair at every seed [pairs, seeds]: images 0.1, rest 0.25."""
    own = truth + random.normal(0, 0.1**0.5, (len(PAIRS), 1))
    return own + random.normal(0, (luck**2 + 0.25) ** 0.5, (len(PAIRS), most))


def finished(values: np.ndarray, least: int, looks: int | None = None) -> Rounds:
    """A study to its end, or to so many looks."""
    rounds = Rounds(PAIRS, least, values.shape[1], 0.05, 0.5)
    while True:
        own = [values[i, :n] for i, n in enumerate(rounds.seeds)]
        rounds.look([Sample(float(d.mean()), len(d), float(d.var(ddof=1)), 0.1, 0.25) for d in own])
        chosen = rounds.following("DPQ")
        if not chosen or len(rounds.looks) == looks:
            return rounds
        rounds.add_seeds(chosen)


def test_a_study_in_two_parts_comes_to_the_same_verdicts() -> None:
    """What goes on takes its looks again; a verdict of the first part stays as it was."""
    random = np.random.default_rng(1)
    further = 0
    for _ in range(20):
        values = drawn(random, 1.2, 0.5, 8)
        part, whole = finished(values, 2, looks=2), finished(values, 2)
        assert whole.looks[: len(part.looks)] == part.looks
        for index, settled in part.settled_in.items():
            assert whole.settled_in[index] == settled
            assert whole.looks[-1].verdicts[index] == part.looks[-1].verdicts[index]
        further += len(whole.looks) > len(part.looks)
    assert further > 5


@pytest.mark.parametrize(("least", "most"), [(2, 2), (2, 8)])
def test_false_verdicts_are_as_rare_as_promised(least: int, most: int) -> None:
    """Of studies without any difference, and of those with one hardly above the margin."""
    random, studies, luck = np.random.default_rng(0), 80, 0.7
    for truth, wrong in (0.0, {"first", "second"}), (0.51, {"second", "equal"}):
        names = [
            {
                v.name
                for v in finished(drawn(random, truth, luck, most), least).looks[-1].verdicts
                if v
            }
            for _ in range(studies)
        ]
        assert (
            np.mean([bool(each & wrong) for each in names]) <= 0.05 + 3 * (0.0475 / studies) ** 0.5
        )
