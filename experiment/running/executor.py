"""Runs chains: each stage once, failures kept to the chain they belong to."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_sets.source import DatasetArgs
from dataset import Dataset, load_dataset
from experiment.running.step import Outcome, run_step
from experiment.running.store import Store
from experiment.suite.chains import Chain, Step, Stop
from experiment.suite.records import Suite
from machine.errors import Interrupted
from machine.stop_signal import StopSignal
from training.team import TeamError

# A full disk, a forbidden or read-only folder, a quota, a broken device.
UNWRITABLE = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO}


class Done(NamedTuple):
    """A stage that has come to its end."""

    step: Step
    record: dict[str, Any]
    cached: bool  # whether it was in the store
    baseline: dict[str, Any] | None  # the record of the chain's baseline, where it has one


class Follower:
    """Told of all that happens in a run, in order. What a subclass leaves out it does not mind."""

    def begin(self, chain: Chain) -> None: ...

    def stage(self, chain: Chain, position: int, step: Step) -> None: ...

    def stage_done(self, chain: Chain, done: Done) -> None: ...

    def finish(self, chain: Chain) -> None: ...

    def stopped(self, chain: Chain, stop: Stop) -> None: ...

    def fail(self, chain: Chain, step: Step, error: Exception) -> None: ...

    def skip(self, chain: Chain, reason: str) -> None: ...

    def interrupt(self) -> None: ...

    def at_once(self, stages: int) -> None:
        """So many stages run at the same time from now on."""

    def done_by_worker(self, step: Step) -> None:
        """A worker has done a stage, before its chain's turn."""


@dataclass
class StageRunner:
    """Runs stages in this process; what passes between them is in the store."""

    store: Store
    data_dir: Path
    device: torch.device
    stop: Callable[[], bool]
    say: Callable[[str], None]
    datasets: dict[DatasetArgs, Dataset] = field(default_factory=dict)

    def run(self, step: Step, **how: bool) -> tuple[dict[str, Any], bool]:
        """The stage's record, and whether it was in the store; `how` as in `run_step`."""
        return run_step(
            step,
            self.store,
            self.outcome,
            lambda: self.dataset(step.experiment.dataset_args),
            self.device,
            stop_requested=self.stop,
            say=self.say,
            **how,
        )

    def outcome(self, step: Step) -> Outcome:
        """What an earlier stage made; computed again where its entry was damaged meanwhile.

        Always as it is stored: pickled again, equal objects need not give equal bytes.
        """
        found = self.store.load(step.key)
        if found is None:
            self.run(step)
            found = self.store.load(step.key)
        assert found is not None, step.key
        return found

    def dataset(self, args: DatasetArgs) -> Dataset:
        if args not in self.datasets:
            self.datasets[args] = load_dataset(args, self.data_dir)
        return self.datasets[args]


@dataclass
class SerialExecutor:
    """Runs the chains of a suite in this process, one after another."""

    suite: Suite
    store: Store
    followers: Sequence[Follower]
    say: Callable[[str], None]  # of what a stage tells of itself
    note: Callable[[str], None]  # of what a user must see
    retrain: set[str] = field(default_factory=set)  # baselines to compute anew
    remeasure: bool = False  # take the metrics of stored stages again
    failed: dict[str, str] = field(default_factory=dict)  # key of a stage that failed → why
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        suite = self.suite
        self.runner = StageRunner(self.store, suite.data_dir, suite.device, self.stop, self.say)
        self.finished: dict[str, dict[str, Any]] = {}  # key → record

    def load_data(self, chains: list[Chain]) -> None:
        """Load what missing stages need. Raises DataError before anything is trained."""
        for chain in chains:
            missing = any(not self.store.has(s.key) for s in chain.ahead(self.store.record))
            if missing or self.remeasure or self.retrain:
                self.runner.dataset(chain.experiment.dataset_args)

    def run(self, chains: list[Chain]) -> None:
        """Run every chain. Raises Interrupted; a failing chain is recorded and the rest go on."""
        with self.stop.listening(self.note):
            for chain in chains:
                try:
                    self.run_chain(chain)
                except (Interrupted, TeamError, KeyboardInterrupt):
                    for follower in self.followers:
                        follower.interrupt()
                    raise

    def run_chain(self, chain: Chain) -> None:
        for follower in self.followers:
            follower.begin(chain)
        broken = next((s for s in chain.all_steps() if s.key in self.failed), None)
        if broken is not None and broken.experiment.name != chain.experiment.name:
            role = "baseline" if broken.experiment.is_baseline else "teacher"
            reason = f"its {role} {broken.experiment.name} failed: {self.failed[broken.key]}"
            for follower in self.followers:
                follower.skip(chain, reason)
            return
        for position, step in enumerate(chain.steps):
            if self.stop():
                raise Interrupted
            try:
                self.run_one(chain, position, step)
            except (Interrupted, TeamError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in UNWRITABLE:
                    raise  # that ends the run, not one experiment
                if self.stop():  # Ctrl-C in a terminal ends a compiler as well, which then fails
                    raise Interrupted from error
                self.failed.setdefault(step.key, f"{type(error).__name__}: {error}")
                for follower in self.followers:
                    follower.fail(chain, step, error)
                return
            stop = chain.stopped(self.finished.get)
            if stop is not None:
                for follower in self.followers:
                    follower.stopped(chain, stop)
                return
        for follower in self.followers:
            follower.finish(chain)

    def run_one(self, chain: Chain, position: int, step: Step) -> None:
        if step.key in self.failed:
            raise RuntimeError(f"this stage failed before: {self.failed[step.key]}")
        for follower in self.followers:
            follower.stage(chain, position, step)
        record, cached = self.run_step(step)
        self.finished[step.key] = record
        baseline = self.finished.get(chain.baseline.steps[-1].key) if chain.baseline else None
        for follower in self.followers:
            follower.stage_done(chain, Done(step, record, cached, baseline))

    def run_step(self, step: Step) -> tuple[dict[str, Any], bool]:
        """The stage's record, and whether it was there before."""
        return self.runner.run(step, **self.how(step))

    def how(self, step: Step) -> dict[str, bool]:
        """What is asked of a stage when it comes first."""
        fresh = step.key not in self.finished
        return {
            "recompute": fresh and step.experiment.name in self.retrain,
            "remeasure": fresh and self.remeasure,
        }
