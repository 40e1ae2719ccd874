"""The report's page as plain data: its sentences and tables, for the template."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from experiment.outcomes.side_by_side import side_by_side
from experiment.report.charts import chart_data
from experiment.report.engine_view import engine_table
from experiment.report.reader import Folder
from experiment.report.rows import (
    BEST_BY,
    JUDGE,
    LIMITS,
    Effect,
    Row,
    best,
    effects,
    first_latency,
    groups,
    rows_of,
    shown_costs,
    signed,
)
from experiment.report.search_view import search_view
from experiment.report.study_view import study_view
from experiment.running.metrics import FIGURES, LATENCIES, Figure
from machine.files import canonical_json, finite


def page(folder: Folder) -> dict[str, Any]:
    """Everything that the template asks for; `data` is what the charts are drawn from."""
    rows = rows_of(folder)
    brought = effects(rows)
    costs, best_by = shown_costs(rows), (*BEST_BY, first_latency(rows))
    found = [_found(name, chains, best_by) for name, chains in _by_baseline(rows).items()]
    studies = [study_view(name, study) for name, study in sorted(folder.studies.items())]
    searches = [search_view(name, search) for name, search in sorted(folder.searches.items())]
    data = chart_data(folder, rows, studies, searches)
    effect_costs = [c for c in _EFFECT_COSTS if c in costs]
    return {
        "rows": [_table_row(row, data["fronts"][row.dataset], costs) for row in rows],
        "columns": _columns(rows, costs),
        "splits": list(data["fronts"]),
        "headlines": _headlines(rows, found, brought, [*searches, *studies]),
        "found": found,
        "effects": [_effect(effect, effect_costs) for effect in brought],
        "effect_costs": [FIGURES[cost].title for cost in effect_costs],
        "unfinished": [_unfinished(row) for row in rows if not (row.done or row.stopped)],
        "stopped": [
            f"{row.name}: {'; '.join(stops)}" for row in rows if (stops := row.result.stops)
        ],
        "problems": folder.problems + _cautions(rows),
        "warnings": _stage_warnings(rows),
        "environments": _environments(rows),
        "runs": _runs(rows),
        "engine_table": engine_table(data["engines"]),
        "studies": studies,
        "beside": [asdict(group) for group in side_by_side(folder.studies)],
        "searches": searches,
        "written": max((row.result.written or "" for row in rows), default=""),
        "data": data,
    }


# --- what was found -----------------------------------------------------------------------------


def times(ratio: float, cost: Figure) -> str:
    """A ratio to the baseline in words: '2.4× smaller'."""
    if abs(ratio - 1) < 0.005:
        return "the same"
    factor, word = (1 / ratio, cost.better) if ratio < 1 else (ratio, cost.worse)
    return f"{factor:.{2 if factor < 2 else 1 if factor < 20 else 0}f}× {word}"


def _by_baseline(rows: list[Row]) -> dict[str, list[Row]]:
    chains = [row for row in rows if row.done and row.drop is not None]
    return groups(chains, lambda row: row.result.baseline or "")


def _found(baseline: str, chains: list[Row], best_by: Sequence[str]) -> dict[str, Any]:
    """The best chain under each limit and by each cost, of those that share a baseline."""
    start = chains[0].base
    limits = []
    for limit in LIMITS:
        within = [row for row in chains if (row.drop or 0) <= limit + 1e-9]
        bests = {cost: best(within, limit, cost) for cost in best_by}
        limits.append(
            {
                "limit": limit,
                "within": len(within),
                "bests": [
                    {
                        "by": FIGURES[cost].title,
                        "name": row.name if row else None,
                        "times": times(row.ratio(cost) or 1, FIGURES[cost]) if row else None,
                        "figures": _accuracy(row) if row else None,
                        "engines": row.final[cost].on_engines if row else "",
                    }
                    for cost, row in bests.items()
                ],
                "sentence": _sentence(
                    limit, baseline, best_by, next(filter(None, bests.values()), None)
                ),
            }
        )
    closest = min(chains, key=lambda row: row.drop or 0)
    return {
        "baseline": baseline,
        "dataset": chains[0].dataset,
        "accuracy": f"validation {start[JUDGE].mean:.2f} %, test {start['accuracy'].mean:.2f} %",
        "chains": len(chains),
        "limits": limits,
        "closest": f"{closest.name}, {_accuracy(closest)}",
        "one_seed": all(row.final[JUDGE].n == 1 for row in chains),
    }


def _sentence(limit: float, baseline: str, best_by: Sequence[str], row: Row | None) -> str:
    if row is None:
        return ""
    parts = []
    for cost in best_by:
        ratio = row.ratio(cost)
        if ratio is not None:
            parts.append(times(ratio, FIGURES[cost]) + _where(cost) + row.final[cost].on_engines)
    return (
        f"At most {_points(limit)} below {baseline}: {row.name} ({row.sequence}), "
        f"{', '.join(parts)}; {_accuracy(row)}."
    )


def _where(cost: str) -> str:
    return f" {FIGURES[cost].title.removeprefix('latency ')}" if FIGURES[cost].timed else ""


def _points(limit: float) -> str:
    return f"{limit:g} point{'' if limit == 1 else 's'}"


def _accuracy(row: Row) -> str:
    """By what it was chosen, then the test split's."""
    judged, test = row.final[JUDGE].mean, row.final["accuracy"].mean
    parts = ((judged, -(row.drop or 0), "validation"), (test, row.test_change or 0, "test"))
    return ", ".join(
        f"{name} {value:.2f}\N{NO-BREAK SPACE}% ({signed(change)})" for value, change, name in parts
    )


def _headlines(
    rows: list[Row],
    found: list[dict[str, Any]],
    brought: list[Effect],
    told: list[dict[str, Any]],
) -> list[str]:
    """What was found, in sentences; the best chain is told at 1 point, or where there is one.

    Searches and studies (`told`) follow with theirs.
    """
    if not rows and not told:
        return ["No results yet: python main.py makes them."]
    lines = []
    for group in sorted(found, key=lambda g: -g["chains"])[:2]:
        best_one = next((group["limits"][i]["sentence"] for i in (1, 2) if _told(group, i)), "")
        lines.append(
            best_one
            or f"No chain is cheaper than {group['baseline']} within 2 points; "
            f"the closest in accuracy is {group['closest']}."
        )
    if not found and rows:
        lines.append(
            "No chain can be chosen yet: none has come to its end beside the baseline it began "
            "from, with validation figures to choose by."
        )
    lines += [
        _brought(effect)
        for effect in brought
        if effect.kind.startswith(("int8", "pruning")) and effect.points
    ]
    return lines + [item["headline"] for item in told]


def _told(group: dict[str, Any], position: int) -> bool:
    return bool(group["limits"][position]["sentence"])


def _brought(effect: Effect) -> str:
    shown = [
        times(effect.ratios[cost][0], FIGURES[cost]) + _where(cost) + _engines(effect, cost)
        for cost in ("model_size_mb", "bitops", *LATENCIES)
        if cost in effect.ratios and abs(effect.ratios[cost][0] - 1) >= 0.005
    ]
    if effect.kind.startswith("pruning (mask)") and "nonzero_params" in effect.ratios:
        shown.append(f"{1 - effect.ratios['nonzero_params'][0]:.0%} of the parameters zero")
    what = f"median of {effect.uses} uses" if effect.uses > 1 else "one use"
    assert effect.points is not None
    change = f"{signed(effect.points[0])} points of test accuracy"
    kind = effect.kind[0].upper() + effect.kind[1:]
    return f"{kind}: {', '.join([change, *shown])} ({what})."


def _engines(effect: Effect, cost: str) -> str:
    """On which engines a time was before a stage and after it, each network on its fastest."""
    before, after = effect.engines[cost]
    if not before or not after:
        return ""
    return f" (on {after})" if before == after else f" (before on {before}, after on {after})"


# --- tables -------------------------------------------------------------------------------------


def _columns(rows: list[Row], costs: Sequence[str]) -> list[tuple[str, str]]:
    """Key and title of the figures in the table of all experiments."""
    unequal = any("balanced_accuracy" in row.final for row in rows)
    return [
        (JUDGE, FIGURES[JUDGE].label),
        ("change", "change (points)"),
        ("accuracy", "test accuracy (%)"),
        *([("balanced_accuracy", "test, balanced (%)")] if unequal else []),
        *((cost, FIGURES[cost].label) for cost in costs),
    ]


_EFFECT_COSTS = ("model_size_mb", "bitops", "nonzero_params", *LATENCIES)


def _effect(effect: Effect, costs: Sequence[str]) -> dict[str, Any]:
    cells = []
    if effect.points:
        middle, low, high = effect.points
        cells.append((signed(middle), f"{signed(low)} … {signed(high)}"))
    else:
        cells.append(("–", ""))
    for cost in costs:
        if cost in effect.ratios:
            middle, low, high = effect.ratios[cost]
            cells.append((f"×{middle:.2f}", f"×{low:.2f} … ×{high:.2f}"))
        else:
            cells.append(("–", ""))
    return {"kind": effect.kind, "uses": effect.uses, "cells": cells}


def _table_row(row: Row, fronts: dict[str, list[str]], costs: Sequence[str]) -> dict[str, Any]:
    cells = {JUDGE: _cell(row, JUDGE)}
    drop = row.drop
    cells["change"] = (signed(-drop), "", -drop) if drop is not None else ("–", "", None)
    for name in ("accuracy", "balanced_accuracy"):
        text, spread, value = _cell(row, name)
        points = row.changes.get(f"{name}_points")
        cells[name] = (text, f"{spread} {'' if points is None else signed(points)}".strip(), value)
    for cost in costs:
        text, spread, value = _cell(row, cost)
        cells[cost] = (text, f"{spread} {_beside(row, cost)}".strip(), value)
    on = [FIGURES[cost].title for cost in costs if row.name in fronts[cost]]
    return {
        "name": row.name,
        "sequence": row.sequence,
        "dataset": row.dataset,
        "baseline": row.result.baseline,
        "status": row.result.status,
        "seconds": row.seconds,
        "cells": cells,
        "fronts": ", ".join(on),
    }


def _cell(row: Row, name: str) -> tuple[str, str, float | None]:
    stat, figure = row.final.get(name), FIGURES[name]
    if stat is None:
        return "–", "", None
    spread = f"± {figure.text(stat.std)} ({stat.n})" if stat.std is not None else ""
    return figure.text(stat.mean), spread, stat.mean


def _beside(row: Row, cost: str) -> str:
    """The ratio to the baseline; of a time the engine before it, and the baseline's if another."""
    stat, ratio = row.final.get(cost), row.ratio(cost)
    if stat is None:
        return ""
    engine, its = stat.engine, stat.baseline_engine
    against = f"×{ratio:.2f}" if ratio else ""
    against += f" of {its}" if ratio and its and its != engine else ""
    return f"{engine or ''} {against}".strip()


def _unfinished(row: Row) -> dict[str, Any]:
    errors = []
    for error in row.result.errors:
        kind = f"{error['error']}: " if error.get("error") else ""
        where = f" in {error['stage']}" if error.get("stage") else ""
        errors.append(f"seed {error.get('seed', '?')}{where}: {kind}{error.get('message', '')}")
    stages, seeds = len(row.result.sequence), len(row.result.seeds)
    return {
        "name": row.name,
        "status": row.result.status,
        "done": f"{len(row.result.stages)} of {stages * seeds} stages",
        "errors": errors,
    }


def _cautions(rows: list[Row]) -> list[str]:
    """What a reader of the figures has to know."""
    lines = []
    for row in rows:
        data = row.result.data
        told = [f"{data.get('name')}: {text}" for text in data.get("warnings") or []]
        lines += [text for text in told if text not in lines]
    apart = groups((row for row in rows if row.not_compared), lambda row: row.not_compared or "")
    for reason, chains in apart.items():
        names = _several([row.name for row in chains])
        lines.append(f"{names}: no change shown, and not among the choices: {reason}")
    unjudged = [row.name for row in rows if row.final and JUDGE not in row.final]
    if unjudged:
        lines.append(
            f"{_several(unjudged)}: without validation figures, as an earlier version wrote them, "
            "so nothing is chosen from these; run the suite again to have them"
        )
    conditions = set().union(*(row.conditions for row in rows))
    older = [row.name for row in rows if any(not on_all for *_, on_all in row.conditions)]
    if older and any(on_all for *_, on_all in conditions):
        lines.append(
            f"{_several(older)}: timed by an earlier version, int8 by one backend and float in "
            "PyTorch alone, so these have no common Pareto front with times on every engine; "
            "--remeasure takes all of them again"
        )
    devices = {(device, threads) for device, threads, _ in conditions}
    if len(devices) > 1:
        lines.append(
            f"latencies in ms come from {len(devices)} devices or numbers of threads, so they "
            "have no Pareto front; the ratios hold, as each was taken in turn with its baseline. "
            "--remeasure takes all of them again"
        )
    untimed = [
        row.name
        for row in rows
        if row.baseline and any(c in row.final and not row.ratio(c) for c in LATENCIES)
    ]
    if untimed:
        lines.append(
            f"{_several(untimed)}: not timed in turn with the baseline, so there is no ratio of "
            "times; --remeasure takes them"
        )
    if any("balanced_accuracy" in row.final for row in rows):
        lines.append(
            "classes are of unequal sizes: accuracy hides what becomes of the small ones; see the "
            "balanced accuracy beside it"
        )
    return lines


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _stage_warnings(rows: list[Row]) -> list[dict[str, Any]]:
    """Remarks and the stages' warnings; those that differ in figures only, once."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        told = [entry.warnings(row.baseline) for entry in row.result.stages]
        for text in itertools.chain(row.result.remarks, *told):
            alike = found.setdefault(re.sub(r"[\d.]+", "", text), {"text": text, "names": []})
            if row.name not in alike["names"]:
                alike["names"].append(row.name)
    return list(found.values())


def _environments(rows: list[Row]) -> list[dict[str, Any]]:
    found: dict[bytes, dict[str, Any]] = {}
    for row in rows:
        block = finite(row.result.environment)
        entry = found.setdefault(canonical_json(block), {"block": _texts(block), "names": []})
        entry["names"].append(row.name)
    return list(found.values())


def _texts(block: dict[str, Any]) -> dict[str, str]:
    return {
        key: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in block.items()
        if value is not None
    }


def _runs(rows: list[Row]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        result = row.result
        key = (result.suite or "–", result.command or "–", result.git_commit or "–")
        found.setdefault(key, []).append(row.name)
    return [
        {"suite": suite, "command": command, "commit": commit, "names": names}
        for (suite, command, commit), names in found.items()
    ]
