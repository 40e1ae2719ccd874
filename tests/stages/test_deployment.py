"""Stages in every order: each means what it says, and what is deployed in the end runs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import utils
from dataset import Dataset
from experiment.running.checkpoint import load_checkpoint
from experiment.running.store import Store
from methods.pruning.masks import zero_channel_masks
from model import HybridCNNTransformer
from stages.deployment import Deployed, calibrated, deploy
from stages.pruning import PruneSpec, prune
from stages.ptq import ptq
from stages.stage import Context
from stages.state import build, state_of
from tests.support.chains import SPECS, run_chain, zero_filters
from tests.support.tiny import FUSIONS, tiny

ORDERS = [
    order
    for quantize in ("ptq", "qat")
    for length in (1, 2, 3)
    for order in itertools.permutations(["prune", "finetune", "distill", quantize], length)
]


def cases() -> list[Any]:
    """Every order with both backends; long ones with a student and inductor take their time."""
    found = []
    for order, backend in itertools.product(dict.fromkeys(ORDERS), ["x86", "inductor"]):
        long = "distill" in order and len(order) == 3 and backend == "inductor"
        marks = [pytest.mark.slow] if long else []
        found.append(pytest.param(order, backend, marks=marks, id="-".join([*order, backend])))
    return found


@pytest.fixture(scope="module")
def after(digits: Dataset) -> Callable[[tuple[str, ...], str], Deployed]:
    """What an order of stages makes of a network; what orders begin with alike runs once."""
    torch.manual_seed(0)
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    start = ctx.teacher = state_of(tiny(num_layers=1))

    @functools.cache
    def after(order: tuple[str, ...], backend: str) -> Deployed:
        if not order:
            return deploy(start)
        return run_chain(after(order[:-1], backend).state, order[-1:], ctx, backend)

    return after


@pytest.mark.parametrize(("order", "backend"), cases())
def test_every_order_runs_and_means_what_it_says(
    order: tuple[str, ...], backend: str, after: Callable[[tuple[str, ...], str], Deployed]
) -> None:
    start, deployed = after((), backend).state, after(order, backend)
    end, network = deployed.state, deployed.network
    images = torch.randn(5, 1, 8, 8)
    quantized = "ptq" in order or "qat" in order
    assert (end.quant is not None) == quantized
    if quantized and backend == "inductor":
        int8 = [v for v in network.state_dict().values() if v.dtype == torch.int8]
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
        network = run_chain(start, order, ctx).network
        assert torch.isfinite(network(torch.randn(2, 1, 8, 8))).all()


@pytest.mark.parametrize("order", [("finetune",), ("prune", "finetune", "ptq"), ("qat", "prune")])
def test_saved_and_loaded_networks_give_the_same_logits(
    order: tuple[str, ...], ctx: Context, tmp_path: Path
) -> None:
    deployed = run_chain(state_of(tiny()), order, ctx)
    end, network = deployed.state, deployed.network
    store = Store(tmp_path)
    store.put("k", end, {"metrics": {}})
    images = torch.randn(4, 1, 8, 8)
    loaded = load_checkpoint(store.name("k", "net_pruned"))
    with torch.inference_mode():
        assert torch.equal(network(images), deploy(loaded).network(images))
        assert torch.equal(network(images), utils.load_model(store.path("k"))(images))
    assert loaded.model_args == end.model_args


def test_ranges_are_observed_again_after_a_change(ctx: Context) -> None:
    first = calibrated(ptq(state_of(tiny()), SPECS["ptq"], ctx), ctx).state
    changed = prune(first, PruneSpec(ratio=0.5), ctx)
    assert changed.quant is not None and changed.quant.ranges is None
    with pytest.raises(ValueError, match="never observed"):
        deploy(changed)
    again = calibrated(changed, ctx).state
    assert again.quant is not None and again.quant.ranges is not None
    assert first.quant is not None and first.quant.ranges is not None
    assert any(
        not torch.equal(first.quant.ranges[name], value)
        for name, value in again.quant.ranges.items()
    )


def test_deployed_float_network_equals_its_state() -> None:
    model = tiny()
    images = torch.randn(3, 1, 8, 8)
    rebuilt = deploy(state_of(model)).network
    assert isinstance(rebuilt, HybridCNNTransformer)
    torch.testing.assert_close(rebuilt(images), model(images), rtol=1e-5, atol=1e-6)


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "of_float", "of_int8"), [(8, 1024, 1024), (32, 64, 64), (64, 16, 64)]
)
def test_no_batch_is_smaller_than_int8_code_is_compiled_for(
    side: int, of_float: int, of_int8: int, ctx: Context
) -> None:
    info = ctx.dataset.info._replace(image_size=(side, side))
    ctx = replace(ctx, dataset=replace(ctx.dataset, info=info))
    plain = deploy(state_of(tiny()))
    int8 = replace(plain, state=replace(plain.state, quant=SPECS["ptq"].quant("ptq")))
    for network, batch in ((plain, of_float), (int8, of_int8)):
        images, _ = next(iter(network.loaders(ctx).calibration))
        assert len(images) == network.evaluation_batch(ctx) == batch
