"""Which network teaches: what the names in a suite mean, whether it can, and who runs first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from experiment.suite.messages import Mistake, unknown
from experiment.suite.records import Experiment, Outline, Passage

WORDS = ("baseline", "current")  # where the chain starts; the network as it enters the stage


def teacher_names(experiment: Experiment) -> list[str]:
    """The experiments whose final networks teach in this one."""
    named = [spec.teacher_name for _, spec in experiment.sequence]
    return [name for name in dict.fromkeys(named) if name is not None and name not in WORDS]


def needs(experiment: Experiment) -> list[str]:
    """The experiments that must have run before this one."""
    own = [experiment.baseline] if experiment.baseline else []
    return [*own, *teacher_names(experiment)]


def circles(needed: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Where names need one another in a circle, from the alphabetically first: ['C', 'E', 'C']."""
    left = {name: list(others) for name, others in needed.items()}
    while True:
        try:
            TopologicalSorter(left).prepare()
            return
        except CycleError as error:
            circle = error.args[1][:0:-1]  # told backwards and closed; here each needs the next
        start = circle.index(min(circle))
        yield [*circle[start:], *circle[: start + 1]]
        left = {
            name: [other for other in others if other not in circle]
            for name, others in left.items()
            if name not in circle
        }


def in_order(experiments: Iterable[Experiment], mistakes: list[Mistake]) -> tuple[Experiment, ...]:
    """Baselines first, then as they stand, except that each comes after what it needs."""
    baselines_first = sorted(experiments, key=lambda e: not e.is_baseline)
    by_name = {experiment.name: experiment for experiment in baselines_first}
    needed = {name: [n for n in needs(e) if n in by_name] for name, e in by_name.items()}
    found = list(circles(needed))
    for circle in found:
        text = f"teachers go round in a circle: {' → '.join(circle)}"
        mistakes.append(Mistake(f"{circle[0]}.compression_args", text))
    if found:
        return tuple(by_name.values())
    order: dict[str, Experiment] = {}

    def visit(name: str) -> None:
        for other in needed[name]:
            if other not in order:
                visit(other)
        order[name] = by_name[name]

    for name in by_name:
        if name not in order:
            visit(name)
    return tuple(order.values())


def check_teachers(
    experiments: dict[str, Experiment], names: Iterable[str], mistakes: list[Mistake]
) -> None:
    """Note each teacher that is not there, or cannot teach. `names` are all there are."""
    names = list(names)
    for experiment in experiments.values():
        for place, passage in _taught(experiment):
            name, own = passage.spec.teacher_name, passage.entering
            if name in WORDS and name in names:
                text = f"{name!r} is also an experiment's name; rename that"
                mistakes.append(Mistake(place, text))
            elif name not in WORDS and name not in names:
                text = unknown(str(name), [*WORDS, *names], "a teacher")
                mistakes.append(Mistake(place, text))
            if name == "current":
                _check(passage, place, own, mistakes)
            elif name == "baseline":
                _check(passage, place, Outline(experiment.model_args), mistakes)
            elif name in experiments:
                teacher = experiments[name]
                if teacher.stop_if.bounds:
                    text = (
                        f"{name!r} has a stop_if, by which the network that teaches may never be "
                        "made; remove that, or choose another teacher"
                    )
                    mistakes.append(Mistake(place, text))
                if _data(teacher) != _data(experiment):
                    text = (
                        f"{name!r} learned from {_described(teacher)}, this experiment learns "
                        f"from {_described(experiment)}; choose a teacher of the same data"
                    )
                    mistakes.append(Mistake(place, text))
                else:
                    *_, last = teacher.passages()
                    _check(passage, place, last.leaving, mistakes)


def _check(passage: Passage, place: str, teacher: Outline, mistakes: list[Mistake]) -> None:
    student_args = passage.leaving.model_args
    try:
        passage.spec.check_teacher(student_args, teacher.model_args, teacher.rounded)
    except ValueError as error:
        mistakes.append(Mistake(place, str(error)))


def _taught(experiment: Experiment) -> Iterator[tuple[str, Passage]]:
    """The stages that have a teacher, and where the config names it."""
    own = 1 if experiment.baseline is None else 0  # the train stage is not in the config's list
    for number, passage in enumerate(experiment.passages()):
        if passage.spec.teacher_name is not None:
            place = f"{experiment.name}.compression_args.sequence[{number - own}].teacher"
            yield place, passage


def _data(experiment: Experiment) -> tuple[Any, dict[str, float | int]]:
    """What must be the same; files beside the images, as a copy may lack them, need not."""
    return experiment.data._replace(listing=None, warnings=()), experiment.dataset_args.split()


def _described(experiment: Experiment) -> str:
    data, args = experiment.data, experiment.dataset_args
    where = f" in {args.root}" if args.root else ""
    where += f" by fit {args.fit!r}" if data.fit != "crop" else ""
    split = ", ".join(f"{key} {value}" for key, value in args.split().items())
    return (
        f"{data.name}{where} ({len(data.classes)} classes, {data.in_channels}×"
        f"{data.image_size[0]}×{data.image_size[1]}, {split})"
    )
