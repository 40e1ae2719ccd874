"""Stages and their orders: what each does to a network, and what is deployed in the end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import utils
from dataset import get_dataloaders
from experiment.running.checkpoint import load_checkpoint
from experiment.running.measure import static_metrics
from experiment.running.store import Store
from methods.pruning.masks import channel_scores, channel_tensors, mask_channels, zero_channel_masks
from methods.quantization import backends
from methods.quantization.compiled import CompiledNetwork
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages import STAGES
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, build, from_plain, state_of, to_plain
from tests.conftest import FUSIONS, tiny
from training.recipe import Recipe

FAST: dict[str, Any] = {"epochs": 1, "batch_size": 256, "precision": "fp32"}


def specs(backend: str) -> dict[str, Any]:
    return {
        "prune": PruneSpec(ratio=0.4),
        "finetune": FinetuneSpec(**FAST),
        "ptq": PtqSpec(backend=backend, calibration_batches=2),
        "qat": QatSpec(backend=backend, calibration_batches=2, **FAST),
        # the start teaches where an int8 teacher would have to be compiled first
        "distill": DistillSpec(
            width=0.5, teacher="current" if backend == "x86" else "baseline", **FAST
        ),
    }


SPECS = specs("x86")
ORDERS = [
    order
    for quantize in ("ptq", "qat")
    for length in (1, 2, 3)
    for order in itertools.permutations(["prune", "finetune", "distill", quantize], length)
]


def run_chain(
    state: ModelState, order: tuple[str, ...], ctx: Context, backend: str = "x86"
) -> ModelState:
    for name in order:
        state = calibrated(STAGES[name].run(state, specs(backend)[name], ctx), ctx)
    return state


def zero_filters(state: ModelState) -> dict[str, set[int]]:
    """Layer → indices of its all-zero filters, found the plain way."""
    return {
        layer: {i for i, row in enumerate(state.weights[owned[0]]) if not row.any()}
        for layer, owned in channel_tensors(build(state)).items()
    }


# --- every order --------------------------------------------------------------------------------


def cases() -> list[Any]:
    """Every order with both backends; long ones with a student and inductor take their time."""
    found = []
    for order, backend in itertools.product(dict.fromkeys(ORDERS), ["x86", "inductor"]):
        long = "distill" in order and len(order) == 3 and backend == "inductor"
        marks = [pytest.mark.slow] if long else []
        found.append(pytest.param(order, backend, marks=marks, id="-".join([*order, backend])))
    return found


@pytest.mark.parametrize(("order", "backend"), cases())
def test_every_order_runs_and_means_what_it_says(
    order: tuple[str, ...], backend: str, ctx: Context
) -> None:
    start = ctx.teacher = state_of(tiny(num_layers=1))
    end = run_chain(start, order, ctx, backend)
    network = deploy(end)
    images = torch.randn(5, 1, 8, 8)
    quantized = "ptq" in order or "qat" in order
    assert (end.quant is not None) == quantized
    if quantized and backend == "inductor":
        assert isinstance(network, CompiledNetwork)
        int8 = [v for v in network.state_dict().values() if v.dtype == torch.int8]
        network = network.graph  # compiled in test_int8.py
    else:
        int8 = [m for m in network.modules() if type(m).__module__.startswith("torch.ao.nn")]
    assert bool(int8) == quantized
    with torch.inference_mode():
        assert torch.isfinite(network(images)).all()
    assert all(value.dtype != torch.qint8 for value in end.weights.values())
    params, before = (sum(v.numel() for v in s.weights.values()) for s in (end, start))
    assert (params < before) == ("distill" in order)
    since = order[order.index("distill") :] if "distill" in order else order
    if "prune" in since:  # what was pruned is zero at the end, whatever came after
        for layer, zero in zero_filters(end).items():
            rows = end.weights[f"{layer}.weight"].shape[0]
            assert len(zero) == min(round(0.4 * rows), rows - 1), layer
    else:
        assert not zero_channel_masks(build(end))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_quantizations_work_on_every_fusion(fusion: str, ctx: Context) -> None:
    start = state_of(tiny(fusion=fusion, ffn_activation="relu", pooling="class_token"))
    for order in (("prune", "ptq"), ("qat", "prune", "finetune")):
        network = deploy(run_chain(start, order, ctx))
        assert torch.isfinite(network(torch.randn(2, 1, 8, 8))).all()


def test_states_are_not_changed_by_stages(ctx: Context) -> None:
    start = state_of(tiny(num_layers=1))
    before = {name: value.clone() for name, value in start.weights.items()}
    run_chain(start, ("qat", "prune", "finetune"), ctx)
    assert start.quant is None
    assert all(torch.equal(start.weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("order", [("finetune",), ("prune", "finetune", "ptq"), ("qat", "prune")])
def test_saved_and_loaded_networks_give_the_same_logits(
    order: tuple[str, ...], ctx: Context, tmp_path: Path
) -> None:
    end = run_chain(state_of(tiny()), order, ctx)
    store = Store(tmp_path)
    store.put("k", end, {"metrics": {}})
    images = torch.randn(4, 1, 8, 8)
    loaded = load_checkpoint(store.name("k", "net_pruned"))
    with torch.inference_mode():
        assert torch.equal(deploy(end)(images), deploy(loaded)(images))
        assert torch.equal(deploy(end)(images), utils.load_model(store.path("k"))(images))
    assert loaded.model_args == end.model_args


def test_plain_form_keeps_everything(ctx: Context) -> None:
    end = run_chain(state_of(tiny()), ("ptq",), ctx)
    again = from_plain(to_plain(end))
    assert again.quant is not None and end.quant is not None
    assert again.quant.settings() == end.quant.settings()
    assert again.quant.ranges is not None


# --- pruning ------------------------------------------------------------------------------------


def test_scores_are_l1_norms_by_hand() -> None:
    weight = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 0.25]]]])
    assert channel_scores(weight).tolist() == [3.0, 0.75]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("separable", [False, True])
def test_a_pruned_channel_is_silent_after_its_norm(norm: str, separable: bool) -> None:
    model = tiny(cnn_norm=norm, cnn_separable=separable)
    mask_channels(model, 0.5)
    seen: dict[str, torch.Tensor] = {}
    for index, block in enumerate(model.cnn.blocks):
        block.norm.register_forward_hook(
            lambda m, i, out, index=index: seen.__setitem__(str(index), out)
        )
    model(torch.randn(3, 1, 8, 8))
    for index, out in seen.items():
        silent = [c for c in range(out.shape[1]) if not out[:, c].any()]
        assert len(silent) == out.shape[1] // 2
        weight = model.cnn.blocks[int(index)].conv.weight
        assert silent == [c for c, row in enumerate(weight) if not row.any()]


def test_the_weakest_channels_go_and_the_classifier_stays() -> None:
    model = tiny()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    report = mask_channels(model, 0.25)
    assert "head" not in report
    assert torch.equal(model.head.weight, before["head.weight"])
    for layer, (zeroed, total) in report.items():
        weight, old = model.get_submodule(layer).weight, before[f"{layer}.weight"]
        gone = [i for i, row in enumerate(weight) if not row.any()]
        norms = old.abs().flatten(1).sum(1)
        assert zeroed == len(gone) == round(0.25 * total)
        assert set(norms.argsort()[:zeroed].tolist()) == set(gone)


def test_one_channel_always_stays() -> None:
    model = tiny()
    assert all(zeroed < total for zeroed, total in mask_channels(model, 0.99).values())


def test_pruning_twice_prunes_the_same_share_of_all_channels(ctx: Context) -> None:
    once = prune(state_of(tiny()), PruneSpec(ratio=0.3), ctx)
    twice = prune(once, PruneSpec(ratio=0.3), ctx)
    assert zero_filters(once) == zero_filters(twice)


def test_masks_hold_during_finetuning_with_momentum_and_decay(ctx: Context) -> None:
    pruned = prune(state_of(tiny()), PruneSpec(ratio=0.4), ctx)
    spec = FinetuneSpec(optimizer="sgd", learning_rate=0.1, momentum=0.9, ema_decay=0.5, **FAST)
    tuned = finetune(pruned, spec, ctx)
    assert zero_filters(tuned) == zero_filters(pruned)
    assert static_metrics(tuned)["nonzero_params"] < static_metrics(tuned)["params"]


# --- quantization -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_int8_is_close_to_float(scheme: str, backend: str) -> None:
    if backends.unavailable(backend) is not None:
        pytest.skip(f"{backend} is not in this build of torch")
    model = tiny()
    images = torch.randn(64, 1, 8, 8)
    quant = backends.with_calibrated_ranges(model, Quant(scheme, backend), [(images, images)])
    with torch.inference_mode():
        expected, found = model(images), backends.to_int8(model, quant)(images)
    error = (expected - found).norm() / expected.norm()
    assert 0 < error < 0.1


def test_masters_come_back_by_name() -> None:
    model = tiny()
    quant = Quant("qat", "x86")
    prepared = backends.prepare(model, quant)
    names = backends.master_names(prepared, model, quant)
    found = prepared.state_dict()
    assert names["cnn.blocks.0.norm.weight"] == "cnn.blocks.0.conv.bn.weight"
    assert len(set(names.values())) == len(names) == len(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(found[names[name]], value), name


def test_qat_trains_the_masters(ctx: Context) -> None:
    start = state_of(tiny())
    end = qat(start, SPECS["qat"], ctx)
    assert end.quant is not None and end.quant.ranges
    assert not torch.equal(end.weights["head.weight"], start.weights["head.weight"])
    assert not torch.equal(
        end.weights["cnn.blocks.0.norm.running_mean"],
        start.weights["cnn.blocks.0.norm.running_mean"],
    )
    assert ctx.details["precision"] == "fp32"


def test_finetuning_after_qat_keeps_fake_quantization_on(ctx: Context) -> None:
    """Its result differs from float finetuning of the same masters."""
    quantized = qat(state_of(tiny()), SPECS["qat"], ctx)
    faked = finetune(quantized, SPECS["finetune"], ctx)
    plain = finetune(ModelState(quantized.model_args, quantized.weights), SPECS["finetune"], ctx)
    assert faked.quant is not None and faked.quant.ranges is not None
    assert not torch.equal(faked.weights["head.weight"], plain.weights["head.weight"])


def test_ranges_are_observed_again_after_a_change(ctx: Context) -> None:
    first = ptq(state_of(tiny()), SPECS["ptq"], ctx)
    changed = prune(first, PruneSpec(ratio=0.5), ctx)
    assert changed.quant is not None and changed.quant.ranges is None
    with pytest.raises(ValueError, match="never observed"):
        deploy(changed)
    again = calibrated(changed, ctx)
    assert again.quant is not None and again.quant.ranges is not None
    assert first.quant is not None and first.quant.ranges is not None
    assert any(
        not torch.equal(first.quant.ranges[name], value)
        for name, value in again.quant.ranges.items()
    )


def test_float_layers_stay_float_and_typos_are_refused(ctx: Context) -> None:
    spec = PtqSpec(backend="x86", float_layers=["head", "cnn.*"], calibration_batches=1)
    network = deploy(ptq(state_of(tiny()), spec, ctx))
    assert type(network.head) is nn.Linear
    int8 = {name for name, m in network.named_modules() if "nn.quantized" in type(m).__module__}
    assert any(name.startswith("transformer.") for name in int8)
    assert not any(name.startswith("cnn.") for name in int8)
    with pytest.raises(ValueError, match=r"'haed' matches no layer; layers: cnn\.blocks"):
        PtqSpec(float_layers=["haed"]).check(tiny().model_args)


def test_notebook_functions_do_a_whole_compression() -> None:
    loaders = get_dataloaders({"name": "Digits"}, 128)
    model = tiny()
    pruned = utils.apply_channel_pruning(model, 0.4)
    assert zero_channel_masks(pruned) and not zero_channel_masks(model)
    prepared = utils.prepare_model_for_quantization(pruned, "x86")
    utils.calibrate_model_ptq(prepared, loaders.calibration, batches=2, backend="x86")
    network = utils.convert_to_quantized_model(prepared, "x86")
    images = next(iter(loaders.test))[0]
    with torch.inference_mode():
        assert (network(images) - pruned(images)).abs().max() < 0.5
    stats = utils.get_model_stats(pruned)
    assert stats["params"] == sum(p.numel() for p in model.parameters())
    assert utils.prepare_model_for_quantization(model, qat=True).training


def test_stages_that_train_take_every_key_of_a_recipe() -> None:
    for name, stage in STAGES.items():
        trains = issubclass(stage.spec, Recipe)
        assert trains == (name not in ("prune", "ptq"))
        assert not trains or set(Recipe.model_fields) < set(stage.spec.model_fields)


def test_deployed_float_network_equals_its_state() -> None:
    model = tiny()
    images = torch.randn(3, 1, 8, 8)
    rebuilt = deploy(state_of(model))
    assert isinstance(rebuilt, HybridCNNTransformer)
    torch.testing.assert_close(rebuilt(images), model(images), rtol=1e-5, atol=1e-6)
