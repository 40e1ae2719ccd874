"""From a config module to a checked Suite: every mistake is found and listed before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiment.suite.builder import Builder
from experiment.suite.config_file import SECTIONS, config_values, folder_of
from experiment.suite.idle import idle_options
from experiment.suite.messages import Mistake, check, short, stop_at, unknown
from experiment.suite.records import Experiment, ExperimentConfig, Suite
from experiment.suite.sections import SECTION_TYPES, default_section, device_of, overrides_of
from experiment.suite.teachers import check_teachers, circles, in_order, needs
from model import HYBRID, architecture_of


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
    mistakes: list[Mistake] = []
    device = device_of(values["DEVICE"], mistakes)
    data_dir, model_dir, results_dir = (
        folder_of(values, key, mistakes) for key in ("DATA_DIR", "MODEL_SAVE_DIR", "RESULTS_DIR")
    )
    defaults = {
        section: default_section(values[key], key, SECTION_TYPES[section], mistakes)
        for section, key in SECTIONS.items()
    }
    configs = _experiment_configs(values["EXPERIMENT_CONFIGS"], mistakes)
    written = [defaults["model_args"], *(config.model_args for config in configs)]
    named = any(architecture_of(args) != HYBRID for args in written)
    named = named or any("model_args.architecture" in text for text in overrides or [])
    forced = overrides_of(overrides or [], mistakes, hybrids_only=not named)
    _check_baselines(configs, mistakes)
    stop_at(mistakes)
    chosen = _chosen(configs, only, mistakes)
    stop_at(mistakes)
    builder = Builder(defaults, forced, device, data_dir, {c.name: c for c in configs})
    experiments = in_order(builder.experiments(chosen), builder.mistakes)
    check_teachers({e.name: e for e in experiments}, builder.configs, builder.mistakes)
    stop_at(builder.mistakes)
    idle = idle_options(experiments, builder.written, builder.configs, defaults, forced)
    experiments = tuple(
        replace(e, remarks=(*builder.remarks[e.name], *idle[e.name])) for e in experiments
    )
    explicit = {c.name for c in configs if c.seeds or "seed" in c.training_args}
    experiments = _with_seeds(experiments, explicit)
    return Suite(source, device, data_dir, model_dir, results_dir, experiments)


def _experiment_configs(value: Any, mistakes: list[Mistake]) -> list[ExperimentConfig]:
    if not isinstance(value, list | tuple) or not value:
        text = "should be a list with at least one experiment's dict"
        mistakes.append(Mistake("EXPERIMENT_CONFIGS", text))
        return []
    configs: list[ExperimentConfig] = []
    for index, item in enumerate(value):
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        where = item["name"] if named else f"EXPERIMENT_CONFIGS[{index}]"
        if not isinstance(item, dict):
            mistakes.append(Mistake(where, f"{short(item)} is not a dict"))
            continue
        config, found = check(ExperimentConfig, item, where)
        mistakes += found
        if config is None:
            continue
        if any(config.name == other.name for other in configs):
            mistakes.append(Mistake(config.name, "this name stands twice; names must be unique"))
        elif any(config.name.lower() == other.name.lower() for other in configs):
            text = "differs from another name only in upper and lower case"
            mistakes.append(Mistake(config.name, text))
        configs.append(config)
    return configs


def _check_baselines(configs: list[ExperimentConfig], mistakes: list[Mistake]) -> None:
    by_name = {config.name: config for config in configs}
    loaded = {c.name: c.load_fp32_baseline_from_experiment for c in configs}
    found = list(circles({name: [of] if of in by_name else [] for name, of in loaded.items()}))
    for circle in found:
        text = f"baselines go round in a circle: {' → '.join(circle)}"
        mistakes.append(Mistake(f"{circle[0]}.load_fp32_baseline_from_experiment", text))
    in_circles = {name for circle in found for name in circle}
    for config in configs:
        source = loaded[config.name]
        where = f"{config.name}.load_fp32_baseline_from_experiment"
        if source is None or in_circles & {config.name, source}:
            continue
        if source not in by_name:
            mistakes.append(Mistake(where, unknown(source, by_name, "an experiment")))
            continue
        if config.is_baseline:
            text = "a baseline cannot load another; remove the key, or the baseline mark"
            mistakes.append(Mistake(where, text))
        elif not by_name[source].is_baseline:
            text = f"{source!r} is not a baseline; set its is_fp32_baseline_generation"
            mistakes.append(Mistake(where, text))
        epochs = config.training_args.get("initial_train_epochs", 0)
        if epochs != 0:
            text = (
                f"{short(epochs)} beside a loaded baseline; set it to 0, or remove "
                "load_fp32_baseline_from_experiment"
            )
            place = f"{config.name}.training_args.initial_train_epochs"
            mistakes.append(Mistake(place, text))


def _chosen(
    configs: list[ExperimentConfig], only: list[str] | None, mistakes: list[Mistake]
) -> list[ExperimentConfig]:
    """The experiments to run; `only` brings the baselines it needs."""
    names = {config.name for config in configs}
    wanted = set(only or names)
    for name in sorted(wanted - names):
        mistakes.append(Mistake(f"--only {name}", unknown(name, sorted(names))))
    for config in configs:
        if config.name in wanted and config.load_fp32_baseline_from_experiment:
            wanted.add(config.load_fp32_baseline_from_experiment)
    return [config for config in configs if config.name in wanted]


def _with_seeds(experiments: tuple[Experiment, ...], explicit: set[str]) -> tuple[Experiment, ...]:
    """Give each the seeds of those that need it; an explicit list must have them."""
    mistakes: list[Mistake] = []
    result: list[Experiment] = []
    for experiment in reversed(experiments):  # who needs it comes later
        chains = [e for e in reversed(result) if experiment.name in needs(e)]
        seeds = list(experiment.seeds) if experiment.name in explicit or not chains else []
        for chain in chains:
            missing = [seed for seed in chain.seeds if seed not in seeds]
            if missing and experiment.name in explicit:
                role = "baseline" if chain.baseline == experiment.name else "teacher"
                text = (
                    f"seed {missing[0]} is not among the seeds {seeds} of its {role} "
                    f"{experiment.name}; add it there, or remove the {role}'s 'seeds'"
                )
                mistakes.append(Mistake(chain.name, text))
            seeds += missing
        result.append(replace(experiment, seeds=tuple(seeds)))
    stop_at(mistakes)
    return tuple(reversed(result))
