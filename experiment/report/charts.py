"""The series that the report's charts are drawn from, as plain data for the page."""

from __future__ import annotations

import statistics
from typing import Any

from experiment.report.engine_view import engine_section
from experiment.report.reader import Folder, Sensitivity
from experiment.report.rows import (
    JUDGE,
    Row,
    StageFigures,
    first_latency,
    front,
    groups,
    shown_costs,
)
from experiment.running.metrics import FIGURES
from machine.files import finite

MEASURES = ("accuracy", "model_size_mb")  # stage by stage, of one chain; and the first latency
CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def chart_data(
    folder: Folder,
    rows: list[Row],
    studies: list[dict[str, Any]],
    searches: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that the page's scripts read."""
    splits, costs = groups(rows, lambda row: row.dataset), shown_costs(rows)
    fronts = {
        split: {cost: front(members, cost) for cost in costs} for split, members in splits.items()
    }
    on_fronts = {
        name for by_cost in fronts.values() for names in by_cost.values() for name in names
    }
    data = {
        "costs": [_figure(name) for name in costs],
        "measures": [_figure(name) for name in (*MEASURES, first_latency(rows))],
        "fronts": fronts,
        "engines": engine_section(rows, on_fronts),
        "judges": {  # what accuracy is drawn by: the validation share's, where it was taken
            split: JUDGE if any(JUDGE in row.final for row in members) else "accuracy"
            for split, members in splits.items()
        },
        "experiments": [_experiment(row) for row in rows],
        "sensitivities": [_sensitivity(item) for item in folder.sensitivities] + _in_stages(rows),
        "exits": [exits for row in rows if (exits := _exits(row))],
        "studies": studies,
        "searches": [search["chart"] for search in searches],
    }
    return finite(data)


def _figure(name: str) -> dict[str, Any]:
    figure = FIGURES[name]
    return {
        "key": name,
        "title": figure.title,
        "unit": figure.unit,
        "label": figure.label,
        "scale": figure.scale,
        "digits": figure.digits,
        "log": figure.log,
        "good": -1 if figure.lower_is_better else 1,
    }


def _experiment(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "baseline": row.result.baseline,
        "dataset": row.dataset,
        "status": row.result.status,
        "sequence": row.sequence,
        "final": {
            name: [_short(row.cost(name)), _short(stat.std), stat.n]
            for name, stat in row.final.items()
        },
        "change": None if row.drop is None else _short(-row.drop),
        "test_change": _short(row.test_change),
        "start": {name: _short(value) for name, value in row.start.items()},
        "steps": [
            {
                "stage": step.stage,
                "spec": step.spec,
                "metrics": {name: _short(_beside(row, step, name)) for name in step.metrics},
                **_widths(step),
            }
            for step in row.steps
        ],
        "curves": _curves(row),
        "config": row.result.config,
    }


def _beside(row: Row, step: StageFigures, name: str) -> float:
    """A stage's figure, beside those of the other stages; a time as `Row.cost` has it."""
    if FIGURES[name].timed and name in step.comparable and name in row.start:
        return step.comparable[name] * row.start[name]
    return step.metrics[name]


def _short(value: Any) -> Any:
    """A figure with as many digits as a chart can show."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _curves(row: Row) -> list[dict[str, Any]]:
    """Per seed and stage that trained: its curves, an item an epoch."""
    curves = []
    for entry in row.result.stages:
        history = entry.details.get("history")
        if isinstance(history, list) and history and all(isinstance(h, dict) for h in history):
            series = {name: [_short(epoch.get(name)) for epoch in history] for name in CURVES}
            curves.append({"seed": entry.seed, "stage": entry.stage, **series})
    return curves


def _widths(step: StageFigures) -> dict[str, Any]:
    """Names of dimensions with sizes before and after, and layers with MACs; of the first seed."""
    details = step.entries[0].details
    found: dict[str, Any] = {}
    widths = details.get("widths")
    sizes = {}
    for key, pair in widths.items() if isinstance(widths, dict) else []:
        before, after = pair
        if not isinstance(before, list):
            sizes[key] = [before, after]
            continue
        for place in range(max(len(before), len(after))):  # a layer that is gone has width 0
            pair = [item[place] if place < len(item) else 0 for item in (before, after)]
            sizes[f"{key} {place + 1}"] = pair
    zeros = details.get("zero_channels")
    for key, (zero, total) in zeros.items() if isinstance(zeros, dict) else []:
        sizes[key] = [total, total - zero]
    if sizes:
        found["widths"] = sizes
    if isinstance(details.get("layer_macs"), dict) and details["layer_macs"]:
        found["layer_macs"] = details["layer_macs"]
    return found


def _exits(row: Row) -> dict[str, Any] | None:
    """Where samples leave at the end of a chain, in the mean over its seeds."""
    if not row.steps:
        return None
    found = [e.metrics["exits"] for e in row.steps[-1].entries if e.metrics.get("exits")]
    if not found:
        return None
    first = found[0]
    return {
        "name": row.name,
        "places": first["places"],
        "share": [
            _short(statistics.fmean(s)) for s in zip(*(f["share"] for f in found), strict=True)
        ],
        "macs": first.get("macs"),
        "criterion": first.get("criterion"),
        "thresholds": first.get("thresholds"),
    }


def _sensitivity(item: Sensitivity) -> dict[str, Any]:
    if item.scan:
        layers = [entry.model_dump() for entry in item.scan]
        return _layers(f"{item.experiment}: int8", layers, item.float_accuracy, item.float_layers)
    lines = {name: [[p.ratio, p.accuracy] for p in points] for name, points in item.curves.items()}
    how = f", {item.criterion}" if item.criterion else ""
    return {"title": f"{item.experiment}: pruning{how}", "lines": lines}


def _layers(
    title: str, scan: list[dict[str, Any]], accuracy: float | None, kept: list[str]
) -> dict[str, Any]:
    return {"title": title, "scan": scan, "float_accuracy": accuracy, "float_layers": kept}


def _in_stages(rows: list[Row]) -> list[dict[str, Any]]:
    """The scans that stages with 'auto' made on their way; shared stages once."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for entry in row.result.stages:
            title = f"{row.name}: {entry.stage}"
            title += f", seed {entry.seed}" if len(row.result.seeds) > 1 else ""
            curves, choice = entry.details.get("sensitivity"), entry.details.get("float_layers")
            key = entry.key or title
            if isinstance(curves, dict) and curves:
                found.setdefault(f"{key} lines", {"title": title, "lines": curves})
            if isinstance(choice, dict) and choice.get("scan"):
                made = _layers(
                    title,
                    choice["scan"],
                    choice.get("float_accuracy"),
                    choice.get("float_layers") or [],
                )
                found.setdefault(f"{key} scan", made)
    return list(found.values())
