"""Early exits: decisions, costs and thresholds against plain recounts; every neighbour stage."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_sets.source import DatasetArgs
from dataset import load_dataset
from experiment.running import measure
from methods import costs
from methods.early_exit.exits import CRITERIA, EarlyExitNetwork, Exits, certainty
from methods.early_exit.thresholds import all_certainties, calibrate, exit_taken
from model import HybridCNNTransformer
from networks.args import exit_places
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import ModelState, build, initial_state, state_of
from stages.teaching import Teacher
from tests.conftest import FUSIONS, TINY, Suites, tiny
from training.losses import over_exits

FAST: dict[str, Any] = {"epochs": 1, "learning_rate": 5e-3, "precision": "fp32"}


def with_exits(fusion: str = "serial", exits: Exits | None = None, **args: Any) -> ModelState:
    layers = args.get("num_layers", TINY["num_layers"])
    places = exit_places(fusion, layers)
    model = tiny(fusion=fusion, exits=places, **args)
    state = state_of(model)
    return replace(state, exits=exits or Exits(thresholds=(0.3,) * len(places)))


def network_of(state: ModelState) -> EarlyExitNetwork:
    network = deploy(state)
    assert isinstance(network, EarlyExitNetwork)
    return network


@functools.cache
def learned(fusion: str) -> ModelState:
    """A network of four layers with exits that has learned a little, so that they differ."""
    digits = load_dataset(DatasetArgs(name="Digits"), "data")
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    places = exit_places(fusion, 4)
    model = HybridCNNTransformer(**{**TINY, "num_layers": 4, "fusion": fusion, "exits": places})
    spec = TrainSpec(**{**FAST, "epochs": 5})
    state = train(initial_state(model.model_args, 0), spec, ctx)
    return replace(state, exits=Exits(thresholds=(0.3,) * len(places)))


@functools.cache
def some_digits(count: int = 100) -> Tensor:
    digits = load_dataset(DatasetArgs(name="Digits"), "data")
    ctx = Context(digits, torch.device("cpu"), seed=0)
    return next(iter(ctx.loaders(batch_size=count).test))[0]


@pytest.fixture(scope="module")
def trained(digits: Any) -> ModelState:
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    args = HybridCNNTransformer(**TINY).model_args
    spec = TrainSpec(**{**FAST, "epochs": 12, "learning_rate": 1e-2})
    return train(initial_state(args, 0), spec, ctx)


# --- decisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["mean", "class_token", "sequence"])
def test_parts_make_the_whole_network(fusion: str, pooling: str) -> None:
    state = with_exits(fusion, pooling=pooling)
    model, images = build(state), torch.randn(5, 1, 8, 8)
    plain_args = {**state.model_args, "exits": []}
    plain = HybridCNNTransformer(**plain_args).eval()
    plain.load_state_dict({n: w for n, w in state.weights.items() if not n.startswith("exits.")})
    with torch.inference_mode():
        every = model.every_logits(images)
        assert len(every) == len(state.model_args["exits"]) + 1
        torch.testing.assert_close(every[-1], plain(images))
        torch.testing.assert_close(model(images), plain(images))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
def test_thresholds_of_one_and_zero(fusion: str, criterion: str) -> None:
    state, images = with_exits(fusion), torch.randn(9, 1, 8, 8)
    count = len(state.model_args["exits"])
    with torch.inference_mode():
        every = build(state).every_logits(images)
    stay = network_of(replace(state, exits=Exits(criterion, (1.0,) * count)))
    go = network_of(replace(state, exits=Exits(criterion, (0.0,) * count)))
    with torch.inference_mode():
        torch.testing.assert_close(stay(images), every[-1])
        torch.testing.assert_close(go(images), every[0])
    assert stay.left == [0] * count + [9] and go.left == [9] + [0] * count


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_sample_gets_the_logits_of_its_exit(fusion: str, criterion: str) -> None:
    """Against a loop over single samples that follows the definition."""
    state, images = learned(fusion), some_digits()
    count = len(state.model_args["exits"])
    with torch.inference_mode():
        every = build(state).every_logits(images)
    limits = (1.0,) * count
    if criterion != "patience":
        limits = tuple(all_certainties(every, criterion).quantile(0.706, dim=1).tolist())
    network = network_of(replace(state, exits=Exits(criterion, limits)))
    with torch.inference_mode():
        found = network(images)
    left = [0] * (count + 1)
    for sample in range(len(images)):
        agreeing, answers = 0, []
        for place in range(count + 1):
            logits = every[place, sample]
            p = logits.softmax(0)
            answers.append(int(logits.argmax()))
            agreeing = agreeing + 1 if answers[-2:-1] == answers[-1:] else 0
            entropy = 1 + float((p * p.log()).sum()) / math.log(10)
            limit = limits[min(place, count - 1)]
            sure = {
                "confidence": float(p.max()) > limit,
                "entropy": entropy > limit,
                "patience": agreeing >= limit,
            }[criterion]
            if sure or place == count:
                left[place] += 1
                torch.testing.assert_close(found[sample], logits)
                break
    assert network.left == left
    several = fusion != "parallel" or criterion != "patience"  # one exit cannot agree with another
    assert sum(n > 0 for n in left) > 1 or not several


def test_layers_are_really_skipped() -> None:
    """Hooks count the samples that each layer sees."""
    state, images = learned("serial"), some_digits()
    with torch.inference_mode():
        every = build(state).every_logits(images)
    certain = all_certainties(every, "confidence")
    limits = tuple(certain.quantile(0.506, dim=1).tolist())
    network = network_of(replace(state, exits=Exits(thresholds=limits)))
    seen: dict[str, int] = {}
    for index, layer in enumerate(network.network.transformer.layers):  # type: ignore[union-attr, arg-type]
        name = f"layer_{index}"
        seen[name] = 0

        def count(module: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] += len(inputs[0])

        layer.register_forward_pre_hook(count)
    with torch.inference_mode():
        network(images)
    taken = exit_taken(certain, "confidence", limits)
    assert seen == {
        "layer_0": int((taken > 0).sum()),
        "layer_1": int((taken > 1).sum()),
        "layer_2": int((taken > 2).sum()),
        "layer_3": int((taken > 3).sum()),
    }
    assert 0 < seen["layer_3"] < seen["layer_0"] < len(images)
    seen = dict.fromkeys(seen, 0)
    network.thresholds = (0.0, 0.0, 0.0, 0.0, None)
    with torch.inference_mode():
        network(images)
    assert set(seen.values()) == {0}


# --- costs --------------------------------------------------------------------------------------


def test_mean_macs_are_the_sum_over_samples(ctx: Context) -> None:
    state = learned("serial")
    test = ctx.loaders(batch_size=256).test
    model = build(state).requires_grad_(False)
    single = {
        index: sum(costs.count_macs(part, inputs)[0] for part, inputs in chain[: index + 1])
        for chain in [_chain(model)]
        for index in range(len(chain))
    }
    every = torch.cat([model.every_logits(images) for images, _ in test], dim=1)
    taken = exit_taken(all_certainties(every, "confidence"), "confidence", (0.3,) * 4)
    by_sample = sum(single[int(place)] for place in taken) / len(taken)
    metrics = measure.measure(state, test, torch.device("cpu"))
    assert metrics["macs"] == pytest.approx(by_sample, abs=0.51)
    assert metrics["bitops"] == pytest.approx(by_sample * 32 * 32, rel=1e-6)
    assert metrics["flops"] == 2 * metrics["macs"]
    assert metrics["exits"]["places"] == ["cnn", "layer_0", "layer_1", "layer_2", "end"]
    shares = np.bincount(taken.numpy(), minlength=5) / len(taken)
    assert metrics["exits"]["share"] == pytest.approx(shares.tolist())
    assert metrics["inference_time_ms"]["batch_1"]["images"] == 64
    whole = costs.count_macs(build(replace(state, exits=None)))[0]
    heads = 16 * 10 + 3 * 16 * 10  # after the CNN (16 channels), after three layers (16 wide)
    assert metrics["exits"]["macs"][-1] == whole + heads


def _chain(model: HybridCNNTransformer) -> list[tuple[Any, tuple[Tensor, ...]]]:
    inputs: tuple[Tensor, ...] = (costs.example_image(model),)
    found = []
    for part in model.parts():
        found.append((part, inputs))
        with torch.no_grad():
            inputs = part(*inputs)[1:]
    return found


# --- thresholds ---------------------------------------------------------------------------------


def planted() -> tuple[Tensor, Tensor]:
    """1,000 samples, 2 classes: the exit is right wherever it is surer than 0.8, the end always."""
    labels = torch.randint(0, 2, (1000,))
    sure = 0.5 + 0.5 * torch.rand(1000)
    answers = torch.where(sure > 0.8, labels, torch.randint(0, 2, (1000,)))
    at_exit = torch.zeros(1000, 2)
    at_exit[torch.arange(1000), answers] = torch.logit(sure)
    end = torch.zeros(1000, 2)
    end[torch.arange(1000), labels] = 5.0
    return torch.stack([at_exit, end]), labels


def test_calibration_finds_the_planted_threshold() -> None:
    every, labels = planted()
    found = calibrate(every, labels, [10, 100], Exits(max_accuracy_drop=0.0))
    assert found.thresholds is not None
    assert found.thresholds[0] == pytest.approx(0.8, abs=0.02)
    loose = calibrate(every, labels, [10, 100], Exits(max_accuracy_drop=5.0))
    assert loose.thresholds is not None and loose.thresholds[0] < found.thresholds[0]
    taken = exit_taken(all_certainties(every, "confidence"), "confidence", loose.thresholds)
    right = every.argmax(2).eq(labels)[taken, torch.arange(1000)]
    assert 100 * right.double().mean() >= 95.0


def test_a_saving_is_met_or_refused() -> None:
    every, labels = planted()
    found = calibrate(every, labels, [10, 100], Exits(saving=0.3))
    taken = exit_taken(all_certainties(every, "confidence"), "confidence", found.thresholds or ())
    saved = 0.9 * (taken == 0).double().mean().item()
    assert 0.3 <= saved < 0.37  # what is surer than 0.8, two fifths, leaves without loss
    assert every.argmax(2).eq(labels)[taken, torch.arange(1000)].all()
    with pytest.raises(ValueError, match="cannot save 95% of the MACs; most is 90%"):
        calibrate(every, labels, [10, 100], Exits(saving=0.95))


def test_certainty_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0, -math.inf]])  # 3/4, 1/4, 0
    assert certainty(logits, "confidence").item() == pytest.approx(0.75)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert certainty(logits, "entropy").item() == pytest.approx(1 - entropy / math.log(3))


def test_the_loss_over_exits_by_hand() -> None:
    def criterion(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return logits.sum()

    logits = torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1)
    nothing = torch.empty(0)
    joint = over_exits(criterion, 0.5)(logits, nothing, nothing)
    assert joint.item() == pytest.approx((6 + 0.5 * 3) / (1 + 0.5 * 2))
    frozen = over_exits(criterion, math.inf)(logits, nothing, nothing)
    assert frozen.item() == pytest.approx(1.5)


# --- the stage and its neighbours -----------------------------------------------------------------


def test_heads_learn_on_a_frozen_trunk(trained: ModelState, ctx: Context) -> None:
    spec = EarlyExitSpec(**{**FAST, "epochs": 4, "trunk": "frozen", "max_accuracy_drop": 3.0})
    state = calibrated(early_exit(trained, spec, ctx), ctx)
    for name, before in trained.weights.items():
        assert torch.equal(state.weights[name], before), name
    images, labels = next(iter(ctx.loaders(batch_size=256).test))
    with torch.inference_mode():
        every = build(state).every_logits(images)
        right = every.argmax(2).eq(labels).double().mean(1)
    assert right[1] > 0.4
    metrics = measure.measure(state, ctx.loaders(batch_size=256).test, ctx.device)
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
        state = calibrated(run(state, spec, ctx), ctx)
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
    quantized = calibrated(ptq(state, PtqSpec(backend=backend, calibration_batches=4), ctx), ctx)
    images, _ = next(iter(ctx.loaders(batch_size=256).test))
    int8, plain = network_of(quantized), network_of(state)
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
    state = calibrated(early_exit(trained, EarlyExitSpec(**FAST), ctx), ctx)
    assert state.exits is not None and state.exits.thresholds is not None
    changed = state.changed(state.weights)
    assert changed.exits is not None and changed.exits.thresholds is None
    with pytest.raises(ValueError, match="no thresholds; calibrate it first"):
        deploy(changed)


def test_a_saving_out_of_reach_is_told(trained: ModelState, ctx: Context) -> None:
    state = early_exit(trained, EarlyExitSpec(**FAST, saving=0.99), ctx)
    with pytest.raises(StageError, match="cannot save 99% of the MACs; most is"):
        calibrated(state, ctx)


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
