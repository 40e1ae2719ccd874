"""From a config module to a checked Suite: every mistake is found and listed before any work."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dataset import DataError, DataInfo, DatasetArgs, describe
from experiment.config_file import (
    SECTION_TYPES,
    SECTIONS,
    config_values,
    default_section,
    device_of,
    folder_of,
    overrides_of,
)
from experiment.messages import check, explain, short, stop_at, unknown
from experiment.teachers import check_teachers, in_order, needs
from model import ModelArgs
from stages import STAGES, quantization
from stages.state import CompressionArgs, StageSpec, blueprint
from train_eval import TrainingArgs, resolve_precision


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


def load_suite(
    config: Path | str, *, overrides: list[str] | None = None, only: list[str] | None = None
) -> Suite:
    """Read, complete and check a config module. Raises ConfigError with all that is wrong.

    `overrides` are `section.key=value` strings, `only` names of experiments.
    """
    return suite_of(config_values(Path(config)), str(config), overrides=overrides, only=only)


def suite_of(
    values: dict[str, Any],
    source: str,
    *,
    overrides: list[str] | None = None,
    only: list[str] | None = None,
) -> Suite:
    """The same from the names of a config module."""
    problems: list[str] = []
    device = device_of(values["DEVICE"], problems)
    data_dir, model_dir, results_dir = (
        folder_of(values, key, problems) for key in ("DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR")
    )
    defaults = {
        section: default_section(values[key], key, SECTION_TYPES[section], problems)
        for section, key in SECTIONS.items()
    }
    configs = _experiment_configs(values["EXPERIMENT_CONFIGS"], problems)
    forced = overrides_of(overrides or [], problems)
    _check_baselines(configs, problems)
    stop_at(problems)
    chosen = _chosen(configs, only, problems)
    stop_at(problems)
    builder = _Builder(defaults, forced, device, data_dir, {c.name: c for c in configs})
    experiments = in_order(builder.experiments(chosen), builder.problems)
    check_teachers({e.name: e for e in experiments}, builder.configs, builder.problems)
    stop_at(builder.problems)
    explicit = {c.name for c in configs if c.seeds or "seed" in c.training_args}
    experiments = _with_seeds(experiments, explicit)
    return Suite(source, device, data_dir, model_dir, results_dir, experiments)


def _experiment_configs(value: Any, problems: list[str]) -> list[ExperimentConfig]:
    if not isinstance(value, list | tuple) or not value:
        problems.append("EXPERIMENT_CONFIGS: should be a list with at least one experiment's dict")
        return []
    configs: list[ExperimentConfig] = []
    for index, item in enumerate(value):
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        where = item["name"] if named else f"EXPERIMENT_CONFIGS[{index}]"
        if not isinstance(item, dict):
            problems.append(f"{where}: {short(item)} is not a dict")
            continue
        config, found = check(ExperimentConfig, item, where)
        problems += found
        if config is None:
            continue
        if any(config.name == other.name for other in configs):
            problems.append(f"{config.name}: this name stands twice; names must be unique")
        elif any(config.name.lower() == other.name.lower() for other in configs):
            problems.append(
                f"{config.name}: differs from another name only in upper and lower case"
            )
        configs.append(config)
    return configs


# --- checking ----------------------------------------------------------------------------------


def _check_baselines(configs: list[ExperimentConfig], problems: list[str]) -> None:
    by_name = {config.name: config for config in configs}
    for config in configs:
        source = config.load_fp32_baseline_from_experiment
        where = f"{config.name}.load_fp32_baseline_from_experiment"
        if source is None:
            continue
        if source not in by_name:
            problems.append(f"{where}: {unknown(source, by_name, 'an experiment')}")
            continue
        seen, at = [config.name], source
        while at in by_name and at not in seen:
            seen.append(at)
            at = by_name[at].load_fp32_baseline_from_experiment or ""
        if at in seen:
            if config.name != min(seen[seen.index(at) :]):
                continue  # the circle is told once, at one of its members
            circle = " → ".join([*seen[seen.index(at) :], at])
            problems.append(f"{where}: baselines go round in a circle: {circle}")
        elif config.is_baseline:
            problems.append(
                f"{where}: a baseline cannot load another; remove the key, or the baseline mark"
            )
        elif not by_name[source].is_baseline:
            problems.append(
                f"{where}: {source!r} is not a baseline; set its is_fp32_baseline_generation"
            )
        epochs = config.training_args.get("initial_train_epochs", 0)
        if epochs != 0:
            problems.append(
                f"{config.name}.training_args.initial_train_epochs: {short(epochs)} beside a "
                "loaded baseline; set it to 0, or remove load_fp32_baseline_from_experiment"
            )


def _chosen(
    configs: list[ExperimentConfig], only: list[str] | None, problems: list[str]
) -> list[ExperimentConfig]:
    """The experiments to run; `only` brings the baselines it needs."""
    names = {config.name for config in configs}
    wanted = set(only or names)
    for name in sorted(wanted - names):
        problems.append(f"--only {name}: {unknown(name, sorted(names))}")
    for config in configs:
        if config.name in wanted and config.load_fp32_baseline_from_experiment:
            wanted.add(config.load_fp32_baseline_from_experiment)
    return [config for config in configs if config.name in wanted]


class _Builder:
    """Turns checked dicts into Experiments, collecting what does not fit."""

    def __init__(
        self,
        defaults: dict[str, dict[str, Any]],
        forced: dict[str, dict[str, Any]],
        device: torch.device,
        data_dir: Path,
        configs: dict[str, ExperimentConfig],
    ):
        self.defaults, self.forced, self.device = defaults, forced, device
        self.data_dir, self.configs = data_dir, configs
        self.problems: list[str] = []
        self.described: dict[DatasetArgs, DataInfo | str] = {}

    def experiments(self, chosen: list[ExperimentConfig]) -> list[Experiment]:
        """Those chosen and the teachers that they name, as the config lists them."""
        waiting = [config.name for config in chosen]
        built = {}
        for name in waiting:  # grows on the way
            experiment = self.experiment(self.configs[name])
            if experiment is not None:
                built[name] = experiment
                wanted = [other for other in needs(experiment) if other in self.configs]
                waiting += [other for other in wanted if other not in waiting]
        return [built[name] for name in self.configs if name in built]

    def experiment(self, config: ExperimentConfig) -> Experiment | None:
        before = len(self.problems)
        source = config.load_fp32_baseline_from_experiment
        baseline = self.configs[source] if source else None
        dataset_args = self.section(config, baseline, "dataset_args")
        training = self.section(config, None, "training_args")
        compression = self.section(config, None, "compression_args")
        data = self.describe(config, dataset_args)
        model_args = self.model_args(config, baseline, data)
        if dataset_args is None or training is None or compression is None or model_args is None:
            return None
        assert data is not None
        if baseline is not None:
            self.check_fit(config, baseline, dataset_args, model_args, data)
        precision = resolve_precision(training.precision, self.device)
        recipe = training.model_copy(update={"precision": precision})
        sequence = self.stages(config, recipe, compression, model_args)
        if len(self.problems) > before:
            return None
        return Experiment(
            name=config.name,
            is_baseline=config.is_baseline,
            baseline=source,
            dataset_args=dataset_args,
            data=data,
            model_args=model_args,
            training=training,
            sequence=sequence,
            seeds=tuple(config.seeds or [training.seed]),
        )

    def merged(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, section: str
    ) -> dict[str, Any]:
        """Defaults, then what the baseline says, then the experiment, then --set."""
        from_baseline = getattr(baseline, section) if baseline else {}
        own, forced = getattr(config, section), dict(self.forced[section])
        if section == "training_args" and config.load_fp32_baseline_from_experiment:
            forced["initial_train_epochs"] = 0
        return {**self.defaults[section], **from_baseline, **own, **forced}

    def section(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, section: str
    ) -> Any:
        value = self.merged(config, baseline, section)
        checked, found = check(SECTION_TYPES[section], value, f"{config.name}.{section}")
        self.problems += found
        return checked

    def describe(self, config: ExperimentConfig, args: DatasetArgs | None) -> DataInfo | None:
        if args is None:
            return None
        if args not in self.described:
            try:
                self.described[args] = describe(args, self.data_dir)
            except DataError as error:
                self.described[args] = str(error)
                self.problems.append(f"{config.name}.dataset_args: {error}")
        found = self.described[args]
        return None if isinstance(found, str) else found

    def model_args(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, data: DataInfo | None
    ) -> dict[str, Any] | None:
        """`model_args` resolved, with the data set's shape filled in."""
        value = self.merged(config, baseline, "model_args")
        where = f"{config.name}.model_args"
        shape = _shape(data) if data is not None else {}
        for key in shape.keys() & value.keys():
            if value[key] not in _spellings(shape[key]):
                self.problems.append(
                    f"{where}.{key}: {short(value[key])} does not fit the data, which has "
                    f"{shape[key]}; remove the key, it comes from the data"
                )
        checked, found = check(ModelArgs, {**value, **shape}, where)
        self.problems += found
        return checked.resolved() if checked is not None and data is not None else None

    def check_fit(
        self,
        config: ExperimentConfig,
        baseline: ExperimentConfig,
        dataset_args: DatasetArgs,
        model_args: dict[str, Any],
        data: DataInfo,
    ) -> None:
        """What the chain says must be what its baseline was trained as."""
        their_data, _ = check(DatasetArgs, self.merged(baseline, None, "dataset_args"), "")
        their_model, _ = check(
            ModelArgs, {**self.merged(baseline, None, "model_args"), **_shape(data)}, ""
        )
        pairs = []
        if their_data is not None:
            pairs.append(("dataset_args", their_data.model_dump(), dataset_args.model_dump()))
        if their_model is not None:
            pairs.append(("model_args", their_model.resolved(), model_args))
        for section, theirs, mine in pairs:
            differing = [key for key in mine if mine[key] != theirs[key]]
            own = {**getattr(config, section), **self.forced[section]}
            for key in [key for key in differing if key in own] or differing:
                self.problems.append(
                    f"{config.name}.{section}.{key}: {short(mine[key])} does not fit baseline "
                    f"{baseline.name}, which has {short(theirs[key])}; remove the key, or train "
                    "another baseline"
                )

    def stages(
        self,
        config: ExperimentConfig,
        training: TrainingArgs,
        compression: CompressionArgs,
        model_args: dict[str, Any],
    ) -> tuple[tuple[str, StageSpec], ...]:
        """The chain's stages in the order written, each Spec complete."""
        where, before = f"{config.name}.compression_args", len(self.problems)
        items = self.written_sequence(config, compression, where)
        if config.is_baseline:
            if config.compression_args:
                self.problems.append(
                    f"{where}: a baseline is only trained; compress it in one that loads it"
                )
            items = []
        if config.load_fp32_baseline_from_experiment is None:
            if training.initial_train_epochs == 0:
                self.problems.append(
                    f"{config.name}: starts from nothing; set load_fp32_baseline_from_experiment, "
                    "or training_args.initial_train_epochs above 0"
                )
            else:
                items = [("train", {}, f"{config.name}.training_args"), *items]
        elif not items and len(self.problems) == before:
            self.problems.append(
                f"{where}: nothing to do; set sequence, pruning_ratio, finetune_epochs or "
                "quantization"
            )
        stages: list[tuple[str, StageSpec]] = []
        kept_float: list[str] | str = []
        for name, options, place in items:
            spec = self.spec(name, options, place, training, compression)
            if spec is None:
                continue
            try:
                spec.check(model_args)
                if (after := spec.outgoing(model_args)) is not model_args:
                    if kept_float != "auto":
                        quantization.float_layer_names(blueprint(after), kept_float)
                    model_args = after
            except ValidationError as error:
                self.problems += explain(error, ModelArgs, f"{place}.student")
            except ValueError as error:
                self.problems.append(f"{place}: {error}")
            stages.append((name, spec))
            kept_float = getattr(spec, "float_layers", kept_float)
            if kept_float and "depth" in spec.settings().get("targets", ()):
                self.problems.append(
                    f"{place}: target 'depth' renumbers the layers, so the float_layers of the "
                    "quantization before it would mean others; prune depth first"
                )
        return tuple(stages)

    def written_sequence(
        self, config: ExperimentConfig, compression: CompressionArgs, where: str
    ) -> list[tuple[str, dict[str, Any], str]]:
        """(stage, options, place) from the explicit sequence or the short form."""
        if compression.sequence is None:
            steps: list[tuple[str, dict[str, Any], str]] = []
            if compression.pruning_ratio > 0:
                steps.append(("prune", {}, where))
            if compression.finetune_epochs > 0:
                steps.append(("finetune", {}, where))
            if compression.quantization is not None:
                steps.append((compression.quantization, {}, where))
            return steps
        if compression.quantization is not None:
            self.problems.append(
                f"{where}.quantization: stands beside sequence; name the stage there instead"
            )
        items = []
        for index, item in enumerate(compression.sequence):
            place = f"{where}.sequence[{index}]"
            if isinstance(item, dict) and len(item) != 1:
                self.problems.append(
                    f"{place}: {short(item)} should be {{stage: options}} with one stage"
                )
                continue
            name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            if name == "train":
                self.problems.append(
                    f"{place}: 'train' comes by itself, from initial_train_epochs; use "
                    "'finetune' here"
                )
            elif name not in STAGES:
                self.problems.append(f"{place}: {unknown(name, STAGES, 'a stage')}")
            else:
                items.append((name, options, place))
        return items

    def spec(
        self,
        name: str,
        options: dict[str, Any],
        place: str,
        training: TrainingArgs,
        compression: CompressionArgs,
    ) -> StageSpec | None:
        kind = STAGES[name].spec
        defaults = kind.defaults(training, compression)
        for key, value in options.items():  # a nested recipe is completed key by key as well
            nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
            defaults[key] = {**defaults[key], **value} if nested else value
        spec, found = check(kind, defaults, place)
        self.problems += found
        if spec is not None:
            precision = resolve_precision("auto", self.device)
            if getattr(spec, "precision", None) == "auto":
                spec = spec.model_copy(update={"precision": precision})
            inner: Any = getattr(spec, "finetune", None)
            if inner is not None and inner.precision == "auto":
                inner = inner.model_copy(update={"precision": precision})
                spec = spec.model_copy(update={"finetune": inner})
        return spec


def _shape(data: DataInfo) -> dict[str, Any]:
    """The model arguments that the data set decides."""
    return {
        "image_size": list(data.image_size),
        "in_channels": data.in_channels,
        "num_classes": len(data.classes),
    }


def _spellings(value: Any) -> list[Any]:
    """The ways to write a shape: [32, 32], (32, 32) or 32."""
    if not isinstance(value, list):
        return [value]
    return [value, tuple(value), *([value[0]] if len(set(value)) == 1 else [])]


def _with_seeds(experiments: tuple[Experiment, ...], explicit: set[str]) -> tuple[Experiment, ...]:
    """Give each the seeds of those that need it; an explicit list must have them."""
    problems: list[str] = []
    result: list[Experiment] = []
    for experiment in reversed(experiments):  # who needs it comes later
        chains = [e for e in reversed(result) if experiment.name in needs(e)]
        seeds = list(experiment.seeds) if experiment.name in explicit or not chains else []
        for chain in chains:
            missing = [seed for seed in chain.seeds if seed not in seeds]
            if missing and experiment.name in explicit:
                role = "baseline" if chain.baseline == experiment.name else "teacher"
                problems.append(
                    f"{chain.name}: seed {missing[0]} is not among the seeds {seeds} of its "
                    f"{role} {experiment.name}; add it there, or remove the {role}'s 'seeds'"
                )
            seeds += missing
        result.append(replace(experiment, seeds=tuple(seeds)))
    stop_at(problems)
    return tuple(reversed(result))
