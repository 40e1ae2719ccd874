"""Options of execution: what they mean, and which exclude one another."""

from __future__ import annotations

import argparse

import pytest

from experiment.running.executor_options import Execution, add_execution_options, execution
from experiment.suite.messages import ConfigError
from tests.support.suites import Suites


def options(*arguments: str) -> Execution:
    parser = argparse.ArgumentParser()
    add_execution_options(parser)
    return execution(parser.parse_args(arguments))


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        options(*arguments)
    return caught.value.problems


def test_options() -> None:
    assert options() == Execution("serial", None, None)
    ray = ["--executor", "ray", "--workers", "3", "--address", "auto"]
    assert options(*ray) == Execution("ray", 3, "auto")
    assert problems("--workers", "2") == [
        "command line: --workers needs --executor ray; add it",
    ]
    assert problems("--executor", "ray", "--workers", "0") == [
        "command line: --workers should be 1 or more: 0",
    ]


def test_without_ray_one_line_says_what_to_install(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "experiment.running.executor_options.importlib.util.find_spec", lambda name: None
    )
    assert suites.refused("", "--executor", "ray") == [
        "command line: --executor ray needs Ray, which is not installed; pip install 'ray>=2.40,<3'"
    ]
    assert not suites.results.exists()


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:port"])
def test_an_address_has_a_port(address: str) -> None:
    (line,) = problems("--executor", "ray", "--address", address)
    assert line == (
        f"command line: --address {address}: should be HOST:PORT, as ray start --head shows it, "
        "or 'auto'"
    )


def test_ray_and_torchrun_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert options("--executor", "ray").kind == "ray"  # alone, it is in nobody's way
    monkeypatch.setenv("WORLD_SIZE", "2")
    (line,) = problems("--executor", "ray")
    assert "under torchrun" in line
