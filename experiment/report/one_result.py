"""One experiment's results, read back to be shown: what a name means, and nothing damaged."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from experiment.report.reader import Result, StageEntry, said
from experiment.running.metrics import final_metrics
from experiment.suite.messages import ConfigError
from methods.quantization.names import present_name

ENDING = "_results.json"
NAMED = 12  # experiments at most, where none is close to what was asked for


def read_result(name: str, folder: Path) -> Result:
    """The results of an experiment in `folder`, or in the file `name` where that ends in .json.

    Raises ConfigError for a name without results and for a file that is damaged.
    """
    path = folder / f"{name}{ENDING}"
    if name.endswith(".json") and not path.exists():
        path = Path(name)
    try:
        plain = json.loads(path.read_bytes())
        _Complete.model_validate(plain)
        return Result.model_validate(plain)
    except FileNotFoundError:
        raise ConfigError([f"{name}: {_missing(path)}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {said(first)}" if where else said(first)
        if "experiment" not in (plain if isinstance(plain, dict) else {}):
            reason = f"it holds no experiment, as NAME{ENDING} does"
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    raise ConfigError(
        [f"{path}: is damaged, or from another version ({reason}); run the experiment again"]
    )


def specs(result: Result) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of every stage, whether or not it ran; backends by their present names."""
    return [
        (name, {**spec, "backend": present_name(spec["backend"])} if "backend" in spec else spec)
        for item in result.config["sequence"]
        for name, spec in item.items()
    ]


def at(result: Result, position: int) -> list[StageEntry]:
    """The stage at a position of the chain, of every seed that came so far."""
    chains = [result.of_seed(seed) for seed in result.seeds]
    return [chain[position] for chain in chains if position < len(chain)]


def stats_after(result: Result, position: int, seeds: list[int] | None = None) -> dict[str, Any]:
    """Metric → mean, std and n over seeds (None: all), after the stage at a position."""
    entries = [{"seed": entry.seed, "metrics": entry.metrics} for entry in at(result, position)]
    plain = {"config": {"sequence": [{}]}, "seeds": result.seeds, "stages": entries}
    return final_metrics(plain, seeds)


def stats_at_end(result: Result, seeds: list[int] | None = None) -> dict[str, Any]:
    """The same after the last stage."""
    return stats_after(result, len(specs(result)) - 1, seeds)


def _missing(path: Path) -> str:
    """What to say of a results file that is not there."""
    names = sorted(p.name.removesuffix(ENDING) for p in path.parent.glob(f"*{ENDING}"))
    if not names:
        return f"there are no results in {path.parent}/; run a suite first, or name its --config"
    close = difflib.get_close_matches(path.name.removesuffix(ENDING), names, 1)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    there = f"there are {', '.join(names[:NAMED])}{more}"
    hint = f"did you mean {close[0]!r}?" if close else there
    return f"has no results in {path.parent}/; {hint}"


# --- what must be there to be shown, beyond what the report needs ------------------------------


class _Exits(BaseModel):
    criterion: str
    places: list[str | int]
    share: list[float]
    macs: list[int]
    bitops: list[int]
    thresholds: list[float]


class _Metrics(BaseModel):
    exits: _Exits | None = None
    warnings: list[str] = []


class _Quantization(BaseModel):
    backend: str
    float_layers: list[str]


class _Details(BaseModel):
    history: list[dict[str, float | None]] = []
    widths: dict[str, tuple[Any, Any]] = {}
    warnings: list[str] = []


class _Stage(BaseModel):
    metrics: _Metrics
    seconds: float
    checkpoint: str
    details: _Details
    quant: _Quantization | None


class _Config(BaseModel):
    dataset_args: dict[str, Any]
    model_args: dict[str, Any]
    training_args: dict[str, Any]
    deployment_args: dict[str, Any] = {}  # not in older files
    sequence: list[dict[str, dict[str, Any]]]


class _Complete(BaseModel):
    config: _Config
    stages: list[_Stage]
    status: str
