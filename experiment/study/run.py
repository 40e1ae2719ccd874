"""Running a study: rounds of chains, a look after each, and `results/study_NAME.json` at the end.

Chains run as any suite does. Then every final network is measured once more, on the validation
share: these figures, and which images it got right, are all that the findings rest on. Accuracies
on the test split, which the suite takes after every stage, are only put beside them at the end.

Nothing of a round is remembered but what the store has: a study that goes on, also with a larger
budget, takes its looks again, one after another, and so comes to the same verdicts.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiment.running.console import Console
from experiment.running.executor_options import Execution
from experiment.running.results import Results
from experiment.running.run import run_chains
from experiment.running.store import Store
from experiment.study.analysis import Analysis
from experiment.study.course import (
    Course,
    Seeds,
    Spent,
    of_orders,
    seeds_in_rounds,
    seeds_of_chains,
    steps_of,
)
from experiment.study.plan import Study
from experiment.study.result import UNITS, analysis_of, report_of
from experiment.study.rounds import Rounds
from experiment.study.statistics import exchanges
from experiment.study.validation import OnValidation, finals_on_validation, with_shared_latency
from experiment.suite.messages import ConfigError
from experiment.suite.records import Suite
from machine.files import write_json

Found = dict[str, dict[int, OnValidation]]  # chain → seed → its network
Verification = tuple[str, dict[str, str]]  # the order that pairs predict; others → why


def study_path(study: Study) -> Path:
    return study.suite.results_dir / f"study_{study.config.name}.json"


def run_study(
    study: Study,
    console: Console,
    *,
    baseline: str = "reuse",
    remeasure: bool = False,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Run what a study needs and the store has not, and find what it says; returns what is written.

    `baseline`, `remeasure` and `execution` as in `run_chains`, which raises.
    """
    runner = _Runner(study, console, baseline, remeasure, execution)
    rounds, analysis = runner.rounds()
    whole = runner.verify(rounds, analysis)
    course = {"rounds": runner.told, "spent": runner.spent(rounds)}
    report = report_of(runner.study, runner.results, runner.found, rounds, whole, course)
    write_json(study_path(study), report)
    return report


def rounds_of(study: Study) -> Rounds:
    """The study's pairs, before the first round."""
    config, by_rounds = study.config, study.config.by_rounds
    count = len(study.experiment(study.links[0].name).seeds)
    orders = {link.order for link in study.links}
    return Rounds(
        [
            (a, b)
            for a, b in itertools.combinations(config.stages, 2)
            if a + b in orders and b + a in orders
        ],
        by_rounds.min if by_rounds else count,
        by_rounds.max if by_rounds else count,
        1 - config.confidence,
        config.equal_within,
    )


def first_and_most(study: Study) -> tuple[Suite, Suite]:
    """What the first round runs, and what all rounds may at most come to."""
    rounds, seeds = rounds_of(study), study.experiment(study.links[0].name).seeds
    first = study.part(seeds_in_rounds(study, rounds, seeds))
    rounds.add_seeds(list(range(len(rounds.pairs))) * (rounds.most - rounds.least))
    return first, study.part(seeds_in_rounds(study, rounds, seeds))


@dataclass
class _Runner:
    study: Study
    console: Console
    baseline: str
    remeasure: bool
    execution: Execution | None
    results: Results = field(init=False)  # of all that was run
    found: Found = field(default_factory=dict)
    seeds: Seeds = field(default_factory=dict)  # that were run
    told: list[dict[str, Any]] = field(default_factory=list)  # a round each
    failed: dict[str, str] = field(default_factory=dict)  # stages, not tried again in each round
    stopped_by: str = "fixed"

    def __post_init__(self) -> None:
        self.config = self.study.config
        self.all_seeds = self.study.experiment(self.study.links[0].name).seeds
        self.course = Course(Store(self.study.suite.model_dir, self.console.note))

    def rounds(self) -> tuple[Rounds, Analysis]:
        """Run round after round until nothing is open, or nothing more may be spent."""
        rounds = rounds_of(self.study)
        while True:
            self.run(seeds_in_rounds(self.study, rounds, self.all_seeds))
            analysis = analysis_of(self.study, self.found)
            look = rounds.look(analysis.samples())
            self.told.append(self.round_entry(rounds))
            if self.config.by_rounds is None:
                return rounds, analysis
            blocked = {i for i, found in enumerate(look.samples)
                       if found is None or found.seeds < rounds.seeds[i]}  # fmt: skip
            chosen = self.affordable(rounds, analysis.present_order(), blocked)
            self.tell(rounds, chosen)
            if not chosen:
                return rounds, analysis
            rounds.add_seeds(chosen)

    def affordable(self, rounds: Rounds, order: list[str], blocked: set[int]) -> list[int]:
        """The pairs that get one more seed; sets `stopped_by` where there are none."""
        wanted = [pair for pair in rounds.following(order) if pair not in blocked]
        chosen: list[int] = []
        for pair in wanted:
            cost = self.course.spent(self.part_with(rounds, [*chosen, pair]))
            if not cost.above(self.config.budget_hours, self.config.budget_epochs):
                chosen.append(pair)
        lacking = set(rounds.looks[-1].lacking)
        if lacking == {None}:
            self.stopped_by = "settled"
        elif wanted:
            self.stopped_by = "budget"
        else:
            self.stopped_by = "images" if lacking == {None, "images"} else "seeds"
        return chosen

    def part_with(self, rounds: Rounds, more: list[int]) -> Suite:
        """What is run in all once these pairs have one more seed."""
        before = list(rounds.seeds)
        rounds.add_seeds(more)
        seeds = seeds_in_rounds(self.study, rounds, self.all_seeds)
        rounds.seeds = before
        return self.study.part(seeds)

    def run(self, seeds: Seeds) -> None:
        """Run these chains at these seeds, all others that were run being kept in the results."""
        before = {seed for own in self.seeds.values() for seed in own}
        self.seeds |= seeds
        suite, console = self.study.part(self.seeds), self.console
        how: dict[str, Any] = {"execution": self.execution, "failed": self.failed}
        anew = self.remeasure or self.baseline == "retrain"
        fresh = {name: tuple(set(own) - before) for name, own in self.seeds.items()}
        if before and anew and any(fresh.values()):  # seeds of which nothing was renewed so far
            run_chains(
                self.study.part(fresh), self.baseline, console, remeasure=self.remeasure, **how
            )
        if not before:
            how |= {"baseline": self.baseline, "remeasure": self.remeasure}
        if not anew and all(self.course.store.has(step.key) for step in steps_of(suite)):
            if not before:
                console.say("every chain is in the store; what they gave is in the files of each")
            console = Console(quiet=True)
        self.results = run_chains(suite, console=console, brief=bool(before), **how)
        self.course.count(suite)
        self.found = with_shared_latency(
            finals_on_validation(
                suite,
                {self.config.baseline, *self.seeds},
                self.console,
                losses=self.config.compare == "loss",
            )
        )

    # --- what is told ------------------------------------------------------------------------

    def round_entry(self, rounds: Rounds) -> dict[str, Any]:
        look, spent = rounds.looks[-1], self.course.spent(self.study.part(self.seeds))
        pairs = []
        for (a, b), sample, verdict in zip(rounds.pairs, look.samples, look.verdicts, strict=True):
            pairs.append({
                "first": a,
                "second": b,
                "difference": sample.difference if sample else None,
                "interval": list(verdict.interval) if verdict else None,
                "verdict": verdict.name if verdict else "open",
                "seeds": sample.seeds if sample else 0,
            })  # fmt: skip
        return {
            "round": len(rounds.looks),
            "pairs": pairs,
            "settled": len(rounds.settled_in),
            "open": len(rounds.pairs) - len(rounds.settled_in),
            "stages": spent.stages,
            "epochs": spent.epochs,
            "hours": spent.hours,
        }

    def tell(self, rounds: Rounds, chosen: list[int]) -> None:
        """What a round has settled, what is open, and what the next seed would buy."""
        entry, look = self.told[-1], rounds.looks[-1]
        say, unit = self.console.note, UNITS[self.config.compare]
        hours = f", {entry['hours']:.1f} hours" if entry["hours"] is not None else ""
        say("")
        say(
            f"round {entry['round']}: {entry['settled']} of {len(rounds.pairs)} pairs settled; "
            f"{entry['stages']} stages, {entry['epochs']} epochs{hours} so far"
        )
        for index, pair in enumerate(entry["pairs"]):
            name, lacking = f"{pair['first']} / {pair['second']}", look.lacking[index]
            if pair["interval"] is None:
                say(f"   {name}: cannot be compared")
                continue
            half = (pair["interval"][1] - pair["interval"][0]) / 2
            text = f"   {name}: {pair['difference']:+.2f} ± {half:.2f} {unit}, "
            text += f"{pair['seeds']} seeds, {pair['verdict']}"
            if lacking == "images":
                text += "; more images would be needed, no seed settles it"
            elif lacking == "seeds":
                text += f"; with one more seed about ± {look.next_half_width[index]:.2f}"
                if index in chosen:
                    text += ", which comes next"
                elif not look.hopeful[index]:
                    text += f"; {rounds.most} would hardly settle it"
            say(text)
        if not chosen:
            say(f"   no further round: {STOPS[self.stopped_by]}")

    def spent(self, rounds: Rounds) -> dict[str, Any]:
        """What was run, beside the design in which every pair gets as many seeds as one may."""
        now = self.course.spent(self.study.part(self.seeds))
        orders = [*self.config.all_orders(), *{self.order_of(name) for name in self.seeds}]
        longer = of_orders(self.study, self.seeds, orders)
        everything = {name: self.all_seeds[: rounds.most] for name in longer
                      if len(self.order_of(name)) < 3}  # fmt: skip
        fixed: Spent = self.course.spent(self.study.part({**longer, **everything}))
        by_rounds = self.config.by_rounds
        return {
            "stages": now.stages,
            "stages_fixed": fixed.stages,
            "epochs": now.epochs,
            "epochs_fixed": fixed.epochs,
            "hours": now.hours,
            "hours_fixed": fixed.hours,
            "seeds": {"min": by_rounds.min, "max": by_rounds.max} if by_rounds else None,
            "most_seeds": max(rounds.seeds, default=0),
            "budget_hours": self.config.budget_hours,
            "budget_epochs": self.config.budget_epochs,
            "stopped_by": self.stopped_by,
        }

    def order_of(self, name: str) -> str:
        return next(link.order for link in self.study.links if link.name == name)

    # --- whole orders ------------------------------------------------------------------------

    def verify(self, rounds: Rounds, analysis: Analysis) -> Verification | None:
        """Run the predicted order of all letters, its neighbours and the papers' order."""
        if not self.config.verify:
            return None
        predicted = "".join(analysis.findings(rounds, self.config.all_orders())["order"])
        others = {}
        for a, b, exchanged in exchanges(predicted):
            others[exchanged] = f"{a} and {b} exchanged"
        papers = self.config.papers_order()
        if papers is not None and papers != predicted:
            others[papers] = f"{others[papers]}; the papers' order" if papers in others else (
                "the papers' order")  # fmt: skip
        try:
            self.study = self.study.extended([predicted, *others])
        except ConfigError as error:
            why = "; ".join(str(mistake) for mistake in error.mistakes)
            self.console.warn(f"the order found cannot be run as a whole: {why}")
            return predicted, {}
        seeds = seeds_of_chains(self.study, rounds, self.all_seeds)
        self.console.note("")
        text = f"orders of all stages: {predicted}, as pairs predict, and {len(others)} others"
        self.console.note(text)
        self.run(of_orders(self.study, seeds, [predicted, *others]))
        return predicted, others


STOPS = {
    "settled": "every pair that can be compared is settled",
    "seeds": "the seeds that open pairs may get do not settle them",
    "images": "what is open needs more images",
    "budget": "the next one would exceed the budget",
}
