"""What is written of a search: what was tried, what was found, and what would come next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from statistics import NormalDist
from typing import Any

import numpy as np

from experiment.outcomes.search import SearchResult
from experiment.outcomes.wish import ACCURACIES
from experiment.search.journal import Final, Journal, identity
from experiment.search.mattered import mattered
from experiment.search.plan import Search
from experiment.search.policy import Policy, Proposal
from experiment.search.space import Way, order_of
from machine.files import finite

NEXT = 5  # chains that are named as what would come next
WHYS = 5  # reasons that are named


def report_of(
    search: Search,
    journal: Journal,
    policy: Policy,
    price: Callable[[str, Way], float],
    base: Mapping[str, float],
    status: str,
    stopped_by: str | None,
    *,
    root: dict[str, Any],
    choices: int,
) -> dict[str, Any]:
    """`search_NAME.json`; `root` is the baseline's record, `base` its figures."""
    space, config = search.space, search.config
    ended = status != "running"
    tried = _tried(search, journal)
    report = {
        "search": config.name,
        "wish": config.wish,
        "status": status,
        "stopped_by": stopped_by,
        "config": config.model_dump(),
        "identity": identity(search, root),
        "splits": {
            "chosen_on": "validation",
            "images": root["metrics"]["validation"]["images"],
            "reported_only": "test",
        },
        "baseline": {"name": config.baseline, "figures": dict(base)},
        "space": {
            "chains": len(space.ways),
            "orders": len(space.orders()),
            "impossible": sum(space.impossible.values()),
            "impossible_why": list(space.impossible)[:WHYS],
            "left_out": space.beyond,
            "beyond": policy.out_of_reach(),
        },
        "tried": tried,
        "course": _course(search, journal, policy, tried),
        "finalists": [_finalist(search, journal, final) for final in journal.finals],
        "winner": _winner(search, journal, policy),
        "front": _front(search, journal, policy) if ended else [],
        "mattered": mattered(policy) if ended else {},
        "next": [_next(search, each, price) for each in policy.ranked(price, choices, NEXT)]
        if ended
        else [],
        "spent": {
            "hours": journal.seconds / 3600,
            "hours_final": journal.seconds_final / 3600,
            "hours_baseline": journal.baseline_seconds / 3600,
            "epochs": journal.epochs,
            "stages": _stages(search, journal, stored=False)
            + sum(final.stages for final in journal.finals),
            "stored": _stages(search, journal, stored=True),
            "budget_hours": config.budget_hours,
            "budget_epochs": config.budget_epochs,
        },
        "journal": journal.plain(),
        "started": journal.started,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    words = SearchResult.model_validate(finite(report)).findings
    return {**report, "findings": [finding.model_dump() for finding in words]}


def _stages(search: Search, journal: Journal, *, stored: bool) -> int:
    letters = [one.way[-1][0] for one in journal.tried if one.stored is stored]
    return sum(len(search.config.sequence(letter)) for letter in letters)


def _about(search: Search, way: Way) -> dict[str, Any]:
    return {
        "name": search.space.label(way),
        "order": order_of(way),
        "strengths": search.space.strengths(way),
    }


def _tried(search: Search, journal: Journal) -> list[dict[str, Any]]:
    rows, seconds, epochs = [], journal.baseline_seconds, 0
    finals = {final.choice: final for final in journal.finals}
    for number, one in enumerate(journal.tried, 1):
        for choice in [choice for choice in finals if choice < one.choice]:
            seconds += finals[choice].seconds
            epochs += finals.pop(choice).epochs
        if not one.stored:
            seconds, epochs = seconds + one.seconds, epochs + one.epochs
        rows.append({
            "number": number,
            **_about(search, one.way),
            **{name: getattr(one, name) for name in (
                "kind", "key", "checkpoint_sha256", "seconds", "epochs", "stored", "figures",
                "failed", "stopped", "expected")},
            "hours": seconds / 3600,
            "epochs_so_far": epochs,
        })  # fmt: skip
    return rows


def _course(
    search: Search, journal: Journal, policy: Policy, tried: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The best so far after each choice, as it was judged then."""
    seen = {one.way: one.figures for one in journal.tried if one.kind == "full"}
    rows = []
    for at in policy.course:
        last = tried[at.tried - 1]
        rows.append({
            "tried": at.tried,
            "hours": last["hours"],
            "epochs": last["epochs_so_far"],
            "best": search.space.label(at.best) if at.best is not None else None,
            "figures": seen.get(at.best) if at.best is not None else None,
        })  # fmt: skip
    return rows


def _finalist(search: Search, journal: Journal, final: Final) -> dict[str, Any]:
    return {
        **_about(search, final.way),
        "apparent": _at_first(journal, final.way),
        "expected": final.expected,
        "confirmed": final.confirmed,
        "test": final.test,
        "meets": final.meets,
        "failed": final.failed,
    }


def _at_first(journal: Journal, way: Way) -> dict[str, float] | None:
    """Its figures at the search's seed."""
    of = (one.figures for one in journal.tried if one.way == way and one.kind == "full")
    return next(of, None)


def _best_final(journal: Journal, policy: Policy) -> Final | None:
    """The best of the finalists that meet the wish, by their fresh seeds alone."""
    met = [final for final in journal.finals if final.meets and final.confirmed]
    if not met:
        return None
    name, largest = policy.wish.aims[0]
    sign = -1 if largest else 1
    return min(met, key=lambda f: (sign * (f.confirmed or {})["figures"][name],
                                   (f.confirmed or {})["accuracy_drop"]))  # fmt: skip


def _winner(search: Search, journal: Journal, policy: Policy) -> dict[str, Any] | None:
    final = _best_final(journal, policy)
    if final is None or final.confirmed is None:
        return None
    chance = None
    if policy.bound < float("inf"):
        room = policy.bound - final.confirmed["accuracy_drop"]
        spread = final.confirmed["sd"]
        chance = NormalDist(0, spread).cdf(room) if spread else float(room >= 0)
    return {
        **_about(search, final.way),
        "confirmed_chance": chance,
        "config": {
            **search.entry("full", final.way, search.fresh_seeds),
            "name": f"{search.config.name}_found",
        },
    }


def _front(search: Search, journal: Journal, policy: Policy) -> list[dict[str, Any]]:
    """Full chains of which none is better in the expected drop and in every other aim at once."""
    seen = {one.way: one.figures for one in journal.tried if one.kind == "full" and one.figures}
    names = [(n, up) for n, up in policy.wish.aims if n not in ACCURACIES]
    names = names or [(limit.metric, limit.sign.startswith(">")) for limit in policy.wish.limits
                      if limit.metric not in ACCURACIES]  # fmt: skip
    ways = [way for way, figures in seen.items()
            if way in policy.index and all(n in figures for n, _ in names)]  # fmt: skip
    mean, spread = policy.drops.of(ways)
    rows = []
    for way, middle, wide in zip(ways, mean, spread, strict=True):
        drop, sd = policy.in_points(middle, wide)
        place = (drop, *(-seen[way][n] if up else seen[way][n] for n, up in names))
        rows.append((place, sd, way))
    final = {f.way for f in journal.finals if f.confirmed}
    places = np.array([place for place, *_ in rows]).reshape(len(rows), 1 + len(names))
    beaten = [((places <= one).all(axis=1) & (places < one).any(axis=1)).any() for one in places]
    front = [row for row, worse in zip(rows, beaten, strict=True) if not worse]
    return [
        {
            **_about(search, way),
            "kind": "full",
            "figures": seen[way],
            "expected": {"accuracy_drop": place[0], "sd": sd},
            "confirmed": way in final,
        }
        for place, sd, way in sorted(front, key=lambda row: row[0])
    ]


def _next(search: Search, proposal: Proposal, price: Callable[[str, Way], float]) -> dict[str, Any]:
    return {
        **_about(search, proposal.aim),
        "kind": proposal.kind,
        "expected": {"accuracy_drop": proposal.aim_drop, "sd": proposal.aim_sd},
        "foreseen": dict(search.space.foreseen[proposal.aim]),
        "chance": proposal.chance,
        "gain": proposal.gain,
        "hours": proposal.cost / 3600 if search.config.budget_hours is not None else None,
    }
