"""An experiment as it is written in a config, and as it is once checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_sets.source import DataInfo, DatasetArgs
from stages.stage import StageSpec
from training.recipe import TrainingArgs


def file_name(name: str) -> str:
    """A name that may stand in file names. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
        raise ValueError("should have only letters, digits, '_', '-' and '.', and no '.' first")
    return name


def distinct_seeds(seeds: list[int] | None) -> list[int] | None:
    """Seeds as they are. Raises ValueError where they are none, or one stands twice."""
    for seed in seeds or []:
        if not 0 <= seed < 2**31 or (seeds or []).count(seed) > 1:
            raise ValueError("should be different whole numbers from 0 to 2147483647")
    return seeds


class ExperimentConfig(BaseModel):
    """One dict of EXPERIMENT_CONFIGS."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=120)
    is_fp32_baseline_generation: bool = False
    load_fp32_baseline_from_experiment: str | None = None
    dataset_args: dict[str, Any] = {}
    model_args: dict[str, Any] = {}
    training_args: dict[str, Any] = {}
    compression_args: dict[str, Any] = {}
    seeds: list[int] | None = Field(None, min_length=1)

    _file_name = field_validator("name")(file_name)
    _distinct = field_validator("seeds")(distinct_seeds)

    @property
    def is_baseline(self) -> bool:
        return self.is_fp32_baseline_generation or "Baseline_FP32" in self.name


@dataclass(frozen=True)
class Experiment:
    """A checked experiment: every default filled in, every stage resolved."""

    name: str
    is_baseline: bool
    baseline: str | None
    dataset_args: DatasetArgs
    data: DataInfo
    model_args: dict[str, Any]  # resolved
    training: TrainingArgs
    sequence: tuple[tuple[str, StageSpec], ...]  # 'train' first where no baseline is loaded
    seeds: tuple[int, ...]

    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data, for results."""
        return {
            "name": self.name,
            "is_fp32_baseline_generation": self.is_baseline,
            "load_fp32_baseline_from_experiment": self.baseline,
            "dataset_args": self.dataset_args.model_dump(),
            "model_args": self.model_args,
            "training_args": self.training.model_dump(),
            "sequence": [{name: spec.settings()} for name, spec in self.sequence],
            "seeds": list(self.seeds),
        }


@dataclass(frozen=True)
class Suite:
    """What one run works through; baselines and teachers come before who needs them."""

    source: str
    device: torch.device
    data_dir: Path
    model_dir: Path
    results_dir: Path
    experiments: tuple[Experiment, ...]
