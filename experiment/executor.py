"""Runs chains: each stage once, failures kept to the chain they belong to."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dataset import Dataset, DatasetArgs, load_dataset
from experiment.chain import Chain, Outcome, Step, run_step
from experiment.console import Console
from experiment.results import Results
from experiment.schema import Suite
from experiment.store import Store
from parallel import TeamError
from stages.state import Interrupted

# A full disk, a forbidden or read-only folder, a quota, a broken device.
UNWRITABLE = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO}


class StopSignal:
    """Set by Ctrl-C or SIGTERM; asked after every training step and between stages."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __call__(self) -> bool:
        return self.received is not None

    @contextmanager
    def listening(
        self,
        say: Callable[[str], None],
        numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> Iterator[None]:
        """Inside, the first signal asks to stop and a second one ends the process at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = signal.Signals(number).name
            say(f"\n{self.received}: stopping after the current step; once more to stop at once")

        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
        before = self.outcome(step.before) if step.before is not None else None
        teacher = before if step.teacher is step.before else None
        if step.teacher is not None and teacher is None:
            teacher = self.outcome(step.teacher)
        _, record, cached = run_step(
            step,
            before,
            self.store,
            lambda: self.dataset(step.experiment.dataset_args),
            self.device,
            teacher=teacher,
            stop_requested=self.stop,
            say=self.say,
            **how,
        )
        return record, cached

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
    results: Results
    console: Console
    retrain: set[str] = field(default_factory=set)  # baselines to compute anew
    remeasure: bool = False  # take the metrics of stored stages again
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        suite, say = self.suite, self.console.say
        self.runner = StageRunner(self.store, suite.data_dir, suite.device, self.stop, say)
        self.failed: dict[str, str] = {}  # key of a stage that failed → why
        self.finished: dict[str, dict[str, Any]] = {}  # key → record

    def load_data(self, chains: list[Chain]) -> None:
        """Load what missing stages need. Raises DataError before anything is trained."""
        for chain in chains:
            missing = any(not self.store.has(step.key) for step in chain.steps)
            if missing or self.remeasure or self.retrain:
                self.runner.dataset(chain.experiment.dataset_args)

    def run(self, chains: list[Chain]) -> None:
        """Run every chain. Raises Interrupted; a failing chain is recorded and the rest go on."""
        with self.stop.listening(self.console.note):
            for chain in chains:
                try:
                    self.run_chain(chain)
                except (Interrupted, TeamError):
                    self.results.interrupt()
                    raise

    def run_chain(self, chain: Chain) -> None:
        self.console.begin(chain)
        self.results.begin(chain)
        broken = next((s for s in chain.all_steps() if s.key in self.failed), None)
        if broken is not None and broken.experiment.name != chain.experiment.name:
            role = "baseline" if broken.experiment.is_baseline else "teacher"
            reason = f"its {role} {broken.experiment.name} failed: {self.failed[broken.key]}"
            self.results.skip(chain, reason)
            self.console.skipped(chain, reason)
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
                self.failed[step.key] = f"{type(error).__name__}: {error}"
                self.results.fail(chain, step, error)
                self.console.failed(chain, step, error)
                return
        self.results.finish(chain)

    def run_one(self, chain: Chain, position: int, step: Step) -> None:
        if step.key in self.failed:
            raise RuntimeError(f"this stage failed in another chain: {self.failed[step.key]}")
        self.console.stage(chain, position, step)
        record, cached = self.run_step(step)
        self.finished[step.key] = record
        self.results.add(step, record, cached, self.store.folder / f"{step.checkpoint}.pth")
        baseline = self.finished.get(chain.baseline.steps[-1].key) if chain.baseline else None
        self.console.stage_done(step, record, cached, baseline)

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
