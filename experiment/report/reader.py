"""What a results folder holds, read for the report: experiments, scans, studies, searches.

Files of other versions, with fields more or less, are read as far as they go; what cannot be read
is named in `Folder.problems`, never passed over in silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from experiment.outcomes.search import SearchResult
from experiment.outcomes.study import StudyResult
from experiment.running.metrics import (
    FIGURES,
    Stat,
    Stats,
    final_metrics,
    metric,
    moved_times,
    seeds_at_end,
)
from experiment.suite.stop_if import stop_in_words


class EngineTime(BaseModel):
    """What one engine takes for a batch, in ms."""

    median: float = Field(gt=0)


class Time(BaseModel):
    """What times of one batch size are compared by; engines are None in older files."""

    median: float | None = Field(None, gt=0)
    engine: str | None = None  # the fastest that agrees with the graph, which `median` is of
    by_engine: dict[str, EngineTime] = {}
    baseline_median: float | None = Field(None, gt=0)
    baseline_engine: str | None = None
    speedup: float | None = Field(None, gt=0)
    speedup_over_baseline: float | None = Field(None, gt=0)  # in older files, for `speedup`
    float_median: float | None = Field(None, gt=0)  # of an int8 network's own float form
    float_engine: str | None = None
    speedup_over_float: float | None = Field(None, gt=0)
    device: str | None = None
    threads: int | None = None


class EngineFound(BaseModel):
    """What was found of one engine; of one that was not tried, `left_out` alone."""

    left_out: str | None = None  # the reason
    int8_layers: int | None = None  # None: it cannot tell
    int8_layers_wanted: int | None = None
    relative_norm: float | None = None
    other_class: float | None = None
    ready_seconds: float | None = None


class Timing(BaseModel):
    """The part of a stage's metrics that depends on the machine and its engines."""

    inference_time_ms: dict[str, Time] = {}
    engines: dict[str, EngineFound] = {}
    energy_unknown: str | None = None


class StageEntry(BaseModel):
    """One stage of one seed."""

    stage: str
    key: str = ""
    seed: int = 0
    parent: str | None = None  # None: a baseline's, or a file of an earlier version
    parent_sha256: str | None = None
    checkpoint_sha256: str | None = None
    seconds: float | None = None
    metrics: dict[str, Any] = {}
    details: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    quant: dict[str, Any] | None = None
    checkpoint: str = ""

    @field_validator("metrics")
    @classmethod
    def _numbers(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        for name in FIGURES:
            if not isinstance(metric(metrics, name), int | float | None):
                raise ValueError(f"{name} is not a number")
        Timing.model_validate(metrics)
        return metrics

    def warnings(self, baseline: Result | None) -> list[str]:
        """What the user should know of it, beside its baseline on the same seed as well."""
        told = [*(self.details.get("warnings") or []), *(self.metrics.get("warnings") or [])]
        ends = baseline.of_seed(self.seed)[-1:] if baseline is not None else []
        moved = [moved_times(self.metrics, end.metrics) for end in ends]
        return [str(text) for text in [*told, *moved] if text]


class Result(BaseModel):
    """`NAME_results.json`."""

    experiment: str
    status: str = "unknown"
    baseline: str | None = None
    config: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seeds: list[int] = [0]
    stages: list[StageEntry] = []
    final: Stats = {}
    errors: list[dict[str, Any]] = []
    stopped: list[dict[str, Any]] = []  # seed, stage and why; not in older files
    remarks: list[str] = []
    environment: dict[str, Any] = {}
    suite: str | None = None
    command: str | None = None
    git_commit: str | None = None
    written: str | None = None

    @property
    def sequence(self) -> list[str]:
        """Names of the stages as configured; of those that ran where the config does not say."""
        items = self.config.get("sequence")
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            return [stage for item in items for stage in item]
        return [entry.stage for entry in self.stages if entry.seed in self.seeds[:1]]

    @property
    def ended(self) -> list[int]:
        """The seeds whose chain came to its last stage."""
        stages = [{"seed": entry.seed} for entry in self.stages]
        config = {"sequence": self.sequence}
        return seeds_at_end({"config": config, "seeds": self.seeds, "stages": stages})

    @property
    def stops(self) -> list[str]:
        """Where and why its chains were stopped, in words."""
        return [stop_in_words(entry, of_several=len(self.seeds) > 1) for entry in self.stopped]

    def of_seed(self, seed: int) -> list[StageEntry]:
        return [entry for entry in self.stages if entry.seed == seed]

    def stats(self, seeds: list[int]) -> dict[str, Stat]:
        """Metric → figure at the end of the chain, over some of its seeds."""
        begun = [seed for seed in seeds if self.of_seed(seed)]
        return {name: Stat(**value) for name, value in final_metrics(self.plain(), begun).items()}

    def plain(self) -> dict[str, Any]:
        """The part that changes against a baseline are told from, as the file has it."""
        kept = {"seed", "key", "parent", "parent_sha256", "checkpoint_sha256", "metrics"}
        return {
            "experiment": self.experiment,
            "baseline": self.baseline,
            "config": {"sequence": self.sequence},
            "seeds": self.seeds,
            "stages": [entry.model_dump(include=kept) for entry in self.stages],
        }


class RatioPoint(BaseModel):
    ratio: float
    accuracy: float


class LayerPoint(BaseModel):
    layer: str
    sqnr_db: float
    accuracy: float


class Sensitivity(BaseModel):
    """`NAME_sensitivity.json` has curves, `NAME_quantization_sensitivity.json` a scan."""

    experiment: str
    split: str = "validation"
    criterion: str | None = None
    backend: str | None = None
    curves: dict[str, list[RatioPoint]] = {}
    scan: list[LayerPoint] = []
    float_accuracy: float | None = None
    float_layers: list[str] = []


@dataclass
class Folder:
    """Everything the report is made of."""

    results: list[Result] = field(default_factory=list)
    sensitivities: list[Sensitivity] = field(default_factory=list)
    studies: dict[str, StudyResult] = field(default_factory=dict)
    searches: dict[str, SearchResult] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_folder(path: Path) -> Folder:
    """Read every JSON of `path` that a run writes; a folder that is not there holds nothing."""
    folder = Folder()
    for file in sorted(path.glob("*.json")):
        try:
            _read(file, folder)
        except (OSError, UnicodeDecodeError) as error:
            folder.problems.append(f"{file.name}: cannot be read ({error})")
        except json.JSONDecodeError as error:
            folder.problems.append(f"{file.name}: is not JSON ({error})")
        except (ValidationError, RecursionError) as error:
            folder.problems.append(f"{file.name}: {_reason(error)}; left out")
    return folder


def _read(file: Path, folder: Folder) -> None:
    name = file.name
    if name.endswith("_results.json"):
        result = Result.model_validate(json.loads(file.read_text()))
        if f"{result.experiment}_results.json" != name:
            folder.problems.append(f"{name}: holds experiment {result.experiment}; left out")
            return
        folder.results.append(result)
    elif name.endswith("_sensitivity.json"):
        folder.sensitivities.append(Sensitivity.model_validate(json.loads(file.read_text())))
    elif name.startswith("study_"):
        study = StudyResult.model_validate(json.loads(file.read_text()))
        folder.studies[name.removeprefix("study_").removesuffix(".json")] = study
    elif name.startswith("search_"):
        search = SearchResult.model_validate(json.loads(file.read_text()))
        folder.searches[name.removeprefix("search_").removesuffix(".json")] = search


def said(error: Any) -> str:
    """What pydantic says of a mistake, without the names of our classes."""
    return str(error["msg"]).split(" or instance of")[0]


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "is nested too deep"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'its content'}: {said(first)}"
