"""An experiment as it is written in a config, and as it is once checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_sets.source import DataInfo, DatasetArgs
from engines.deployment_args import DeploymentArgs
from experiment.suite.stop_if import StopIf
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
    deployment_args: dict[str, Any] = {}
    seeds: list[int] | None = Field(None, min_length=1)
    stop_if: dict[str, Any] = {}

    _file_name = field_validator("name")(file_name)
    _distinct = field_validator("seeds")(distinct_seeds)

    @property
    def is_baseline(self) -> bool:
        return self.is_fp32_baseline_generation or "Baseline_FP32" in self.name


class Outline(NamedTuple):
    """What is known of a network before there is one."""

    model_args: dict[str, Any]  # resolved; what pruning leaves of them is known afterwards
    int8: bool = False  # whether it is deployed as int8
    exits: bool = False  # whether it may be left early
    kept_float: Sequence[str] | Literal["auto"] = ()  # patterns of layers, should it be int8
    exact: bool = True  # whether model_args are these to the last width
    exits_by: StageSpec | None = None  # the stage that says how it is left early
    bf16: bool = False  # whether what is not int8 is deployed in bfloat16
    frozen: bool = False  # whether its int8 weights have no float masters

    @property
    def rounded(self) -> bool:
        """Whether it is deployed in other values than it was trained in."""
        return self.int8 or self.bf16

    def after(self, spec: StageSpec, *, refused: bool = False) -> Outline:
        """What a stage makes of it; where it is `refused`, all that can be said for what follows.

        Raises ValueError where the stage builds no network.
        """
        return Outline(
            self.model_args if refused else spec.outgoing(self.model_args),
            self.int8 or spec.quantizes,
            self.exits or spec.adds_exits,
            self.kept_float if spec.keeps_float is None else spec.keeps_float,
            self.exact and not refused and spec.foresees(self.model_args),
            spec if spec.adds_exits else self.exits_by,
            self.bf16 or spec.casts,
            self.frozen if spec.freezes is None else spec.freezes,
        )


class Passage(NamedTuple):
    """One stage of an experiment, and what passes through it."""

    stage: str
    spec: StageSpec
    entering: Outline
    leaving: Outline


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
    deployment: DeploymentArgs  # how its networks are run when they are measured
    sequence: tuple[tuple[str, StageSpec], ...]  # 'train' first where no baseline is loaded
    seeds: tuple[int, ...]
    stop_if: StopIf  # concerns which stages run, and not what any of them gives
    remarks: tuple[str, ...] = ()  # what is allowed and seldom meant, found when it was checked

    def passages(self) -> Iterator[Passage]:
        """Its stages, each with the network that enters and the one that leaves, in outline.

        A baseline is float, of the same architecture, so nothing before the first is lost.
        """
        outline = Outline(self.model_args, exits=bool(self.model_args["exits"]))
        for stage, spec in self.sequence:
            leaving = outline.after(spec)
            yield Passage(stage, spec, outline, leaving)
            outline = leaving

    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data, for results."""
        return {
            "name": self.name,
            "is_fp32_baseline_generation": self.is_baseline,
            "load_fp32_baseline_from_experiment": self.baseline,
            "dataset_args": self.dataset_args.model_dump(),
            "model_args": self.model_args,
            "training_args": self.training.model_dump(),
            "deployment_args": self.deployment.model_dump(),
            "sequence": [{name: spec.settings()} for name, spec in self.sequence],
            "seeds": list(self.seeds),
            "stop_if": self.stop_if.bounds,
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

    def remarks(self) -> list[str]:
        """The experiments' remarks, each once, with whom it concerns where that is not all."""
        names: dict[str, list[str]] = {}
        for experiment in self.experiments:
            for text in experiment.remarks:
                names.setdefault(text, []).append(experiment.name)
        said = []
        for text, of in names.items():
            others = f" (and {len(of) - 1} more)" if len(of) > 1 else ""
            if re.match(r"\w+_args\.", text):  # a place in the experiment
                said.append(f"{of[0]}.{text}{others}")
            else:
                everywhere = len(of) == len(self.experiments)
                said.append(text if everywhere else f"{of[0]}{others}: {text}")
        return said
