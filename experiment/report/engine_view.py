"""How fast a network is on every engine: rows for the terminal, picture and table of the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from experiment.report.reader import EngineFound, Timing
from experiment.report.rows import Row
from experiment.running.metrics import BATCH_SIZES, FIGURES


def batches_of(metrics: dict[str, Any]) -> list[int]:
    """The batch sizes at which a stage's metrics tell the times of engines."""
    return _batches(Timing.model_validate(metrics))


def engine_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """A row an engine that ran a network: its name, its ms at each of `batches_of` (★ the fastest),
    layers in int8, how far its logits are from the graph's, images in another class, seconds to
    make it ready.
    """
    timing, rows = Timing.model_validate(metrics), []
    for name in _engines(timing):
        times = [_cell(timing, name, size) for size in _batches(timing)]
        found = timing.engines.get(name, EngineFound())
        off, other = (_percent(value) for value in (found.relative_norm, found.other_class))
        ready = "–" if found.ready_seconds is None else f"{found.ready_seconds:.2f}"
        rows.append([name, *times, _int8(found), off, other, ready])
    return rows


def reasons_left_out(metrics: dict[str, Any]) -> list[str]:
    """A line an engine that was not taken."""
    engines = Timing.model_validate(metrics).engines
    return [
        f"engine {name} was left out: {found.left_out}"
        for name, found in engines.items()
        if found.left_out
    ]


def over_float_form(metrics: dict[str, Any]) -> list[str]:
    """A line a batch size, of an int8 network: what int8 alone brought."""
    times = Timing.model_validate(metrics).inference_time_ms
    return [
        f"int8 over its own float form at {batch}: ×{time.speedup_over_float:.2f} as fast "
        f"({time.engine}, float on {time.float_engine})"
        for batch, time in times.items()
        if time.speedup_over_float is not None and time.float_engine is not None
    ]


def engine_section(rows: Iterable[Row], on_fronts: set[str]) -> dict[str, Any] | None:
    """What the page's picture of engines is drawn from; None where no result tells of any.

    A network's times are those at the end of its chain, in the mean over its seeds.
    """
    networks = [found for row in rows if (found := _network(row, row.name in on_fronts))]
    if not networks:
        return None
    return {
        "batches": sorted({int(size) for network in networks for size in network["batches"]}),
        "engines": list(dict.fromkeys(name for n in networks for name in n["engines"])),
        "networks": networks,
    }


def engine_table(section: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same as a table, a row a network and batch size; engines that were left out, and why."""
    if section is None:
        return None
    return {
        "engines": section["engines"],
        "rows": [
            _table_row(network, size, section["engines"])
            for network in section["networks"]
            for size in network["batches"]
        ],
        "left_out": _left_out(section["networks"]),
    }


def _network(row: Row, on_front: bool) -> dict[str, Any] | None:
    """One experiment's times: batch size → engine → ms, with its baseline's taken in turn."""
    ends = [Timing.model_validate(entry.metrics) for s in row.steps[-1:] for entry in s.entries]
    batches: dict[str, dict[str, Any]] = {}
    for size in sorted({size for end in ends for size in _batches(end)}):
        there = [end.inference_time_ms.get(f"batch_{size}") for end in ends]
        times = [time for time in there if time is not None]
        baselines = [time.baseline_median for time in times if time.baseline_median is not None]
        batches[str(size)] = {
            "ms": {
                name: statistics.fmean(
                    t.by_engine[name].median for t in times if name in t.by_engine
                )
                for name in dict.fromkeys(name for time in times for name in time.by_engine)
            },
            "fastest": list(dict.fromkeys(time.engine for time in times if time.engine)),
            "baseline_ms": statistics.fmean(baselines) if baselines else None,
            "baseline_engine": " or ".join(
                dict.fromkeys(time.baseline_engine for time in times if time.baseline_engine)
            ),
        }
    if not batches:
        return None
    engines = dict.fromkeys(name for end in ends for name in _engines(end))
    found = {name: end.engines[name] for end in ends for name in end.engines}
    return {
        "name": row.name,
        "is_baseline": row.is_baseline,
        "on_front": on_front,
        "engines": list(engines),
        "batches": batches,
        "int8": {name: _int8(found[name]) for name in engines if name in found},
        "left_out": {name: each.left_out for name, each in found.items() if each.left_out},
    }


def _table_row(network: dict[str, Any], size: str, names: list[str]) -> dict[str, Any]:
    times, figure = network["batches"][size], FIGURES[f"latency_ms_batch_{size}"]
    beside = times["baseline_ms"]
    return {
        "name": network["name"],
        "batch": size,
        "baseline": ("–", "") if beside is None
        else (figure.text(beside), times["baseline_engine"]),
        "cells": [
            (
                figure.text(times["ms"][name]) if name in times["ms"] else "–",
                network["int8"].get(name, "–").replace("–", ""),
                name in times["fastest"],
            )
            for name in names
        ],
    }  # fmt: skip


def _left_out(networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Engines that were not taken, with the reason, and the networks of which that holds."""
    found: dict[tuple[str, str], list[str]] = {}
    for network in networks:
        for engine, reason in network["left_out"].items():
            found.setdefault((engine, reason), []).append(network["name"])
    return [
        {"engine": engine, "reason": reason, "names": names}
        for (engine, reason), names in found.items()
    ]


def _batches(timing: Timing) -> list[int]:
    times = timing.inference_time_ms
    return [n for n in BATCH_SIZES if f"batch_{n}" in times and times[f"batch_{n}"].by_engine]


def _engines(timing: Timing) -> list[str]:
    """Those that ran it, in the order of the registry where the file says it."""
    ran = {name for time in timing.inference_time_ms.values() for name in time.by_engine}
    return [name for name in timing.engines if name in ran] + sorted(ran - timing.engines.keys())


def _cell(timing: Timing, engine: str, size: int) -> str:
    time = timing.inference_time_ms[f"batch_{size}"]
    if engine not in time.by_engine:
        return "–"
    text = FIGURES[f"latency_ms_batch_{size}"].text(time.by_engine[engine].median)
    return f"{text} ★" if engine == time.engine else text


def _int8(found: EngineFound) -> str:
    """'14 of 14'; '–' of a float network."""
    if not found.int8_layers_wanted:
        return "–"
    there = "unknown" if found.int8_layers is None else found.int8_layers
    return f"{there} of {found.int8_layers_wanted}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2g}"
