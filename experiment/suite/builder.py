"""Completes each experiment from defaults, baseline, its own words and --set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from data_sets.source import DataError, DataInfo, DatasetArgs
from dataset import describe
from experiment.suite.messages import check, explain, short, unknown
from experiment.suite.records import Experiment, ExperimentConfig
from experiment.suite.sections import SECTION_TYPES
from experiment.suite.teachers import needs
from methods.quantization.record import float_layer_names
from model import blueprint
from networks.args import ModelArgs
from stages import STAGES
from stages.stage import CompressionArgs, StageSpec
from training.recipe import TrainingArgs, resolve_precision


class Builder:
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
                        float_layer_names(blueprint(after), kept_float)
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
