"""Completes each experiment from defaults, baseline, its own words and --set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from data_sets.source import DataError, DataInfo, DatasetArgs
from dataset import DATASET_REGISTRY, describe
from engines.deployment_args import DeploymentArgs
from experiment.suite.config_file import SECTIONS
from experiment.suite.idle import WrittenStage
from experiment.suite.messages import Mistake, check, explain, short, unknown
from experiment.suite.networks import check_student, checked_args, checked_start, layered
from experiment.suite.records import Experiment, ExperimentConfig, Outline
from experiment.suite.sections import SECTION_TYPES
from experiment.suite.stop_if import StopIf
from experiment.suite.teachers import needs
from methods.quantization.record import check_something_is_int8
from model import blueprint
from networks.args import ModelArgs
from networks.foreign import NetworkError
from networks.pretrained import Start
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
        self.mistakes: list[Mistake] = []
        self.described: dict[DatasetArgs, DataInfo | None] = {}
        self.written: dict[str, list[WrittenStage]] = {}  # of each experiment
        self.remarks: dict[str, list[str]] = {}  # on each experiment

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
        before = len(self.mistakes)
        source = config.load_fp32_baseline_from_experiment
        baseline = self.configs[source] if source else None
        dataset_args = self.section(config, baseline, "dataset_args")
        training = self.section(config, None, "training_args")
        compression = self.section(config, None, "compression_args")
        deployment = self.section(config, None, "deployment_args")
        stop_if = self.stop_if(config)
        data = self.describe(config, baseline, dataset_args)
        model_args = self.model_args(config, baseline, data)
        sections = (dataset_args, training, compression, deployment)
        if any(section is None for section in sections) or model_args is None:
            return None
        if data is None or stop_if is None:
            return None
        if baseline is not None:
            self.check_fit(config, baseline, dataset_args, model_args, data)
        precision = resolve_precision(training.precision, self.device)
        allowed = DATASET_REGISTRY[dataset_args.name].flip
        flip = allowed if training.flip == "auto" else training.flip
        recipe = training.model_copy(update={"precision": precision, "flip": flip})
        sequence = self.stages(config, recipe, compression, deployment, model_args)
        if len(self.mistakes) > before:
            return None
        return Experiment(
            name=config.name,
            is_baseline=config.is_baseline,
            baseline=source,
            dataset_args=dataset_args,
            data=data,
            model_args=model_args,
            training=training,
            deployment=deployment,
            sequence=sequence,
            seeds=tuple(config.seeds or [training.seed]),
            stop_if=stop_if,
        )

    def merged(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, section: str
    ) -> dict[str, Any]:
        """Defaults, then what the baseline says, then the experiment, then --set."""
        from_baseline = getattr(baseline, section) if baseline else {}
        own, forced = getattr(config, section), dict(self.forced[section])
        if section == "model_args":
            return layered([self.defaults[section], from_baseline, own, forced])
        if section == "training_args" and config.load_fp32_baseline_from_experiment:
            forced["initial_train_epochs"] = 0
        return {**self.defaults[section], **from_baseline, **own, **forced}

    def section(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, section: str
    ) -> Any:
        value = self.merged(config, baseline, section)
        checked, found = check(SECTION_TYPES[section], value, f"{config.name}.{section}")
        self.mistakes += found
        return checked

    def stop_if(self, config: ExperimentConfig) -> StopIf | None:
        """When the chain is stopped; None where what is written cannot be."""
        where = f"{config.name}.stop_if"
        checked, found = check(StopIf, config.stop_if, where)
        self.mistakes += found
        if config.is_baseline and config.stop_if:
            text = "a baseline is not stopped, as chains start from it; remove the key"
            self.mistakes.append(Mistake(where, text))
        elif (
            config.load_fp32_baseline_from_experiment is None and "accuracy_drop" in config.stop_if
        ):
            text = (
                "is a drop below the baseline, and none is loaded; set "
                "load_fp32_baseline_from_experiment, or bound 'accuracy' or 'loss'"
            )
            self.mistakes.append(Mistake(f"{where}.accuracy_drop", text))
        return checked

    def describe(
        self,
        config: ExperimentConfig,
        baseline: ExperimentConfig | None,
        args: DatasetArgs | None,
    ) -> DataInfo | None:
        if args is None:
            return None
        if args not in self.described:
            try:
                self.described[args] = describe(args, self.data_dir)
            except DataError as error:
                self.described[args] = None
                place = self.place_of_data(config, baseline, error.key)
                self.mistakes.append(Mistake(place, error.text))
        return self.described[args]

    def place_of_data(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, key: str | None
    ) -> str:
        """Where a key of `dataset_args` was written; in the experiment where nobody wrote it."""
        if key is None:
            return f"{config.name}.dataset_args"
        if key in self.forced["dataset_args"]:
            return f"--set dataset_args.{key}"
        for owner in (config, baseline):
            if owner is not None and key in owner.dataset_args:
                return f"{owner.name}.dataset_args.{key}"
        if key in self.defaults["dataset_args"]:
            return f"{SECTIONS['dataset_args']}.{key}"
        return f"{config.name}.dataset_args.{key}"

    def model_args(
        self, config: ExperimentConfig, baseline: ExperimentConfig | None, data: DataInfo | None
    ) -> dict[str, Any] | None:
        """`model_args` resolved, with the data set's shape filled in."""
        value = self.merged(config, baseline, "model_args")
        where = f"{config.name}.model_args"
        shape = _shape(data) if data is not None else {}
        for key in shape.keys() & value.keys():
            if value[key] not in _spellings(shape[key]):
                text = (
                    f"{short(value[key])} does not fit the data, which has {shape[key]}; remove "
                    "the key, it comes from the data"
                )
                self.mistakes.append(Mistake(f"{where}.{key}", text))
        resolved, found = checked_args(value, shape, where)
        self.mistakes += found
        return resolved if data is not None else None

    def start(self, config: ExperimentConfig, model_args: dict[str, Any]) -> Start | None:
        """The weights that the network's training starts from, where the config names some."""
        value = self.merged(config, None, "model_args")
        start, found = checked_start(value, model_args, f"{config.name}.model_args")
        self.mistakes += found
        return start

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
        their_model, _ = checked_args(self.merged(baseline, None, "model_args"), _shape(data), "")
        pairs = []
        if their_data is not None:
            pairs.append(("dataset_args", their_data.model_dump(), dataset_args.model_dump()))
        if their_model is not None:
            pairs.append(("model_args", their_model, model_args))
        for section, theirs, mine in pairs:
            mine = {**dict.fromkeys(theirs), **mine}
            differing = [key for key in mine if mine[key] != theirs.get(key)]
            own = {**getattr(config, section), **self.forced[section]}
            for key in [key for key in differing if key in own] or differing:
                text = (
                    f"{short(mine[key])} does not fit baseline {baseline.name}, which has "
                    f"{short(theirs.get(key))}; remove the key, or train another baseline"
                )
                self.mistakes.append(Mistake(f"{config.name}.{section}.{key}", text))

    def stages(
        self,
        config: ExperimentConfig,
        training: TrainingArgs,
        compression: CompressionArgs,
        deployment: DeploymentArgs,
        model_args: dict[str, Any],
    ) -> tuple[tuple[str, StageSpec], ...]:
        """The chain's stages in the order written, each Spec complete."""
        where, before = f"{config.name}.compression_args", len(self.mistakes)
        items = self.written_sequence(config, compression, where)
        remarks = self.remarks.setdefault(config.name, [])
        if config.is_baseline:
            if config.compression_args:
                text = "a baseline is only trained; compress it in one that loads it"
                self.mistakes.append(Mistake(where, text))
            items = []
        if config.load_fp32_baseline_from_experiment is None:
            if training.initial_train_epochs == 0:
                text = (
                    "starts from nothing; set load_fp32_baseline_from_experiment, or "
                    "training_args.initial_train_epochs above 0"
                )
                self.mistakes.append(Mistake(config.name, text))
            else:
                start = self.start(config, model_args)
                options = {"start": start._asdict()} if start is not None else {}
                items = [WrittenStage("train", options, f"{config.name}.training_args"), *items]
        elif not items and len(self.mistakes) == before:
            text = "nothing to do; set sequence, pruning_ratio, finetune_epochs or quantization"
            self.mistakes.append(Mistake(where, text))
        self.written[config.name] = items
        stages: list[tuple[str, StageSpec]] = []
        outline = Outline(model_args)
        for name, options, place in items:
            spec = self.spec(name, options, place, training, compression)
            if spec is None:
                continue
            stages.append((name, spec))
            why = None if spec.runs_in_torch else deployment.why_not_beside_torch()
            if why is not None:
                self.mistakes.append(Mistake(place, f"{name} {why}"))
            if outline.kept_float and spec.renumbers_layers:
                text = (
                    "target 'depth' renumbers the layers, so the float_layers of the "
                    "quantization before it would mean others; prune depth first"
                )
                self.mistakes.append(Mistake(place, text))
            try:
                remarks += [r for r in spec.remarks(outline.model_args) if r not in remarks]
                outline = after_checks(spec, outline)
                continue
            except ValidationError as error:
                self.mistakes += explain(error, ModelArgs, f"{place}.student")
            except NetworkError as error:
                at = f"{place}.student.{error.key}" if error.key else place
                self.mistakes.append(Mistake(at, error.text))
            except ValueError as error:
                self.mistakes.append(Mistake(place, str(error)))
            outline = outline.after(spec, refused=True)
        return tuple(stages)

    def written_sequence(
        self, config: ExperimentConfig, compression: CompressionArgs, where: str
    ) -> list[WrittenStage]:
        """The stages of the explicit sequence or of the short form."""
        if compression.sequence is None:
            asked = {
                "prune": compression.pruning_ratio > 0,
                "finetune": compression.finetune_epochs > 0,
                str(compression.quantization): compression.quantization is not None,
            }
            return [WrittenStage(name, {}, where) for name in asked if asked[name]]
        if compression.quantization is not None:
            text = "stands beside sequence; name the stage there instead"
            self.mistakes.append(Mistake(f"{where}.quantization", text))
        items = []
        for index, item in enumerate(compression.sequence):
            place = f"{where}.sequence[{index}]"
            if isinstance(item, dict) and len(item) != 1:
                text = f"{short(item)} should be {{stage: options}} with one stage"
                self.mistakes.append(Mistake(place, text))
                continue
            name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            if name == "train":
                text = "'train' comes by itself, from initial_train_epochs; use 'finetune' here"
                self.mistakes.append(Mistake(place, text))
            elif name not in STAGES:
                self.mistakes.append(Mistake(place, unknown(name, STAGES, "a stage")))
            else:
                items.append(WrittenStage(name, options, place))
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
        self.mistakes += found
        try:
            return spec.settled(self.device) if spec is not None else None
        except ValueError as error:
            self.mistakes.append(Mistake(place, str(error)))
            return None


def after_checks(spec: StageSpec, entering: Outline) -> Outline:
    """The network that a stage leaves, in outline. Raises ValueError for what cannot be done."""
    spec.check(entering.model_args)
    spec.check_target(entering.model_args, entering.rounded, entering.exact)
    if entering.frozen:
        spec.check_frozen()
    leaving = entering.after(spec)
    check_student(entering.model_args, leaving.model_args)
    if leaving.model_args is not entering.model_args and entering.kept_float != "auto":
        check_something_is_int8(blueprint(leaving.model_args), entering.kept_float)
    if leaving.exact and leaving.exits_by is not None:
        leaving.exits_by.check_leaving_early(leaving.model_args)
    return leaving


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
