"""A step whose parent has other weights is computed anew; one step makes its networks once.

What no Spec declares is refused, and a stage that changes nothing says so.
"""

from __future__ import annotations

from typing import Any

import pytest

from experiment.running.executor import StageRunner
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from main import main
from methods.quantization import backends
from model import HybridCNNTransformer
from stages import STAGES, Stage
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, finetune
from stages.ptq import PtqSpec, ptq
from stages.stage import Context, StageSpec
from stages.state import ModelState
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


def test_a_step_makes_its_networks_once(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated, exits' thresholds included, and measured: one float network, one int8 form each
    for PyTorch and for engines. The baseline, which it is timed beside, is there since its step.
    """
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
    for name in "native_int8", "int8_forms":
        monkeypatch.setattr(backends, name, counted("int8", getattr(backends, name)))
    record, cached = runner.run(steps[-1])
    assert not cached and made == ["float", "int8", "int8"]
    assert sum(record["metrics"]["exits"]["share"]) == pytest.approx(1)
    made.clear()
    record, cached = runner.run(steps[-1], remeasure=True)
    assert cached and made == ["float", "int8"]  # its memory was measured before


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


IDLE = """
S = {"mode": "structural", "ratio": 0.001}
SURE = {"early_exit": {"epochs": 1, "thresholds": %s}}
EXPERIMENT_CONFIGS += [
    chain("PP", {"prune": {"ratio": 0.3}}, {"prune": {"ratio": 0.3}}),
    chain("S", {"prune": S}),
    chain("PQQ", {"prune": {"ratio": 0.3}}, "ptq", "ptq", {"ptq": {"calibration_batches": 1}}),
    chain("Never", SURE),
    chain("D", {"distill": {"width": 1.0, "epochs": 1}}),
]
"""
SAID = {
    "PP": [[], ["prune changed nothing: ratio 0.3 is of all channels of a layer, zeroed ones too"]],
    "S": [["prune changed nothing: ratio 0.001 of the units that entered rounds to none in each"]],
    "PQQ": [[], [], ["ptq changed nothing: it was quantized in the same way before"], []],
    "Never": [["no image leaves early, so the exits only cost"]],
    "D": [["the student has every width of the network that it replaces"]],
}


def test_a_stage_that_changes_nothing_says_so(suites: Suites) -> None:
    """In the run, the JSON, the report and `show`; the store says it again, a working stage not."""
    for _ in range(2):
        assert suites.run(IDLE % 1.0) == 0
        printed = suites.capsys.readouterr().out
        for name, stages in SAID.items():
            for stage, said in zip(results(suites, name)["stages"], stages, strict=True):
                told = stage["details"].get("warnings", []) + stage["metrics"].get("warnings", [])
                told = [
                    text
                    for text in told
                    if not text.startswith(("int8 speed", "p95 is", "speedup"))
                ]
                assert len(told) == len(said)
                assert all(a.startswith(b) for a, b in zip(told, said, strict=True)), told
                assert all(f"warning: {text}" in printed for text in told)
    page = (suites.results / "report.html").read_text()
    for said in (text for stages in SAID.values() for texts in stages for text in texts):
        assert said in page, said
    assert main(["show", "PP", "--config", str(suites.folder / "suite.py")]) == 0
    assert "2 prune: prune changed nothing" in suites.capsys.readouterr().out


def test_exits_that_go_with_their_layers_are_told(suites: Suites) -> None:
    text = """
    BASE["model_args"] = {"num_layers": 2}
    SURE = {"early_exit": {"epochs": 1, "thresholds": 0.9}}
    EXPERIMENT_CONFIGS.append(chain("ED", SURE, {"distill": {"depth": 0.5, "epochs": 1}}))
    """
    assert suites.run(text) == 0
    exits, student = results(suites, "ED")["stages"]
    assert exits["metrics"]["exits"]["places"] == ["cnn", "layer_0", "end"]
    assert student["metrics"]["exits"]["places"] == ["cnn", "end"]
    told = "distill took 1 of 2 early exits along with their layers"
    assert student["details"]["warnings"] == [told]


def test_exits_that_everybody_takes_say_so(suites: Suites) -> None:
    assert suites.run(IDLE % 0.0, "--only", "Never") == 0
    (stage,) = results(suites, "Never")["stages"]
    assert stage["metrics"]["exits"]["share"][0] == 1
    told = "every image leaves at exit 'cnn', so what lies behind it never runs"
    assert told in stage["metrics"]["warnings"]
