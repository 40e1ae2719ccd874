"""Stages as tasks of a Ray cluster: each as soon as what it rests on is in the store.

The store is the only hand-over, so that a lost worker or machine costs a stage what it did since
its last snapshot: Ray starts it again elsewhere, and it goes on from there. Results are noted
in the order of the suite, as if the chains had run one after another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiment.running.executor import SerialExecutor
from experiment.running.executor_options import Execution
from experiment.running.ray_task import Finished, WorkerFolders, run_stage
from experiment.suite.chains import Chain, Step
from experiment.suite.keys import HOME
from experiment.suite.messages import ConfigError
from machine.errors import Failed, Interrupted

RETRIES = 3  # times that a stage is started again after its worker, machine or memory was lost
PROCESS_BYTES = 3 * 2**29  # memory of a worker process, without the images
POLL_SECONDS = 0.5  # time between two looks at stages that run elsewhere


class Needs(NamedTuple):
    """What a stage occupies while it runs, on a cluster where at most `at_once` do."""

    cpus: int
    gpus: float
    memory: int  # bytes
    at_once: int


@dataclass
class RayExecutor(SerialExecutor):
    """Runs the stages of a suite on a Ray cluster."""

    execution: Execution = field(default_factory=lambda: Execution("ray"))

    def run(self, chains: list[Chain]) -> None:
        """As a SerialExecutor; raises ConfigError where there is no cluster that could."""
        steps = [step for chain in chains for step in chain.ahead(self.store.record)]
        if not (self.retrain or self.remeasure) and all(self.store.has(s.key) for s in steps):
            SerialExecutor(self.suite, self.store, self.followers, self.say, self.note).run(chains)
            return
        with cluster(self.execution, self.suite.device, self.image_bytes()) as needs:
            self.tasks = Tasks(self, chains, needs)
            self.say(
                f"ray         {needs.at_once} stages at once, each with {needs.cpus} CPUs, "
                f"{needs.gpus:g} GPUs, {needs.memory / 2**30:.1f} GiB"
            )
            for follower in self.followers:
                follower.at_once(needs.at_once)
            super().run(chains)

    def image_bytes(self) -> int:
        """The largest data set of those that missing stages need."""
        arrays = [dataset.arrays for dataset in self.runner.datasets.values()]
        return max((sum(array.nbytes for array in each) for each in arrays), default=0)

    def run_step(self, step: Step) -> tuple[dict[str, Any], bool]:
        if step.key in self.finished:
            record, cached = self.finished[step.key], True
        else:
            record, cached, _ = self.tasks.result(step.key)
        self.store.name(step.key, step.checkpoint)
        return record, cached


class Tasks:
    """The stages of some chains, on their way through the cluster."""

    def __init__(self, executor: RayExecutor, chains: list[Chain], needs: Needs):
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray, self.executor, self.needs, self.chains = ray, executor, needs, chains
        self.labels = {s.key: f"{c.name} {s.stage}" for c in reversed(chains) for s in c.steps}
        stages = {step.key: step for chain in chains for step in chain.steps}
        self.waiting = [step for key, step in stages.items() if key not in executor.failed]
        self.running: dict[Any, Step] = {}
        self.done: dict[str, Finished] = {}
        self.failed: dict[str, Exception] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        suite, folder = executor.suite, Path.cwd()
        self.place = WorkerFolders(
            folder, folder / suite.model_dir, folder / suite.data_dir, suite.device, needs.cpus
        )
        self.start = ray.remote(run_stage).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory, max_retries=RETRIES
        )

    def result(self, key: str) -> Finished:
        """Wait for a stage, starting others meanwhile. Raises its error, or Interrupted."""
        while key not in self.done:
            if key in self.failed:
                raise self.failed[key]
            if self.executor.stop():
                self.end()
                raise Interrupted
            self.submit()
            self.collect()
        return self.done[key]

    def submit(self) -> None:
        """Start what may start, in the order of the suite."""
        for step in list(self.waiting):
            if len(self.running) >= self.needs.at_once:
                return
            if all(o is None or o.key in self.done for o in (step.before, step.teacher)):
                how = self.executor.how(step)
                task = self.start.remote(step, self.place, how, self.lines)
                self.running[task] = step
                self.waiting.remove(step)

    def collect(self) -> None:
        """Wait a moment; note what has come to its end and pass on what was said."""
        ended, _ = self.ray.wait(list(self.running), timeout=POLL_SECONDS)
        said = self.lines.qsize()
        for key, text in self.lines.get_nowait_batch(said) if said else []:
            self.tell(key, text)
        for task in ended:
            step = self.running.pop(task)
            try:
                found = self.ray.get(task)
            except self.ray.exceptions.TaskCancelledError:
                found = None
            except self.ray.exceptions.OutOfMemoryError as error:
                self.failed[step.key] = _out_of_memory(error)
                continue
            except self.ray.exceptions.RayError as error:
                self.failed[step.key] = _cause(error)
                continue
            if found is None:  # stopped; if not by us, it goes on later
                self.waiting.insert(0, step)
                continue
            self.done[step.key] = found
            for follower in self.executor.followers:
                follower.done_by_worker(step)
            if not found.cached:
                self.tell(step.key, f"done on {found.host}, {found.record['seconds']:.1f} s")
        if ended:
            self.drop_stopped()

    def drop_stopped(self) -> None:
        """Do not start what only stopped chains have; a stage that others share is theirs."""
        going_on = [chain for chain in self.chains if chain.stopped(self.record) is None]
        wanted = {step.key for chain in going_on for step in chain.steps}
        self.waiting = [step for step in self.waiting if step.key in wanted]

    def record(self, key: str) -> dict[str, Any] | None:
        return self.done[key].record if key in self.done else None

    def end(self) -> None:
        """Have running stages save themselves, and wait until they have."""
        self.waiting.clear()
        for task in self.running:
            self.ray.cancel(task)
        while self.running:
            self.collect()

    def tell(self, key: str, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                self.executor.say(f"   {self.labels[key]} | {line.strip()}")


def _out_of_memory(error: Exception) -> Exception:
    """One line in the place of Ray's pages, which become its cause."""
    failed = Failed(
        f"its machine ran out of memory {1 + RETRIES} times; give it more, run fewer stages at "
        "once (--workers), or make the network, batch_size or image_size smaller"
    )
    failed.__cause__ = error
    return failed


def _cause(error: Exception) -> Exception:
    """What the stage raised, Ray's account of it (with the traceback) as its cause."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return error
    cause.__cause__ = error
    return cause


@contextmanager
def cluster(execution: Execution, device: torch.device, image_bytes: int) -> Iterator[Needs]:
    """Inside, this process is connected to a Ray cluster, by default one of its own.

    That one listens on 127.0.0.1 alone, has no dashboard, reports nothing, and ends with the
    context. Raises ConfigError where none answers or no machine is large enough for a stage.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # Ray's own is without end
    if execution.address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray makes 127.0.0.1 public
    import ray

    paths = [str(HOME), os.environ.get("PYTHONPATH", "")]
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "error",
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}},
    }
    try:
        if execution.address is None:
            ray.init(
                "local",
                num_cpus=max(_cores(), execution.workers or 0),
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # nothing large goes through it
                _node_ip_address="127.0.0.1",
                **common,
            )
        else:
            try:
                ray.init(execution.address, **common)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(
                    [
                        f"command line: --address {execution.address}: no cluster answers "
                        f"({reason}); start one there with ray start --head"
                    ]
                ) from None
        yield _needs(ray.nodes(), execution.workers, device, PROCESS_BYTES + 2 * image_bytes)
    finally:
        ray.shutdown()


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _needs(
    nodes: list[dict[str, Any]], workers: int | None, device: torch.device, memory: int
) -> Needs:
    """A stage's part of the cluster, such that `workers` (None: one a core or GPU) fit."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) for machine in machines]
    on_gpu = device.type == "cuda"
    at_once = workers or sum(gpus if on_gpu else cores) or 1
    cpus = next(
        (c for c in range(sum(cores) // at_once, 0, -1) if sum(n // c for n in cores) >= at_once), 1
    )
    share = 1 / -(-at_once // max(1, sum(gpus))) if on_gpu else 0.0  # 1, 1/2, 1/3, ... of a GPU
    needs = Needs(cpus, share, memory, at_once)
    fits = any(
        machine.get("CPU", 0) >= cpus
        and machine.get("memory", 0) >= memory
        and (machine.get("GPU", 0) > 0 or not on_gpu)
        for machine in machines
    )
    if not fits:
        raise ConfigError(
            [
                f"command line: --executor ray: a stage needs {cpus} CPUs, "
                f"{'a GPU, ' if on_gpu else ''}{memory / 2**30:.1f} GiB of memory, and no machine "
                "of the cluster has these; add one, or change DEVICE"
            ]
        )
    return needs
