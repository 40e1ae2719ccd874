"""A step whose parent has other weights is computed anew; what no Spec declares is refused."""

from __future__ import annotations

import pytest

from experiment.running.store import Store
from stages import STAGES, Stage
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, finetune
from stages.ptq import PtqSpec, ptq
from stages.stage import Context, StageSpec
from stages.state import ModelState
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


class SilentSpec(StageSpec):
    """Declares nothing."""

    does: str

    def tags(self) -> tuple[str, str]:
        return self.does, self.does


def silent(state: ModelState, spec: SilentSpec, ctx: Context) -> ModelState:
    if spec.does == "quantize":
        return ptq(state, PtqSpec(backend="x86"), ctx)
    if spec.does == "leave":
        return early_exit(state, EarlyExitSpec(epochs=1), ctx)
    return finetune(state, FinetuneSpec(epochs=1), ctx)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("quantize", "its network is quantized, which SilentSpec does not declare; add quantizes"),
        ("leave", "its network has exits, which SilentSpec does not declare; add adds_exits"),
        ("train", "its network was trained, which SilentSpec does not declare; add epochs_trained"),
    ],
)
def test_a_stage_that_does_what_it_does_not_declare_fails(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    monkeypatch.setitem(STAGES, "silent", Stage(SilentSpec, silent))
    text = f'EXPERIMENT_CONFIGS.append(chain("C", {{"silent": {{"does": {does!r}}}}}))'
    assert suites.run(text) == 1
    (error,) = results(suites, "C")["errors"]
    assert error["stage"] == "silent" and said in error["message"]
