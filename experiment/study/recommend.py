"""`--recommend "accuracy_drop<=0.5, min latency_ms"`: a study's best chain for what is asked."""

from __future__ import annotations

import math
import operator
import pprint
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiment.running.metrics import FOOTPRINT, LATENCIES
from experiment.running.study_result import COSTS
from experiment.suite.messages import ConfigError, short, unknown

METRICS = (
    *("accuracy", "accuracy_drop", "latency_ms", *LATENCIES[1:]),
    *("model_size_mb", "bitops", "macs", "params", *FOOTPRINT),
)
WISH = "--recommend"
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt
}  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """One constraint, e.g. accuracy_drop <= 0.5."""

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    def allows(self, value: float) -> bool:
        return SIGNS[self.sign](value, self.bound)

    def met(self, row: dict[str, Any]) -> bool:
        return self.allows(figure(row, self.metric))

    def excess(self, row: dict[str, Any]) -> float:
        """How far a chain is beyond the limit, as a share of it; points where it is a drop."""
        beyond = figure(row, self.metric) - self.bound
        beyond = beyond if self.sign.startswith("<") else -beyond
        scale = 1.0 if self.metric in ("accuracy", "accuracy_drop") else abs(self.bound) or 1.0
        return max(0.0, beyond / scale)


@dataclass(frozen=True)
class Wish:
    """Constraints, and what is to be as small or as large as can be."""

    limits: tuple[Limit, ...]
    metric: str
    largest: bool

    def best(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The best row that meets every limit; among equals the more accurate one."""
        within = [row for row in rows if all(limit.met(row) for limit in self.limits)]
        sign = -1 if self.largest else 1
        return min(
            within,
            key=lambda row: (sign * figure(row, self.metric), -figure(row, "accuracy")),
            default=None,
        )

    def nearest(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The row that is least beyond the limits."""
        return min(rows, key=lambda row: sum(limit.excess(row) for limit in self.limits))


def parse_wish(text: str) -> Wish:
    """Read an expression. Raises ConfigError with one line."""
    limits, aims = [], []
    for part in (part.strip() for part in text.split(",")):
        aim = re.fullmatch(r"(min|max)\s+(\w+)", part)
        if aim is None:
            limits.append(parse_limit(part, METRICS, WISH, " or min latency_ms"))
        elif aim[2] not in METRICS:
            raise _wrong(WISH, unknown(aim[2], METRICS, "a metric"))
        else:
            aims.append((aim[2], aim[1] == "max"))
    if len(aims) != 1:
        why = f"{short(text)} has {len(aims)} objectives; give one, such as min latency_ms"
        raise _wrong(WISH, why)
    return Wish(tuple(limits), *aims[0])


def parse_limit(text: str, metrics: Sequence[str], option: str, or_else: str = "") -> Limit:
    """Read a constraint on one of `metrics`. Raises ConfigError with one line of `option`."""
    found = re.fullmatch(r"(\w+)\s*(<=|>=|<|>)\s*(\S+)", text)
    if found is None:
        raise _wrong(option, f"{short(text)} should read like accuracy_drop<=0.5{or_else}")
    name, sign, bound = found.groups()
    if name not in metrics:
        raise _wrong(option, unknown(name, metrics, "a metric"))
    return Limit(name, sign, _number(bound, option))


def holds(row: dict[str, Any], name: str) -> bool:
    """Whether a chain came to its end with this figure; some are not measured everywhere."""
    return "metrics" in row and COSTS.get(name, name) in {*row["metrics"], "accuracy_drop"}


def figure(row: dict[str, Any], name: str) -> float:
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
    best = wish.best(rows)
    if best is None:
        row = wish.nearest(rows)
        named = dict.fromkeys(limit.metric for limit in wish.limits)
        has = ", ".join(f"{name} {figure(row, name):.4g}" for name in named)
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
            pprint.pformat(entry, sort_dicts=False, width=99) + ",",
        ]
    )


def _told(row: dict[str, Any], name: str) -> str:
    """A figure, and of a time the engine that it is of."""
    engine = row["metrics"].get(COSTS.get(name, name), {}).get("engine")
    return f"{name} {figure(row, name):.4g}" + (f" by {engine}" if engine else "")


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(option, f"{short(text)} is not a number")
    return value


def _wrong(option: str, reason: str) -> ConfigError:
    return ConfigError([f"{option}: {reason}"])
