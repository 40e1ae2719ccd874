"""Candidates: factors that are drawn alike, statistics against a count by hand and torch's own."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from data_sets.batches import BatchLoader
from methods.pruning.candidates import SPREAD, drawn_factors, judge, recalibrate
from methods.pruning.dimensions import dimensions
from stages.state import state_of
from tests.support.cutting import batches
from tests.support.tiny import tiny
from train_eval import evaluate

TARGETS = ["conv", "ffn", "head_dim", "embed"]


def test_factors_are_of_a_seed_and_more_go_on_where_fewer_end() -> None:
    dims = dimensions(tiny(), TARGETS)
    many = drawn_factors(dims, 200, seed=3)
    assert many[0] == {}
    assert drawn_factors(dims, 7, seed=3) == many[:7] != drawn_factors(dims, 7, seed=4)
    logs = np.log([[each[d.name] for d in dims] for each in many[1:]]) / math.log(SPREAD)
    assert np.abs(logs).max() <= 1 and np.abs(logs.mean(0)).max() < 0.1
    assert (logs.std(0) > 0.3).all()  # 0.41 of two uniform halves
    together = np.corrcoef(logs.T)
    alike = np.array([[a.target == b.target for b in dims] for a in dims])
    apart = ~np.eye(len(dims), dtype=bool)
    assert together[alike & apart].min() > 0.3 > np.abs(together[~alike]).max()


def by_hand(images: list[Tensor], convs: list[nn.Conv2d], eps: float) -> list[np.ndarray]:
    """Mean and variance of each convolution's maps, averaged over batches, in float64."""
    found = [np.zeros((2, conv.out_channels)) for conv in convs]
    for batch in images:
        maps = batch.numpy().astype(np.float64)
        for number, conv in enumerate(convs):  # 1×1, so that a convolution is a product
            maps = np.einsum("bchw,oc->bohw", maps, conv.weight.detach().numpy()[:, :, 0, 0])
            mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), ddof=1)
            found[number] += np.stack([mean, var]) / len(images)
            biased = maps.var((0, 2, 3))
            normed = (maps - mean[:, None, None]) / np.sqrt(biased[:, None, None] + eps)
            maps = np.maximum(normed, 0)
    return found


def test_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 5, 1, bias=False), nn.Conv2d(5, 3, 1, bias=False)]
    norms = [nn.BatchNorm2d(5), nn.BatchNorm2d(3)]
    parts = [convs[0], norms[0], nn.ReLU(), nn.Dropout(0.9), convs[1], norms[1]]
    network = nn.Sequential(*parts).eval()
    images = [x for x, _ in batches(3)]
    assert recalibrate(network, images)
    for norm, expected in zip(norms, by_hand(images, convs, norms[0].eps), strict=True):
        found = torch.stack([norm.running_mean, norm.running_var])  # type: ignore[list-item]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
        assert norm.momentum == 0.1 and not norm.training
    assert not any(part.training for part in parts)


def test_statistics_are_those_of_torchs_own_averaging() -> None:
    network = tiny()
    reference = copy.deepcopy(network)
    update_bn([x for x, _ in batches(3)], reference)
    before = copy.deepcopy(network.state_dict())
    assert recalibrate(network, (x for x, _ in batches(3)))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name])
        assert torch.equal(value, before[name]) == ("running" not in name and "num_b" not in name)


def test_networks_without_batch_norm_are_judged_as_they_are() -> None:
    model = tiny(cnn_norm="group")
    before = copy.deepcopy(model.state_dict())
    assert not recalibrate(model, (x for x, _ in batches()))
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_judged_is_what_evaluate_says_before_and_after() -> None:
    model, state = tiny(), state_of(tiny())
    model.load_state_dict(state.weights)
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 10, (40,))
    loader = BatchLoader(images, labels, 16, mean=[0.5], std=[0.2], num_classes=10)
    judged = judge(state.model_args, state.weights, batches, loader)
    assert judged.loss_as_cut == evaluate(model, loader).loss
    update_bn([x for x, _ in batches()], model)
    expected = evaluate(model.eval(), loader)
    assert abs(judged.loss - expected.loss) < 1e-5 and judged.accuracy == expected.accuracy
    again = tiny()
    again.load_state_dict(judged.weights)
    assert abs(evaluate(again, loader).loss - judged.loss) < 1e-6
