"""`deployment_args`: what is refused, in whose words, and what 'auto' comes to."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast, get_args

import pytest

from engines import ENGINES
from engines.deployment_args import BatchSize, DeploymentArgs
from experiment.running.metrics import BATCH_SIZES
from experiment.suite.chains import plan
from experiment.suite.config_file import config_values
from experiment.suite.schema import load_suite
from tests.support.home import HOME
from tests.support.suites import Suites, results

LACKING = "needs the package other; pip install other"


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides `eager` one whose package is not installed, whatever engines there are."""
    other = cast("ModuleType", SimpleNamespace(unavailable=lambda: LACKING))
    for name in set(ENGINES) - {"eager"}:
        monkeypatch.delitem(ENGINES, name)
    monkeypatch.setitem(ENGINES, "other", other)


TOO_MANY = (os.cpu_count() or 1) + 1
MISTAKES: dict[str, tuple[Any, str]] = {
    "an engine that is not here": (
        {"engines": ["eager", "other"]},
        f"engines: ['eager', 'other'] names 'other', which {LACKING}",
    ),
    "a misspelt engine": (
        {"engines": ["eagre"]},
        "engines: ['eagre'] names 'eagre', which is not an engine; did you mean 'eager'?",
    ),
    "no engine's name at all": (
        {"engines": ["tpu"]},
        "engines: ['tpu'] names 'tpu', which is not an engine; allowed: eager, other",
    ),
    "a word": (
        {"engines": "eager"},
        "engines: 'eager' should be 'auto' or should be a valid list",
    ),
    "no engines": ({"engines": []}, "engines: [] should be 'auto' or name an engine"),
    "an engine twice": (
        {"engines": ["eager", "eager"]},
        "engines: ['eager', 'eager'] has an engine twice; name each once",
    ),
    "no sizes": ({"batch_sizes": []}, "batch_sizes: [] List should have at least 1 item"),
    "not a power of two": (
        {"batch_sizes": [1, 24]},
        "batch_sizes[1]: 24 should be 1, 2, 4, 8, 16, 32, 64, 128 or 256",
    ),
    "too large a size": ({"batch_sizes": [512]}, "batch_sizes[0]: 512 should be 1, 2, 4,"),
    "a size twice": (
        {"batch_sizes": [1, 64, 1]},
        "batch_sizes: [1, 64, 1] has a size twice; name each once",
    ),
    "no threads": ({"threads": 0}, "threads: 0 should be greater than or equal to 1"),
    "too many threads": (
        {"threads": TOO_MANY},
        f"threads: {TOO_MANY} is more than the {TOO_MANY - 1} processors here; ask for fewer",
    ),
    "a misspelt key": ({"thread": 1}, "thread: 'thread' is not known; did you mean 'threads'?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_wherever_it_is_written(suites: Suites, case: str) -> None:
    args, said = MISTAKES[case]
    (own,) = suites.refused(f"BASE['deployment_args'] = {args}")
    assert own.startswith(f"Base.deployment_args.{said}")
    (default,) = suites.refused(f"DEFAULT_DEPLOYMENT_PARAMS = {args}")
    assert default.startswith(f"DEFAULT_DEPLOYMENT_PARAMS.{said}")
    ((key, value),) = args.items()
    if key != "thread":
        (forced,) = suites.refused("", "--set", f"deployment_args.{key}={value}")
        assert forced.startswith(f"Base.deployment_args.{said}")


def test_each_key_is_completed_by_itself(suites: Suites) -> None:
    """What a baseline says is its own; a chain is measured as its own words have it."""
    path = suites.write(
        """
        DEFAULT_DEPLOYMENT_PARAMS = {"batch_sizes": [8, 1]}
        BASE["deployment_args"] = {"engines": ["eager"]}
        EXPERIMENT_CONFIGS.append(chain("C", "ptq", deployment_args={"batch_sizes": [256]}))
        """
    )
    base, chain = load_suite(path, overrides=["deployment_args.threads=1"]).experiments
    assert base.deployment == DeploymentArgs(engines=["eager"], batch_sizes=[8, 1], threads=1)
    assert chain.deployment == DeploymentArgs(engines="auto", batch_sizes=[256], threads=1)
    assert chain.config()["deployment_args"] == {
        "engines": "auto", "batch_sizes": [256], "threads": 1,
    }  # fmt: skip


def test_int8_that_nothing_would_run_is_refused(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs, wherever it stands in the chain; torch's own int8 runs in `eager`."""
    text = """
        EXPERIMENT_CONFIGS.append(chain(
            "C", {"prune": {"ratio": 0.3}}, {"qat": {"backend": "%s"}}, deployment_args=%s,
        ))
        """
    told = "needs another engine than 'eager', which would only simulate it; "
    (line,) = suites.refused(text % ("pt2e", {"engines": "auto"}))
    assert line == f"C.compression_args.sequence[1]: qat {told}other {LACKING}"
    load_suite(suites.write(text % ("x86", {"engines": ["eager"]})))
    monkeypatch.setattr(ENGINES["other"], "unavailable", lambda: None)
    (line,) = suites.refused(text % ("pt2e", {"engines": ["eager"]}))
    assert line.endswith(f"{told}allow one in deployment_args.engines: 'other'")
    load_suite(suites.write(text % ("pt2e", {"engines": "auto"})))


def test_it_is_in_no_key(suites: Suites) -> None:
    def keys(*overrides: str) -> list[str]:
        suite = load_suite(suites.write(), overrides=list(overrides))
        return [step.key for chain in plan(suite) for step in chain.steps]

    others = ["deployment_args.engines=['eager']", "deployment_args.batch_sizes=[2]"]
    assert keys() == keys(*others, "deployment_args.threads=1")


def test_auto_is_what_is_here() -> None:
    assert DeploymentArgs().available() == ["eager"]


def test_results_have_it(suites: Suites) -> None:
    assert suites.run("", "--quiet", "--set", "deployment_args.threads=1") == 0
    told = results(suites, "Base")["config"]["deployment_args"]
    assert told == {"engines": ["eager"], "batch_sizes": [1, 64], "threads": 1}


def test_configs_made_before_go_on_working(
    suites: Suites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where somebody's own config.py is one that does not have the name."""
    old = tmp_path / "config.py"
    text = (HOME / "config.py").read_text()
    before, _, rest = text.partition("DEFAULT_DEPLOYMENT_PARAMS")
    old.write_text(before + rest.partition("}\n")[2])
    monkeypatch.setattr("experiment.suite.config_file.HOME", tmp_path)
    assert config_values(old)["DEFAULT_DEPLOYMENT_PARAMS"] == {}
    (base,) = load_suite(suites.write("del DEFAULT_DEPLOYMENT_PARAMS")).experiments
    assert base.deployment == DeploymentArgs()


def test_every_batch_size_has_its_figure() -> None:
    assert get_args(BatchSize) == BATCH_SIZES
