"""One experiment's results, read back from `results/NAME_results.json`."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from experiment.messages import ConfigError
from experiment.results import SUMMARISED, final_metrics, metric

ENDING = "_results.json"


class Exits(BaseModel):
    """Where samples left: an entry a place, the network's end last."""

    criterion: str
    places: list[str | int]
    share: list[float]
    macs: list[int]
    bitops: list[int]
    thresholds: list[float]


class Quantization(BaseModel):
    backend: str
    float_layers: list[str]


class Details(BaseModel):
    """What a stage notes beside its metrics, as far as it is shown."""

    history: list[dict[str, float | None]] = []  # a row an epoch
    widths: dict[str, tuple[Any, Any]] = {}  # before and after
    warnings: list[str] = []


class Metrics(BaseModel):
    """The metrics that are not in SUMMARISED; `plain` has all."""

    plain: dict[str, Any]
    exits: Exits | None = None
    warnings: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _from_plain(cls, plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise ValueError("should be a dictionary")
        for name in SUMMARISED:
            if not isinstance(metric(plain, name), int | float | None):
                raise ValueError(f"{name} is not a number")
        return {**plain, "plain": plain}


class StageEntry(BaseModel):
    """One stage of one seed."""

    stage: str
    seed: int
    metrics: Metrics
    seconds: float
    checkpoint: str
    details: Details
    quant: Quantization | None


class Config(BaseModel):
    """The resolved configuration."""

    dataset_args: dict[str, Any]
    model_args: dict[str, Any]
    training_args: dict[str, Any]
    sequence: list[dict[str, dict[str, Any]]]


class Result(BaseModel):
    """What the file holds."""

    experiment: str
    status: str
    baseline: str | None
    config: Config
    seeds: list[int]
    stages: list[StageEntry]
    errors: list[dict[str, Any]]
    suite: str
    command: str
    git_commit: str | None
    environment: dict[str, Any]
    written: str

    @property
    def sequence(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and options of every stage, whether or not it ran."""
        return [pair for item in self.config.sequence for pair in item.items()]

    @property
    def stage_names(self) -> list[str]:
        return [name for name, _ in self.sequence]

    def at(self, position: int) -> list[StageEntry]:
        """The stage at a position of the chain, of every seed that came so far."""
        chains = [[e for e in self.stages if e.seed == seed] for seed in self.seeds]
        return [chain[position] for chain in chains if position < len(chain)]

    def stats(self, position: int = -1, seeds: list[int] | None = None) -> dict[str, Any]:
        """Metric → mean, std and n over seeds (None: all), after the stage at `position`."""
        number = range(len(self.sequence))[position]
        plain = {
            "config": {"sequence": [{}]},
            "seeds": self.seeds,
            "stages": [{"seed": e.seed, "metrics": e.metrics.plain} for e in self.at(number)],
        }
        return final_metrics(plain, seeds)


def read_result(name: str, folder: Path) -> Result:
    """The results of an experiment in `folder`, or of a file where `name` ends in .json.

    Raises ConfigError for a name without results and for a file that is damaged.
    """
    path = Path(name) if name.endswith(".json") else folder / f"{name}{ENDING}"
    try:
        return Result.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError([f"{name}: {_missing(path)}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    raise ConfigError(
        [f"{path}: is damaged, or from another version ({reason}); run the experiment again"]
    )


def _missing(path: Path) -> str:
    """What to say of a results file that is not there."""
    names = sorted(p.name.removesuffix(ENDING) for p in path.parent.glob(f"*{ENDING}"))
    if not names:
        return f"there are no results in {path.parent}/; run a suite first, or name its --config"
    close = difflib.get_close_matches(path.name.removesuffix(ENDING), names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
    return f"has no results in {path.parent}/; {hint}"
