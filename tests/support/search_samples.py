"""A search's JSON of all fields: sixty chains tried on Digits, three finalists, one confirmed."""

from __future__ import annotations

import itertools
import random
from typing import Any

BASELINE = {"accuracy": 97.6, "bitops": 1.48e9, "macs": 1.45e6, "params": 9.1e4,
            "model_size_mb": 0.37}  # fmt: skip
WIDTHS = {0.5: 0.34, 0.75: 0.6}  # of D → its share of MACs
KEPT = (0.3, 0.45, 0.6, 0.8)  # of P
CONFIG = {
    "name": "Fast_Within_A_Point",
    "baseline": "Digits_Baseline_FP32",
    "stages": {"D": {"distill": {"epochs": 8}}, "P": [{"prune": {}}, {"finetune": {"epochs": 3}}],
               "Q": {"qat": {"epochs": 2}}, "E": "early_exit"},
    "strengths": {"D": {"width": [0.5, 0.75]}, "P": {"keep.macs": [0.3, 0.8]}},
    "orders": "any",
    "wish": "accuracy_drop<=1, min bitops",
    "budget_hours": 2,
    "seeds_final": 3,
}  # fmt: skip
EPOCHS = {"D": 8, "P": 3, "Q": 2, "E": 2}


def chain(order: str, width: float = 0.5, kept: float = 0.45) -> dict[str, Any]:
    """What names a chain: D and P have strengths."""
    own = {"D": {"width": width}, "P": {"keep.macs": kept}}
    strengths = {letter: own[letter] for letter in order if letter in own}
    label = {"D": f"d{width:g}", "P": f"p{kept:g}"}
    name = "_".join([order, *(label[letter] for letter in order if letter in label)])
    return {"name": name, "order": order, "strengths": strengths}


def figures(order: str, width: float, kept: float, drop: float) -> dict[str, float]:
    share = (WIDTHS[width] if "D" in order else 1) * (kept if "P" in order else 1)
    share *= 0.85 if "E" in order else 1
    bits = 1 / 13 if "Q" in order else 1
    return {
        "accuracy": BASELINE["accuracy"] - drop,
        "accuracy_drop": drop,
        "bitops": BASELINE["bitops"] * share * bits,
        "macs": BASELINE["macs"] * share,
        "model_size_mb": BASELINE["model_size_mb"] * share / (4 if "Q" in order else 1),
    }


def _tried(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    orders = ["".join(o) for n in (1, 2, 3, 4) for o in itertools.permutations("DPQE", n)]
    rows: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        order, width, kept = draw.choice(orders), draw.choice([*WIDTHS]), draw.choice(KEPT)
        short = number % 4 == 0
        real = 0.5 * len(order) + (1 - kept) * 2 * ("P" in order) - 0.6 * order.startswith("D")
        drop = round(real + draw.gauss(0, 0.4) + (1.5 if short else 0), 3)
        fails = number == 17
        epochs = sum(EPOCHS[letter] for letter in order)
        rows.append({
            "number": number, **chain(order, width, kept), "kind": "short" if short else "full",
            "key": f"{number:064x}", "checkpoint_sha256": None if fails else f"{number:064x}",
            "seconds": 6.0 * epochs, "epochs": epochs, "stored": number % 20 == 0,
            "hours": round(1.3 * number / count, 4), "epochs_so_far": 8 * number,
            "figures": None if fails else figures(order, width, kept, drop),
            "failed": "out of memory" if fails else None,
            "expected": None if number < 9 else {"accuracy_drop": real, "sd": 0.5},
            "stopped": "accuracy_drop 7.30 > 5" if number == 23 else None,
        })  # fmt: skip
    return rows


def _course(tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    course, best = [], None
    for row in tried:
        good = row["figures"] and row["kind"] == "full" and row["figures"]["accuracy_drop"] <= 1
        if good and (best is None or row["figures"]["bitops"] < best["figures"]["bitops"]):
            best = row
        course.append({
            "hours": row["hours"], "epochs": row["epochs_so_far"], "tried": row["number"],
            "best": best and best["name"], "figures": best and best["figures"],
        })  # fmt: skip
    return course


def finalist(
    names: dict[str, Any], width: float, kept: float, apparent: float, confirmed: float
) -> dict[str, Any]:
    """Judged by three fresh seeds, its interval half a point to both sides."""
    return {
        **names,
        "apparent": figures(names["order"], width, kept, apparent),
        "expected": {"accuracy_drop": apparent + 0.3, "sd": 0.3},
        "confirmed": {
            "accuracy_drop": confirmed, "interval": [confirmed - 0.5, confirmed + 0.5],
            "sd": 0.25, "seeds": [1, 2, 3],
            "figures": figures(names["order"], width, kept, confirmed),
        },
        "test": {"accuracy": 96.0, "accuracy_drop": confirmed + 0.1},
        "meets": confirmed <= 1,
    }  # fmt: skip


def full_search(count: int = 60) -> dict[str, Any]:
    """`search_NAME.json` with every field of a search that is done."""
    tried = _tried(count)
    won, lost = chain("DPQ", 0.5, 0.45), chain("DPEQ", 0.5, 0.3)
    third = chain("DQ", 0.5)
    for place, (names, kept, drop) in enumerate(((won, 0.45, 0.4), (lost, 0.3, 0.9),
                                                 (third, 0.45, 0.1))):  # fmt: skip
        row = tried[count - 11 + 4 * place]
        row |= {**names, "kind": "full", "figures": figures(names["order"], 0.5, kept, drop)}
    front = [row for row in tried if row["name"] in (won["name"], lost["name"], third["name"])]
    return {
        "search": CONFIG["name"],
        "wish": CONFIG["wish"],
        "status": "done",
        "stopped_by": "budget",
        "config": CONFIG,
        "identity": {**CONFIG, "trained": "0" * 64},
        "splits": {"chosen_on": "validation", "images": 503, "reported_only": "test"},
        "baseline": {"name": "Digits_Baseline_FP32", "figures": {**BASELINE, "latency_ms": None}},
        "space": {"chains": 3912, "orders": 64, "impossible": 12,
                  "impossible_why": ["DE…: the exits' places are gone"], "left_out": 0,
                  "beyond": 240},
        "tried": tried,
        "course": _course(tried),
        "finalists": [
            finalist(lost, 0.5, 0.3, 0.9, 1.4),
            finalist(won, 0.5, 0.45, 0.4, 0.8),
            finalist(third, 0.5, 0.45, 0.1, 0.3),
        ],
        "winner": {**won, "confirmed_chance": 0.93, "config": {
            "name": f"Fast_Within_A_Point_{won['name']}",
            "load_fp32_baseline_from_experiment": "Digits_Baseline_FP32",
            "compression_args": {"sequence": [
                {"distill": {"epochs": 8, "width": 0.5}},
                {"prune": {"keep": {"macs": 0.45}}}, {"finetune": {"epochs": 3}},
                {"qat": {"epochs": 2}}]}}},
        "front": [{**{k: row[k] for k in ("name", "order", "strengths", "kind", "figures")},
                   "expected": {"accuracy_drop": row["figures"]["accuracy_drop"] + 0.3, "sd": 0.3},
                   "confirmed": True} for row in front],
        "mattered": {
            "orders": [
                {"first": "P", "second": "Q", "effect": -0.8, "interval": [-1.5, -0.1]},
                {"first": "D", "second": "P", "effect": 1.3, "interval": [0.7, 1.9]},
                {"first": "Q", "second": "E", "effect": 0.2, "interval": [-0.5, 0.9]}],
            "strengths": [
                {"letter": "P", "option": "keep.macs", "from": 0.3, "to": 0.8, "effect": 2.1,
                 "interval": [1.2, 3.0]},
                {"letter": "D", "option": "width", "from": 0.5, "to": 0.75, "effect": 0.1,
                 "interval": [-0.4, 0.6]}],
            "letters": [{"letter": "D", "effect": -0.5, "interval": [-0.9, -0.1]}]},
        "next": [
            {**chain("DPQ", 0.5, 0.3), "kind": "full",
             "expected": {"accuracy_drop": 1.1, "sd": 0.4},
             "foreseen": {"bitops": 1.2e7}, "chance": 0.31, "gain": 0.08, "hours": 0.05},
            {**chain("PDQE", 0.5, 0.3), "kind": "short",
             "expected": {"accuracy_drop": 1.5, "sd": 0.6},
             "foreseen": {"bitops": 1.0e7}, "chance": 0.12, "gain": 0.02, "hours": 0.12}],
        "spent": {"hours": 1.9, "epochs": 310, "stages": 144, "stored": 3, "budget_hours": 2,
                  "budget_epochs": None, "hours_final": 0.6, "hours_baseline": 0.0},
        "journal": {"tried": [], "finals": []},
        "data": {"name": "Digits"},
        "suite": "configs/search_digits.py",
        "environment": {"torch": "2.14.1"},
        "command": "python main.py search Fast_Within_A_Point",
        "git_commit": "0" * 40,
        "started": "2026-01-01T10:00:00+00:00",
        "written": "2026-01-01T12:00:00+00:00",
    }  # fmt: skip


def running_search() -> dict[str, Any]:
    """The same before anything was confirmed."""
    nothing = {"finalists": [], "winner": None, "stopped_by": None, "status": "running"}
    spent = {"hours": 1.3, "epochs": 200, "stages": 90, "stored": 3, "budget_hours": 2}
    return {**full_search(), **nothing, "spent": spent}


def fruitless_search() -> dict[str, Any]:
    """The same, where every finalist was beyond the limit on fresh seeds."""
    search = full_search()
    lost = finalist(chain("DPQ"), 0.5, 0.45, 0.4, 1.3)
    return {**search, "winner": None, "finalists": [search["finalists"][0], lost]}
