"""An order study as a plan: one dict of ORDER_STUDIES, and the chains that it comes to.

A chain is an experiment like any other, so the schema checks it and the store shares what chains
have in common: every order of two stages is the beginning of orders of three.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiment.study.config import StudyConfig, WrittenStage
from experiment.suite.config_file import config_values
from experiment.suite.messages import ConfigError, Mistake, entries, members, unknown
from experiment.suite.records import Experiment, Suite
from experiment.suite.schema import suite_of

BASELINE_KEY = "load_fp32_baseline_from_experiment"


class Origin(NamedTuple):
    """Where in a study one of a chain's stages is written."""

    place: str  # e.g. 'stages.P[0] with strengths.P[1]'
    letter: str | None  # None: the finetuning that fills up the epochs


@dataclass(frozen=True)
class Link:
    """One chain of a study."""

    name: str
    order: str  # e.g. 'PQ'
    strengths: tuple[tuple[str, int], ...]  # (letter, number of its strength), by letter
    written: tuple[WrittenStage, ...]  # the sequence as a config says it
    origins: tuple[Origin, ...]  # of each of these

    def config(self, study: StudyConfig) -> dict[str, Any]:
        """The chain as an entry of EXPERIMENT_CONFIGS."""
        return {
            "name": self.name,
            BASELINE_KEY: study.baseline,
            "compression_args": {"sequence": list(self.written)},
            **({"seeds": study.all_seeds} if study.all_seeds else {}),
        }


@dataclass(frozen=True)
class Study:
    """A checked study: its chains, and the suite that runs them."""

    config: StudyConfig
    links: tuple[Link, ...]
    suite: Suite  # every chain at every seed that it may get
    epochs: dict[str, int]  # chain → epochs that it trains after the baseline
    extended: Callable[[Sequence[str]], Study]  # with chains of longer orders; raises ConfigError

    def experiment(self, name: str) -> Experiment:
        return next(e for e in self.suite.experiments if e.name == name)

    def part(self, seeds: Mapping[str, Collection[int]]) -> Suite:
        """The suite of these chains, each at these seeds, with what they start and learn from."""
        chains = {link.name for link in self.links}
        wanted = {seed for name in seeds for seed in seeds[name]}
        experiments = []
        for experiment in self.suite.experiments:
            own = seeds.get(experiment.name, ()) if experiment.name in chains else wanted
            if kept := tuple(seed for seed in experiment.seeds if seed in own):
                experiments.append(replace(experiment, seeds=kept))
        return replace(self.suite, experiments=tuple(experiments))


def load_studies(config: Path | str) -> list[StudyConfig]:
    """The studies of a config module, each by itself sound. Raises ConfigError."""
    return entries(StudyConfig, config_values(Path(config)), "ORDER_STUDIES", "study")


def named_studies(config: Path | str, name: str) -> list[str]:
    """The studies that a name stands for: where `baseline` is a list, one of each baseline."""
    return members(config_values(Path(config)), "ORDER_STUDIES", name)


def load_study(
    config: Path | str,
    name: str,
    *,
    overrides: list[str] | None = None,
    longer: Sequence[str] = (),
) -> Study:
    """Expand and check one study of a config module. Raises ConfigError with all that is wrong.

    `longer` are orders beside the study's own, which `verify` has come to.
    """
    values = config_values(Path(config))
    studies = {own.name: own for own in entries(StudyConfig, values, "ORDER_STUDIES", "study")}
    if name not in studies:
        hint = unknown(name, studies, "a study") if studies else "its ORDER_STUDIES is empty"
        raise ConfigError([Mistake(str(config), hint)])
    study = studies[name]
    if study.verify and (order := study.papers_order()) is not None:
        longer = [order, *longer]
    links = _links(study, list(dict.fromkeys([*study.all_orders(), *longer])))
    suite = _suite(study, links, values, str(config), overrides)
    epochs = _epochs(suite, links)
    if study.epochs is not None:
        links = _topped_up(study, links, epochs)
        suite = _suite(study, links, values, str(config), overrides)
        epochs = _epochs(suite, links)
    _check_budget(study, links, epochs)
    _check_latency(study, suite)
    extended = partial(_extended, config, name, overrides)
    return Study(study, tuple(links), suite, epochs, extended)


def _extended(
    config: Path | str, name: str, overrides: list[str] | None, longer: Sequence[str]
) -> Study:
    return load_study(config, name, overrides=overrides, longer=longer)


def _links(study: StudyConfig, orders: Sequence[str]) -> list[Link]:
    """Every order at every combination of its letters' strengths."""
    links = []
    for order in orders:
        letters = sorted(order)
        counts = [range(len(study.strengths.get(letter, [{}]))) for letter in letters]
        for numbers in itertools.product(*counts):
            strengths = dict(zip(letters, numbers, strict=True))
            written, origins = _written(study, order, strengths)
            tags = [
                f"{letter.lower()}{strengths[letter]}"
                for letter in order
                if len(study.strengths.get(letter, [])) > 1
            ]
            name = "_".join([study.name, order, *(["".join(tags)] if tags else [])])
            links.append(Link(name, order, tuple(strengths.items()), written, origins))
    return links


def _written(
    study: StudyConfig, order: str, strengths: dict[str, int]
) -> tuple[tuple[WrittenStage, ...], tuple[Origin, ...]]:
    """The sequence of an order, and where each of its stages stands in the study."""
    written: list[WrittenStage] = []
    origins = []
    for letter in order:
        for index, item in enumerate(study.sequence(letter)):
            place = f"stages.{letter}" + (
                f"[{index}]" if isinstance(study.stages[letter], list) else ""
            )
            options = study.strengths.get(letter)
            if index == 0 and options:
                stage, own = (item, {}) if isinstance(item, str) else next(iter(item.items()))
                item = {stage: {**own, **options[strengths[letter]]}}
                place += f" with strengths.{letter}[{strengths[letter]}]"
            written.append(item)
            origins.append(Origin(place, letter))
    return tuple(written), tuple(origins)


def _suite(
    study: StudyConfig,
    links: list[Link],
    values: dict[str, Any],
    source: str,
    overrides: list[str] | None,
) -> Suite:
    """The chains as a suite; what is wrong with them is told as the study says it."""
    known = values["EXPERIMENT_CONFIGS"]
    known = list(known) if isinstance(known, list | tuple) else []
    names = [c["name"] for c in known if isinstance(c, dict) and isinstance(c.get("name"), str)]
    if study.baseline not in names:
        text = unknown(study.baseline, names, "an experiment")
        raise ConfigError([Mistake(f"{study.name}.baseline", text)])
    taken = {name.lower() for name in names}
    for link in links:
        if link.name.lower() in taken:
            text = f"its chain {link.name} has an experiment's name; rename that"
            raise ConfigError([Mistake(study.name, text)])
    configs = [*known, *(link.config(study) for link in links)]
    try:
        return suite_of(
            {**values, "EXPERIMENT_CONFIGS": configs},
            source,
            overrides=overrides,
            only=[link.name for link in links],
        )
    except ConfigError as error:
        raise ConfigError(_as_the_study_says(study, links, error.mistakes)) from None


def _as_the_study_says(
    study: StudyConfig, links: list[Link], mistakes: list[Mistake]
) -> list[Mistake]:
    """What is wrong with chains, told of the study, each once; of which chains, if not of all."""
    known: dict[str, tuple[Link, str, str | None]] = {}  # place → chain, place in the study, letter
    for link in links:
        known[link.name] = link, study.name, None
        known[f"{link.name}.{BASELINE_KEY}"] = link, f"{study.name}.baseline", None
        for number, origin in enumerate(link.origins):
            place = f"{link.name}.compression_args.sequence[{number}]"
            known[place] = link, f"{study.name}.{origin.place}", origin.letter
    concerned: dict[tuple[Mistake, str | None], set[str]] = defaultdict(set)  # letter, orders
    for mistake in mistakes:
        begins = [p for p in known if f"{mistake.place}.".startswith((f"{p}.", f"{p}["))]
        if not begins:  # of what the config says besides
            concerned[mistake, None] = set()
            continue
        start = max(begins, key=len)
        link, place, letter = known[start]
        told = mistake._replace(place=place + mistake.place.removeprefix(start))
        concerned[told, letter].add(link.order)
    told_of = []
    for (mistake, letter), orders in concerned.items():
        if letter is not None and orders < {link.order for link in links if letter in link.order}:
            mistake = mistake._replace(text=f"{mistake.text} (in {', '.join(sorted(orders))})")
        told_of.append(mistake)
    return told_of


# --- the epoch budget --------------------------------------------------------------------------


def _epochs(suite: Suite, links: list[Link]) -> dict[str, int]:
    by_name = {experiment.name: experiment for experiment in suite.experiments}
    return {
        link.name: sum(spec.epochs_trained for _, spec in by_name[link.name].sequence)
        for link in links
    }


def _topped_up(study: StudyConfig, links: list[Link], epochs: dict[str, int]) -> list[Link]:
    """The chains, each with as much finetuning at its end as it lacks of the study's epochs."""
    assert study.epochs is not None
    over = [link for link in links if epochs[link.name] > study.epochs]
    if over:
        most = max(over, key=lambda link: epochs[link.name])
        text = (
            f"{study.epochs}, but the stages of {most.name} train {epochs[most.name]}; raise it, "
            "or lower theirs"
        )
        raise ConfigError([Mistake(f"{study.name}.epochs", text)])
    topped = []
    for link in links:
        missing = study.epochs - epochs[link.name]
        if missing:
            link = replace(
                link,
                written=(*link.written, {"finetune": {"epochs": missing}}),
                origins=(*link.origins, Origin("epochs", None)),
            )
        topped.append(link)
    return topped


def _check_budget(study: StudyConfig, links: list[Link], epochs: dict[str, int]) -> None:
    """Orders of the same stages, whatever their strengths, must train equally long."""
    groups: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        groups["".join(sorted(link.order))].append(link)
    for group in groups.values():
        least, most = (pick(group, key=lambda link: epochs[link.name]) for pick in (min, max))
        if epochs[least.name] != epochs[most.name]:
            largest = max(epochs.values())
            text = (
                f"{least.name} trains {epochs[least.name]} epochs and {most.name} "
                f"{epochs[most.name]}, so that they cannot be compared; set 'epochs' to {largest} "
                "or more, and shorter chains finetune at their end for the rest"
            )
            raise ConfigError([Mistake(study.name, text)])


def _check_latency(study: StudyConfig, suite: Suite) -> None:
    """Orders can be compared at equal latency, which is that at batch 1, only where it is timed."""
    for experiment in suite.experiments:
        sizes = experiment.deployment.batch_sizes
        if study.cost == "latency_ms" and 1 not in sizes:
            text = (
                f"'latency_ms' is that of batches of 1, and deployment_args.batch_sizes of "
                f"{experiment.name} is {list(sizes)}; add 1 to it"
            )
            raise ConfigError([Mistake(f"{study.name}.cost", text)])
