"""A step whose parent has other weights is computed anew; one step makes its networks once."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from methods.quantization import backends
from model import HybridCNNTransformer
from tests.support.suites import CHAINS, Suites, cached, results


def test_what_follows_other_weights_is_computed_anew(suites: Suites) -> None:
    """As after retraining where arithmetic differs: same key, other content."""
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    store = Store(suites.models)
    (key,) = {stage["key"] for stage in results(suites, "Base")["stages"]}
    found = store.load(key)
    assert found is not None
    state, record = found
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["head.bias"] += 1
    store.put(key, state.changed(weights), record)
    assert suites.run(CHAINS, "--only", "PFQ") == 0
    assert cached(suites, "Base") == [True]
    assert cached(suites, "PFQ") == [False, False, False]
    assert "made from other weights" in suites.capsys.readouterr().out


def test_a_step_makes_its_networks_once(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated, exits' thresholds included, and measured: one float network, one int8 form."""
    exits = '{"early_exit": {"epochs": 1, "max_accuracy_drop": 5.0}}'
    path = suites.write(f'EXPERIMENT_CONFIGS.append(chain("EQ", {exits}, "ptq"))')
    suite = load_suite(str(path))
    (steps,) = [chain.all_steps() for chain in plan(suite) if chain.experiment.name == "EQ"]
    runner = StageRunner(
        Store(suite.model_dir), suite.data_dir, suite.device, lambda: False, lambda line: None
    )
    for step in steps[:-1]:
        runner.run(step)
    made: list[str] = []

    def counted(name: str, make: Any) -> Any:
        def counting(*args: Any, **options: Any) -> Any:
            made.append(name)
            return make(*args, **options)

        return counting

    build = counted("float", HybridCNNTransformer.__init__)
    monkeypatch.setattr(HybridCNNTransformer, "__init__", build)
    monkeypatch.setattr(backends, "to_int8", counted("int8", backends.to_int8))
    record, cached = runner.run(steps[-1])
    assert not cached and made == ["float", "int8"]
    assert sum(record["metrics"]["exits"]["share"]) == pytest.approx(1)
    assert record["metrics"]["warnings"] is not None
    made.clear()
    record, cached = runner.run(steps[-1], remeasure=True)
    assert cached and made == ["float", "int8"]
