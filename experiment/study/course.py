"""What a study has run and may still run: seeds of every chain, stages, hours and epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from experiment.running.store import Store
from experiment.study.plan import Study
from experiment.study.rounds import Rounds
from experiment.suite.chains import Step, plan
from experiment.suite.records import Suite
from machine.files import canonical_json, sha256

Seeds = dict[str, tuple[int, ...]]  # chain → seeds


@dataclass(frozen=True)
class Spent:
    """What stages took, each counted once."""

    stages: int
    epochs: int
    hours: float | None  # None: known of none of them

    def above(self, hours: float | None, epochs: int | None) -> bool:
        return (hours is not None and (self.hours or 0.0) > hours) or (
            epochs is not None and self.epochs > epochs
        )


@dataclass
class Course:
    """Counts the stages of a study's suites, and foresees what others of their kind will take."""

    store: Store
    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counted: dict[str, float] = field(default_factory=dict)  # key → seconds

    def count(self, suite: Suite) -> None:
        """Note what the stored stages of a suite took."""
        for step in steps_of(suite):
            if step.key not in self.counted and (record := self.store.record(step.key)) is not None:
                self.counted[step.key] = record["seconds"]
                self.taken[kind_of(step)].append(record["seconds"])

    def spent(self, suite: Suite) -> Spent:
        """Of a suite: measured where a stage was run, the mean of its kind where it was not.

        A stage of a kind that never came to its end counts for no time.
        """
        steps = steps_of(suite)
        seconds = [self.counted.get(step.key, self._expected(step)) for step in steps]
        known = [value for value in seconds if value is not None]
        hours = sum(known) / 3600 if known else None
        return Spent(len(steps), sum(step.spec.epochs_trained for step in steps), hours)

    def _expected(self, step: Step) -> float | None:
        found = self.taken.get(kind_of(step))
        return fmean(found) if found else None


def steps_of(suite: Suite) -> list[Step]:
    """The stages of a suite, each once."""
    return list({step.key: step for chain in plan(suite) for step in chain.all_steps()}.values())


def kind_of(step: Step) -> str:
    """What a stage has in common with itself at other seeds: all that was done up to it."""
    path: list[object] = []
    current: Step | None = step
    while current is not None:
        path.append([current.stage, current.spec.settings()])
        current = current.before
    return sha256(canonical_json(path))


def seeds_of_chains(study: Study, rounds: Rounds, all_seeds: Sequence[int]) -> Seeds:
    """The seeds of every chain: of a pair's those that it has by now, of single stages all that any
    pair with them has, of longer orders those of the first round."""
    count = {frozenset(pair): n for pair, n in zip(rounds.pairs, rounds.seeds, strict=True)}
    most = {
        letter: max((n for pair, n in count.items() if letter in pair), default=rounds.least)
        for letter in study.config.stages
    }
    chosen = {}
    for link in study.links:
        own = most[link.order] if len(link.order) == 1 else count.get(frozenset(link.order))
        own = own if own is not None and len(link.order) < 3 else rounds.least
        chosen[link.name] = tuple(all_seeds[:own])
    return chosen


def of_orders(study: Study, seeds: Mapping[str, Iterable[int]], orders: Iterable[str]) -> Seeds:
    """Those of the chains of these orders."""
    wanted = set(orders)
    return {link.name: tuple(seeds[link.name]) for link in study.links if link.order in wanted}


def seeds_in_rounds(study: Study, rounds: Rounds, all_seeds: Sequence[int]) -> Seeds:
    """The seeds of the chains that rounds run; what `verify` adds comes after them."""
    seeds = seeds_of_chains(study, rounds, all_seeds)
    return of_orders(study, seeds, study.config.all_orders())
