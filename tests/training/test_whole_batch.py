"""Layers and ranges in several processes see the batch as one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchvision.ops import StochasticDepth

from methods.quantization import backends
from methods.quantization.record import Quant
from tests.support.processes import in_team
from tests.support.tiny import tiny
from training import whole_batch
from training.team import Team
from training.whole_batch import Shard

BATCH = 7  # for two processes 4 and 3


def _layers() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.3), StochasticDepth(0.4, "row"))
    nn.init.uniform_(layers[0].weight, 0.5, 1.5)
    return layers


def _through_layers(team: Team | None) -> dict[str, torch.Tensor]:
    """Outputs, gradients and statistics of a batch of images far from zero."""
    layers = _layers()
    whole = 100 + torch.randn(BATCH, 3, 4, 4)
    images = whole.requires_grad_()
    wanted = torch.randn(BATCH, 3, 4, 4)
    torch.manual_seed(2)
    if team is None:
        outputs = layers(images)
        (outputs * wanted).sum().backward()
    else:
        shard = Shard(team, BATCH, lambda: False)
        shard.synchronize(layers)
        outputs = layers(shard.rows_of(images))
        (outputs * shard.rows_of(wanted)).sum().backward()
        for parameter in [images, *layers.parameters()]:
            dist.all_reduce(parameter.grad)
    return {
        "outputs": outputs.detach().clone(),
        "next": torch.rand(3),  # the generators of all processes are where one's would be
        "images": images.grad,
        "weight": layers[0].weight.grad,
        "bias": layers[0].bias.grad,
        **layers.state_dict(),
    }


def test_batch_norm_and_dropout_see_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone = _through_layers(None)
    parts = in_team(2, tmp_path, _through_layers)
    assert [len(part["outputs"]) for part in parts] == [4, 3]
    together = {**parts[0], "outputs": torch.cat([part["outputs"] for part in parts])}
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=2e-5)
    assert torch.equal(parts[0]["next"], parts[1]["next"])


def _ranges(team: Team | None, backend: str) -> dict[str, torch.Tensor]:
    """Ranges after two batches of quantization-aware training."""
    quant = Quant("qat", backend)
    prepared = backends.prepare(tiny(), quant).train()
    batches = torch.randn(2, BATCH, 1, 8, 8)
    shard = None
    if team is not None:
        shard = Shard(team, BATCH, lambda: False)
        shard.synchronize(prepared)
        backends.observe_together(prepared, whole_batch.all_reduce_extremes)
    for images in batches:
        prepared(images if shard is None else shard.rows_of(images))
    return backends.with_trained_ranges(quant, prepared).ranges or {}


@pytest.mark.parametrize("backend", ["inductor", "x86"])
def test_ranges_are_those_of_the_whole_batch(tmp_path: Path, backend: str) -> None:
    torch.manual_seed(0)
    alone = _ranges(None, backend)
    assert len(alone) > 5
    for ranges in in_team(2, tmp_path, _ranges, backend):
        torch.testing.assert_close(ranges, alone, rtol=2e-2, atol=1e-6)
