"""One run of a suite: what must be right before anything is trained, then every chain."""

from __future__ import annotations

from experiment.baselines import baselines_to_retrain
from experiment.chain import plan
from experiment.console import Console
from experiment.execution import Execution
from experiment.executor import SerialExecutor
from experiment.measure import environment
from experiment.messages import ConfigError
from experiment.ray_executor import RayExecutor
from experiment.report import write_report
from experiment.results import Results
from experiment.schema import Suite
from experiment.store import Store
from experiment.tensorboard import Board
from stages.state import Interrupted


def run_suite(
    suite: Suite,
    baseline: str = "reuse",
    console: Console | None = None,
    *,
    remeasure: bool = False,
    tensorboard: bool = False,
    table: bool = True,
    execution: Execution | None = None,
) -> Results:
    """Run every chain of a suite and write its results.

    `baseline` says what happens to trained baselines: 'ask' (on a terminal), 'reuse' or 'retrain'.
    `remeasure` takes the metrics of stored stages again, for another or a quieter machine;
    `tensorboard` writes curves and hparams for TensorBoard beside the results;
    without `table` there is neither a closing table nor a report; `execution` says where stages run
    (None: here, one after another).
    Raises DataError, CheckpointError or ConfigError before anything is trained, Interrupted after.
    """
    console = console or Console()
    chains = plan(suite)
    follow = Board(suite.results_dir).write if tensorboard else None
    _check_folders(suite)
    store = Store(suite.model_dir, console.note)
    console.settings(suite, environment(suite.device), chains)
    retrain = baselines_to_retrain(chains, store, baseline, console.note)
    results = Results(suite, chains, follow)
    if execution is not None and execution.kind == "ray":
        executor: SerialExecutor = RayExecutor(
            suite, store, results, console, retrain, remeasure, execution=execution
        )
    else:
        executor = SerialExecutor(suite, store, results, console, retrain, remeasure)
    try:
        with console.following(chains, store):
            executor.load_data(chains)
            executor.run(chains)
    except Interrupted:
        write_report(suite.results_dir)
        raise
    if table:
        console.closing(results)
        console.say(f"report: {write_report(suite.results_dir)[0]}")
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
