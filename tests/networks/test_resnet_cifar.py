"""The ResNets for CIFAR: published sizes, a second statement of what they compute, exits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.costs import count_macs
from model import blueprint, build_network, resolved_args
from networks.foreign import NetworkError


def resnet(**args: Any) -> dict[str, Any]:
    return resolved_args({"architecture": "resnet_cifar", **args})


# Parameters in table 6 of arXiv:1512.03385; multiply-accumulates as its successors count them.
@pytest.mark.parametrize(
    ("depth", "parameters", "macs"),
    [(20, 0.27, 40.8), (32, 0.46, 69.1), (44, 0.66, 97.4), (56, 0.85, 126), (110, 1.73, 253)],
)
@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_sizes_are_the_published_ones(
    depth: int, parameters: float, macs: float, shortcut: str
) -> None:
    model = blueprint(resnet(depth=depth, shortcut=shortcut))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(parameters, abs=0.008)
    assert count_macs(model)[0] / 1e6 == pytest.approx(macs, rel=0.01)


def test_shortcuts_differ_by_the_projections_alone() -> None:
    """Two convolutions 1×1 from 16 to 32 and 32 to 64 channels, each with a batch norm."""
    counts = {
        shortcut: sum(p.numel() for p in blueprint(resnet(shortcut=shortcut)).parameters())
        for shortcut in ("projection", "pad")
    }
    assert counts["projection"] - counts["pad"] == 16 * 32 + 32 * 64 + 2 * (32 + 64)


def by_functions(weights: dict[str, Tensor], images: Tensor, n: int) -> Tensor:
    """What the paper says, on tensors alone."""

    def norm(name: str, x: Tensor) -> Tensor:
        w = {k: weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"])

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = norm("bn1", conv("conv1", images)).relu()
    for stage in (1, 2, 3):
        for block in range(n):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)).relu()
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            elif stride == 2:
                x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], dim=1)
            x = (x + y).relu()
    return F.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_logits_are_the_papers(shortcut: str) -> None:
    torch.manual_seed(0)
    args = resnet(depth=14, width=4, shortcut=shortcut, image_size=[9, 12], num_classes=3)
    model = build_network(args).eval()
    for name, value in model.state_dict().items():
        if "running" in name or ".bn" in name:
            value.uniform_(0.5, 1.5) if value.is_floating_point() else value
    images = torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        expected = by_functions(model.state_dict(), images, 2)
        torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("exits", [["layer1", "layer2"], ["layer2"]])
def test_exits_are_the_network_cut_at_their_places(exits: list[str]) -> None:
    model = build_network(resnet(depth=8, width=4, image_size=8, exits=exits)).eval()
    images = torch.randn(3, 3, 8, 8)
    carried, found = [images], []
    for part in model.parts():
        logits, *carried = part(*carried)
        found.append(logits)
    torch.testing.assert_close(model.every_logits(images), torch.stack(found))
    torch.testing.assert_close(model(images), found[-1])
    weights = model.state_dict()
    maps = model.relu(model.bn1(model.conv1(images)))  # type: ignore[operator]
    for place in ("layer1", "layer2")[: 2 if exits[0] == "layer2" else 1]:
        maps = model.get_submodule(place)(maps)
    pooled = F.layer_norm(
        maps.mean((2, 3)),
        maps.shape[1:2],
        weights[f"exits.{exits[0]}.norm.weight"],
        weights[f"exits.{exits[0]}.norm.bias"],
    )
    head = f"exits.{exits[0]}.head"
    expected = F.linear(pooled, weights[f"{head}.weight"], weights[f"{head}.bias"])
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"depth": 18}, "depth"),
        ({"width": 0}, "width"),
        ({"shortcut": "zeros"}, "shortcut"),
        ({"exits": ["layer3"]}, "exits"),
    ],
)
def test_arguments_that_build_none_are_refused_by_name(args: dict[str, Any], key: str) -> None:
    with pytest.raises(NetworkError) as caught:
        build_network(resnet(**args))
    assert caught.value.key == key
