"""A figure: where in the raw output its values stand, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import stats

from benchmarks.records.numbers import from_log, numbers_in
from machine.errors import Refused

CONFIDENCE = 0.95


class Found(BaseModel):
    """What a figure comes to. `low` and `high` enclose it with 95 %, where it has an interval."""

    model_config = ConfigDict(extra="forbid")

    value: float
    n: int = 1
    std: float | None = None
    low: float | None = None
    high: float | None = None


class Figure(BaseModel):
    """A definition, and what was found by it. The language of paths is in records/README.md."""

    model_config = ConfigDict(extra="forbid")

    unit: str = ""
    at: str | list[str]  # FILE:PATH of its values; two of them for a difference or a ratio
    reduce: Literal["value", "mean", "median", "difference", "ratio"] = "value"
    interval: list[str] | None = Field(None, min_length=2, max_length=2)  # FILE:PATH of its ends
    n: str | None = None  # FILE:PATH of how many seeds one value stands for, as in a study
    scale: float = 1.0  # from the raw unit to `unit`
    digits: int = Field(2, ge=0)  # shown after the decimal point
    tolerance: float | None = Field(None, ge=0)  # in `unit`: where one value has no interval
    found: Found | None = None

    @model_validator(mode="after")
    def _checked(self) -> Figure:
        two = self.reduce in ("difference", "ratio")
        if two != (len(self.paths) == 2) or not self.paths:
            raise ValueError(f"reduce {self.reduce!r} takes {'two paths' if two else 'one path'}")
        if any(":" not in path for path in self.everywhere()):
            raise ValueError("a path is FILE:PATH, as 'results/Q_results.json:final/accuracy'")
        for file in map(PurePosixPath, self.files()):
            if file.suffix != ".json" or file.is_absolute() or ".." in file.parts:
                raise ValueError(f"{file}: a raw file is a .json below the folder of the output")
        return self

    @property
    def paths(self) -> list[str]:
        return [self.at] if isinstance(self.at, str) else self.at

    def everywhere(self) -> list[str]:
        return [*self.paths, *(self.interval or []), *([self.n] if self.n else [])]

    def files(self) -> set[str]:
        """The raw files that it stands in."""
        return {path.partition(":")[0] for path in self.everywhere()}

    def read(self, folder: Path) -> Found:
        """What it comes to by the files of `folder`. Raises Refused where something is not there.

        The interval of several values is Student's t, 95 %; a difference and a ratio are those of
        the values of one seed, then their mean.
        """
        two = len(self.paths) == 2
        found_at = [seeds_and_values(folder, path) for path in self.paths]
        seeds = [[seed for seed, _ in pairs] for pairs in found_at]
        raw = [[value for _, value in pairs] for pairs in found_at]
        if len({len(values) for values in raw}) > 1:
            told = " and ".join(f"{len(v)} at {p}" for v, p in zip(raw, self.paths, strict=True))
            raise Refused(f"{self.reduce} needs as many values on both sides, not {told}")
        if any(s != seeds[0] for s in seeds) or (two and twice(seeds[0])):
            raise Refused(f"{self.reduce} needs the same seeds on both sides: {self.paths}")
        if self.reduce == "difference":
            values = [a - b for a, b in zip(*raw, strict=True)]
        elif self.reduce == "ratio":
            if 0 in raw[1]:
                raise Refused(f"a ratio to nothing: {self.paths[1]} has a zero")
            values = [a / b for a, b in zip(*raw, strict=True)]
        else:
            values = raw[0]
        if self.reduce == "value" and len(values) != 1:
            raise Refused(f"reduce 'value' needs one value, not {len(values)} at {self.paths[0]}")
        middle = statistics.median if self.reduce == "median" else statistics.fmean
        found = {"value": middle(values) * self.scale, "n": len(values)}
        if len(values) > 1:
            found["std"] = statistics.stdev(values) * abs(self.scale)
        if self.interval is not None:
            ends = sorted(only(values_at(folder, p), p) * self.scale for p in self.interval)
            found |= {"low": ends[0], "high": ends[1]}
        elif len(values) > 1 and self.reduce != "median":
            t = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
            half = t * found["std"] / math.sqrt(len(values))
            found |= {"low": found["value"] - half, "high": found["value"] + half}
        if self.n is not None:
            found["n"] = int(only(values_at(folder, self.n), self.n))
        return Found(**{name: rounded(value) for name, value in found.items()})

    def holds(self, now: float) -> bool:
        """Whether a new value is within what the recorded one allows."""
        was = self.found
        assert was is not None
        if self.tolerance is not None:
            return abs(now - was.value) <= self.tolerance * (1 + 1e-9)
        assert was.low is not None and was.high is not None  # or a tolerance was asked for
        return was.low <= now <= was.high

    def allowed(self) -> str:
        """What a new value may be, in words."""
        if self.tolerance is not None:
            return f"± {self.tolerance:g}"
        assert self.found is not None
        return f"{self.number(self.found.low)} to {self.number(self.found.high)}"

    def number(self, value: float | None) -> str:
        assert value is not None
        return f"{value:,.{self.digits}f}".replace("-", "−")

    def told(self) -> str:
        """Value, unit and interval, for a table."""
        assert self.found is not None
        text = f"{self.number(self.found.value)} {self.unit}".rstrip()
        if self.found.low is None:
            return text
        return f"{text} ({self.number(self.found.low)} to {self.number(self.found.high)})"


def twice(seeds: list[Any]) -> bool:
    """Whether a seed stands in it more than once."""
    known = [seed for seed in seeds if seed is not None]
    return len(set(known)) < len(known)


def rounded(value: float) -> float:
    """Without the noise of the last bits, so that a file reads well and is the same anywhere."""
    return float(f"{value:.10g}") if isinstance(value, float) else value


def raw(folder: Path, name: str) -> Any:
    """A file of a raw folder; of a log NAME.log, what it printed, as NAME.json.

    Raises Refused, one line.
    """
    path, log = folder / name, (folder / name).with_suffix(".log")
    try:
        if path.exists() or not log.exists():
            return json.loads(path.read_text())
        path = log
        return from_log(log.read_text())
    except FileNotFoundError:
        raise Refused(f"{path} is missing") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None


def values_at(folder: Path, path: str) -> list[float]:
    return [value for _, value in seeds_and_values(folder, path)]


def seeds_and_values(folder: Path, path: str) -> list[tuple[Any, float]]:
    """The numbers at FILE:PATH with their seeds (None where they have none), ordered by them."""
    name, _, inner = path.partition(":")
    found = list(walk(raw(folder, name), inner, None))
    if not found:
        raise Refused(f"{folder / name} has nothing at {inner}")
    for _, value in found:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise Refused(f"{folder / name} has {value!r:.60} at {inner}, which is no number")
    if all(seed is not None for seed, _ in found):
        found.sort(key=lambda item: item[0])
    return [(seed, float(value)) for seed, value in found]


def walk(value: Any, path: str, seed: Any) -> Iterator[tuple[Any, Any]]:
    """What stands at a path below `value`, each with the seed that was passed on the way.

    A step is the name of a key (which may itself have a '/'), a place in a list, '*' for all
    items, KEY=VALUE (or KEY=VALUE&KEY=VALUE) for the items of a list that have it, or in a text the
    place of a number.
    """
    if not path:
        yield seed, value
        return
    if isinstance(value, dict):
        steps = {str(key): item for key, item in value.items()}
        own = value.get("seed")
        seed = own if isinstance(own, int) else seed  # in a table it may be any column
    elif isinstance(value, str):
        steps = {str(place): number.value for place, number in enumerate(numbers_in(value))}
    elif isinstance(value, list):
        steps = {str(place): item for place, item in enumerate(value)}
        steps |= {str(place - len(value)): item for place, item in enumerate(value)}
    else:
        return
    if path == "*" or path.startswith("*/"):
        for item in value.values() if isinstance(value, dict) else value:
            yield from walk(item, path[2:], seed)
        return
    for step in sorted(steps, key=len, reverse=True):
        if path == step or path.startswith(f"{step}/"):
            yield from walk(steps[step], path[len(step) + 1 :], seed)
            return
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict) and (rest := beyond(item, path)) is not None:
            yield from walk(item, rest, seed)


def beyond(item: dict[str, Any], path: str) -> str | None:
    """What follows KEY=VALUE in a path; None where the item has not that."""
    for key, value in item.items():
        step = f"{key}={told(value)}"
        if path == step or path.startswith(f"{step}/"):
            return path[len(step) + 1 :]
        if path.startswith(f"{step}&"):
            return beyond(item, path[len(step) + 1 :])
    return None


def told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def only(values: list[float], path: str) -> float:
    if len(values) != 1:
        raise Refused(f"an interval's end and n are one number each, not {len(values)} at {path}")
    return values[0]
