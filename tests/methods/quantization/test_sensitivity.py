"""`float_layers: 'auto'` on networks whose sensitive layer is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from data_sets.batches import BatchLoader
from methods.quantization import backends, pt2e
from methods.quantization.record import Quant, quantizable_layers
from methods.quantization.sensitivity import choose_float_layers, scan_layers
from model import HybridCNNTransformer
from tests.support.tiny import tiny

FRAGILE = "transformer.layers.0.fc1"


@pytest.fixture
def planted() -> HybridCNNTransformer:
    """One channel into `FRAGILE` is 3,000 times too large, its weights as much too small.

    In floating point nothing changes; in int8 the other channels all round to one level.
    """
    model = tiny()
    layer = model.transformer.layers[0]
    with torch.no_grad():
        layer.norm2.weight[0] *= 3000
        layer.norm2.bias[0] *= 3000
        layer.fc1.weight[:, 0] /= 3000
        layer.fc2.weight *= 10  # what comes from `FRAGILE` decides
    return model


@pytest.fixture
def loader(planted: HybridCNNTransformer) -> BatchLoader:
    """Images labelled as the float network would: its accuracy is 100 %."""
    pixels = torch.randint(0, 256, (256, 1, 8, 8), dtype=torch.uint8)
    plain = BatchLoader(pixels, torch.zeros(256).long(), 256, mean=[0.5], std=[0.25], num_classes=0)
    with torch.inference_mode():
        labels = planted(next(iter(plain))[0]).argmax(1)
    return BatchLoader(pixels, labels, 64, mean=[0.5], std=[0.25], num_classes=0)


@pytest.mark.parametrize("backend", ["inductor", "x86"])
def test_the_planted_layer_is_found(
    backend: str, planted: HybridCNNTransformer, loader: BatchLoader
) -> None:
    quant = Quant("ptq", backend, observer="histogram" if backend == "x86" else "minmax")
    choice = choose_float_layers(planted, quant, list(loader), loader, max_accuracy_drop=3.0)
    assert choice.scan[0].layer == FRAGILE
    assert choice.scan[0].sqnr_db < choice.scan[1].sqnr_db - 3
    assert choice.float_layers[0] == FRAGILE
    assert choice.float_accuracy == 100.0
    *missed, (_, last) = choice.steps
    assert last >= 97.0 and all(accuracy < 97.0 for _, accuracy in missed)


def test_no_drop_at_all_ends_with_enough_float(
    planted: HybridCNNTransformer, loader: BatchLoader
) -> None:
    choice = choose_float_layers(planted, Quant("ptq", "inductor"), list(loader), loader, 0.0)
    assert choice.steps[-1][1] == 100.0
    assert len(choice.float_layers) == len(set(choice.float_layers))
    assert set(choice.float_layers) <= set(quantizable_layers(planted))


def test_sqnr_is_that_of_the_exported_graph(loader: BatchLoader) -> None:
    """The same figure from torchao's converted graph, one layer quantized."""
    model, batches = tiny(), list(loader)
    quant = Quant("ptq", "inductor", reduce_range=False)
    scan = scan_layers(model, quant, batches, loader)
    assert all(a.sqnr_db <= b.sqnr_db for a, b in pairwise(scan))
    entry = scan[0]
    others = [n for n in quantizable_layers(model) if n != entry.layer]
    ranges = backends.with_calibrated_ranges(
        model, Quant("ptq", "inductor", calibration_batches=len(batches)), batches
    ).ranges
    assert ranges is not None
    graph = pt2e.quantized_graph(model, ranges, others)
    images = batches[0][0]
    with torch.inference_mode():
        expected = model(images)
        error = graph(images) - expected
    by_hand = 20 * torch.log10(expected.norm() / error.norm())
    assert entry.sqnr_db == pytest.approx(by_hand.item(), abs=0.5)
