"""One run of a suite: what must be right before anything is trained, then every chain."""

from __future__ import annotations

from experiment.running.baselines import baselines_to_retrain
from experiment.running.console import Console
from experiment.running.executor import Follower, SerialExecutor
from experiment.running.executor_options import Execution
from experiment.running.ray_executor import RayExecutor
from experiment.running.results import Results
from experiment.running.run_view import RunView
from experiment.running.store import Store
from experiment.running.tensorboard import Board
from experiment.suite.chains import plan
from experiment.suite.messages import ConfigError
from experiment.suite.records import Suite
from machine.environment import environment


def run_chains(
    suite: Suite,
    baseline: str = "reuse",
    console: Console | None = None,
    *,
    remeasure: bool = False,
    tensorboard: bool = False,
    execution: Execution | None = None,
    brief: bool = False,
    failed: dict[str, str] | None = None,
    written: bool = True,
) -> Results:
    """Run every chain of a suite and write its results.

    `baseline` says what happens to trained baselines: 'ask' (on a terminal), 'reuse' or 'retrain'.
    `remeasure` takes the metrics of stored stages again, for another or a quieter machine;
    `tensorboard` writes curves and hparams for TensorBoard beside the results; `execution` says
    where stages run (None: here, one after another); `brief` leaves out what was known before,
    `failed` (key → reason) is of stages that are not tried again, and gets those that fail;
    `written`: whether results are files as well.
    Raises DataError, CheckpointError or ConfigError before anything is trained, Interrupted after.
    """
    console = console or Console()
    chains = plan(suite)
    results, view = Results(suite, chains), RunView(console, brief=brief)
    followers: list[Follower] = [results, view] if written else [view]
    if tensorboard:
        followers.append(Board(results))
    _check_folders(suite)
    store = Store(suite.model_dir, console.note)
    view.settings(suite, environment(suite.device), chains)
    retrain = baselines_to_retrain(chains, store, baseline, console)
    failed = {} if failed is None else failed
    how = (suite, store, followers, console.say, console.note, retrain, remeasure, failed)
    if execution is not None and execution.kind == "ray":
        executor: SerialExecutor = RayExecutor(*how, execution=execution)
    else:
        executor = SerialExecutor(*how)
    with view.following(chains, store):
        executor.load_data(chains)
        executor.run(chains)
    return results


def _check_folders(suite: Suite) -> None:
    """Find out that a folder cannot be written before anything is trained."""
    problems = []
    for key, folder in [
        ("DATA_DIR", suite.data_dir),
        ("MODEL_SAVE_DIR", suite.model_dir),
        ("RESULTS_DIR", suite.results_dir),
    ]:
        probe = folder / f".write_test_{id(suite)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            problems.append(f"{key}: {folder} cannot be written ({error.strerror}); choose another")
    if problems:
        raise ConfigError(problems)
