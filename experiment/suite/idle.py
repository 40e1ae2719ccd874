"""Options that a user wrote and that have no effect, since another leaves them without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from experiment.suite.config_file import SECTIONS
from experiment.suite.records import Experiment, ExperimentConfig
from experiment.suite.sections import SECTION_TYPES
from model import HYBRID, architecture_of
from networks.args import ModelArgs
from stages.stage import StageSpec

# What the whole of an experiment goes by, not one of its stages.
ALWAYS = {
    *(f"training_args.{key}" for key in ("seed", "deterministic", "initial_train_epochs")),
    *(f"compression_args.{key}" for key in ("sequence", "quantization")),
}
# The other DEFAULT_* are of parts and stages that an experiment may have or not.
ARE_OF_ALL = ("dataset_args", "training_args")


class WrittenStage(NamedTuple):
    """A stage as a config has it."""

    name: str
    options: dict[str, Any]
    place: str  # e.g. 'Serial_P40.compression_args.sequence[1]'


@dataclass
class Effects:
    """Which keys ('training_args.gamma') have an effect in an experiment, and why others have none.

    `lines` are of the options that stages have beside them.
    """

    used: set[str] = field(default_factory=lambda: set(ALWAYS))
    idle: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add_stage(self, spec: StageSpec, options: Mapping[str, Any], place: str) -> None:
        """Count a stage, and the one inside it (finetuning between cuts)."""
        idle = spec.idle()
        self.lines += [f"{place}.{key} has no effect {idle[key]}" for key in options if key in idle]
        for option, key in spec.takes.items():
            if option in options:
                self.idle.setdefault(key, "as the stages that take it say their own")
            elif option in idle:
                self.idle[key] = idle[option]
            else:
                self.used.add(key)
        for option in type(spec).model_fields.keys() - idle.keys():
            if isinstance(inner := getattr(spec, option), StageSpec):
                self.add_stage(inner, options.get(option) or {}, f"{place}.{option}")

    def add_section(self, section: str, idle: Mapping[str, str]) -> None:
        """Count a section that says itself what is idle in it."""
        for key in SECTION_TYPES[section].model_fields:
            if key in idle:
                self.idle[f"{section}.{key}"] = idle[key]
            else:
                self.used.add(f"{section}.{key}")


def effects(experiment: Experiment, written: Iterable[WrittenStage]) -> Effects:
    found = Effects()
    for stage, (_, spec) in zip(written, experiment.sequence, strict=True):
        place = stage.place.removeprefix(f"{experiment.name}.")
        found.add_stage(spec, stage.options, place)
    if experiment.stop_if.bounds and len(experiment.sequence) == 1:
        found.lines.append("stop_if has no effect as no stage comes after the only one")
    networks = [passage.leaving.model_args for passage in experiment.passages()]
    for args in [experiment.model_args, *networks]:  # a student may be of another fusion
        if architecture_of(args) == HYBRID:
            found.add_section("model_args", ModelArgs(**args).idle())
        else:
            found.used |= {f"model_args.{key}" for key in (*args, "weights")}
    found.add_section("dataset_args", experiment.dataset_args.idle())
    found.add_section("deployment_args", {})
    return found


def idle_options(
    experiments: Iterable[Experiment],
    written: Mapping[str, list[WrittenStage]],
    configs: Mapping[str, ExperimentConfig],
    defaults: Mapping[str, dict[str, Any]],
    forced: Mapping[str, dict[str, Any]],
) -> dict[str, list[str]]:
    """Experiment → a line for each option that is written and has no effect, as seen from there.

    One of a single experiment counts there, one of DEFAULT_* or --set where no experiment heeds it.
    """
    found = {e.name: effects(e, written[e.name]) for e in experiments}
    lines = {name: list(one.lines) for name, one in found.items()}
    for name, one in found.items():
        for section in SECTIONS:
            own = getattr(configs[name], section)
            lines[name] += _lines(f"{section}.", section, own, [one])
    for section, default in SECTIONS.items():
        shared = _lines(f"--set {section}.", section, forced[section], list(found.values()))
        if section in ARE_OF_ALL:
            shared += _lines(f"{default}.", section, defaults[section], list(found.values()))
        for own_lines in lines.values():
            own_lines += shared
    return lines


def _lines(place: str, section: str, values: Mapping[str, Any], found: list[Effects]) -> list[str]:
    """A line for each key of `values` that has an effect in none of `found`."""
    fields = SECTION_TYPES[section].model_fields
    lines = []
    for key, value in values.items():
        full = f"{section}.{key}"
        off = not value and key in fields and value == fields[key].default
        if any(full in one.used for one in found) or off:
            continue  # what is off where it is off by default was not meant to have an effect
        why = [one.idle[full] for one in found if full in one.idle]
        lines.append(f"{place}{key} has no effect {why[0] if why else 'as no stage takes it'}")
    return lines
