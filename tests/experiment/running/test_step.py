"""A step whose parent has other weights is computed anew."""

from __future__ import annotations

from experiment.running.store import Store
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
