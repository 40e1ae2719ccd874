"""An order study as a plan: one dict of ORDER_STUDIES, and the chains that it comes to.

A chain is an experiment like any other, so the schema checks it and the store shares what chains
have in common: every order of two stages is the beginning of orders of three.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from experiment.suite.config_file import config_values
from experiment.suite.messages import ConfigError, check, short, stop_at, unknown
from experiment.suite.records import Experiment, Suite, distinct_seeds, file_name
from experiment.suite.schema import suite_of
from stages.stage import StageSpec

Written = str | dict[str, dict[str, Any]]  # a stage as a sequence names it


class StudyConfig(BaseModel):
    """One dict of ORDER_STUDIES."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=60)
    baseline: str  # the experiment that every chain starts from
    stages: dict[str, Written | list[Written]] = Field(min_length=1)  # letter → stage or stages
    # 'pairs': each stage alone and every order of two; 'permutations': of two or more;
    # or a list, e.g. ['PQ', 'QP', 'DPQ']
    orders: Literal["pairs", "permutations"] | list[str] = "pairs"
    # letter → options over its first stage, one dict a strength; chains take every combination
    strengths: dict[str, list[dict[str, Any]]] = {}
    seeds: list[int] | None = Field(None, min_length=1)
    epochs: int | None = Field(None, ge=1)  # that every chain spends; shorter ones finetune at last
    cost: Literal["bitops", "latency_ms"] = "bitops"  # at which orders are compared
    confidence: float = Field(0.95, ge=0.5, lt=1)  # of the intervals

    _file_name = field_validator("name")(file_name)
    _distinct = field_validator("seeds")(distinct_seeds)

    def sequence(self, letter: str) -> list[Written]:
        written = self.stages[letter]
        return written if isinstance(written, list) else [written]

    def all_orders(self) -> list[str]:
        """Every order that the study runs, shorter ones first."""
        if isinstance(self.orders, list):
            return self.orders
        longest = 2 if self.orders == "pairs" else len(self.stages)
        return [
            "".join(order)
            for length in range(1, longest + 1)
            for order in itertools.permutations(self.stages, length)
        ]

    def problems(self) -> Iterator[str]:
        """What the fields say that does not go together."""
        letters = ", ".join(self.stages)
        for letter in self.stages:
            if not re.fullmatch("[A-Z]", letter):
                yield f"stages: {short(letter)} should be one capital letter"
            elif not self.sequence(letter):
                yield f"stages.{letter}: should name a stage, or a list of stages"
            for item in self.sequence(letter):
                if isinstance(item, dict) and len(item) != 1:
                    yield f"stages.{letter}: {short(item)} should be {{stage: options}}"
        for letter, options in self.strengths.items():
            if letter not in self.stages:
                yield f"strengths: {unknown(letter, self.stages, 'one of the stages')}"
            elif not options:
                yield f"strengths.{letter}: should list at least one dict of options"
        if not isinstance(self.orders, list):
            if len(self.stages) < 2:
                yield f"stages: {letters} alone has no order; name at least two"
            return
        if not self.orders:
            yield "orders: should be 'pairs', 'permutations' or a list such as ['PQ', 'QP']"
        for order in self.orders:
            odd = next((letter for letter in order if letter not in self.stages), None)
            if odd is not None or not order:
                yield f"orders: {short(order)} should be made of the letters {letters}"
            elif len(set(order)) < len(order):
                yield f"orders: {order!r} has a letter twice; give the second a letter of its own"
        if len(set(self.orders)) < len(self.orders):
            yield "orders: one stands twice; name each once"


@dataclass(frozen=True)
class Link:
    """One chain of a study."""

    name: str
    order: str  # e.g. 'PQ'
    strengths: tuple[tuple[str, int], ...]  # (letter, number of its strength), by letter
    written: tuple[Written, ...]  # the sequence as a config says it
    origins: tuple[str, ...]  # where in the study each of these stands

    def config(self, study: StudyConfig) -> dict[str, Any]:
        """The chain as an entry of EXPERIMENT_CONFIGS."""
        return {
            "name": self.name,
            "load_fp32_baseline_from_experiment": study.baseline,
            "compression_args": {"sequence": list(self.written)},
            **({"seeds": study.seeds} if study.seeds else {}),
        }


@dataclass(frozen=True)
class Study:
    """A checked study: its chains, and the suite that runs them."""

    config: StudyConfig
    links: tuple[Link, ...]
    suite: Suite
    epochs: dict[str, int]  # chain → epochs that it trains after the baseline

    def experiment(self, name: str) -> Experiment:
        return next(e for e in self.suite.experiments if e.name == name)


def load_studies(config: Path | str) -> list[StudyConfig]:
    """The studies of a config module, each by itself sound. Raises ConfigError."""
    return _studies(config_values(Path(config)))


def load_study(config: Path | str, name: str, *, overrides: list[str] | None = None) -> Study:
    """Expand and check one study of a config module. Raises ConfigError with all that is wrong."""
    values = config_values(Path(config))
    studies = {study.name: study for study in _studies(values)}
    if name not in studies:
        hint = unknown(name, studies, "a study") if studies else "its ORDER_STUDIES is empty"
        raise ConfigError([f"{config}: {hint}"])
    study = studies[name]
    links = _links(study)
    suite = _suite(study, links, values, str(config), overrides)
    epochs = _epochs(suite, links)
    if study.epochs is not None:
        links = _topped_up(study, links, epochs)
        suite = _suite(study, links, values, str(config), overrides)
        epochs = _epochs(suite, links)
    _check_budget(study, links, epochs)
    return Study(study, tuple(links), suite, epochs)


def _studies(values: dict[str, Any]) -> list[StudyConfig]:
    written = values["ORDER_STUDIES"]
    if not isinstance(written, list | tuple):
        raise ConfigError([f"ORDER_STUDIES: {short(written)} should be a list of dicts"])
    problems: list[str] = []
    studies: dict[str, StudyConfig] = {}
    for index, item in enumerate(written):
        if not isinstance(item, dict):
            problems.append(f"ORDER_STUDIES[{index}]: {short(item)} is not a dict")
            continue
        named = isinstance(item.get("name"), str)
        where = item["name"] if named else f"ORDER_STUDIES[{index}]"
        study, found = check(StudyConfig, item, where)
        problems += found
        if study is None:
            continue
        problems += [f"{where}.{line}" for line in study.problems()]
        if study.name.lower() in (name.lower() for name in studies):
            problems.append(f"{where}: another study has this name; names must be unique")
        studies[study.name] = study
    stop_at(problems)
    return list(studies.values())


def _links(study: StudyConfig) -> list[Link]:
    """Every order at every combination of its letters' strengths."""
    links = []
    for order in study.all_orders():
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
) -> tuple[tuple[Written, ...], tuple[str, ...]]:
    """The sequence of an order, and where each of its stages stands in the study."""
    written: list[Written] = []
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
            origins.append(place)
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
        where = f"{study.name}.baseline"
        raise ConfigError([f"{where}: {unknown(study.baseline, names, 'an experiment')}"])
    taken = {name.lower() for name in names}
    for link in links:
        if link.name.lower() in taken:
            raise ConfigError(
                [f"{study.name}: its chain {link.name} has an experiment's name; rename that"]
            )
    configs = [*known, *(link.config(study) for link in links)]
    try:
        return suite_of(
            {**values, "EXPERIMENT_CONFIGS": configs},
            source,
            overrides=overrides,
            only=[link.name for link in links],
        )
    except ConfigError as error:
        raise ConfigError(_as_the_study_says(study, links, error.problems)) from None


def _as_the_study_says(study: StudyConfig, links: list[Link], problems: list[str]) -> list[str]:
    """Lines about chains as lines about the study, each once; with the chain where not all fail."""
    names = "|".join(re.escape(link.name) for link in links)
    pattern = re.compile(rf"({names})(?:\.compression_args\.sequence\[(\d+)\])?(?=[.:])")
    by_name = {link.name: link for link in links}
    told: dict[str, list[Link]] = defaultdict(list)
    for line in problems:
        found = pattern.match(line)
        if found is None:
            told[line] = []
            continue
        link, place = by_name[found[1]], ""
        if found[2] is not None:
            place = f".{link.origins[int(found[2])]}"
        rest = line[found.end() :].replace(".load_fp32_baseline_from_experiment", ".baseline")
        told[f"{study.name}{place}{rest}"].append(link)
    lines = []
    for line, concerned in told.items():
        letter = re.match(rf"{re.escape(study.name)}\.stages\.([A-Z])", line)
        having = [link for link in links if letter and letter[1] in link.order]
        orders = {link.order for link in concerned}
        some = letter is not None and orders < {link.order for link in having}
        lines.append(f"{line} (in {', '.join(sorted(orders))})" if some else line)
    return lines


# --- the epoch budget --------------------------------------------------------------------------


def _epochs(suite: Suite, links: list[Link]) -> dict[str, int]:
    by_name = {experiment.name: experiment for experiment in suite.experiments}
    return {
        link.name: sum(epochs_of(spec) for _, spec in by_name[link.name].sequence) for link in links
    }


def epochs_of(spec: StageSpec) -> int:
    """The epochs that a stage trains, those between the iterations of a pruning included."""
    between = getattr(spec, "finetune", None)
    inside = (getattr(spec, "iterations", 1) - 1) * between.epochs if between is not None else 0
    return getattr(spec, "epochs", 0) + inside


def _topped_up(study: StudyConfig, links: list[Link], epochs: dict[str, int]) -> list[Link]:
    """The chains, each with as much finetuning at its end as it lacks of the study's epochs."""
    assert study.epochs is not None
    over = [link for link in links if epochs[link.name] > study.epochs]
    if over:
        most = max(over, key=lambda link: epochs[link.name])
        raise ConfigError(
            [
                f"{study.name}.epochs: {study.epochs}, but the stages of {most.name} train "
                f"{epochs[most.name]}; raise it, or lower theirs"
            ]
        )
    topped = []
    for link in links:
        missing = study.epochs - epochs[link.name]
        if missing:
            link = replace(
                link,
                written=(*link.written, {"finetune": {"epochs": missing}}),
                origins=(*link.origins, "epochs"),
            )
        topped.append(link)
    return topped


def _check_budget(study: StudyConfig, links: list[Link], epochs: dict[str, int]) -> None:
    """Orders of the same stages, whatever their strengths, must train equally long."""
    problems = []
    groups: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        groups["".join(sorted(link.order))].append(link)
    for group in groups.values():
        least, most = (pick(group, key=lambda link: epochs[link.name]) for pick in (min, max))
        if epochs[least.name] != epochs[most.name]:
            largest = max(epochs.values())
            problems.append(
                f"{study.name}: {least.name} trains {epochs[least.name]} epochs and {most.name} "
                f"{epochs[most.name]}, so that they cannot be compared; set 'epochs' to {largest} "
                "or more, and shorter chains finetune at their end for the rest"
            )
            break
    stop_at(problems)
