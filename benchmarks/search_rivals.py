"""Ways of searching that `benchmarks.search` compares with ours.

A searcher is a generator: it runs chains of a `Replay` and yields what it would choose after each.
The rivals run chains in full at one seed, and take the best of what they saw either at its word, as
people do, or once it was run at three seeds.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.search_replay import Pick, Replay, Row
from experiment.outcomes.wish import Limit
from experiment.study.recommend import figure

Searcher = Callable[[Replay, np.random.Generator], Iterator[Pick | None]]
Runs = Callable[[Replay, np.random.Generator], Iterator[None]]  # a pause after each chain


def random_search(replay: Replay, rng: np.random.Generator) -> Iterator[None]:
    """Chains in an order drawn at random, none twice."""
    for chain in rng.permutation(replay.table.chains):
        replay.run(str(chain))
        yield


def tpe(replay: Replay, rng: np.random.Generator) -> Iterator[None]:
    """Optuna's TPE: a category of all orders, and of each letter the strength as a number.

    Limits are Optuna's constraints; what it proposes again costs nothing. Of its settings these
    find the best of a seed soonest, by a little (tried: univariate, ungrouped, 20 trials to start
    with, letters and ranks instead of orders, beginnings of chains told as trials).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table, wish = replay.table, replay.wish
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`
        seed = int(rng.integers(2**31))
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
    direction = "maximize" if wish.largest else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    orders = sorted({chain[::2] for chain in table.chains})
    for _ in table.chains:  # as many trials as the grid has
        trial = study.ask()
        order = trial.suggest_categorical("order", orders)
        chain = "".join(
            f"{letter}{trial.suggest_int(letter, 0, table.letters[letter] - 1)}" for letter in order
        )
        row = replay.run(chain)
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            for limit in wish.limits:
                trial.set_constraint(str(limit), beyond(limit, row))
            study.tell(trial, figure(row, wish.metric))
        yield


def pairs_then_grid(replay: Replay, rng: np.random.Generator) -> Iterator[None]:
    """Pairs of letters at middle strengths say the order, of which every strength is run."""
    letters = replay.table.letters
    middle = {letter: f"{letter}{count // 2}" for letter, count in letters.items()}
    wins = dict.fromkeys(letters, 0)
    for a, b in itertools.combinations(letters, 2):
        first, second = (replay.run(middle[x] + middle[y]) for x, y in ((a, b), (b, a)))
        yield
        wins[a if _accuracy(first) >= _accuracy(second) else b] += 1
    order = "".join(sorted(letters, key=lambda letter: -wins[letter]))
    chains = [chain for chain in replay.table.chains if _within(chain[::2], order)]
    for chain in rng.permutation(chains):
        replay.run(str(chain))
        yield


def picking(runs: Runs, seeds: int = 1) -> Searcher:
    """After each chain the best so far, which was run at so many seeds."""

    def searcher(replay: Replay, rng: np.random.Generator) -> Iterator[Pick | None]:
        for _ in runs(replay, rng):
            yield replay.pick(seeds)

    return searcher


def beyond(limit: Limit, row: Row) -> float:
    """How far a row is beyond a limit; below 0 within it."""
    excess = figure(row, limit.metric) - limit.bound
    return excess if limit.sign.startswith("<") else -excess


def _accuracy(row: Row | None) -> float:
    return figure(row, "accuracy") if row else 0.0


def _within(letters: str, order: str) -> bool:
    """Whether letters stand as in the order."""
    return list(letters) == sorted(letters, key=order.index)


RIVALS: dict[str, Searcher] = {
    "random": picking(random_search),
    "TPE": picking(tpe),
    "TPE, 3 seeds": picking(tpe, 3),
    "pairs, then grid": picking(pairs_then_grid),
    "pairs, then grid, 3 seeds": picking(pairs_then_grid, 3),
}
