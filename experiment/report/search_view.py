"""A search's JSON as the page shows it: finalists, front, what mattered, what comes next, charts.

What was tried when, and the front, are drawn from `chart`; effects are small pictures in a table,
where the page's SVG has its marks.
"""

from __future__ import annotations

from typing import Any

from experiment.outcomes.search import SearchResult
from experiment.outcomes.search_parts import ACCURACIES, AnyEffect, Chain, Finalist, Tried, word
from experiment.outcomes.study import COSTS, percent
from experiment.report.rows import signed
from experiment.report.study_view import legend
from experiment.running.metrics import FIGURES

IN_TABLES = ("headline", "order", "strength", "letter", "next")  # findings shown elsewhere
MET = {True: "meets the limits", False: "beyond a limit", None: "limits not known"}
WIDTH, MARGIN = 200, 8  # of an effect's picture, in its own units


def search_view(name: str, search: SearchResult) -> dict[str, Any]:
    """The search as plain data."""
    lead = next((f.text for f in search.findings if f.kind == "headline"), "")
    return {
        "name": name,
        "headline": f"Search {name}: {lead}",
        "lead": lead,
        "wish": search.wish,
        "images": search.splits.images,
        "legend": legend(search.config.stages),
        "findings": [f.text for f in search.findings if f.kind not in IN_TABLES],
        "asked": search.asked,
        "costs": [_label(cost) for cost in search.costs],
        "finalists": [_finalist(search, one) for one in search.finalists],
        "front": [
            {
                **_chain(one),
                "drop": _points(one.figures.get("accuracy_drop")),
                "expected": one.expected.text,
                "cells": [search.cell(one.figures, cost) for cost in search.costs],
                "confirmed": one.confirmed,
            }
            for one in search.front
        ],
        "effects": _effects(search),
        "next": [
            {
                **_chain(one),
                "kind": one.kind,
                "expected": one.expected.text,
                "cells": [search.cell(one.foreseen, cost) for cost in search.costs],
                "chance": "–" if one.chance is None else percent(one.chance),
                "hours": "–" if one.hours is None else f"{one.hours:.2f}",
            }
            for one in search.next
        ],
        "entry": search.winner.entry if search.winner and search.winner.config else "",
        "chart": _chart(name, search),
    }


def _chain(chain: Chain) -> dict[str, str]:
    return {"chain": chain.name, "arrows": chain.arrows, "settings": chain.settings}


def _finalist(search: SearchResult, one: Finalist) -> dict[str, Any]:
    again = one.confirmed
    return {
        **_chain(one),
        "won": search.winner is not None and one.name == search.winner.name,
        "apparent": _points(one.apparent.get("accuracy_drop")),
        "expected": one.expected.text,
        "confirmed": _points(again.accuracy_drop if again else None),
        "interval": _interval(again.interval if again else None),
        "seeds": len(again.seeds) if again else 0,
        "cells": [search.cell(one.figures, cost) for cost in search.costs],
        "test": _points(one.test.accuracy_drop),
        "meets": one.meets,
        "verdict": one.verdict,
    }


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _interval(interval: tuple[float, float] | None) -> str:
    return " to ".join(_points(value) for value in interval) if interval else ""


# --- what mattered -------------------------------------------------------------------------------


def _effects(search: SearchResult) -> dict[str, Any] | None:
    """A row an effect, all on one axis; None where there is none."""
    mattered = search.mattered
    every: list[AnyEffect] = [
        *sorted((one.turned() for one in mattered.orders), key=_size),
        *sorted(mattered.strengths, key=_size),
        *sorted(mattered.letters, key=_size),
    ]
    if not every:
        return None
    reach = max(abs(end) for one in every for end in (one.effect, *(one.interval or ()))) or 1.0

    def x(value: float) -> float:
        return round(WIDTH / 2 + (WIDTH / 2 - MARGIN) * value / reach, 1)

    return {
        "width": WIDTH,
        "ends": [(x(end), signed(end)) for end in (-reach, reach)],
        "rows": [
            {
                "what": one.what,
                "effect": signed(one.effect),
                "interval": " to ".join(map(signed, one.interval)) if one.interval else "",
                "certain": one.certain,
                "x": x(one.effect),
                "line": [x(end) for end in one.interval] if one.interval else None,
            }
            for one in every
        ],
    }


def _size(effect: AnyEffect) -> float:
    return -abs(effect.effect)


# --- what the charts are drawn from --------------------------------------------------------------


def _chart(name: str, search: SearchResult) -> dict[str, Any]:
    aim = search.aims[0][0] if search.aims else search.costs[0]
    cost = search.costs[0]
    return {
        "name": name,
        "aim": _axis(aim),
        "cost": _axis(cost),
        "tried": [
            {
                **_about(search, one),
                "hours": one.hours,
                "value": _scaled(one.figures, aim),
                "kind": "short training"
                if one.kind == "short"
                else MET[search.within(one.figures)],
                "expected": one.expected.text,
                "stopped": one.stopped,
            }
            for one in search.tried
            if one.hours is not None and aim in one.figures
        ],
        "best": [
            [hours, _scaled(moment.figures, aim), moment.best]
            for moment in search.course
            if aim in moment.figures and (hours := search.hours_at(moment)) is not None
        ],
        "finalists": [
            {
                **_about(search, one),
                "hours": tried.hours if (tried := _when(search, one)) else None,
                "value": _scaled(one.figures, aim),
                "cost": _scaled(one.figures, cost),
                "apparent": one.apparent.get("accuracy_drop"),
                "interval": one.confirmed.interval if one.confirmed else None,
                "meets": one.meets,
            }
            for one in search.finalists
        ],
        "front": [
            {
                **_about(search, one),
                "cost": _scaled(one.figures, cost),
                "likely": one.expected.accuracy_drop,
                "expected": one.expected.text,
            }
            for one in search.front
            if cost in one.figures and one.expected.accuracy_drop is not None
        ],
        "limits": {
            "drop": [limit.bound for limit in search.limits if limit.metric == "accuracy_drop"],
            "cost": [limit.bound / _scale(cost) for limit in search.limits if limit.metric == cost],
        },
    }


def _about(search: SearchResult, chain: Any) -> dict[str, Any]:
    """What hovering says."""
    return {
        "chain": chain.name,
        "about": "; ".join(filter(None, (chain.arrows, chain.settings))),
        "costs": [
            f"{word(cost)} {' '.join(search.cell(chain.figures, cost))}" for cost in search.costs
        ],
        "drop": chain.figures.get("accuracy_drop"),
    }


def _when(search: SearchResult, one: Finalist) -> Tried | None:
    """Where in the search it was tried in full, the last time."""
    tried = [row for row in search.tried if row.name == one.name and row.kind != "short"]
    return tried[-1] if tried else None


def _label(name: str) -> str:
    """What stands beside an axis and above a column."""
    figure = FIGURES.get(COSTS.get(name, name))
    return "accuracy drop (points)" if name == "accuracy_drop" else figure.label if figure else name


def _axis(name: str) -> dict[str, Any]:
    """Of costs a logarithmic one; what is better is up, where accuracy is drawn."""
    log, reversed_ = name not in ACCURACIES, name == "accuracy_drop"
    return {"label": _label(name), "log": log, "reversed": reversed_}


def _scale(name: str) -> float:
    figure = FIGURES.get(COSTS.get(name, name))
    return figure.scale if figure else 1


def _scaled(figures: dict[str, float], name: str) -> float | None:
    return figures[name] / _scale(name) if name in figures else None
