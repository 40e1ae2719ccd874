"""Masks of any network: a silent channel is silent, gates and classifiers are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from methods.pruning import masks
from methods.pruning.masks import channel_tensors, mask_channels, zero_channel_masks
from model import Network, build_network, resolved_args
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import build, initial_state, state_of
from tests.support.chains import FAST
from tests.support.user_nets import user_file


def network_of(name: str, **args: Any) -> Network:
    torch.manual_seed(0)
    network = build_network(resolved_args({"architecture": name, **args})).eval()
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5)
    return network


def test_a_masked_channel_is_silent_after_its_norm() -> None:
    network = network_of("torchvision:resnet18", stem="small", image_size=16)
    report = mask_channels(network, 0.25)
    assert "fc" not in report and report["layer1.0.conv1"] == [16, 64]
    seen: dict[str, torch.Tensor] = {}
    after = {"conv1": "bn1", "conv2": "bn2", "0": "1"}
    for layer in report:
        owner, _, leaf = layer.rpartition(".")
        norm = network.get_submodule(f"{owner}.{after[leaf]}".removeprefix("."))
        norm.register_forward_hook(  # a copy, as the ReLU behind it works in place
            lambda m, i, out, layer=layer: seen.__setitem__(layer, out.clone())
        )
    network(torch.randn(2, 3, 16, 16))
    for layer, out in seen.items():
        silent = [c for c in range(out.shape[1]) if not out[:, c].any()]
        weight = network.get_submodule(layer).weight
        assert silent == [c for c, row in enumerate(weight) if not row.any()]  # type: ignore[arg-type]
        assert len(silent) == len(weight) // 4  # type: ignore[arg-type]
    assert zero_channel_masks(network).keys() == {
        t for owned in channel_tensors(network).values() for t in owned
    }


def test_gates_depthwise_filters_and_classifiers_are_left_alone() -> None:
    network = network_of("torchvision:mobilenet_v3_small")
    layers = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    depthwise = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    gates = {n for n in layers if n.endswith(".fc2")}  # of squeeze-excite, before a hardsigmoid
    assert gates and depthwise
    assert channel_tensors(network).keys() == layers - depthwise - gates - {"classifier.3"}
    # the classifier of a network whose last layer is a convolution
    squeezed = channel_tensors(network_of("torchvision:squeezenet1_0", image_size=64))
    assert "classifier.1" not in squeezed and "features.0" in squeezed


def test_an_unpruned_network_costs_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model_args: dict[str, Any]) -> None:
        raise AssertionError

    monkeypatch.setattr(masks, "silent_tensors", never)
    network = network_of("torchvision:resnet18", stem="small")
    assert zero_channel_masks(network) == {}


def test_a_layer_that_starts_at_zero_is_not_pruned() -> None:
    network = network_of("torchvision:resnet18", stem="small")
    with torch.no_grad():
        network.get_parameter("layer1.0.conv1.weight").zero_()
    assert zero_channel_masks(network) == {}


def test_masked_channels_stay_zero_in_training(ctx: Context, tmp_path: Path) -> None:
    args = {"architecture": f"{user_file(tmp_path)}:TinyNet", "width": 8}
    args |= {"image_size": 8, "in_channels": 1}
    start = initial_state(resolved_args(args), 0)
    pruned = prune(start, PruneSpec(ratio=0.5), ctx)
    assert ctx.details["zero_channels"] == {"first": [4, 8], "left": [4, 8], "right": [4, 8]}
    trained = finetune(pruned, FinetuneSpec(**FAST), ctx)
    for layer in ("first", "left", "right"):
        rows = [w.weights[f"{layer}.weight"].flatten(1).any(1) for w in (pruned, trained)]
        assert torch.equal(*rows) and int(rows[0].sum()) == 4
    assert not torch.equal(trained.weights["head.weight"], pruned.weights["head.weight"])
    cut = prune(trained, PruneSpec(mode="structural", ratio=0.0, ratios={"right": 0.5}), ctx)
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():  # the silent ones go first
        torch.testing.assert_close(build(cut)(images), build(trained)(images))
    assert state_of(build(cut)).model_args == cut.model_args
