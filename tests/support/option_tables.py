"""What the tables of options in docs/ must say: names, defaults and ranges, from the Specs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_sets.source import DatasetArgs
from engines.deployment_args import DeploymentArgs
from experiment.search.config import SearchConfig
from experiment.study.plan import StudyConfig
from experiment.suite.records import ExperimentConfig
from experiment.suite.stop_if import StopIf
from networks.args import ModelArgs
from stages import STAGES
from stages.stage import CompressionArgs, StageSpec
from stages.teaching import TeacherSpec
from training.recipe import Recipe, TrainingArgs

# What a table is about → the class that a config fills in. Every stage of STAGES has one as well.
KINDS: dict[str, type[BaseModel]] = {
    "experiment": ExperimentConfig,
    "stop_if": StopIf,
    "dataset_args": DatasetArgs,
    "model_args": ModelArgs,
    "training_args": TrainingArgs,
    "compression_args": CompressionArgs,
    "deployment_args": DeploymentArgs,
    "study": StudyConfig,
    "search": SearchConfig,
    "teacher": TeacherSpec,
}

# A value other than the default, for each key that stages take defaults from.
OTHERS: dict[str, Any] = {
    "pruning_ratio": 0.3, "pruning_mode": "structural", "finetune_epochs": 7,
    "finetune_learning_rate": 0.5, "quantization_backend": "x86", "ptq_calibration_batches": 9,
    "qat_epochs": 7, "qat_learning_rate": 0.5, "distill_epochs": 7,
}  # fmt: skip


def options_of(kind: str) -> dict[str, tuple[str, str]]:
    """Option → (default, range), as its row of the table must say them."""
    if kind in KINDS:
        model = KINDS[kind]
        shared = set(Recipe.model_fields) if kind == "teacher" else set()
        fields = {name: f for name, f in model.model_fields.items() if name not in shared}
        return {name: (default_of(field), range_of(field)) for name, field in fields.items()}
    spec = STAGES[kind].spec
    keys = _keys(spec)
    plain = spec.defaults(TrainingArgs(), CompressionArgs())
    shared = {**Recipe.model_fields, **TeacherSpec.model_fields}
    found = {}
    for name, field in spec.model_fields.items():
        if name in shared and name not in keys and field.default == shared[name].default:
            continue  # documented once, with the recipe or with teachers
        default = _code(plain[name]) if name in plain and name in keys else default_of(field)
        found[name] = (default + (f" (`{keys[name]}`)" if name in keys else ""), range_of(field))
    return found


def _keys(spec: type[StageSpec]) -> dict[str, str]:
    """Option → the key of compression_args or training_args that it takes its default from."""
    plain = spec.defaults(TrainingArgs(), CompressionArgs())
    found = {}
    for key, other in OTHERS.items():
        changed = spec.defaults(TrainingArgs(), CompressionArgs(**{key: other}))
        found |= {name: key for name in changed if changed[name] != plain.get(name)}
    changed = spec.defaults(TrainingArgs(initial_train_epochs=7), CompressionArgs())
    found |= {name: "initial_train_epochs" for name in changed if changed[name] != plain.get(name)}
    return {name: key for name, key in found.items() if not isinstance(plain.get(name), dict)}


def default_of(field: FieldInfo) -> str:
    return "–" if field.is_required() else _code(field.get_default(call_default_factory=True))


def _code(value: Any) -> str:
    return f"`{value!r}`"


def range_of(field: FieldInfo) -> str:
    """The words and bounds that a field allows; '–' where its type says all there is to say."""
    words = list(dict.fromkeys(_words(field.annotation)))
    bounds = {type(item).__name__: item for item in field.metadata}
    low, high = bounds.get("Ge") or bounds.get("Gt"), bounds.get("Le") or bounds.get("Lt")
    least = getattr(low, "ge", getattr(low, "gt", None))
    most = getattr(high, "le", getattr(high, "lt", None))
    if least is not None and most is not None:
        open_, close = "[" if "Ge" in bounds else "(", "]" if "Le" in bounds else ")"
        words.append(f"{open_}{_number(least)}, {_number(most)}{close}")
    elif least is not None:
        words.append(f"{'≥' if 'Ge' in bounds else '>'} {_number(least)}")
    return ", ".join(words) or "–"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.0f}" if value > 999 else f"{value:g}"


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        return (_code(word) for word in get_args(annotation))
    if annotation is bool:
        return iter([_code(True), _code(False)])
    if get_origin(annotation) is dict:
        return iter([])
    return itertools.chain.from_iterable(_words(part) for part in get_args(annotation))
