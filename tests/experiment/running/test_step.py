"""A step whose parent has other weights is computed anew."""

from __future__ import annotations

from experiment.running.store import Store
from tests.support.suites import CHAINS, Suites, cached, results


def test_what_follows_other_weights_is_computed_anew(run_before: Suites) -> None:
    """As after retraining where arithmetic differs: same key, other content."""
    store = Store(run_before.models)
    (key,) = {stage["key"] for stage in results(run_before, "Base")["stages"]}
    found = store.load(key)
    assert found is not None
    state, record = found
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["head.bias"] += 1
    store.put(key, state.changed(weights), record)
    assert run_before.run(CHAINS, "--only", "PFQ") == 0
    assert cached(run_before, "Base") == [True]
    assert cached(run_before, "PFQ") == [False, False, False]
    assert "made from other weights" in run_before.capsys.readouterr().out
