"""One stage as a Ray task: what a worker process runs. All it needs and makes is in the store."""

from __future__ import annotations

import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_sets.source import DatasetArgs
from dataset import Dataset
from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import Step
from machine.errors import Interrupted
from machine.stop_signal import StopSignal

_datasets: dict[DatasetArgs, Dataset] = {}  # of this process, which runs many stages


@dataclass(frozen=True)
class WorkerFolders:
    """Where a worker finds and puts things: the same paths on every machine."""

    folder: Path  # that relative paths start from
    model_dir: Path
    data_dir: Path
    device: torch.device
    threads: int


class Finished(NamedTuple):
    """A stage's record, whether it was in the store, and who ran it."""

    record: dict[str, Any]
    cached: bool
    host: str


def run_stage(
    step: Step, place: WorkerFolders, how: dict[str, bool], lines: Any
) -> Finished | None:
    """Run `step`, whose predecessors are in the store; None where it was told to stop.

    What it says goes to the queue `lines` as (key, text). Ray's cancel comes as SIGINT: then it
    saves itself after the current training step, as a run in a terminal does.
    """
    os.chdir(place.folder)
    torch.set_num_threads(place.threads)

    def say(text: str) -> None:
        lines.actor.put_nowait.remote((step.key, text))  # nobody waits for it

    stop = StopSignal()
    store = Store(place.model_dir, say)
    runner = StageRunner(store, place.data_dir, place.device, stop, say, _datasets)
    try:
        with stop.listening(lambda text: None, (signal.SIGINT,)):
            record, cached = runner.run(step, **how)
    except Interrupted:
        return None
    return Finished(record, cached, platform.node())
