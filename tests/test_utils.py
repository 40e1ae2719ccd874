"""The doors for a notebook do a whole compression."""

from __future__ import annotations

import torch

import utils
from dataset import get_dataloaders
from methods.pruning.masks import zero_channel_masks
from tests.support.tiny import tiny


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
