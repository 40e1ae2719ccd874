"""A study's JSON of all fields: two rounds of six pairs, every verdict, whole orders, claims."""

from __future__ import annotations

import itertools
from typing import Any

ORDER = ("D", "P", "Q", "E")
# Pair → difference, half-widths of its sure interval with 2 and with 3 seeds, verdicts then.
PAIRS: dict[tuple[str, str], tuple[float, float, float, str, str]] = {
    ("D", "P"): (1.60, 2.10, 1.20, "open", "first"),
    ("D", "Q"): (2.40, 1.80, 1.80, "first", "first"),
    ("D", "E"): (0.90, 1.30, 0.85, "open", "first"),
    ("P", "Q"): (0.05, 0.60, 0.40, "open", "equal"),
    ("P", "E"): (0.24, 0.20, 0.20, "first", "first"),  # certain, and within the margin
    ("Q", "E"): (0.20, 1.10, 0.70, "open", "open"),
}


def figures(difference: float, half: float, verdict: str) -> dict[str, Any]:
    """A difference with an interval of its own that is two thirds as wide as the sure one."""
    sure = [difference - half, difference + half]
    return {
        "difference": difference,
        "interval": [difference - half / 1.5, difference + half / 1.5],
        "sure_interval": sure,
        "level": 0.9958,
        "win_probability": 0.97,
        "decided": verdict in ("first", "second"),
        "verdict": verdict,
        "within_margin": sure[0] >= -0.5 and sure[1] <= 0.5,
        "p_value": 0.01,
        "method": "matched",
        "reason": "the interval contains 0" if verdict == "open" else None,
    }


def _pair(first: str, second: str) -> dict[str, Any]:
    difference, wide, half, before, verdict = PAIRS[first, second]
    found = figures(difference, half, verdict)
    settled = None if verdict == "open" else 1 if before == verdict else 2
    return {
        **found,
        "first": first,
        "second": second,
        "cost": "bitops",
        "n": {"seeds": 2 if settled == 1 else 3, "strengths": 2, "images": 5000},
        "wins": [5, 6],
        "at_equal": {"bitops": found, "latency_ms": figures(difference / 2, wide, "open")},
        "settled_in_round": settled,
        "next_half_width": 0.55 if verdict == "open" else None,
        "lacking": "seeds" if verdict == "open" else None,
        "test_difference": difference - 0.1,
    }


def _in_round(number: int, first: str, second: str) -> dict[str, Any]:
    """As rounds have it, the two stages by letter."""
    difference, wide, half, before, verdict = PAIRS[first, second]
    verdict, half = (before, wide) if number == 1 else (verdict, half)
    if first > second:
        turned = {"first": "second", "second": "first"}
        first, second, difference = second, first, -difference
        verdict = turned.get(verdict, verdict)
    seeds = 2 if number == 1 or before == verdict != "open" else 3
    interval = [difference - half, difference + half]
    return {"first": first, "second": second, "difference": difference, "interval": interval,
            "verdict": verdict, "seeds": seeds}  # fmt: skip


def _round(number: int) -> dict[str, Any]:
    pairs = [_in_round(number, first, second) for first, second in PAIRS]
    still = sum(pair["verdict"] == "open" for pair in pairs)
    return {"round": number, "pairs": pairs, "settled": 6 - still, "open": still,
            "stages": 40 * number, "epochs": 80 * number, "hours": 0.7 * number}  # fmt: skip


def _chain(order: str, drop: float, bitops: float) -> dict[str, Any]:
    means = {"accuracy": 85 - drop, "bitops": bitops, "latency_ms_batch_1": bitops / 2,
             "model_size_mb": 1.0}  # fmt: skip
    return {
        "name": f"Study_{order}",
        "order": order,
        "status": "done",
        "metrics": {name: {"mean": mean, "std": 0.2, "n": 3} for name, mean in means.items()},
        "accuracy_drop": drop,
        "drop_sd": 0.2,
        "drop_interval": [drop - 0.4, drop + 0.4],
        "seeds": [0, 1, 2] if len(order) == 2 else [0, 1],
        "test": {"accuracy": {"mean": 84.0 - drop, "std": 0.1, "n": 3}, "accuracy_drop": drop},
        "config": {"name": f"Study_{order}"},
        "device": "cpu",
    }


def _whole(order: str, why: str, difference: float, verdict: str) -> dict[str, Any]:
    return {"order": order, "why": why, **figures(difference, 0.4, verdict)}


def full_study() -> dict[str, Any]:
    """`study_NAME.json` with every field of a study by rounds."""
    orders = ["".join(two) for two in itertools.permutations(ORDER, 2)]
    return {
        "study": "Study",
        "status": "done",
        "order": list(ORDER),
        "order_is_certain": False,
        "margin": 0.5,
        "compare": "accuracy",
        "pairs": [_pair(first, second) for first, second in PAIRS],
        "undecided": [["P", "Q"], ["Q", "E"]],
        "cycles": [],
        "rounds": [_round(1), _round(2)],
        "spent": {"stages": 92, "stages_fixed": 136, "epochs": 184, "epochs_fixed": 272,
                  "hours": 2.4, "hours_fixed": 3.62, "seeds": {"min": 2, "max": 8},
                  "most_seeds": 3, "budget_hours": 2.5, "budget_epochs": None,
                  "stopped_by": "budget"},
        "verification": {
            "predicted": "DPQE",
            "orders": [
                _whole("PDQE", "D and P exchanged", 1.3, "first"),
                _whole("DQPE", "P and Q exchanged", 0.02, "equal"),
                _whole("DPEQ", "Q and E exchanged", 0.3, "open"),
            ],
            "confirmed": None,
        },
        "third_stage": {"claim": "a stage in between does not turn a pair round", "holds": 3,
                        "flips": 1, "open": 2, "cases": [
            {"first": "D", "second": "P", "between": "Q", "verdict": "flips"},
            {"first": "P", "second": "E", "between": "DQ", "orders": ["DPQE", "DEQP"],
             "verdict": "holds"}]},
        "literature": [
            {"claim": "weaker disturbance first", "source": "arXiv:2603.18426",
             "verdict": "fails", "for": 1, "against": 3, "open": 2,
             "pairs": [["D", "P"], ["D", "Q"], ["D", "E"]]},
            {"claim": "distill first", "source": "arXiv:2403.17447", "verdict": "holds",
             "for": 3, "against": 0, "open": 0, "pairs": []},
            {"claim": "quantize late, with float masters",
             "source": "arXiv:2511.19495", "verdict": "open", "for": 0, "against": 0, "open": 2,
             "pairs": []},
        ],
        "permutations": None,
        "best": [{"within": 0.5, "chain": "Study_DQ", "accuracy_drop": 0.3,
                  "test_accuracy_drop": 0.4, "bitops_ratio": 0.05}],
        "chains": [_chain(order, 0.3 + place / 5, 5.0 + place)
                   for place, order in enumerate([*orders, "DPQE"])],
        "baseline": {"name": "Base", "metrics": {
            name: {"mean": mean, "std": None, "n": 3}
            for name, mean in (("accuracy", 85.0), ("bitops", 100.0), ("latency_ms_batch_1", 9.0),
                               ("model_size_mb", 4.0))}},
        "failed": [],
        "config": {"stages": {"D": {"distill": {"width": 0.75}}, "P": ["prune", "finetune"],
                              "Q": {"qat": {"epochs": 1}}, "E": "early_exit"}},
        "seeds": [0, 1, 2],
        "splits": {"decisions": "validation", "images": 5000, "reported_only": "test"},
        "method": {"cost": "bitops", "confidence": 0.95, "covers": "images and seeds",
                   "margin": 0.5, "unit": "points", "compare": "accuracy", "family": "Holm",
                   "spending": "linear in seeds", "luck": "hierarchical"},
    }  # fmt: skip


NEW = ("margin", "compare", "rounds", "spent", "verification", "literature")
NEW_OF_PAIRS = (
    *("sure_interval", "level", "verdict", "within_margin", "p_value", "settled_in_round"),
    *("next_half_width", "lacking"),
)


def older_study() -> dict[str, Any]:
    """The same as a version before there were verdicts wrote it."""
    study = {name: value for name, value in full_study().items() if name not in NEW}
    study["pairs"] = [_older(pair) for pair in study["pairs"]]
    new = ("drop_sd", "drop_interval", "seeds")
    study["chains"] = [
        {name: value for name, value in chain.items() if name not in new}
        for chain in study["chains"]
    ]
    study["method"] = {"cost": "bitops", "confidence": 0.95, "resamples": 4000, "covers": "images"}
    return study


def _older(pair: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in pair.items() if name not in NEW_OF_PAIRS}
    if "at_equal" in found:
        found["at_equal"] = {cost: _older(each) for cost, each in found["at_equal"].items()}
    return found
