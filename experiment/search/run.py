"""Running a search: what promises most is trained next, the best is run again at fresh seeds.

Each choice is for the stages of one letter, after which all is considered anew: a chain that turns
out hopeless is left where it is. What was tried, and why, is written after every letter.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataset import Dataset, load_dataset
from experiment.running.console import Console
from experiment.running.executor_options import Execution
from experiment.running.results import Results
from experiment.running.run import run_chains
from experiment.running.store import Store
from experiment.search.budget import Budget, Prices
from experiment.search.finals import confirmed, figures_of
from experiment.search.journal import Final, Tried, alone, read, search_path
from experiment.search.plan import Search
from experiment.search.policy import Policy, Proposal
from experiment.search.result import report_of
from experiment.search.space import Way
from experiment.study.validation import on_validation
from experiment.suite.chains import Chain, plan
from experiment.suite.records import Suite
from machine.environment import environment, git_commit
from machine.errors import Failed, Interrupted
from machine.files import write_json


def run_search(
    search: Search,
    console: Console,
    *,
    baseline: str = "reuse",
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Search until the budget is spent or nothing is promised; returns what is written.

    Raises what `run_chains` raises; what was done until then is in the file.
    """
    runner = _Runner(search, console, baseline, execution)
    with alone(search):
        runner.start()
        try:
            stopped_by = runner.go_on()
        except Interrupted:
            runner.write("interrupted")
            raise
        return runner.write("done", stopped_by)


def first_choices(search: Search, console: Console) -> tuple[list[Proposal], int]:
    """What would be run next, and how many ways are out of reach, as far as that is known."""
    runner = _Runner(search, console, "reuse", None)
    record = runner.store.record(runner.root.steps[-1].key)
    if record is not None:
        runner.begin(record, peek=True)
    else:  # by count alone
        runner.policy = Policy(search.space, search.config.parsed_wish, {"accuracy": 100.0})
    return runner.policy.ranked(runner.prices, runner.choices, 3), runner.policy.out_of_reach()


@dataclass
class _Runner:
    search: Search
    console: Console
    renew: str  # what happens to a trained baseline
    execution: Execution | None

    def __post_init__(self) -> None:
        self.config, self.space = self.search.config, self.search.space
        suite = self.search.suite([], [self.config.seed])
        self.store = Store(suite.model_dir, self.console.note)
        self.device, self.data_dir = suite.device, suite.data_dir
        self.prices = Prices(self.search)
        self.root = plan(suite)[0]
        self.choices = 0
        self.shared = {
            "suite": self.search.source,
            "command": shlex.join(["python", *sys.argv]),
            "git_commit": git_commit(),
            "environment": environment(suite.device),
            "data": self.search.baseline.data.plain(),
        }
        self.had_baseline = self.store.has(self.root.steps[-1].key)

    # --- beginning, and going on -----------------------------------------------------------------

    def start(self) -> None:
        """Have the baseline, and everything that an earlier run has done."""
        run_chains(
            self.search.suite([], [self.config.seed]), self.renew, self.console, written=False
        )
        record = self.store.record(self.root.steps[-1].key)
        if record is None:
            raise Failed(f"{self.config.baseline} failed, without which there is nothing to search")
        self.begin(record)
        if self.choices:
            self.console.say(
                f"goes on after {len(self.journal.tried)} stages that were tried, "
                f"{self.journal.seconds / 3600:.2f} hours"
            )

    def begin(self, record: dict[str, Any], *, peek: bool = False) -> None:
        """Take what an earlier run has done, the baseline being there."""
        self.base_record = record
        self.prices.learn(
            None, self.search.baseline_epochs, record["seconds"], record["measuring_seconds"]
        )
        self.base = figures_of(record["metrics"], record["metrics"], None)
        unknown = [name for name in self.config.figures if name not in self.base]
        if unknown:
            energy = unknown[0] == "joules_per_image"
            why = record["metrics"].get("energy_unknown") if energy else None
            why = why or "it was not measured here"
            raise Failed(f"{self.config.name}.wish: no {unknown[0]} is known: {why}")
        say = self.console.note
        self.journal = read(self.search, record, self.store, say, peek=peek)
        if not self.journal.tried and not self.had_baseline:
            self.journal.baseline_seconds = record["seconds"]
        if not self.journal.tried:
            self.journal.stored = self.search.stored(self.store)
        self.prices.free = set(self.journal.stored)
        self.budget = Budget(self.search, self.journal, self.prices, record)
        self.policy = Policy(
            self.space,
            self.config.parsed_wish,
            self.base,
            self.config.seed,
            self.config.short is not None,
        )
        past: dict[int, list[Tried | Final]] = defaultdict(list)
        for one in self.journal.tried:
            past[one.choice].append(one)
        for final in self.journal.finals:
            past[final.choice].append(final)
        for choice in sorted(past):
            for each in past[choice]:
                if isinstance(each, Final):
                    self.take_final(each)
                else:
                    self.take(each)
            self.policy.fit()
            self.choices = choice + 1

    def take(self, one: Tried) -> None:
        """Note what was seen."""
        figures = one.figures if one.failed is None else None
        self.policy.observe(one.kind, self.config.seed, one.way, figures)
        if one.stopped is not None:
            self.policy.closed.add((one.kind, one.way))
        if one.failed is None:
            self.prices.learn(one.way[-1][0], one.epochs, one.seconds, one.measuring)

    def take_final(self, final: Final) -> None:
        for seed, figures in zip(self.search.fresh_seeds, final.figures, strict=False):
            self.policy.observe("full", seed, final.way, figures)
        if not final.meets:
            self.policy.refuted.add(final.way)

    def go_on(self) -> str:
        """Choose and run until there is nothing more to do; why that is."""
        at_once = 1
        if self.execution is not None and self.execution.kind == "ray":
            at_once = self.execution.workers or os.cpu_count() or 1
        if self.journal.running:
            self.run(self.resumed())
        if self.journal.confirming is not None:
            self.confirm(self.journal.confirming[0])
        while True:
            proposals = self.policy.several(self.prices, self.choices, at_once)
            affordable = self.budget.allowed(proposals, self.policy.best())
            if affordable:
                self.run(affordable)
                continue
            finalist = self.next_finalist()
            if finalist is None:
                if proposals:
                    return "budget"
                return "all_tried" if self.policy.done.all() else "nothing_better"
            self.confirm(finalist)

    def resumed(self) -> list[Proposal]:
        """What was chosen when the search was stopped."""
        found = []
        for kind, way in self.journal.running:
            drop = self.policy.expected(way, kind)
            found.append(Proposal(kind, way, way, math.nan, math.nan, 0.0, *drop, *drop))
        return found

    # --- trying ----------------------------------------------------------------------------------

    def run(self, proposals: Sequence[Proposal]) -> None:
        """Run the next letter of each, and note what came of it."""
        asked = [(p.kind, p.way) for p in proposals]
        self.journal.running = list(asked)
        self.write("running")
        suite, failed = self.search.suite(asked, [self.config.seed]), dict[str, str]()
        by_name = {chain.experiment.name: chain for chain in plan(suite)}
        chains = [by_name[self.search.name(*each)] for each in asked]
        self.run_suite(suite, failed=failed)
        for proposal, chain in zip(proposals, chains, strict=True):
            one = self.tried(proposal, chain, failed)
            self.journal.tried.append(one)
            self.take(one)
        self.journal.running = []
        self.choices += 1
        self.policy.fit()
        for one in self.journal.tried[-len(proposals) :]:
            self.tell(one)
        self.write("running")

    def run_suite(
        self, suite: Suite, *, failed: dict[str, str] | None = None, written: bool = False
    ) -> Results:
        return run_chains(
            suite,
            console=Console(quiet=True, warnings=False),
            execution=self.execution,
            brief=True,
            failed=failed,
            written=written,
        )

    def tried(self, proposal: Proposal, chain: Chain, failed: dict[str, str]) -> Tried:
        """What came of a proposal."""
        own = chain.steps[-len(self.config.sequence(proposal.way[-1][0])) :]
        records = [self.store.record(step.key) for step in own]
        why = next((failed[step.key] for step in chain.steps if step.key in failed), None)
        last, figures, stopped = records[-1], None, None
        if last is None:
            why = why or "it did not come to its end"
        else:
            figures = self.figures(chain, last)
            quality, its = (r["metrics"]["validation"] for r in (last, self.base_record))
            stopped = self.config.stops.why(quality, its)
        return Tried(
            proposal.kind,
            proposal.way,
            self.choices,
            own[-1].key,
            last["checkpoint_sha256"] if last else None,
            sum(record["seconds"] for record in records if record),
            sum(record["measuring_seconds"] for record in records if record),
            self.space.epochs_of(proposal.kind, proposal.way),
            (proposal.kind, proposal.way) in self.prices.free
            or any(one.key == own[-1].key for one in self.journal.tried),
            figures,
            why,
            stopped,
            {"accuracy_drop": proposal.drop, "sd": proposal.drop_sd},
        )

    def figures(self, chain: Chain, record: dict[str, Any]) -> dict[str, float]:
        """On the validation share alone; where images leave early, what they cost as well."""
        metrics = record["metrics"]
        if record["exits"] is not None:
            metrics = on_validation(chain, self.store, lambda: self.dataset, self.device).metrics
        return figures_of(metrics, self.base_record["metrics"], self.base)

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.search.baseline.dataset_args, self.data_dir)

    # --- running again ---------------------------------------------------------------------------

    def next_finalist(self) -> Way | None:
        """The best so far, where it was not run again and may be."""
        finals = self.journal.finals
        if len(finals) >= self.config.finalists:
            return None
        met = [final.way for final in finals if final.meets]
        front = len(self.policy.wish.aims) > 1
        for way in self.policy.candidates(self.policy.weights(len(finals))):
            if way in met and not front:
                return None  # what is known to hold is the best
            if all(final.way != way for final in finals):
                return way if not finals or self.budget.allows_again(way) else None
        return None

    def confirm(self, way: Way) -> None:
        """Run a chain at fresh seeds, and judge it by these."""
        drop, drop_sd = self.policy.expected(way)
        self.console.say(
            f"{self.space.label(way)} is run again at seeds "
            f"{', '.join(map(str, self.search.fresh_seeds))}"
        )
        suite = self.search.suite([("full", way)], self.search.fresh_seeds)
        steps = {step.key: step for chain in plan(suite) for step in chain.all_steps()}
        if self.journal.confirming is None:
            lacking = [key for key in steps if not self.store.has(key)]
            self.journal.confirming = way, lacking
            self.write("running")
        missing = [steps[key] for key in self.journal.confirming[1] if key in steps]
        results = self.run_suite(suite, written=True)
        records = [r for step in missing if (r := self.store.record(step.key)) is not None]
        found = confirmed(self.search, way, suite, results, self.base)
        final = Final(
            way,
            self.choices,
            sum(record["seconds"] for record in records),
            sum(step.spec.epochs_trained for step in missing),
            len(missing),
            **found,
            expected={"accuracy_drop": drop, "sd": drop_sd},
        )
        self.journal.confirming = None
        self.journal.finals.append(final)
        self.take_final(final)
        self.choices += 1
        self.policy.fit()
        self.write("running")
        if final.confirmed is not None:
            low, high = final.confirmed["interval"]
            self.console.say(
                f"   it loses {final.confirmed['accuracy_drop']:.2f} points ({low:.2f} to "
                f"{high:.2f}), {drop:.2f} ± {drop_sd:.2f} were expected: "
                f"{'meets the wish' if final.meets else 'does not meet the wish'}"
            )

    # --- telling ---------------------------------------------------------------------------------

    def tell(self, one: Tried) -> None:
        """A line for each letter that was run."""
        spent = self.journal.seconds / 3600
        text = f"{len(self.journal.tried):4} {spent:6.2f} h  {self.space.label(one.way)}"
        text += "" if one.kind == "full" else " (short)"
        if one.figures is None:
            self.console.warn(f"{text}: failed: {one.failed}")
            return
        expected = one.expected or {}
        text += f": loses {one.figures['accuracy_drop']:.2f} points"
        if expected:
            text += f" ({expected['accuracy_drop']:.2f} ± {expected['sd']:.2f} expected)"
        aims = [name for name, _ in self.policy.wish.aims if name in one.figures]
        for name in (name for name in aims if name not in ("accuracy", "accuracy_drop")):
            text += f", {name} ×{one.figures[name] / self.base[name]:.3f}"
        if one.stopped is not None:
            text += f"; stopped: {one.stopped}"
        best = self.policy.best()
        text += f"; best so far {self.space.label(best) if best else 'none'}"
        self.console.say(text)

    def write(self, status: str, stopped_by: str | None = None) -> dict[str, Any]:
        report = self.shared | report_of(
            self.search, self.journal, self.policy, self.prices, self.base, status, stopped_by,
            root=self.base_record, choices=self.choices,
        )  # fmt: skip
        write_json(search_path(self.search), report)
        return report
