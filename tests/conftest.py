"""What several folders use: Digits, a context, suites in a folder of their own.

A suite that was run and a compiled int8 network are made once for all tests.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

# The networks are tiny: two threads would only wait for each other, also in processes that tests
# start, and Inductor's own processes would import torch for longer than they compile.
os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import pytest
import torch

import main
from data_sets.source import DatasetArgs
from dataset import Dataset, load_dataset
from machine.cache import VARIABLE
from stages.stage import Context
from tests.support import ran as ran_suite
from tests.support.hurried import hurry
from tests.support.int8 import Deployable
from tests.support.once import copy_with_links, made_once
from tests.support.suites import CHAINS, Ran, Suites, run_in

torch.set_num_threads(1)

# What tests compile and measure has no say in the runs of who runs them. Processes that pytest
# starts get the folder of the first one, which removes it.
_cache = tempfile.TemporaryDirectory(prefix="compression-tests-")
os.environ.setdefault(VARIABLE, _cache.name)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DatasetArgs(name="Digits"), "data")


@pytest.fixture
def ctx(digits: Dataset) -> Context:
    return Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)


@pytest.fixture
def suites(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> Suites:
    hurry(monkeypatch)
    monkeypatch.setattr(
        "experiment.report.write.draw_pictures", lambda *about: []
    )  # saves a second
    return Suites(tmp_path, capsys)


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The suite of support/ran.py after a run with --tensorboard; for reading."""

    def make(folder: Path) -> None:
        run_in(folder, ran_suite.CHAINS, "--quiet", "--tensorboard")

    return Ran(made_once(tmp_path_factory, "ran", make))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The suite with CHAINS after its first run; for reading."""
    return Ran(made_once(tmp_path_factory, "finished", lambda folder: run_in(folder, CHAINS)))


@pytest.fixture
def run_before(suites: Suites, finished: Ran) -> Suites:
    """Suites in whose folder CHAINS has been run once."""
    copy_with_links(finished.models, suites.models)
    copy_with_links(finished.results, suites.results)
    for path in suites.results.glob("*.json"):
        path.write_text(path.read_text().replace(str(finished.folder), str(suites.folder)))
    return suites


@pytest.fixture
def command(ran: Ran, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a subcommand on the suite: its exit code, output, and lines of error."""

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = main.main([*arguments, "--config", str(ran.config)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err.splitlines()

    return run


@pytest.fixture(scope="session")
def int8() -> Deployable:
    return Deployable()
