"""From a config module to a checked Suite: every mistake is found, and all are listed, before work.

Only this file and main.py read `config.py`. A message says where, what, allowed, remedy.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dataset import DataError, DataInfo, DatasetArgs, describe
from model import ModelArgs
from stages import STAGES
from stages.state import CompressionArgs, StageSpec
from train_eval import TrainingArgs, resolve_precision

SECTIONS = {
    "dataset_args": "DEFAULT_DATASET_CONFIG",
    "model_args": "DEFAULT_MODEL_PARAMS",
    "training_args": "DEFAULT_TRAINING_PARAMS",
    "compression_args": "DEFAULT_COMPRESSION_PARAMS",
}
SECTION_TYPES: dict[str, type[BaseModel]] = {
    "dataset_args": DatasetArgs,
    "model_args": ModelArgs,
    "training_args": TrainingArgs,
    "compression_args": CompressionArgs,
}
CONFIG_NAMES = (
    *("DEVICE", "DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR"),
    *SECTIONS.values(),
    *("EXPERIMENT_CONFIGS", "ORDER_STUDIES"),
)
Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """The config or command line is wrong; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


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

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
            raise ValueError("should have only letters, digits, '_', '-' and '.', and no '.' first")
        return name

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        for seed in seeds or []:
            if not 0 <= seed < 2**31 or (seeds or []).count(seed) > 1:
                raise ValueError("should be different whole numbers from 0 to 2147483647")
        return seeds

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
            "sequence": [{name: spec.model_dump()} for name, spec in self.sequence],
            "seeds": list(self.seeds),
        }


@dataclass(frozen=True)
class Suite:
    """What one run works through; baselines come before the chains that load them."""

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
    values = _config_values(Path(config))
    problems: list[str] = []
    device = _device(values["DEVICE"], problems)
    folders = [
        _folder(values, key, problems) for key in ("DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR")
    ]
    defaults = {}
    for section, key in SECTIONS.items():
        defaults[section] = _default_section(values[key], key, SECTION_TYPES[section], problems)
    configs = _experiment_configs(values["EXPERIMENT_CONFIGS"], problems)
    forced = _overrides(overrides or [], problems)
    _check_baselines(configs, problems)
    _stop_at(problems)
    chosen = _chosen(configs, only, problems)
    _stop_at(problems)
    builder = _Builder(defaults, forced, device, folders[0], {c.name: c for c in configs})
    built = [builder.experiment(c) for c in chosen]
    _stop_at(builder.problems)
    experiments = tuple(experiment for experiment in built if experiment is not None)
    return Suite(str(config), device, *folders, _with_seeds(experiments, configs))


# --- reading the module ------------------------------------------------------------------------


def _config_values(path: Path) -> dict[str, Any]:
    """The config's names, completed from the `config.py` beside main.py."""
    home = Path(__file__).parent.parent / "config.py"
    chosen = _import(path)
    base = chosen if path.resolve() == home.resolve() else _import(home)
    problems = []
    for name in (n for n in vars(chosen) if n.isupper() and n not in CONFIG_NAMES):
        close = difflib.get_close_matches(name, CONFIG_NAMES, 1, cutoff=0.8)
        if close:
            problems.append(f"{path}: {name} is not a name of the suite; did you mean {close[0]}?")
    _stop_at(problems)
    values = {}
    for name in CONFIG_NAMES:
        if hasattr(chosen, name):
            values[name] = getattr(chosen, name)
        elif hasattr(base, name):
            values[name] = getattr(base, name)
        elif name == "ORDER_STUDIES":
            values[name] = []
        else:
            problems.append(f"{path}: {name} is missing; config.py shows its form")
    _stop_at(problems)
    return values


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file; --config takes a Python file"])
    spec = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError([f"{path}: is not a Python file; --config takes a name ending in .py"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError([f"{path}:{error.lineno}: {error.msg}"]) from None
    except Exception as error:  # whatever a user's module raises
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise ConfigError([f"{where}: {type(error).__name__}: {error}"]) from None
    return module


def _device(value: Any, problems: list[str]) -> torch.device:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        problems.append(f"DEVICE: {value!r} is not a device; allowed: 'cpu', 'cuda', 'cuda:1', ...")
        return torch.device("cpu")
    if device.type not in ("cpu", "cuda"):
        problems.append(f"DEVICE: {device.type!r} is not supported; allowed: 'cpu', 'cuda'")
    elif device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        problems.append(f"DEVICE: {str(device)!r} is not on this machine; use 'cpu'")
    return device


def _folder(values: dict[str, Any], key: str, problems: list[str]) -> Path:
    value = values[key]
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        problems.append(f"{key}: {value!r} is not a folder name; give a string")
        return Path()
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        problems.append(f"{key}: {path} is a file; name a folder")
    return path


def _default_section(
    value: Any, key: str, kind: type[BaseModel], problems: list[str]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        problems.append(f"{key}: {_short(value)} is not a dict")
        return {}
    _, found = check(kind, value, key)
    # What only fails as a whole (a pooling too many, say) depends on the data set's shape.
    found = [line for line in found if not line.startswith(f"{key}: ")]
    problems += found
    return value


def _experiment_configs(value: Any, problems: list[str]) -> list[ExperimentConfig]:
    if not isinstance(value, list | tuple) or not value:
        problems.append("EXPERIMENT_CONFIGS: should be a list with at least one experiment's dict")
        return []
    configs: list[ExperimentConfig] = []
    for index, item in enumerate(value):
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        where = item["name"] if named else f"EXPERIMENT_CONFIGS[{index}]"
        if not isinstance(item, dict):
            problems.append(f"{where}: {_short(item)} is not a dict")
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


def _overrides(strings: list[str], problems: list[str]) -> dict[str, dict[str, Any]]:
    """`section.key=value` strings → section → key → value."""
    forced: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for text in strings:
        path, equals, raw = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            problems.append(f"--set {text}: should read section.key=value")
        elif section not in SECTIONS:
            problems.append(f"--set {text}: {_unknown(section, SECTIONS)}")
        elif key not in SECTION_TYPES[section].model_fields:
            problems.append(f"--set {text}: {_unknown(key, SECTION_TYPES[section].model_fields)}")
        else:
            forced[section][key] = _literal(raw.strip())
    return forced


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


# --- checking ----------------------------------------------------------------------------------


def check(kind: type[Model], value: dict[str, Any], where: str) -> tuple[Model | None, list[str]]:
    """`value` as a `kind`, or None and one line for each key that does not fit."""
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        return None, [f"{where}: the key {odd[0]!r} is not a string"]
    try:
        return kind(**value), []
    except ValidationError as error:
        return None, _explain(error, kind, where)


def _explain(error: ValidationError, kind: type[BaseModel], where: str) -> list[str]:
    """One line a key; the branches of a union are joined by 'or'."""
    reasons: dict[str, tuple[Any, list[str]]] = {}
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            key = f"{where}.{location[-1]}"
            reasons[key] = (None, [_unknown(str(location[-1]), kind.model_fields)])
            continue
        key = f"{where}.{location[0]}" if location else where
        key += "".join(f"[{part}]" for part in location[1:] if isinstance(part, int))
        if detail["type"] == "missing":
            reasons[key] = (None, ["is missing"])
            continue
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        _, known = reasons.setdefault(key, (detail["input"], []))
        if message not in known:
            known.append(message)
        if detail["type"] == "value_error" and not location:
            reasons[key] = (None, known)  # the message names its keys itself
    return [
        f"{key}: {f'{_short(value)} ' if value is not None else ''}{' or '.join(messages)}"
        for key, (value, messages) in reasons.items()
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(key: str, allowed: Any) -> str:
    close = difflib.get_close_matches(key, list(allowed), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
    return f"{key!r} is not known; {hint}"


def _check_baselines(configs: list[ExperimentConfig], problems: list[str]) -> None:
    by_name = {config.name: config for config in configs}
    for config in configs:
        source = config.load_fp32_baseline_from_experiment
        where = f"{config.name}.load_fp32_baseline_from_experiment"
        if source is None:
            continue
        if source not in by_name:
            close = difflib.get_close_matches(source, list(by_name), 1)
            baselines = [c.name for c in configs if c.is_baseline]
            hint = (
                f"did you mean {close[0]!r}?"
                if close
                else f"baselines here: {', '.join(baselines) or 'none'}"
            )
            problems.append(f"{where}: there is no experiment {source!r}; {hint}")
            continue
        seen, at = [config.name], source
        while at in by_name and at not in seen:
            seen.append(at)
            at = by_name[at].load_fp32_baseline_from_experiment or ""
        if at in seen:
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
                f"{config.name}.training_args.initial_train_epochs: {_short(epochs)} beside a loaded "
                "baseline; set it to 0, or remove load_fp32_baseline_from_experiment"
            )


def _chosen(
    configs: list[ExperimentConfig], only: list[str] | None, problems: list[str]
) -> list[ExperimentConfig]:
    """The experiments to run, baselines first; `only` brings the baselines it needs."""
    names = {config.name for config in configs}
    wanted = set(only or names)
    for name in sorted(wanted - names):
        problems.append(f"--only {name}: {_unknown(name, sorted(names))}")
    for config in configs:
        if config.name in wanted and config.load_fp32_baseline_from_experiment:
            wanted.add(config.load_fp32_baseline_from_experiment)
    chosen = [config for config in configs if config.name in wanted]
    return sorted(chosen, key=lambda config: not config.is_baseline)


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
        sequence = self.sequence(config, training, compression, model_args)
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
        if data is not None:
            shape = {
                "image_size": list(data.image_size),
                "in_channels": data.in_channels,
                "num_classes": len(data.classes),
            }
            for key in shape.keys() & value.keys():
                given = value[key]
                given = [given, given] if key == "image_size" and isinstance(given, int) else given
                if (
                    given != shape[key]
                    and list(given if isinstance(given, tuple) else ()) != shape[key]
                ):
                    self.problems.append(
                        f"{where}.{key}: {_short(value[key])} does not fit {data.name}, which has "
                        f"{shape[key]}; remove the key, it comes from the data"
                    )
            value = {**value, **shape}
        checked, found = check(ModelArgs, value, where)
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
        theirs, _ = check(DatasetArgs, self.merged(baseline, None, "dataset_args"), "")
        if theirs is not None and theirs != dataset_args:
            self.differs(
                config, baseline, "dataset_args", theirs.model_dump(), dataset_args.model_dump()
            )
        shape = {
            "image_size": list(data.image_size),
            "in_channels": data.in_channels,
            "num_classes": len(data.classes),
        }
        value = {**self.merged(baseline, None, "model_args"), **shape}
        architecture, _ = check(ModelArgs, value, "")
        if architecture is not None and architecture.resolved() != model_args:
            self.differs(config, baseline, "model_args", architecture.resolved(), model_args)

    def differs(
        self,
        config: ExperimentConfig,
        baseline: ExperimentConfig,
        section: str,
        theirs: dict[str, Any],
        mine: dict[str, Any],
    ) -> None:
        for key in mine:
            if mine[key] != theirs[key]:
                self.problems.append(
                    f"{config.name}.{section}.{key}: {_short(mine[key])} does not fit baseline "
                    f"{baseline.name}, which has {_short(theirs[key])}; remove the key, or train "
                    "another baseline"
                )

    def sequence(
        self,
        config: ExperimentConfig,
        training: TrainingArgs,
        compression: CompressionArgs,
        model_args: dict[str, Any],
    ) -> tuple[tuple[str, StageSpec], ...]:
        """The chain's stages in the order written, each Spec complete."""
        where = f"{config.name}.compression_args"
        items = self.written_sequence(config, compression, where)
        if config.is_baseline:
            if config.compression_args:
                self.problems.append(
                    f"{where}: a baseline is only trained; compress it in an experiment that loads it"
                )
            items = []
        if config.load_fp32_baseline_from_experiment is None:
            if training.initial_train_epochs == 0:
                self.problems.append(
                    f"{config.name}: starts from nothing; set load_fp32_baseline_from_experiment, or "
                    "training_args.initial_train_epochs above 0"
                )
            items = [("train", {}, f"{config.name}.training_args"), *items]
        elif not items:
            self.problems.append(
                f"{where}: nothing to do; set pruning_ratio, finetune_epochs, quantization or sequence"
            )
        stages = []
        for name, options, place in items:
            spec = self.spec(name, options, place, training, compression)
            if spec is None:
                continue
            try:
                spec.check(model_args)
            except ValueError as error:
                self.problems.append(f"{place}: {error}")
            stages.append((name, spec))
        return tuple(stages)

    def written_sequence(
        self, config: ExperimentConfig, compression: CompressionArgs, where: str
    ) -> list[tuple[str, dict[str, Any], str]]:
        """(stage, options, place) from the explicit sequence or the short form."""
        if compression.sequence is None:
            short: list[tuple[str, dict[str, Any], str]] = []
            if compression.pruning_ratio > 0:
                short.append(("prune", {}, where))
            if compression.finetune_epochs > 0:
                short.append(("finetune", {}, where))
            if compression.quantization is not None:
                short.append((compression.quantization, {}, where))
            return short
        if compression.quantization is not None:
            self.problems.append(
                f"{where}.quantization: stands beside sequence; name the stage there instead"
            )
        items = []
        for index, item in enumerate(compression.sequence):
            place = f"{where}.sequence[{index}]"
            if isinstance(item, dict) and len(item) != 1:
                self.problems.append(
                    f"{place}: {_short(item)} should be {{stage: options}} with one stage"
                )
                continue
            name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            if name == "train":
                self.problems.append(
                    f"{place}: 'train' comes by itself, from initial_train_epochs; use 'finetune' here"
                )
            elif name not in STAGES:
                close = difflib.get_close_matches(name, list(STAGES), 1)
                hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(STAGES)}"
                self.problems.append(f"{place}: {name!r} is not a stage; {hint}")
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
        spec, found = check(kind, {**defaults, **options}, place)
        self.problems += found
        if spec is not None and getattr(spec, "precision", None) == "auto":
            precision = resolve_precision("auto", self.device)
            spec = spec.model_copy(update={"precision": precision})
        return spec


def _with_seeds(
    experiments: tuple[Experiment, ...], configs: list[ExperimentConfig]
) -> tuple[Experiment, ...]:
    """Give each baseline the seeds that its chains need; an explicit list must have them."""
    explicit = {config.name: config.seeds for config in configs if config.seeds}
    problems, result = [], []
    for experiment in experiments:
        needed = [e for e in experiments if e.baseline == experiment.name]
        seeds = list(experiment.seeds) if experiment.name in explicit or not needed else []
        for chain in needed:
            missing = [seed for seed in chain.seeds if seed not in seeds]
            if missing and experiment.name in explicit:
                problems.append(
                    f"{chain.name}: seed {missing[0]} is not among the seeds {seeds} of its baseline "
                    f"{experiment.name}; add it there, or remove the baseline's 'seeds'"
                )
            seeds += missing
        values = {**vars(experiment), "seeds": tuple(seeds)}
        result.append(Experiment(**values))
    _stop_at(problems)
    return tuple(result)


def _stop_at(problems: list[str]) -> None:
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
