"""A study's JSON as the report shows it: the pair matrix, the order found, the ranking.

Only the documented fields are needed (`order`, `pairs`, `chains`, `undecided`, `cycles`); one that
is missing or of another shape leaves its part out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiment.report.rows import signed

COSTS = {"bitops": "at equal BitOps", "latency_ms": "at equal latency"}
RATIOS = ("bitops", "latency_ms_batch_1", "model_size_mb")


def study_view(name: str, study: dict[str, Any]) -> dict[str, Any]:
    """The study as plain data; a difference is first → second less second → first, in points."""
    order = [_joined(item, " = ") for item in _list(study.get("order"))]
    pairs = [pair for item in _list(study.get("pairs")) if (pair := _pair(item))]
    stages = dict.fromkeys([*order, *(s for p in pairs for s in (p["first"], p["second"]))])
    undecided = [_joined(item, " / ") for item in _list(study.get("undecided"))]
    cycles = [_round(item) for item in _list(study.get("cycles"))]
    ranking = sorted(_ranking(study), key=lambda chain: -chain["accuracy"])
    found = " → ".join(order)
    notes = [f"undecided: {', '.join(undecided)}"] if undecided else []
    notes += [f"cycles: {', '.join(cycles)}"] if cycles else []
    told = f"the order found is {found}" if found else "no order found"
    told += f" ({'; '.join(notes)})" if notes else ""
    return {
        "name": name,
        "order": found,
        "certain": study.get("order_is_certain") is not False,
        "legend": _legend(study),
        "stages": list(stages),
        "pairs": pairs,
        "undecided": undecided,
        "cycles": cycles,
        "ranking": ranking,
        "best": list(_best(study)),
        "notes": [*_third_stage(study), *_permutations(study), *_failed(study)],
        "split": "validation share" if _dict(study.get("splits")) else "split measured",
        "confidence": number(_dict(study.get("method")).get("confidence")),
        "headline": f"Study {name}: {told}.",
    }


def _pair(item: Any) -> dict[str, Any] | None:
    if not isinstance(item, dict) or "first" not in item or "second" not in item:
        return None
    wins = _list(item.get("wins"))
    at_equal = _dict(item.get("at_equal"))
    return {
        "first": str(item["first"]),
        "second": str(item["second"]),
        "difference": number(item.get("difference")),
        "interval": _interval(item),
        "decided": item.get("decided") is True,
        "bound": item.get("method") == "dominance",
        "probability": number(item.get("win_probability")),
        "reason": str(item.get("reason") or ""),
        "at": [_difference(at_equal.get(cost, item if cost == item.get("cost", "bitops") else {}))
               for cost in COSTS],
        "wins": f"{wins[0]:g} of {wins[1]:g}" if len(wins) == 2 and None not in map(number, wins)
        else "–",
        "test": "–" if (test := number(item.get("test_difference"))) is None else signed(test),
    }  # fmt: skip


def _difference(entry: Any) -> str:
    """A difference with its interval; '≥' where the costs leave only a bound."""
    difference = number(_dict(entry).get("difference"))
    if difference is None:
        return "–"
    interval = _interval(entry)
    sure = f" ({signed(interval[0])} to {signed(interval[1])})" if interval else ""
    return f"{'≥ ' if entry.get('method') == 'dominance' else ''}{signed(difference)}{sure}"


def _interval(entry: dict[str, Any]) -> list[float] | None:
    edges = [number(edge) for edge in _list(entry.get("interval"))]
    return [e for e in edges if e is not None] if len(edges) == 2 and None not in edges else None


def _ranking(study: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chains that have an accuracy, with their costs as ratios to the baseline's."""
    base = _dict(_dict(study.get("baseline")).get("metrics"))
    for chain in _list(study.get("chains")):
        figures = _dict(_dict(chain).get("metrics"))
        accuracy = number(figures.get("accuracy"))
        if accuracy is None:
            continue
        spread = number(_dict(figures.get("accuracy")).get("std"))
        drop, test = number(chain.get("accuracy_drop")), _dict(chain.get("test"))
        test_drop = number(test.get("accuracy_drop"))
        yield {
            "name": _joined(chain.get("name") or chain.get("order") or "chain", " → "),
            "accuracy": accuracy,
            "text": f"{accuracy:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""),
            "change": "–" if drop is None else signed(-drop),
            "test_change": "–" if test_drop is None else signed(-test_drop),
            "ratios": [_ratio(figures, base, name) for name in RATIOS],
        }


def _ratio(figures: dict[str, Any], base: dict[str, Any], name: str) -> str:
    mine, its = number(figures.get(name)), number(base.get(name))
    return f"×{mine / its:.3f}" if mine is not None and its else "–"


def _legend(study: dict[str, Any]) -> list[tuple[str, str]]:
    """What the letters stand for."""
    written = _dict(_dict(study.get("config")).get("stages"))
    return [
        (letter, " → ".join(_stage(item) for item in (s if isinstance(s, list) else [s])))
        for letter, s in written.items()
    ]


def _stage(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    name, options = next(iter(item.items()), ("", {}))
    texts = [f"{key} {value}" for key, value in _dict(options).items()]
    return f"{name} ({', '.join(texts)})" if texts else str(name)


def _best(study: dict[str, Any]) -> Iterator[str]:
    """The best chains; one that serves several limits once, with the narrowest."""
    told: set[Any] = set()
    for item in map(_dict, _list(study.get("best"))):
        if item.get("chain") not in told and number(item.get("within")) is not None:
            told.add(item.get("chain"))
            drops = [number(item.get(name)) for name in ("accuracy_drop", "test_accuracy_drop")]
            ratios = [number(item.get(f"{name}_ratio")) for name in RATIOS]
            parts = [
                f"{label} ×{ratio:.3f}"
                for label, ratio in zip(("BitOps", "latency", "size"), ratios, strict=True)
                if ratio is not None
            ]
            for label, drop in zip(("validation", "test"), drops, strict=True):
                parts += [] if drop is None else [f"{signed(-drop)} points ({label})"]
            points = f"{item['within']:g} point{'' if item['within'] == 1 else 's'}"
            yield f"At most {points} lost: {item.get('chain')}, {', '.join(parts)}"


def _third_stage(study: dict[str, Any]) -> Iterator[str]:
    third = _dict(study.get("third_stage"))
    if {"holds", "flips", "open"} <= third.keys():
        yield (
            f"With a third stage between the two of a pair, its order holds in {third['holds']} "
            f"cases, flips in {third['flips']} and cannot be told in {third['open']}."
        )


def _permutations(study: dict[str, Any]) -> Iterator[str]:
    found = _dict(study.get("permutations"))
    tau, p_value = number(found.get("kendall_tau")), number(found.get("p_value"))
    if tau is not None and p_value is not None:
        yield (
            f"Over {found.get('n')} orders of all stages, Kendall's tau between the ranking that "
            f"the pairs predict and the measured one is {signed(tau)} (p = {p_value:.2g}); "
            f"measured best: {found.get('measured_best')}."
        )


def _failed(study: dict[str, Any]) -> Iterator[str]:
    failed = _list(study.get("failed"))
    if failed:
        yield f"Failed, and left out of the findings: {', '.join(map(str, failed))}."


def number(value: Any) -> float | None:
    """A number, or the mean of a figure over seeds."""
    if isinstance(value, dict):
        value = value.get("mean")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _joined(item: Any, sign: str) -> str:
    if isinstance(item, dict):
        item = [item[key] for key in ("first", "second") if key in item] or list(item.values())
    return sign.join(map(str, item)) if isinstance(item, list | tuple) else str(item)


def _round(cycle: Any) -> str:
    """A cycle back to where it began."""
    return _joined([*cycle, cycle[0]] if isinstance(cycle, list) and cycle else cycle, " → ")
