"""The pruning stage: masks hold, costs and ratios are met, iterations go on where they stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiment.running.measure import static_metrics
from experiment.running.store import Store
from machine.errors import Interrupted
from methods import costs
from methods.pruning import importance
from methods.pruning.amounts import Amount, choose
from methods.pruning.dimensions import TARGETS, dimensions
from model import HybridCNNTransformer
from stages.deployment import calibrated, deploy
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import build, state_of
from tests.support.chains import FAST, zero_filters
from tests.support.cutting import batches
from tests.support.home import HOME
from tests.support.memory import Memory
from tests.support.tiny import TINY, tiny

# --- how much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_ratio_zero_changes_nothing(scope: Any, ctx: Context) -> None:
    state = state_of(tiny())
    spec = PruneSpec(mode="structural", ratio=0.0, targets=list(TARGETS), scope=scope)
    same = prune(state, spec, ctx)
    assert same.model_args == state.model_args
    assert all(torch.equal(same.weights[n], v) for n, v in state.weights.items())


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_cost_is_met_within_two_percent(cost: Any, share: float, ctx: Context) -> None:
    model = HybridCNNTransformer(
        **{**TINY, "cnn_channels": [32, 64], "embed_dim": 64, "ffn_dim": 128}
    )
    state = state_of(model)
    spec = PruneSpec(
        mode="structural", keep={cost: share}, targets=["conv", "ffn", "head_dim", "embed"]
    )
    smaller = build(prune(state, spec, ctx))
    if cost == "macs":
        found = costs.count_macs(smaller)[0] / costs.count_macs(model)[0]
    else:
        counts = [sum(p.numel() for p in m.parameters()) for m in (smaller, model)]
        found = counts[0] / counts[1]
    assert found == pytest.approx(share, abs=0.02)


def test_an_impossible_cost_is_refused_with_the_nearest(ctx: Context) -> None:
    spec = PruneSpec(mode="structural", keep={"macs": 0.05}, targets=["heads"])
    with pytest.raises(ValueError, match=r"not possible with these targets.*nearest is 0\.\d+"):
        prune(state_of(tiny()), spec, ctx)


FORESEEN: list[dict[str, Any]] = [
    {"ratio": 0.3},
    {"ratio": 0.3, "targets": list(TARGETS), "round_to": 4, "criterion": "random"},
    {"ratio": 0.5, "ratios": {"*.ffn": 0.9}, "protect": ["cnn.blocks.0"], "min_channels": 3},
    {"keep": {"macs": 0.8}, "criterion": "random"},
    {"keep": {"params": 0.5}, "targets": ["conv", "ffn", "heads", "embed"]},
]


@pytest.mark.parametrize("options", FORESEEN, ids=str)
def test_widths_without_weights_are_those_that_come_out(
    options: dict[str, Any], ctx: Context
) -> None:
    state, spec = state_of(tiny()), PruneSpec(mode="structural", **options)
    assert spec.foresees(state.model_args)
    first = prune(state, spec, ctx)
    assert spec.outgoing(state.model_args) == first.model_args != state.model_args


UNFORESEEN: list[dict[str, Any]] = [
    {"ratio": 0.3, "scope": "global"},
    {"ratio": 0.3, "ratios": "auto"},
    {"ratio": 0.3, "iterations": 2, "finetune": FAST},
    {"keep": {"latency_ms": 0.5}},
    {"keep": {"macs": 0.8}, "candidates": 2},
]


@pytest.mark.parametrize("options", UNFORESEEN, ids=str)
def test_what_hangs_on_weights_is_not_foreseen(options: dict[str, Any]) -> None:
    args = tiny().model_args
    spec = PruneSpec(mode="structural", **options)
    assert not spec.foresees(args) and spec.outgoing(args) is args


def test_which_layers_go_hangs_on_weights_where_they_are_unlike() -> None:
    spec = PruneSpec(mode="structural", ratio=0.5, targets=["depth"])
    assert spec.foresees(tiny().model_args)
    assert not spec.foresees(tiny(ffn_dim=[24, 8]).model_args)
    assert not spec.foresees(tiny(exits=["layer_0"]).model_args)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"keep": {"macs": 0.05}, "targets": ["heads"]},
    {"keep": {"params": 0.05}},
    {"keep": {"params": 0.05}, "candidates": 2},
    {"keep": {"macs": 0.02}, "scope": "global"},
    {"keep": {"macs": 0.02}, "ratios": "auto"},
    {"keep": {"params": 0.02}, "iterations": 2, "finetune": FAST},
]


@pytest.mark.parametrize("options", IMPOSSIBLE, ids=str)
def test_what_no_weights_could_reach_is_said_before_as_it_would_be_later(
    options: dict[str, Any], ctx: Context
) -> None:
    state, spec = state_of(tiny()), PruneSpec(mode="structural", **options)
    with pytest.raises(ValueError, match=r"keep .* nearest is 0\.\d+$") as before:
        spec.check_target(state.model_args, rounded=False, exact=True)
    spec.check_target(state.model_args, rounded=False, exact=False)  # widths that are not known
    with pytest.raises(ValueError, match="nearest is") as later:
        prune(state, spec, ctx)
    if spec.foresees(state.model_args):
        assert str(later.value) == str(before.value)
    assert str(later.value).partition("nearest")[0] == str(before.value).partition("nearest")[0]


def test_limits_hold(ctx: Context) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.7,
        targets=["conv", "ffn", "embed"],
        min_channels=4,
        round_to=4,
        protect=["cnn.blocks.1"],
        ratios={"transformer.layers.1.*": 0.0},
    )
    args = prune(state_of(tiny()), spec, ctx).model_args
    assert args["cnn_channels"] == [4, 16]
    assert args["ffn_dim"] == [8, 24]
    assert args["embed_dim"] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protect": ["cnn.block.*"]}, "'cnn.block.*' matches nothing to prune; there are: cnn."),
        ({"ratios": {"nothing": 0.5}}, "'nothing' matches nothing"),
        ({"targets": ["depth"], "criterion": "fpgm"}, "'fpgm' does not score transformer.layers"),
    ],
)
def test_patterns_that_match_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        PruneSpec(mode="structural", ratio=0.5, **options).check(tiny().model_args)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "mask", "ratio": 0.5, "targets": ["conv"]},
        {"mode": "mask", "ratio": 0.5, "criterion": "l2"},
        {"mode": "mask", "ratio": 0.5, "min_channels": 4},
        {"mode": "mask"},
        {"mode": "structural", "ratio": 0.5, "iterations": 2},
        {
            "mode": "structural",
            "ratio": 0.5,
            "iterations": 2,
            "targets": ["depth"],
            "protect": ["x"],
            "finetune": {"epochs": 1},
        },
        {"mode": "structural", "keep": {"macs": 0.5, "params": 0.5}},
        {"mode": "structural", "keep": {"macs": 1.5}},
        {"mode": "structural", "keep": {"macs": 0.5, "batch": 4}},
        {"mode": "structural", "ratio": None},
        {"mode": "structural", "ratio": 0.5, "targets": []},
        {"mode": "structural", "ratio": 0.5, "scope": "global", "ratios": {"a": 0.5}},
        {"mode": "mask", "ratio": 0.5, "candidates": 2},
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PruneSpec(**options)


# --- with the other stages -----------------------------------------------------------------------


HALF = PruneSpec(mode="structural", ratio=0.5, targets=["conv", "ffn", "head_dim", "embed"])


def test_prunes_again_quantizes_and_saves(ctx: Context, tmp_path: Path) -> None:
    once = prune(state_of(tiny(embed_dim=32, num_heads=2)), HALF, ctx)
    assert ctx.details["widths"]["embed_dim"] == [32, 16]
    assert ctx.details["macs"][1] < 0.5 * ctx.details["macs"][0]
    twice = prune(once, HALF, ctx)
    assert twice.model_args["embed_dim"] == 8
    assert twice.model_args["head_dim"] == [4, 4]
    deployed = calibrated(ptq(twice, PtqSpec(calibration_batches=1, backend="x86"), ctx), ctx)
    store = Store(tmp_path)
    store.put("k", deployed.state, {"metrics": {}})
    images = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        expected = deployed.network(images)
        found = store.load("k")
        assert found is not None
        assert torch.equal(deploy(found[0]).network(images), expected)
    torch.save((images, expected), tmp_path / "case.pt")
    script = (
        "import sys, torch, utils\n"
        "images, expected = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.inference_mode():\n"
        "    assert torch.equal(utils.load_model(sys.argv[1])(images), expected)\n"
        "assert 'torch_pruning' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(store.path("k")), str(tmp_path / "case.pt")]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_masters_of_a_qat_network_are_cut(ctx: Context) -> None:
    trained = qat(state_of(tiny()), QatSpec(epochs=1, batch_size=256, backend="x86"), ctx)
    pruned = calibrated(prune(trained, HALF, ctx), ctx)
    state = pruned.state
    assert state.quant is not None and state.quant.scheme == "qat"
    assert state.model_args["cnn_channels"] == [4, 8]
    with torch.inference_mode():
        assert torch.isfinite(pruned.network(torch.randn(2, 1, 8, 8))).all()


BETWEEN = {"epochs": 1, "batch_size": 256, "precision": "fp32"}


@pytest.mark.parametrize("schedule", ["linear", "geometric", "cubic"])
def test_iterations_end_at_the_ratio(schedule: Any, ctx: Context) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.5,
        iterations=3,
        schedule=schedule,
        targets=["conv"],
        finetune=BETWEEN,  # type: ignore[arg-type]
    )
    assert prune(state_of(tiny()), spec, ctx).model_args["cnn_channels"] == [4, 8]
    assert len(ctx.details["history"]) == 1  # of the last finetune


def test_sparsity_shrinks_batch_norms_scales(ctx: Context) -> None:
    state = state_of(tiny())

    def scales(sparsity: float) -> float:
        spec = FinetuneSpec(sparsity=sparsity, **{**BETWEEN, "epochs": 2})  # type: ignore[arg-type]
        tuned = finetune(state, spec, ctx)
        return sum(tuned.weights[f"cnn.blocks.{i}.norm.weight"].abs().sum().item() for i in (0, 1))

    assert scales(0.1) < scales(0.0) - 0.05
    with pytest.raises(ValueError, match="sparsity needs batch norm"):
        FinetuneSpec(sparsity=0.1).check(tiny(cnn_norm="group").model_args)


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"keep": {"macs": 0.5}}])
def test_own_ratios_are_reached_once_over_all_iterations(
    options: dict[str, Any], ctx: Context
) -> None:
    spec = PruneSpec(
        mode="structural",
        iterations=3,
        ratios={"cnn.*": 0.25},
        targets=["conv", "ffn", "head_dim", "embed"],
        finetune=BETWEEN,  # type: ignore[arg-type]
        **options,
    )
    model = tiny(embed_dim=32, ffn_dim=64)
    pruned = prune(state_of(model), spec, ctx)
    assert pruned.model_args["cnn_channels"] == [6, 12]
    left = costs.count_macs(build(pruned))[0] / costs.count_macs(model)[0]
    assert "ratio" in options or left == pytest.approx(0.5, abs=0.02)


def test_masked_channels_are_the_first_to_be_cut(ctx: Context) -> None:
    hidden = prune(state_of(tiny()), PruneSpec(ratio=0.25), ctx)
    dead = {i for i, row in enumerate(hidden.weights["cnn.blocks.1.conv.weight"]) if not row.any()}
    model = build(hidden)
    for criterion in ("l1", "lamp", "fpgm"):
        dims = dimensions(model, ["conv"])
        scores = importance.importance(model, dims, criterion, batches)
        removed = choose(dims, scores, 0.25, Amount())
        assert set(removed[1][1].tolist()) == dead


def test_latency_of_a_quantized_network_is_refused(ctx: Context) -> None:
    quantized = ptq(state_of(tiny()), PtqSpec(calibration_batches=1), ctx)
    spec = PruneSpec(mode="structural", keep={"latency_ms": 0.5})
    with pytest.raises(StageError, match="prune before it is"):
        prune(quantized, spec, ctx)


@pytest.mark.parametrize("stop_after", [2, 6, 9])
def test_interrupted_iterations_go_on_to_the_same_bits(digits: Any, stop_after: int) -> None:
    spec = PruneSpec(
        mode="structural",
        ratio=0.5,
        iterations=3,
        criterion="taylor",
        finetune=BETWEEN,  # type: ignore[arg-type]
    )
    state = state_of(tiny())

    def context(**more: Any) -> Context:
        return Context(digits, torch.device("cpu"), 0, say=lambda text: None, **more)

    expected = prune(state, spec, context())
    memory, asked = Memory(), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    with pytest.raises(Interrupted):
        prune(state, spec, context(snapshot=memory, stop_requested=stop))
    found = prune(state, spec, context(snapshot=memory))
    assert found.model_args == expected.model_args
    assert all(torch.equal(found.weights[n], v) for n, v in expected.weights.items())


# --- pruning -------------------------------------------------------------------------------------


def test_pruning_twice_prunes_the_same_share_of_all_channels(ctx: Context) -> None:
    once = prune(state_of(tiny()), PruneSpec(ratio=0.3), ctx)
    twice = prune(once, PruneSpec(ratio=0.3), ctx)
    assert zero_filters(once) == zero_filters(twice)


def test_masks_hold_during_finetuning_with_momentum_and_decay(ctx: Context) -> None:
    pruned = prune(state_of(tiny()), PruneSpec(ratio=0.4), ctx)
    spec = FinetuneSpec(optimizer="sgd", learning_rate=0.1, momentum=0.9, ema_decay=0.5, **FAST)
    tuned = finetune(pruned, spec, ctx)
    assert zero_filters(tuned) == zero_filters(pruned)
    metrics = static_metrics(deploy(tuned))
    assert metrics["nonzero_params"] < metrics["params"]
