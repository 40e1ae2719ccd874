"""Ways of searching for order and strengths, replayed on a table of every chain.

Run: python -m benchmarks.search [--repetitions 50]
Nothing is trained. The table has the chains of configs/search_digits.py at three seeds, by
`search_table.py`. A search is given a seed, and pays for others; the truth is the mean over all. It
has arrived once its pick, and every pick after it, truly meets the limits within 0.1 points of
accuracy and 2 % of a cost, and is as near to the table's best; what does not arrive counts as the
whole grid at one seed.

A line a wish and searcher: epochs over the grid's, median and quartiles; searches that arrived, and
that were there once; of the picks at a fifth of the grid's epochs how many meet the limits, how far
these are behind the best (median; share of a cost, or points) and their optimism, which is what a
pick loses at fresh seeds beyond what the search believes (mean, points); that of the last picks.
The last line is ours on the first wish: medians over searches of the epochs over the grid's and
over TPE's, and the optimism of the last picks. Needs optuna. 51 searches of
every way for one wish take a quarter of an hour on a busy core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from benchmarks import search_replay
from benchmarks.search_ours import OURS
from benchmarks.search_replay import Pick, Replay, Row, Table
from benchmarks.search_rivals import RIVALS, Searcher
from experiment.outcomes.wish import ACCURACIES, Limit, Wish, parse_wish
from experiment.study import recommend
from experiment.study.recommend import figure

SEARCHERS = {**OURS, **RIVALS}
WISHES = (
    *("accuracy_drop<=2, min bitops", "accuracy_drop<=1, min bitops"),
    *("accuracy_drop<=2, min model_size_mb", "accuracy_drop<=1, min model_size_mb"),
    "bitops<=40e6, max accuracy",
)
POINTS, SHARE = 0.1, 0.02  # what is forgiven: of accuracies, of costs
EARLY = 0.2  # of the grid's epochs
FRESH = 3  # seeds, at most
COLUMNS = (
    *("wish", "best", "searcher", "epochs", "quartiles", "arrived", "once"),
    *("meets at 1/5", "behind", "optimism", "at the end"),
)


@dataclass(frozen=True)
class Outcome:
    """How a search went; times are shares of the grid's epochs."""

    arrived: float | None
    once: float | None  # as good, though a later pick was not
    early: Row | None  # the truth of the pick at EARLY
    optimism_early: float | None  # points
    optimism: float | None

    @property
    def share(self) -> float:
        return 1.0 if self.arrived is None else self.arrived


def main(argv: Sequence[str] | None = None, searchers: Mapping[str, Searcher] = SEARCHERS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, nargs="+", help="pack these files, and run nothing")
    parser.add_argument("--table", type=Path, default=search_replay.PACKED)
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--wishes", nargs="+", default=list(WISHES))
    parser.add_argument("--only", nargs="+", choices=searchers, default=list(searchers))
    args = parser.parse_args(argv)
    if args.pack:
        search_replay.pack(args.pack, args.table)
        return
    table = search_replay.load(args.table)
    grid = fmean(table.grid_epochs.values())
    print(f"{len(table.chains)} chains, {len(table.seeds)} seeds, the grid's epochs: {grid:.0f}")
    print(" | ".join(COLUMNS))
    found: dict[tuple[str, str], list[Outcome]] = {}
    for text in args.wishes:
        wish = parse_wish(text)
        best = best_of(table, wish)
        for name in args.only:
            own = found[text, name] = searches(table, wish, searchers[name], args.repetitions)
            print(" | ".join([text, best["chain"], name, *cells(wish, best, own)]), flush=True)
    if {"ours", "TPE"} <= set(args.only):
        first_wish = args.wishes[0]
        print(json.dumps(headline(found[first_wish, "ours"], found[first_wish, "TPE"])))


def headline(ours: Sequence[Outcome], tpe: Sequence[Outcome]) -> dict[str, float | None]:
    ratios = [own.share / its.share for own, its in zip(ours, tpe, strict=True)]
    return {
        "epochs_vs_grid": round(median(own.share for own in ours), 3),
        "epochs_vs_tpe": round(median(ratios), 3),
        "optimism_points": mean([own.optimism for own in ours]),
    }


def searches(table: Table, wish: Wish, searcher: Searcher, repetitions: int) -> list[Outcome]:
    """Searches spread over the seeds, the same for every searcher."""
    best, seeds = best_of(table, wish), table.seeds
    return [
        outcome(Replay(table, seeds[number % len(seeds)], wish), searcher, number, best)
        for number in range(repetitions)
    ]


def outcome(replay: Replay, searcher: Searcher, number: int, best: Row) -> Outcome:
    """Run a search to its own end, or to the grid's epochs."""
    table, cap = replay.table, replay.cap
    steps: list[tuple[int, Pick | None]] = [(0, None)]
    for pick in searcher(replay, np.random.default_rng(number)):
        if replay.epochs > cap:
            break
        steps.append((replay.epochs, pick))
    good = [
        pick is not None and as_good(replay.wish, table.truths.get(pick.chain), best)
        for _, pick in steps
    ]
    once, stays = first(good), first_for_good(good)
    early = [pick for epochs, pick in steps if epochs <= EARLY * cap][-1]
    return Outcome(
        arrived=None if stays is None else steps[stays][0] / cap,
        once=None if once is None else steps[once][0] / cap,
        early=table.truths.get(early.chain) if early else None,
        optimism_early=optimism(replay, early),
        optimism=optimism(replay, steps[-1][1]),
    )


def best_of(table: Table, wish: Wish) -> Row:
    """The table's best. Raises ValueError where no chain meets the wish."""
    best = recommend.best_of(wish, list(table.truths.values()))
    if best is None:
        raise ValueError(f"no chain of the table meets {', '.join(map(str, wish.limits))}")
    return best


def as_good(wish: Wish, row: Row | None, best: Row) -> bool:
    """Whether a chain's truth is within the limits and as good as the best, but for the slack."""
    if row is None:  # it fails at some seed
        return False
    return meets(wish, row) and behind(wish, row, best) <= slack(wish.metric)


def meets(wish: Wish, row: Row) -> bool:
    return all(recommend.beyond(limit, row) <= slack(limit.metric) for limit in wish.limits)


def behind(wish: Wish, row: Row, best: Row) -> float:
    """How far a row is behind another: points of accuracy, or a share of a cost; at least 0."""
    aim = Limit(wish.metric, ">=" if wish.largest else "<=", figure(best, wish.metric))
    return recommend.beyond(aim, row)


def slack(metric: str) -> float:
    return POINTS if metric in ACCURACIES else SHARE


def first(good: Sequence[bool]) -> int | None:
    return good.index(True) if any(good) else None


def first_for_good(good: Sequence[bool]) -> int | None:
    """The first from which on all are good."""
    start = max((index + 1 for index, own in enumerate(good) if not own), default=0)
    return start if start < len(good) else None


def optimism(replay: Replay, pick: Pick | None) -> float | None:
    """Points that a pick loses, at seeds that the search never ran, beyond what it believes."""
    if pick is None:
        return None
    fresh = [seed for seed in replay.others() if seed not in replay.ledger.seeds][:FRESH]
    row = replay.table.mean(pick.chain, fresh) if fresh else None
    return row["accuracy_drop"] - pick.drop if row else None


def mean(each: Iterable[float | None]) -> float | None:
    there = [own for own in each if own is not None]
    return round(fmean(there), 2) if there else None


def cells(wish: Wish, best: Row, outcomes: Sequence[Outcome]) -> list[str]:
    shares = [own.share for own in outcomes]
    low, high = np.quantile(shares, [0.25, 0.75])
    early = [own.early for own in outcomes if own.early is not None and meets(wish, own.early)]
    return [
        f"{median(shares):.3f}",
        f"{low:.3f}–{high:.3f}",
        f"{fmean(own.arrived is not None for own in outcomes):.0%}",
        f"{fmean(own.once is not None for own in outcomes):.0%}",
        f"{len(early) / len(outcomes):.0%}",
        f"{median(behind(wish, row, best) for row in early):.2f}" if early else "",
        str(mean(own.optimism_early for own in outcomes)),
        str(mean(own.optimism for own in outcomes)),
    ]


if __name__ == "__main__":
    main()
