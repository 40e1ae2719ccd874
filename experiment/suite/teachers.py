"""Which network teaches: what the names in a suite mean, whether it can, and who runs first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from experiment.suite.messages import unknown

if TYPE_CHECKING:
    from experiment.suite.records import Experiment
    from stages.stage import StageSpec


WORDS = ("baseline", "current")  # where the chain starts; the network as it enters the stage


def teacher_names(experiment: Experiment) -> list[str]:
    """The experiments whose final networks teach in this one."""
    named = [teacher_of(spec) for _, spec in experiment.sequence]
    return [name for name in dict.fromkeys(named) if name is not None and name not in WORDS]


def teacher_of(spec: StageSpec) -> str | None:
    """The teacher that a stage names, if it takes one."""
    return getattr(spec, "teacher", None)


def needs(experiment: Experiment) -> list[str]:
    """The experiments that must have run before this one."""
    own = [experiment.baseline] if experiment.baseline else []
    return [*own, *teacher_names(experiment)]


def in_order(experiments: Iterable[Experiment], problems: list[str]) -> tuple[Experiment, ...]:
    """Baselines first, then as they stand, except that each comes after what it needs."""
    by_name = {experiment.name: experiment for experiment in experiments}
    order: dict[str, Experiment] = {}
    path: list[str] = []

    def visit(experiment: Experiment) -> None:
        name = experiment.name
        if name in order:
            return
        if name in path:
            circle = " → ".join([*path[path.index(name) :], name])
            problems.append(f"{name}.compression_args: teachers go round in a circle: {circle}")
            return
        path.append(name)
        for other in needs(experiment):
            if other in by_name:
                visit(by_name[other])
        path.pop()
        order[name] = experiment

    for experiment in sorted(by_name.values(), key=lambda e: not e.is_baseline):
        visit(experiment)
    return tuple(order.values())


def check_teachers(
    experiments: dict[str, Experiment], names: Iterable[str], problems: list[str]
) -> None:
    """Add a line for each teacher that is not there, or cannot teach. `names` are all there are."""
    names = list(names)
    for experiment in experiments.values():
        for place, spec, args, int8 in _taught_stages(experiment):
            name = teacher_of(spec)
            if name in WORDS and name in names:
                problems.append(f"{place}: {name!r} is also an experiment's name; rename that")
            elif name not in WORDS and name not in names:
                problems.append(f"{place}: {unknown(str(name), [*WORDS, *names], 'a teacher')}")
            if name == "current":
                _check(spec, place, args, args, int8, problems)
            elif name == "baseline":
                _check(spec, place, args, experiment.model_args, False, problems)
            elif name in experiments:
                teacher = experiments[name]
                if _data(teacher) != _data(experiment):
                    problems.append(
                        f"{place}: {name!r} learned from {_described(teacher)}, this experiment "
                        f"learns from {_described(experiment)}; choose a teacher of the same data"
                    )
                else:
                    final, teacher_int8 = _final(teacher)
                    _check(spec, place, args, final, teacher_int8, problems)


def _check(
    spec: Any,
    place: str,
    args: dict[str, Any],
    teacher_args: dict[str, Any],
    int8: bool,
    problems: list[str],
) -> None:
    try:
        spec.check_teacher(spec.outgoing(args), teacher_args, int8)
    except ValueError as error:
        problems.append(f"{place}: {error}")


def _taught_stages(
    experiment: Experiment,
) -> Iterator[tuple[str, StageSpec, dict[str, Any], bool]]:
    """Place in the config, Spec, and the architecture that enters and whether it is int8."""
    own = 1 if experiment.baseline is None else 0  # the train stage is not in the config's list
    args, int8 = experiment.model_args, False
    for number, (_, spec) in enumerate(experiment.sequence):
        if teacher_of(spec) is not None:
            place = f"{experiment.name}.compression_args.sequence[{number - own}].teacher"
            yield place, spec, args, int8
        args, int8 = spec.outgoing(args), int8 or hasattr(spec, "quant")


def _final(experiment: Experiment) -> tuple[dict[str, Any], bool]:
    """The architecture that an experiment ends with, and whether it is int8."""
    args, int8 = experiment.model_args, False
    for _, spec in experiment.sequence:
        args, int8 = spec.outgoing(args), int8 or hasattr(spec, "quant")
    return args, int8


def _data(experiment: Experiment) -> tuple[Any, float]:
    return experiment.data, experiment.dataset_args.validation_share


def _described(experiment: Experiment) -> str:
    data, args = experiment.data, experiment.dataset_args
    where = f" in {args.root}" if args.root else ""
    return (
        f"{data.name}{where} ({len(data.classes)} classes, {data.in_channels}×"
        f"{data.image_size[0]}×{data.image_size[1]}, validation_share {args.validation_share})"
    )
