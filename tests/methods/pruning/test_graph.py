"""Any network: a cut network equals a masked one, torch-pruning's, and one built by hand."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import costs
from methods.pruning import importance
from methods.pruning.amounts import Amount, Removed, args_after, choose
from methods.pruning.cutting import TARGETS, Dimension, cut, cut_args
from methods.pruning.dimensions import dimensions, left_alone, with_exits
from model import Network, blueprint, build_network, resolved_args
from tests.support.cutting import batches
from tests.support.own_nets import OWN
from tests.support.processes import in_new_process
from tests.support.user_nets import user_file

SIZE = {"image_size": 32}
VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
NETWORKS: dict[str, dict[str, Any]] = {
    "cct": {},
    "resnet_cifar": {},
    "torchvision:resnet18": {"stem": "small"},
    "torchvision:mobilenet_v2": {"width_mult": 0.5},
    "torchvision:mobilenet_v3_small": {},
    "torchvision:shufflenet_v2_x0_5": {},
    "torchvision:DenseNet": {"growth_rate": 8, "block_config": [2, 3], "num_init_features": 12},
    "torchvision:VisionTransformer": VIT,
}  # fmt: skip
LARGE: dict[str, dict[str, Any]] = {
    "torchvision:vgg11_bn": {},
    "torchvision:efficientnet_b0": {},
    "torchvision:regnet_y_400mf": {},
    "torchvision:convnext_tiny": {},
    "torchvision:googlenet": {"init_weights": False},
}


def arguments(name: str, folder: Path) -> dict[str, Any]:
    if name in NETWORKS | LARGE:
        return resolved_args({"architecture": name, **(NETWORKS | LARGE)[name], **SIZE})
    file = user_file(folder, OWN, "own_nets.py")
    return resolved_args({"architecture": f"{file}:{name}", **SIZE})


def lively(args: dict[str, Any]) -> Network:
    """A network whose norms and biases are not at their trivial initial values, in float64."""
    torch.manual_seed(0)
    network = build_network(args).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim == 1 and value.is_floating_point():
                value.uniform_(-0.5, 1.5)
            elif value.ndim > 1:
                value.normal_(std=(2 * len(value) / value.numel()) ** 0.5)
    return network.double()


def images(args: dict[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (3, args["in_channels"], *args["image_size"])
    return torch.randn(size, generator=generator, dtype=torch.float64)


def cut_of(network: Network, removed: Removed) -> Network:
    args, weights = cut(network.model_args, network.state_dict(), removed)
    assert args == cut_args(network.model_args, removed)
    smaller = build_network(args).eval().double()
    smaller.load_state_dict(weights)  # strictly: every shape is as the arguments say
    return smaller


def some(dims: list[Dimension], ratio: float = 0.4, seed: int = 2) -> Removed:
    generator = torch.Generator().manual_seed(seed)
    return choose(dims, [torch.rand(d.size, generator=generator) for d in dims], ratio, Amount())


@torch.no_grad()
def masked(network: Network, removed: Removed) -> Network:
    """The whole network, deaf to the removed units."""
    deaf = copy.deepcopy(network)
    weights = deaf.state_dict()
    for dimension, units in removed:
        for member in dimension.members:
            if member.role == "in":
                weights[member.tensor].movedim(member.axis, 0)[member.index[units]] = 0
    return deaf


@pytest.mark.parametrize(
    "name",
    [
        *NETWORKS,
        "Hybrid",
        "Tied",
        "Halves",
        *[pytest.param(n, marks=pytest.mark.slow) for n in LARGE],
    ],
)
@torch.no_grad()
def test_cut_equals_masked(name: str, tmp_path: Path) -> None:
    args = arguments(name, tmp_path)
    network = lively(args)
    dims = dimensions(network, ["conv", "ffn"])
    assert dims
    removed = some(dims)
    smaller, x = cut_of(network, removed), images(args)
    expected = masked(network, removed)(x)
    torch.testing.assert_close(smaller(x), expected, rtol=1e-8, atol=1e-8)
    assert (network(x) - expected).abs().max() > 1e-3 * expected.abs().max()
    # and again, from the arguments alone
    again = some(dimensions(smaller, ["conv", "ffn"]), 0.3, seed=3)
    twice = cut_of(smaller, again)
    expected = masked(smaller, again)(x)
    torch.testing.assert_close(twice(x), expected, rtol=1e-8, atol=1e-8)
    assert costs.planned_macs(twice.model_args)[-1] < costs.planned_macs(smaller.model_args)[-1]


@pytest.mark.parametrize("name", ["Hybrid", "cct"])
@torch.no_grad()
def test_a_stream_through_layer_norms_is_cut_where_its_units_are_copies(
    name: str, tmp_path: Path
) -> None:
    """Each second unit of the stream is its neighbour's copy, so that means stay what they are."""
    args = arguments(name, tmp_path)
    network = lively(args)
    streams = dimensions(network, ["embed"])
    assert streams
    for dimension in streams:
        pairs = dimension.size // 2 * 2
        even, odd = torch.arange(0, pairs, 2), torch.arange(1, pairs, 2)
        twins = copy.deepcopy(network)
        for member in dimension.members:
            along = twins.state_dict()[member.tensor].movedim(member.axis, 0)
            if member.role == "in":
                along[member.index[even]] /= 2
                along[member.index[odd]] = along[member.index[even]]
            else:
                along[member.index[odd]] = along[member.index[even]]
        merged = copy.deepcopy(twins)
        for member in dimension.members:
            if member.role == "in":
                along = merged.state_dict()[member.tensor].movedim(member.axis, 0)
                along[member.index[even]] *= 2
        smaller = cut_of(merged, [(dimension, odd)])
        x = images(args)
        torch.testing.assert_close(smaller(x), twins(x), rtol=1e-8, atol=1e-8)


# --- independent references ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "DenseNet"])
def test_a_cut_equals_torch_prunings(name: str, tmp_path: Path) -> None:
    tp = pytest.importorskip("torch_pruning")
    args = arguments(f"torchvision:{name}", tmp_path)
    network = lively(args)
    other = copy.deepcopy(network)
    x = images(args)
    graph = tp.DependencyGraph().build_dependency(other, x[:1], verbose=False)
    removed = []
    for dimension in dimensions(network, TARGETS):
        units = torch.randperm(dimension.size)[: dimension.size // 3]
        removed.append((dimension, units))
        maker = next(m for m in dimension.members if m.role == "out")
        layer = other.get_submodule(maker.tensor.rpartition(".")[0])
        out = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else (
            tp.prune_linear_out_channels
        )  # fmt: skip
        graph.get_pruning_group(layer, out, maker.index[units].flatten().tolist()).prune()
    with torch.no_grad():
        torch.testing.assert_close(cut_of(network, removed)(x), other(x), rtol=1e-8, atol=1e-8)


def test_widths_and_macs_by_hand(tmp_path: Path) -> None:
    """Of the two-path hybrid, whose concatenation torch-pruning takes for one along the tokens."""
    network = build_network(arguments("Hybrid", tmp_path))
    found = {d.name: (d.target, d.size, len(d.members)) for d in dimensions(network, TARGETS)}
    assert found == {
        "first": ("conv", 12, 7),  # weight, bias, four of the norm, second
        "second": ("conv", 16, 5),  # weight, bias, slope, embed, head
        "embed": ("embed", 24, 17),
        "fc1": ("ffn", 40, 3),
    }
    second = next(d for d in dimensions(network, TARGETS) if d.name == "second")
    heard = next(m for m in second.members if m.tensor == "head.weight")
    assert heard.index[5].tolist() == [24 + 5, 24 + 16 + 20, 61, 62, 63]
    half = cut_args(network.model_args, some(dimensions(network, ["conv"]), 0.5))
    macs = 16 * 16 * 27 * 6 + 8 * 8 * 54 * 8 + 64 * 8 * 24  # convolutions and embedding
    macs += 65 * 24 * (4 * 24 + 2 * 40) + 2 * 65 * 65 * 24 + 10 * (24 + 8 + 8 * 4)
    assert costs.planned_macs(half) == [macs]


@torch.no_grad()
def test_equals_a_narrower_network_built_by_hand(tmp_path: Path) -> None:
    args = resolved_args({"architecture": f"{user_file(tmp_path)}:TinyNet", "width": 12, **SIZE})
    network = lively(args)
    dims = {d.name: d for d in dimensions(network, TARGETS)}
    assert {n: d.size for n, d in dims.items()} == {"first": 12, "right": 12}
    keep, right = [0, 2, 3, 7], [1, 5, 6, 8]
    smaller = cut_of(
        network,
        [
            (dims["first"], torch.tensor([i for i in range(12) if i not in keep])),
            (dims["right"], torch.tensor([i for i in range(12) if i not in right])),
        ],
    )
    by_hand = build_network({**args, "width": 4}).double().eval()
    whole = network.state_dict()
    for name in ("first.weight", "first.bias", *[n for n in whole if n.startswith("norm.")]):
        value = whole[name]
        by_hand.state_dict()[name].copy_(value[keep] if value.ndim else value)
    for name, rows in (("left", keep), ("right", right)):
        by_hand.state_dict()[f"{name}.weight"].copy_(whole[f"{name}.weight"][rows][:, keep])
        by_hand.state_dict()[f"{name}.bias"].copy_(whole[f"{name}.bias"][rows])
    columns = [*keep, *[12 + i for i in right]]
    by_hand.state_dict()["head.weight"].copy_(whole["head.weight"][:, columns])
    by_hand.state_dict()["head.bias"].copy_(whole["head.bias"])
    torch.testing.assert_close(smaller(images(args)), by_hand(images(args)))


def test_half_of_a_resnet18s_macs(tmp_path: Path) -> None:
    args = arguments("torchvision:resnet18", tmp_path)
    dims = dimensions(blueprint(args), ["conv"])
    half = args_after(dims, args, {"macs": 0.5}, Amount(), exact=True)
    share = costs.planned_macs(half)[-1] / costs.planned_macs(args)[-1]
    assert share == pytest.approx(0.5, abs=0.02)


def test_rebuilt_and_cut_again_where_torch_pruning_cannot_be_imported(tmp_path: Path) -> None:
    network = lively(arguments("Hybrid", tmp_path))
    smaller = cut_of(network, some(dimensions(network, TARGETS), 0.5))
    x = images(smaller.model_args)
    with torch.no_grad():
        logits = smaller(x)
    in_new_process(_rebuilt, smaller.model_args, smaller.state_dict(), x, logits)


def _rebuilt(args: dict[str, Any], weights: dict[str, Tensor], x: Tensor, logits: Tensor) -> None:
    sys.modules["torch_pruning"] = None  # type: ignore[assignment]
    network = build_network(args).eval().double()
    network.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(network(x), logits, rtol=1e-8, atol=1e-8)
    again = cut_of(network, some(dimensions(network, ["conv"]), 0.5))
    assert costs.planned_macs(again.model_args)[-1] < costs.planned_macs(args)[-1]


# --- what is left alone -------------------------------------------------------------------------


def test_what_is_left_alone(tmp_path: Path) -> None:
    def names(name: str) -> list[str]:
        return [d.name for d in dimensions(build_network(arguments(name, tmp_path)), TARGETS)]

    assert names("Halves") == ["second"]  # what is chunked stays whole
    # `first` and `twice` are added, then grouped; `left` and `again` are one tensor
    assert names("Tied") == ["right", "free"]
    assert [
        n for n in names("torchvision:shufflenet_v2_x0_5") if "branch2.5" in n
    ] == []  # shuffled after
    vit = names("torchvision:VisionTransformer")
    assert [n.rpartition("mlp")[2] for n in vit] == [".0", ".0"]  # heads and stream are not there


def test_what_the_graph_shows_and_the_code_breaks_is_left_alone(tmp_path: Path) -> None:
    args = arguments("Counting", tmp_path)
    assert [d.name for d in dimensions(build_network(args), TARGETS)] == ["second"]
    (reason,) = left_alone(args, TARGETS).items()
    assert reason[0] == "first" and "logits are off by" in reason[1]
    vit = arguments("torchvision:VisionTransformer", tmp_path)
    assert "does not run" in left_alone(vit, TARGETS)["conv_proj"]
    assert left_alone(vit, ["ffn"]) == {}


def test_looking_leaves_the_random_numbers_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    args = {**arguments("Tied", tmp_path), "num_classes": 7}
    assert left_alone(args, TARGETS) == {}
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("criterion", importance.CRITERIA)
def test_every_criterion_scores(criterion: str, tmp_path: Path) -> None:
    args = {**arguments("Hybrid", tmp_path), "image_size": [8, 8], "in_channels": 1}
    network = lively(args).float()
    dims = dimensions(network, TARGETS)
    if criterion == "bn_scale":
        dims = [d for d in dims if d.name in ("first", "embed")]
    scores = importance.importance(network, dims, criterion, batches)
    for dimension, score in zip(dims, scores, strict=True):
        assert score.shape == (dimension.size,) and score.isfinite().all() and len(set(score)) > 1
    if criterion == "bn_scale":
        assert torch.equal(scores[0], network.first_norm.weight.detach().abs())  # type: ignore[operator]


@torch.no_grad()
def test_exits_are_cut_along_and_can_be_added_after() -> None:
    places = ["layer_0", "layer_1"]
    whole = resolved_args({"architecture": "cct", "num_layers": 3, "embed_dim": 32, **SIZE})
    before = {**whole, "exits": places}
    network = lively(before)
    removed = some(dimensions(network, TARGETS))
    smaller = cut_of(network, removed)
    assert smaller.every_logits(images(before)).shape == (3, 3, 10)
    # the heads of exits that come later are as narrow
    plain = cut_args(whole, [(d, u) for d, u in some(dimensions(blueprint(whole), TARGETS))])
    assert with_exits(plain, places) == smaller.model_args
    args = smaller.model_args
    half = args_after(dimensions(smaller, TARGETS), args, {"macs": 0.5}, Amount(), exact=True)
    assert costs.planned_macs(half)[-1] < 0.52 * costs.planned_macs(plain)[-1]
