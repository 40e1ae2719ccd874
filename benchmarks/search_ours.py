"""Our search as `benchmarks.search` replays it: the policy alone, every training from the table."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_replay import COSTS, Pick, Replay, Row
from benchmarks.search_rivals import Searcher
from experiment.search.plan import load_search
from experiment.search.policy import Policy
from experiment.search.space import Space, Way
from experiment.study.recommend import met

CONFIG = Path(__file__).parents[1] / "configs" / "search_digits.py"
FRESH = 3  # seeds, at most
UNEVEN = 0.2  # of the logarithm of prices: stages of the same epochs do not take equally long


@functools.cache
def space() -> Space:
    return load_search(CONFIG, "Digits_Two_Points").space


def search(
    replay: Replay, rng: np.random.Generator, *, finalists: int = 0
) -> Iterator[Pick | None]:
    """Choose, run, and tell what would be picked, after every letter; at last `finalists` of the
    best are run again at fresh seeds. Short trainings are chosen where the table has them."""
    seed = replay.seed
    root = replay.table.rows[seed, "full", ""]
    assert root is not None
    policy = Policy(space(), replay.wish, figures(root), seed, seed in replay.table.with_short)
    uneven: dict[tuple[str, Way], float] = {}

    def price(kind: str, way: Way) -> float:
        if (kind, way) not in uneven:
            uneven[kind, way] = float(rng.lognormal(0.0, UNEVEN))
        return policy.space.epochs_of(kind, way) * uneven[kind, way]

    for number in range(10_000):
        proposal = policy.choose(price, number)
        if proposal is None:
            break
        row = replay.run(named(proposal.way), proposal.kind)
        policy.observe(proposal.kind, seed, proposal.way, figures(row) if row else None)
        policy.fit()
        yield pick(policy, policy.best())
    fresh = replay.others()[:FRESH]
    for _ in range(finalists):
        way = policy.best()
        if way is None:
            return
        for other in fresh:
            row = replay.run(named(way), "full", other)
            policy.observe("full", other, way, figures(row) if row else None)
        mean = replay.table.mean(named(way), fresh)
        if mean is not None and all(met(limit, mean) for limit in replay.wish.limits):
            yield Pick(named(way), mean["accuracy_drop"])
            return
        policy.refuted.add(way)
        policy.fit()
        yield pick(policy, policy.best())


def pick(policy: Policy, way: Way | None) -> Pick | None:
    """What would be chosen, and what is believed of it at a fresh seed."""
    if way is None:
        return None
    return Pick(named(way), policy.expected(way)[0])


def named(way: Way) -> str:
    """A way as the table writes it."""
    return "".join(f"{letter}{number}" for letter, number in way)


def figures(row: Row) -> dict[str, Any]:
    return {
        "accuracy": row["metrics"]["accuracy"]["mean"],
        "accuracy_drop": row["accuracy_drop"],
        **{name: row["metrics"][name]["mean"] for name in COSTS},
    }


OURS: dict[str, Searcher] = {
    "ours": search,
    "ours, finalists": functools.partial(search, finalists=3),
}
