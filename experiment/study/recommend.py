"""`--recommend "accuracy_drop<=0.5, min latency_ms"`: a study's best chain for what is asked."""

from __future__ import annotations

import pprint
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from experiment.outcomes.study import COSTS, percent
from experiment.outcomes.wish import ACCURACIES, METRICS, Limit, Wish

SHOWN = 3  # chains that may be as good
Row = dict[str, Any]  # of `chains` in a study's JSON


def best_of(wish: Wish, rows: Sequence[Row]) -> Row | None:
    """The best row that meets every limit; among equals the more accurate one."""
    within = [row for row in rows if all(met(limit, row) for limit in wish.limits)]
    sign = -1 if wish.largest else 1
    return min(
        within,
        key=lambda row: (sign * figure(row, wish.metric), -figure(row, "accuracy")),
        default=None,
    )


def nearest(wish: Wish, rows: Sequence[Row]) -> Row:
    """The row that is least beyond the limits."""
    return min(rows, key=lambda row: sum(beyond(limit, row) for limit in wish.limits))


def met(limit: Limit, row: Row) -> bool:
    return limit.allows(figure(row, limit.metric))


def beyond(limit: Limit, row: Row) -> float:
    """How far a chain is beyond the limit, as a share of it; points where it is a drop."""
    return max(0.0, limit.excess(figure(row, limit.metric)))


def probability(limit: Limit, row: Row) -> float:
    """That a limit on the accuracy holds for a chain with `drop_sd`.

    One on `accuracy` takes the baseline's as it was measured.
    """
    room = -limit.excess(figure(row, limit.metric))  # to the limit, below 0 beyond it
    if not row["drop_sd"]:  # a chain that answers every image as the baseline does
        return float(met(limit, row))
    return NormalDist(0, row["drop_sd"]).cdf(room)


def holds(row: Row, name: str) -> bool:
    """Whether a chain came to its end with this figure; some are not measured everywhere."""
    return "metrics" in row and COSTS.get(name, name) in {*row["metrics"], "accuracy_drop"}


def figure(row: Row, name: str) -> float:
    """A figure of a chain on the validation share, the mean over seeds."""
    if name == "accuracy_drop":
        return row["accuracy_drop"]
    return row["metrics"][COSTS.get(name, name)]["mean"]


def recommendation(wish: Wish, study: dict[str, Any]) -> tuple[bool, str]:
    """Whether a chain of a study's report meets the wish, and what to print.

    Where one does: comments and an entry of EXPERIMENT_CONFIGS; else one line with the nearest.
    """
    needed = list(dict.fromkeys([*(limit.metric for limit in wish.limits), wish.metric]))
    rows = [row for row in study["chains"] if all(holds(row, name) for name in needed)]
    asked = ", ".join(map(str, wish.limits)) or "the wish"
    if not rows:
        left_out = study.get("method", {}).get("costs_left_out", {})
        whys = "".join(f"; {left_out[name]}" for name in needed if name in left_out)
        return False, f"no chain meets {asked}: none came to its end with {', '.join(needed)}{whys}"
    best = best_of(wish, rows)
    if best is None:
        row = nearest(wish, rows)
        named = dict.fromkeys(limit.metric for limit in wish.limits)
        has = ", ".join(f"{name} {figure(row, name):.4g}" for name in named)
        missed = [limit for limit in wish.uncertain if not met(limit, row)]
        if row.get("drop_sd") is not None and missed:
            perhaps = (f"{limit} with {percent(probability(limit, row))}" for limit in missed)
            has += f", which may yet meet {', '.join(perhaps)}"
        return False, f"no chain meets {asked}; the nearest is {row['name']} with {has}"
    figures = ", ".join(_told(best, name) for name in METRICS if holds(best, name))
    seeds = best["metrics"]["accuracy"]["n"]
    entry = {**best["config"], "name": f"{best['name']}_chosen"}
    return True, "\n".join(
        [
            f"# {best['name']} of study {study['study']}, on {study['splits']['images']} validation"
            f" images, {seeds} seed{'s' if seeds > 1 else ''}:",
            f"#   {figures}; {best['device']}",
            f"#   test split: accuracy {best['test']['accuracy']['mean']:.2f}, "
            f"accuracy_drop {best['test']['accuracy_drop']:.2f}",
            *(f"#   {line}" for line in how_sure(wish, best, rows, study.get("method", {}))),
            pprint.pformat(entry, sort_dicts=False, width=99) + ",",
        ]
    )


# --- how sure that is --------------------------------------------------------------------------


def how_sure(
    wish: Wish, best: Row, rows: Sequence[Row], method: Mapping[str, Any]
) -> Iterator[str]:
    """What the luck of images and training leaves open about the chosen one of `rows`, in lines.

    The drop is taken as normal with its standard error `drop_sd`, of which files of before have
    none; and costs as known. Studies keep no errors of two chains' differences, so chains count as
    not told apart where their intervals overlap, which is more often than a test would say so.
    """
    if best.get("drop_sd") is None:
        yield "how sure that is cannot be told: the study's file has no error of accuracy_drop"
        return
    confidence = method.get("confidence", 0.95)
    low, high = best["drop_interval"]
    yield f"accuracy_drop is between {low:.2f} and {high:.2f} ({100 * confidence:g} % interval)"
    for limit in wish.uncertain:
        yield f"{limit} holds with a probability of {percent(probability(limit, best))}"
    others = [row for row in rows if row is not best and row.get("drop_sd") is not None]
    near = [row for row in others if _rivals(wish, best, row, 1 - confidence)]
    if near:
        near.sort(key=lambda row: row["accuracy_drop"])
        more = f", {SHOWN} of {len(near)} shown" if len(near) > SHOWN else ""
        how = "not told apart from it"
        if wish.metric not in ACCURACIES:
            how = f"better in {wish.metric}, and perhaps within the limits"
        yield f"{how}{more}:"
        yield from (f"  {_rival(wish, best, row)}" for row in near[:SHOWN])
    if len(rows) > 1:
        yield f"the best of {len(rows)} chains: by that choice it looks a little better than it is"


def _rivals(wish: Wish, best: Row, row: Row, doubt: float) -> bool:
    """Whether `row` may well be the better choice, by what is known of the two."""
    known = [limit for limit in wish.limits if limit not in wish.uncertain]
    if not all(met(limit, row) for limit in known):
        return False
    if any(probability(limit, row) < doubt for limit in wish.uncertain):
        return False
    if wish.metric in ACCURACIES:
        (low, high), (its_low, its_high) = best["drop_interval"], row["drop_interval"]
        return low <= its_high and its_low <= high
    mine, its = figure(best, wish.metric), figure(row, wish.metric)
    return its > mine if wish.largest else its < mine


def _rival(wish: Wish, best: Row, row: Row) -> str:
    """A name with what speaks for it, and what it costs against the chosen one."""
    names = dict.fromkeys((wish.metric, "accuracy_drop"))
    told = [f"{name} {figure(row, name):.3g}" for name in names]
    if wish.metric != "bitops" and holds(row, "bitops") and holds(best, "bitops"):
        told.append(f"bitops ×{figure(row, 'bitops') / figure(best, 'bitops'):.2f}")
    if wish.uncertain:
        chance = min(probability(limit, row) for limit in wish.uncertain)
        told.append(f"within the limit with {percent(chance)}")
    return f"{row['name']} ({', '.join(told)})"


def _told(row: Row, name: str) -> str:
    """A figure, and of a time the engine that it is of."""
    engine = row["metrics"].get(COSTS.get(name, name), {}).get("engine")
    return f"{name} {figure(row, name):.4g}" + (f" by {engine}" if engine else "")
