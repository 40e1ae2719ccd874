"""What a user asks of a chain: limits on its figures, and which of them is to be small or large.

One grammar, "accuracy_drop<=0.5, min latency_ms": of `--recommend`, `export --if` and searches.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiment.running.metrics import FOOTPRINT, LATENCIES
from experiment.suite.messages import ConfigError, short, unknown

METRICS = (
    *("accuracy", "accuracy_drop", "latency_ms", *LATENCIES[1:]),
    *("model_size_mb", "bitops", "macs", "params", *FOOTPRINT),
)
ACCURACIES = ("accuracy", "accuracy_drop")
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

    def excess(self, value: float) -> float:
        """How far a value is beyond the limit, as a share of it, points of an accuracy; below 0
        within."""
        beyond = value - self.bound
        beyond = beyond if self.sign.startswith("<") else -beyond
        return beyond / (1.0 if self.metric in ACCURACIES else abs(self.bound) or 1.0)


@dataclass(frozen=True)
class Wish:
    """Constraints, and what is to be as small or as large as can be."""

    limits: tuple[Limit, ...]
    metric: str
    largest: bool
    others: tuple[tuple[str, bool], ...] = ()  # objectives beside it, where there may be several

    @property
    def aims(self) -> tuple[tuple[str, bool], ...]:
        """Every objective: its figure, and whether it is to be large."""
        return ((self.metric, self.largest), *self.others)

    @property
    def uncertain(self) -> list[Limit]:
        """Those on the accuracy, which depends on images and luck."""
        return [limit for limit in self.limits if limit.metric in ACCURACIES]


def parse_wish(text: str, option: str = WISH, *, several: bool = False) -> Wish:
    """Read an expression, of `several` objectives where there may be. Raises ConfigError with one
    line of `option`."""
    limits, aims = [], []
    for part in (part.strip() for part in text.split(",")):
        aim = re.fullmatch(r"(min|max)\s+(\w+)", part)
        if aim is None:
            limits.append(parse_limit(part, METRICS, option, " or min latency_ms"))
        elif aim[2] not in METRICS:
            raise _wrong(option, unknown(aim[2], METRICS, "a metric"))
        else:
            aims.append((aim[2], aim[1] == "max"))
    if not aims or (len(aims) > 1 and not several):
        why = f"{short(text)} has {len(aims)} objectives; give one, such as min latency_ms"
        raise _wrong(option, why)
    return Wish(tuple(limits), *aims[0], tuple(aims[1:]))


def parse_limit(text: str, metrics: Sequence[str], option: str, or_else: str = "") -> Limit:
    """Read a constraint on one of `metrics`. Raises ConfigError with one line of `option`."""
    found = re.fullmatch(r"(\w+)\s*(<=|>=|<|>)\s*(\S+)", text)
    if found is None:
        raise _wrong(option, f"{short(text)} should read like accuracy_drop<=0.5{or_else}")
    name, sign, bound = found.groups()
    if name not in metrics:
        raise _wrong(option, unknown(name, metrics, "a metric"))
    return Limit(name, sign, _number(bound, option))


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
