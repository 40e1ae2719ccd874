"""Exits learn on a frozen trunk, beside every other stage, and come back from the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from experiment.running import measure
from methods.early_exit.exits import EarlyExitNetwork
from methods.early_exit.thresholds import all_certainties, exit_taken
from model import HybridCNNTransformer
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import ModelState, build, initial_state
from stages.teaching import Teacher
from tests.support.exits import FAST, learned, network_of
from tests.support.suites import Suites
from tests.support.tiny import FUSIONS, TINY


@pytest.fixture(scope="module")
def trained(digits: Any) -> ModelState:
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    args = HybridCNNTransformer(**TINY).model_args
    spec = TrainSpec(**{**FAST, "epochs": 12, "learning_rate": 1e-2})
    return train(initial_state(args, 0), spec, ctx)


def test_heads_learn_on_a_frozen_trunk(trained: ModelState, ctx: Context) -> None:
    spec = EarlyExitSpec(**{**FAST, "epochs": 4, "trunk": "frozen", "max_accuracy_drop": 3.0})
    deployed = calibrated(early_exit(trained, spec, ctx), ctx)
    state = deployed.state
    for name, before in trained.weights.items():
        assert torch.equal(state.weights[name], before), name
    images, labels = next(iter(ctx.loaders(batch_size=256).test))
    with torch.inference_mode():
        every = build(state).every_logits(images)
        right = every.argmax(2).eq(labels).double().mean(1)
    assert right[1] > 0.4
    loaders = deployed.loaders(ctx)
    metrics = measure.measure(deployed, loaders.test, loaders.validation)
    assert metrics["macs"] < metrics["exits"]["macs"][-1]


NEIGHBOURS = {
    "prune": (prune, PruneSpec(mode="structural", ratio=0.3, targets=["conv", "embed", "depth"])),
    "mask": (prune, PruneSpec(ratio=0.3)),
    "finetune": (finetune, FinetuneSpec(**FAST)),
    "ptq": (ptq, PtqSpec(backend="x86", calibration_batches=2)),
    "qat": (qat, QatSpec(backend="x86", calibration_batches=2, **FAST)),
    "distill": (distill, DistillSpec(width=0.5, temperature=2.0, **FAST)),
}


@pytest.mark.parametrize("first", [True, False], ids=["exits-first", "exits-last"])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_any_stage_may_follow_and_precede(
    name: str, first: bool, trained: ModelState, ctx: Context
) -> None:
    stage: tuple[Any, Any] = (early_exit, EarlyExitSpec(**FAST, max_accuracy_drop=2.0))
    order = [stage, NEIGHBOURS[name]] if first else [NEIGHBOURS[name], stage]
    state = trained
    for run, spec in order:
        state = calibrated(run(state, spec, ctx), ctx).state
    assert state.exits is not None and state.exits.thresholds is not None
    assert len(state.exits.thresholds) == len(state.model_args["exits"])
    assert (state.quant is not None) == (name in ("ptq", "qat"))
    again = initial_state(state.model_args, 1)
    assert {n: w.shape for n, w in again.weights.items()} == {
        n: w.shape for n, w in state.weights.items()
    }


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("backend", ["x86", pytest.param("inductor", marks=pytest.mark.slow)])
def test_int8_exits_are_near_their_float_form(backend: str, fusion: str, ctx: Context) -> None:
    """Logits of every exit within 10 %, and nine of ten decisions the same."""
    state = learned(fusion)
    spec = PtqSpec(backend=backend, calibration_batches=4)
    int8 = calibrated(ptq(state, spec, ctx), ctx).network
    assert isinstance(int8, EarlyExitNetwork)
    images, _ = next(iter(ctx.loaders(batch_size=256).test))
    plain = network_of(state)
    with torch.inference_mode():
        expected = build(state).every_logits(images)
        found = int8.network(images)
        assert (found - expected).norm() < 0.1 * expected.norm()
        int8(images), plain(images)
        one = exit_taken(
            all_certainties(found, "confidence"), "confidence", plain.exits.thresholds or ()
        )
        other = exit_taken(
            all_certainties(expected, "confidence"), "confidence", plain.exits.thresholds or ()
        )
    assert (one == other).double().mean() >= 0.9
    assert sum(int8.left) == sum(plain.left) == len(images)


def test_qat_trains_exits_in_the_simulation(trained: ModelState, ctx: Context) -> None:
    """Backend `inductor`: masters move, the simulation gives every exit's logits."""
    started = early_exit(trained, EarlyExitSpec(**FAST, thresholds=0.5), ctx)
    state = qat(started, QatSpec(backend="inductor", **FAST), ctx)
    assert state.quant is not None and state.quant.ranges is not None
    assert {"exits.cnn.head", "exits.layer_0.head", "cnn"} <= state.quant.ranges.keys()
    assert state.exits is not None and state.exits.thresholds == (0.5, 0.5)
    name = "exits.layer_0.head.weight"
    assert not torch.equal(state.weights[name], started.weights[name])


def test_a_teacher_for_exits(trained: ModelState, ctx: Context) -> None:
    """The whole network teaches its own exits; it is asked once a batch, not once an exit."""
    asked: list[int] = []
    spec = EarlyExitSpec(**FAST, trunk="frozen", teacher="current", thresholds=0.5)
    before = Teacher.logits

    def counted(self: Teacher, images: Tensor) -> Tensor:
        asked.append(len(images))
        return before(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "logits", counted)
        early_exit(trained, spec, ctx)
    assert len(asked) == len(ctx.loaders(spec).train)


def test_thresholds_of_other_weights_are_not_used(trained: ModelState, ctx: Context) -> None:
    state = calibrated(early_exit(trained, EarlyExitSpec(**FAST), ctx), ctx).state
    assert state.exits is not None and state.exits.thresholds is not None
    changed = state.changed(state.weights)
    assert changed.exits is not None and changed.exits.thresholds is None
    with pytest.raises(ValueError, match="no thresholds; calibrate it first"):
        _ = deploy(changed).network


def test_a_saving_out_of_reach_is_told(trained: ModelState, ctx: Context) -> None:
    state = early_exit(trained, EarlyExitSpec(**FAST, saving=0.99), ctx)
    with pytest.raises(StageError, match="cannot save 99% of the MACs; most is"):
        calibrated(state, ctx)


@pytest.mark.parametrize("criterion", ["confidence", "entropy", "patience"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saving_that_no_network_has_is_said_before_as_it_would_be_later(
    fusion: str, criterion: Any, ctx: Context
) -> None:
    args = HybridCNNTransformer(**{**TINY, "fusion": fusion, "num_layers": 3}).model_args
    spec = EarlyExitSpec(**{**FAST, "criterion": criterion, "saving": 0.99})
    with pytest.raises(ValueError, match="most is") as before:
        spec.check_leaving_early(spec.outgoing(args))
    state = early_exit(initial_state(args, 0), spec, ctx)
    alike = {name: torch.zeros_like(value) for name, value in state.weights.items()}
    for name in alike:  # every exit is sure of class 0, so that every image leaves at once
        if name.endswith("head.bias"):
            alike[name][0] = 9.0
    with pytest.raises(StageError, match="most is") as later:
        calibrated(state.changed(alike), ctx)
    assert str(later.value) == str(before.value)


def test_mistakes_are_told_before_anything_runs(suites: Suites) -> None:
    text = """
    EXPERIMENT_CONFIGS += [
        chain("A", {"early_exit": {"places": ["layer_3"]}}),
        chain("B", {"early_exit": {"thresholds": 0.5, "saving": 0.5}}),
        chain("C", {"early_exit": {"thresholds": [0.5, 0.5, 0.5]}}),
        chain("D", {"early_exit": {"criterion": "patience", "thresholds": 0.5}}),
    ]
    """
    told = suites.refused(text)
    assert len(told) == 4
    assert "places ['layer_3'] should be some of ['cnn']" in told[0]
    assert "thresholds and saving exclude one another" in told[1]
    assert "thresholds has 3 entries, there are 1 exits" in told[2]
    assert "thresholds of 'patience' should be whole numbers from 1: 0.5" in told[3]


def test_a_suite_runs_and_comes_back_from_the_store(suites: Suites) -> None:
    text = """
    EXPERIMENT_CONFIGS.append(chain("EQ", {"early_exit": {"max_accuracy_drop": 1.0}}, "ptq"))
    """
    assert suites.run(text) == 0
    first = json.loads((suites.results / "EQ_results.json").read_text())
    assert suites.run(text) == 0
    second = json.loads((suites.results / "EQ_results.json").read_text())
    assert [stage["cached"] for stage in second["stages"]] == [True, True]
    for one, other in zip(first["stages"], second["stages"], strict=True):
        assert one["metrics"] == other["metrics"]
    exits = second["stages"][1]["metrics"]["exits"]
    assert sum(exits["share"]) == pytest.approx(1) and exits["places"] == ["cnn", "end"]
    assert second["stages"][1]["exits"]["thresholds"] == exits["thresholds"]
