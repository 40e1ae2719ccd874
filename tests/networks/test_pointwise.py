"""Narrow strided pointwise convolutions: the same values, gradients and graph as without care."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model import build_network, resolved_args
from networks.pointwise import without_strides


@pytest.mark.parametrize("stride", [2, (2, 1), (3, 2)])
def test_values_and_gradients_are_those_of_double_precision(stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 1, stride)
    exact = copy.deepcopy(layer).double()  # which oneDNN does not compute
    guarded = nn.Sequential(layer)
    without_strides(guarded)
    images = torch.randn(2, 3, 9, 8)
    values = guarded(images)
    values.square().sum().backward()
    expected = exact(images.double())
    expected.square().sum().backward()
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert layer.weight.grad is not None and exact.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-4)


def test_only_narrow_ones_are_touched_and_graphs_keep_their_strides() -> None:
    network = build_network(resolved_args({"architecture": "resnet_cifar", "width": 8}))
    touched = [n for n, m in network.named_modules() if "_conv_forward" in vars(m)]
    narrow = [
        n for n, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.in_channels == 8
    ]  # fmt: skip
    assert touched == narrow and len(narrow) == 1
    twin = copy.deepcopy(network)
    assert twin.get_submodule(narrow[0])._conv_forward.args[0] is twin.get_submodule(narrow[0])  # type: ignore[union-attr]
    graph = torch.export.export(network.eval(), (torch.zeros(2, 3, 32, 32),)).module()
    targets = {str(node.target) for node in graph.graph.nodes}  # type: ignore[union-attr]
    assert not any("slice" in target for target in targets)
