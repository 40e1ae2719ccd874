"""A study's JSON as the report shows it: the pair matrix, the order found, the ranking.

Only the documented fields are needed (`order`, `pairs`, `chains`, `undecided`, `cycles`); a field
that is missing or of another shape leaves its part out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def study_view(name: str, study: dict[str, Any]) -> dict[str, Any]:
    """The study as plain data; differences are points of accuracy of first → second over back."""
    order = _names(study.get("order"))
    pairs = [pair for item in _list(study.get("pairs")) if (pair := _pair(item))]
    stages = list(dict.fromkeys([*order, *(s for p in pairs for s in (p["first"], p["second"]))]))
    undecided = [_joined(item, " / ") for item in _list(study.get("undecided"))]
    cycles = [_joined(item, " → ") for item in _list(study.get("cycles"))]
    ranking = sorted(_ranking(study.get("chains")), key=lambda chain: -chain["accuracy"])
    found = " → ".join(order)
    headline = f"Study {name}: " + (f"the order found is {found}" if found else "no order found")
    notes = [f"undecided: {', '.join(undecided)}"] if undecided else []
    notes += [f"cycles: {', '.join(cycles)}"] if cycles else []
    return {
        "name": name,
        "order": found,
        "stages": stages,
        "pairs": pairs,
        "undecided": undecided,
        "cycles": cycles,
        "ranking": ranking,
        "headline": headline + (f" ({'; '.join(notes)})" if notes else "") + ".",
    }


def _pair(item: Any) -> dict[str, Any] | None:
    if not isinstance(item, dict) or "first" not in item or "second" not in item:
        return None
    interval = [number(edge) for edge in _list(item.get("interval"))]
    probability = item.get("win_probability", item.get("probability"))
    return {
        "first": str(item["first"]),
        "second": str(item["second"]),
        "difference": number(item.get("difference")),
        "interval": interval if len(interval) == 2 and None not in interval else None,
        "decided": bool(item.get("decided")),
        "probability": number(probability),
    }


def _ranking(chains: Any) -> Iterator[dict[str, Any]]:
    """Chains with an accuracy, whether `chains` is a list or a dict of them by name."""
    items = chains.items() if isinstance(chains, dict) else enumerate(_list(chains), start=1)
    for key, chain in items:
        if not isinstance(chain, dict):
            continue
        figures: dict[str, Any] = {**chain}
        for block in ("metrics", "final"):
            if isinstance(chain.get(block), dict):
                figures.update(chain[block])
        accuracy = number(figures.get("accuracy"))
        if accuracy is None:
            continue
        label = chain.get("name") or chain.get("chain") or chain.get("order") or key
        yield {
            "name": _joined(label, " → "),
            "accuracy": accuracy,
            "bitops": number(figures.get("bitops")),
            "latency": number(figures.get("latency_ms_batch_1")),
        }


def number(value: Any) -> float | None:
    """A number, or the mean of a figure over seeds."""
    if isinstance(value, dict):
        value = value.get("mean")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: Any) -> list[str]:
    """An order; a place that several stages share reads 'P = Q'."""
    return [_joined(item, " = ") for item in _list(value)]


def _joined(item: Any, sign: str) -> str:
    if isinstance(item, dict):
        item = [item[key] for key in ("first", "second") if key in item] or list(item.values())
    return sign.join(map(str, item)) if isinstance(item, list | tuple) else str(item)
