"""int8 and bfloat16 stages of networks that are not hybrids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines.programs import programs
from methods.casting import BFLOAT16, cast_layers, float32_layers, in_bfloat16
from methods.exported import exportable
from methods.quantization import backends, fake_quant
from methods.quantization.freezing import frozen_layers, frozen_tensors, put_on_grid
from methods.quantization.record import Quant, quantizable_layers
from model import build_network, resolved_args
from networks.foreign import NetworkError
from stages.casting import CastSpec
from stages.deployment import with_ranges
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, build, state_of
from tests.support.int8 import off
from tests.support.others import MOBILENET, RESNET18, VIT, images_for, other, written
from tests.support.user_nets import ODD_NETS, user_file
from train_eval import evaluate

FAST: dict[str, Any] = {"epochs": 1, "batch_size": 256, "precision": "fp32", "learning_rate": 3e-3}

LONG = {"epochs": 12, "batch_size": 64, "learning_rate": 2e-2, "augmentation": "none"}


def of_digits(ctx: Context, args: dict[str, Any]) -> ModelState:
    about = ctx.dataset.info
    shape = {"image_size": list(about.image_size), "in_channels": about.in_channels}
    torch.manual_seed(0)
    return state_of(build_network(resolved_args({**args, **shape})))


def accuracy(network: nn.Module, ctx: Context) -> float:
    return evaluate(network, ctx.loaders(batch_size=256).test).accuracy


def deployed(state: ModelState, ctx: Context) -> tuple[ModelState, nn.Module]:
    model = build(state)
    state = with_ranges(state, model, ctx)
    (program,) = programs(model, state.quant)
    return state, program.graph


def test_int8_is_as_accurate_as_float_and_training_knows_what_is_deployed(
    ctx: Context, tmp_path: Path
) -> None:
    """Ranges of training hold where int8 has the same places, and others are observed."""
    start = of_digits(ctx, written(tmp_path, "TinyNet"))
    trained = finetune(start, FinetuneSpec(**{**FAST, **LONG}), ctx)
    plain = accuracy(build(trained), ctx)
    assert plain > 70
    _, quick = deployed(ptq(trained, PtqSpec(), ctx), ctx)
    assert accuracy(quick, ctx) == pytest.approx(plain, abs=1.5)

    prepared: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        real = backends.with_trained_ranges

        def noting(quant: Quant, module: nn.Module) -> Quant:
            prepared.append(module)
            return real(quant, module)

        patch.setattr(backends, "with_trained_ranges", noting)
        aware = qat(trained, QatSpec(**{**FAST, "epochs": 2}), ctx)
    assert aware.quant is not None and aware.quant.ranges is not None
    assert set(aware.quant.ranges) == set(quantizable_layers(build(aware)))
    assert aware.weights.keys() == start.weights.keys()
    whole, graph = deployed(aware, ctx)
    assert whole.quant is not None and whole.quant.ranges is not None
    for place, found in aware.quant.ranges.items():
        assert torch.equal(whole.quant.ranges[place], found)
    (faked,) = prepared
    fake_quant.set_observing(faked.eval(), False)
    images = torch.cat([batch for batch, _ in ctx.loaders(batch_size=256).test])
    with torch.no_grad():
        assert off(graph(images), faked(images)) < 0.02
    assert accuracy(graph, ctx) == pytest.approx(accuracy(faked, ctx), abs=0.6)
    assert with_ranges(whole, build(whole), ctx) is whole


def test_a_chain_of_stages_keeps_masters_by_name(ctx: Context, tmp_path: Path) -> None:
    state = of_digits(ctx, written(tmp_path, "TinyNet"))
    state = qat(state, QatSpec(**FAST), ctx)
    state = prune(state, PruneSpec(ratio=0.3), ctx)
    state = ptq(state, PtqSpec(calibration_batches=1), ctx)
    assert state.quant is not None and state.quant.scheme == "ptq"
    state, graph = deployed(state, ctx)
    images, _ = next(iter(ctx.loaders(batch_size=64).test))
    with torch.no_grad():
        assert off(graph(images), build(state).eval()(images)) < 0.1


def test_what_trains_is_never_torchs_kernel_with_plain_weights(tmp_path: Path) -> None:
    """In validation as well, where torch would run an encoder layer at once."""
    network, images = other(written(tmp_path, "Encoder")), images_for()
    faked = backends.prepare(network, Quant("qat", "pt2e")).eval()
    with torch.no_grad():
        faked(images)
        rounded = faked(images)
        fake_quant.set_quantizing(faked, False)
        plain = faked(images)
    assert set(backends.with_trained_ranges(Quant("qat", "pt2e"), faked).ranges or ()) == {
        *("patches", "layer.linear1", "layer.linear2", "head")
    }
    assert not torch.allclose(rounded, plain, atol=1e-6)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "onednn"])
def test_backends_of_the_hybrid_are_refused_at_the_check(backend: str) -> None:
    args = resolved_args({**RESNET18, "image_size": 8})
    with pytest.raises(ValueError, match=r"is for the hybrid alone.*choose 'pt2e'"):
        PtqSpec(backend=backend).check(args)
    PtqSpec().check(args)
    with pytest.raises(ValueError, match=r"'cf' matches no layer; layers: conv1, layer1\.0\.conv1"):
        QatSpec(float_layers=["cf"]).check(args)


def test_what_torch_does_not_export_is_refused_at_the_check(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    name = f"{user_file(tmp_path, ODD_NETS)}:LooksAtValues"
    args = resolved_args({"architecture": name, "image_size": 8})
    for check in (exportable, PtqSpec(float_layers="auto").check):
        with pytest.raises(NetworkError, match="cannot be exported as a graph") as refused:
            check(args)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    exportable(resolved_args({**VIT, "image_size": 8}))
    assert torch.equal(torch.get_rng_state(), before)


def test_products_that_stay_float_are_told(ctx: Context) -> None:
    start = of_digits(ctx, {**VIT, "patch_size": 2})
    ptq(start, PtqSpec(calibration_batches=1), ctx)
    (told,) = ctx.details["warnings"]
    assert told.startswith("4 products stay float") and "nn.MultiheadAttention" in told


@pytest.mark.parametrize("kind", ["Odd", "Modules", "resnet18", "mobilenet", "vit"])
def test_freezing_keeps_what_is_deployed_to_the_bit(kind: str, tmp_path: Path) -> None:
    known = {"resnet18": RESNET18, "mobilenet": MOBILENET, "vit": VIT}
    network = other(known[kind] if kind in known else written(tmp_path, kind), side=8)
    images = images_for(side=8)
    quant = backends.with_calibrated_ranges(network, Quant("ptq", "pt2e"), [(images, images)])
    before = programs(network, quant)[0].graph.state_dict()
    masters = {name: value.clone() for name, value in network.state_dict().items()}
    put_on_grid(network, quant)
    after = programs(network, quant)[0].graph.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    once = {name: value.clone() for name, value in network.state_dict().items()}
    changed = {name for name, value in once.items() if not torch.equal(value, masters[name])}
    assert changed == {f"{layer}.weight" for layer in frozen_layers(network, quant)}
    put_on_grid(network, quant)
    assert all(torch.equal(value, once[name]) for name, value in network.state_dict().items())


def test_nothing_frozen_moves(ctx: Context, tmp_path: Path) -> None:
    """Statistics of folded batch norms neither, of features as well as of maps."""
    start = of_digits(ctx, written(tmp_path, "Odd"))
    frozen = ptq(start, PtqSpec(calibration_batches=1, freeze=True), ctx)
    assert frozen.quant is not None
    fixed = frozen_tensors(build(frozen), frozen.quant)
    assert {"norm5.running_var", "norm7.running_mean", "twice.weight"} <= fixed
    assert not any(name.startswith(("norm1", "norm6", "own", "line")) for name in fixed)
    after = finetune(frozen, FinetuneSpec(**FAST), ctx)
    moved = {n for n, v in after.weights.items() if not torch.equal(v, frozen.weights[n])}
    assert not moved & fixed and {"own.weight", "norm1.running_var", "line.weight"} <= moved


def test_bfloat16_leaves_the_layers_that_give_logits(tmp_path: Path) -> None:
    CastSpec(emulate=True).check(resolved_args({**VIT, "image_size": 8}))
    for args, heads in (
        (RESNET18, {"fc"}),
        (MOBILENET, {"classifier.3"}),
        (written(tmp_path, "Odd"), {"left", "right"}),
    ):
        network, images = other(args, side=8), images_for(side=8)
        layers = quantizable_layers(network)
        assert set(layers) - set(cast_layers(network)) == heads
        (program,) = programs(network)
        graph = in_bfloat16(program.graph)
        for name in layers:
            narrow = graph.get_parameter(f"{name}.weight").dtype is torch.bfloat16
            assert narrow is (name not in heads)
        wide = set(float32_layers(network)) - heads
        left = {
            n for n, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        }
        assert wide <= left and ("norm1" in wide) is (heads == {"left", "right"})
        with torch.no_grad():
            assert off(graph(images), network(images)) < 0.05


def test_int8_with_the_rest_in_bfloat16(tmp_path: Path) -> None:
    network, images = other(written(tmp_path, "Odd"), side=8), images_for(side=8)
    quant = Quant("ptq", "pt2e", float_layers=("twice", "right"))
    quant = backends.with_calibrated_ranges(network, quant, [(images, images)])
    assert cast_layers(network, quant) == ["twice"]
    (mixed,) = programs(network, quant, BFLOAT16)
    (plain,) = programs(network, replace(quant))
    with torch.no_grad():
        assert 0 < off(mixed.graph(images), plain.graph(images)) < 0.2


def test_layers_are_kept_float_by_search(ctx: Context, tmp_path: Path) -> None:
    start = of_digits(ctx, written(tmp_path, "TinyNet", width=4))
    spec = PtqSpec(float_layers="auto", max_accuracy_drop=100.0, calibration_batches=1)
    found = ptq(start, spec, ctx)
    assert found.quant is not None and found.quant.float_layers == ()
    scan = ctx.details["float_layers"]["scan"]
    assert {row["layer"] for row in scan} == set(quantizable_layers(build(found)))
    assert all(row["sqnr_db"] > 10 for row in scan)
