"""Metrics of the network that is deployed, against other libraries and sums over single images."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

import main
from dataset import get_dataloaders
from engines import ENGINES
from engines.deployment_args import DeploymentArgs
from experiment.running import measure
from methods import costs
from methods.costs import count_macs
from methods.early_exit.thresholds import all_certainties, exit_taken
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.latency import Rival
from stages.stage import Context
from stages.state import build, state_of
from tests.support.exits import learned
from tests.support.int8 import Deployable, runnable
from tests.support.suites import Suites, results
from tests.support.tiny import TINY, tiny


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
    metrics = measure.measure(deploy(state), test, test)
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


def test_metrics_compare_int8_with_float_on_the_fastest_engines(
    int8: Deployable, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.latency.UNSTEADY", float("inf"))  # whatever else the machine does
    loaders = ctx.loaders(batch_size=256)
    deployed, base = deploy(int8.state), deploy(replace(int8.state, quant=None))
    metrics = measure.measure(
        deployed, loaders.test, loaders.validation, DeploymentArgs(), Rival(base)
    )
    with torch.inference_mode():
        logits = [runnable(int8.network)(images) for images, _ in loaders.test]
    right = (torch.cat(logits).argmax(1) == ctx.dataset.arrays.test_labels).float().mean()
    assert metrics["accuracy"] == pytest.approx(100 * right.item(), abs=0.6)
    engines = metrics["engines"]
    fit = [name for name, found in engines.items() if found["left_out"] is None]
    assert engines.keys() == ENGINES.keys() and metrics["engine"] in fit
    assert all(engines[name]["int8_layers"] == 8 for name in fit)
    for took in metrics["inference_time_ms"].values():
        assert took["by_engine"].keys() <= set(fit)
        assert took["engine"] == min(
            took["by_engine"], key=lambda n: took["by_engine"][n]["median"]
        )
        for what, speedup in (("float", "speedup_over_float"), ("baseline", "speedup")):
            ratio = took[f"{what}_median"] / took["median"]
            assert ratio / 3 < took[speedup] < 3 * ratio  # it is the rounds' median
            assert took[f"{what}_engine"] in ENGINES
        assert took["median"] <= took["p95"] <= took["p99"]
        assert "over_first" not in took


def test_balanced_accuracy_is_sklearns_and_there_where_classes_are_unequal(ctx: Context) -> None:
    test = ctx.loaders(batch_size=64).test
    network = deploy(state_of(tiny())).network
    assert "balanced_accuracy" not in measure.quality(network, test)
    labels = test.labels
    test.index = torch.cat([torch.where(labels == 3)[0], torch.where(labels == 8)[0][:2]])
    with torch.inference_mode():
        guessed = network(test.normalize(test.images[test.index])).argmax(1)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        its = balanced_accuracy_score(labels[test.index], guessed)
    assert measure.quality(network, test)["balanced_accuracy"] == pytest.approx(100 * its)


def test_thop_misses_exactly_the_attention() -> None:
    model = HybridCNNTransformer(**{**TINY, "cnn_norm": "none"}).eval()
    macs, layers = count_macs(model)
    thop = measure.thop_macs(model)
    # thop counts a LayerNorm's and a pooling's elements as operations too
    assert sum(layers.values()) <= thop < macs + 16 * 16 * 2 * 5 * 2


def test_bitops_by_hand() -> None:
    model = tiny()
    macs, layers = count_macs(model)
    state = state_of(model)
    assert measure.static_metrics(deploy(state))["bitops"] == macs * 1024
    quant = Quant("ptq", "x86", float_layers=("head",))
    int8 = sum(count for name, count in layers.items() if name != "head")
    state = state.changed(state.weights, quant=quant)
    assert measure.bitops(state, model, macs, layers) == int8 * 64 + (macs - int8) * 1024


def test_metrics_are_those_of_the_deployed_network(ctx: Context) -> None:
    model = tiny()
    images, labels = ctx.dataset.arrays.test_images, ctx.dataset.arrays.test_labels
    loader = get_dataloaders(ctx.dataset, 360).test
    quant = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), loader)
    state = state_of(model).changed(state_of(model).weights, quant=quant)
    deployed = deploy(state)
    metrics = measure.measure(deployed, loader, loader)
    with torch.inference_mode():
        logits = deployed.network(loader.normalize(images))
    assert metrics["accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean())
    assert metrics["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    for batch in ("batch_1", "batch_64"):
        timing = metrics["inference_time_ms"][batch]
        assert 0 < timing["median"] <= timing["p95"]
        assert timing["runs"] > 0
        assert timing["threads"] == torch.get_num_threads()
        assert timing["device"].startswith("cpu (")
    assert metrics["flops"] == 2 * metrics["macs"]


def test_int8_is_counted_as_int8() -> None:
    model = tiny(embed_dim=64, ffn_dim=256, cnn_channels=[8, 64])
    state = state_of(model)
    data = [(torch.randn(8, 1, 8, 8), None)]
    quant = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), data)  # type: ignore[arg-type]
    quantized = state.changed(state.weights, quant=quant)
    sizes = [measure.static_metrics(deploy(s))["model_size_mb"] for s in (state, quantized)]
    assert sizes[1] < 0.5 * sizes[0]
    buffer = io.BytesIO()
    torch.save(deploy(quantized).network.state_dict(), buffer)
    assert sizes[1] == len(buffer.getvalue()) / 1e6


def test_nonzero_parameters() -> None:
    model = tiny()
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    with torch.no_grad():
        model.head.weight[:3] = 0
    metrics = measure.static_metrics(deploy(state_of(model)))
    assert metrics["params"] - metrics["nonzero_params"] == zeros + 3 * model.head.in_features


def test_batches_that_take_too_long_are_left_out_and_it_is_said(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = 'EXPERIMENT_CONFIGS += [chain("Q", "ptq")]\n'
    with monkeypatch.context() as patch:
        patch.setattr("machine.timing.BUDGET_SECONDS", 1e-4)
        assert suites.run(chains) == 0
    printed = suites.capsys.readouterr().out
    assert "batches of 64 were not timed" in printed and "ms at 64: " not in printed
    for name in "Base", "Q":
        result = results(suites, name)
        metrics = result["stages"][-1]["metrics"]
        assert metrics["inference_time_ms"].keys() == {"batch_1"}
        assert metrics["inference_time_ms"]["batch_1"]["runs"] >= 3
        assert "batches of 64 were not timed" in metrics["warnings"][0]
        assert "latency_ms_batch_64" not in result["final"]
        config = str(suites.folder / "suite.py")
        assert main.main(["show", name, "--config", config]) == 0
        assert "batches of 64 were not timed" in suites.capsys.readouterr().out
    page = (suites.results / "report.html").read_text()
    assert "batches of 64 were not timed" in page
    stage = results(suites, "Q")["stages"][-1]
    assert 0 < stage["measuring_seconds"] < stage["seconds"]
    assert suites.run(chains, "--remeasure") == 0
    assert "latency_ms_batch_64" in results(suites, "Q")["final"]
