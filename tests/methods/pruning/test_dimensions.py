"""Cut networks against masked ones, torch-pruning's graph and hand counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods import costs
from methods.pruning.amounts import Removed
from methods.pruning.dimensions import TARGETS, dimensions
from model import HybridCNNTransformer
from networks.args import exit_places
from tests.support.cutting import choice, cut_of
from tests.support.macs import macs_by_hand
from tests.support.tiny import FUSIONS, RICH, TINY, tiny

# --- a cut network is a masked network -----------------------------------------------------------


def masked(model: HybridCNNTransformer, removed: Removed) -> HybridCNNTransformer:
    """The whole network with the units' producers at zero; norms look at the rest alone."""
    tensors = model.state_dict()
    dead: dict[str, Tensor] = {}  # norm → its dead positions
    for dimension, units in removed:
        for member in dimension.members:
            owner, _, leaf = member.tensor.rpartition(".")
            module = model.get_submodule(owner)
            positions = member.index[units].flatten()
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                dead[owner] = positions
            elif member.role != "in" and leaf != "running_var":
                tensors[member.tensor].movedim(member.axis, 0)[positions] = 0
        for layer in units.tolist() if dimension.target == "depth" else ():
            for name in ("attention.proj", "fc2"):
                for leaf in ("weight", "bias"):
                    tensors[f"transformer.layers.{layer}.{name}.{leaf}"].zero_()
    for owner, positions in dead.items():
        _norm_over_the_rest(model.get_submodule(owner), positions)
    return model


def _norm_over_the_rest(norm: nn.Module, dead: Tensor) -> None:
    width = norm.weight.shape[0]
    alive = torch.tensor([i for i in range(width) if i not in set(dead.tolist())])

    def forward(x: Tensor) -> Tensor:
        axis = -1 if isinstance(norm, nn.LayerNorm) else 1
        part = x.index_select(axis, alive)
        if isinstance(norm, nn.LayerNorm):
            done = F.layer_norm(part, (len(alive),), norm.weight[alive], norm.bias[alive], norm.eps)
        else:
            done = F.group_norm(part, 1, norm.weight[alive], norm.bias[alive], norm.eps)
        return torch.zeros_like(x).index_copy(axis, alive, done)

    norm.forward = forward  # type: ignore[method-assign]


def assert_cut_equals_masked(args: dict[str, Any], targets: Any, ratio: float = 0.5) -> None:
    model = tiny(**args)
    removed = choice(model, targets, ratio)
    smaller = cut_of(model, removed)
    shape = model.model_args["image_size"]
    images = torch.randn(3, model.model_args["in_channels"], *shape)
    gone = [f"layer_{i}" for d, units in removed if d.target == "depth" for i in units.tolist()]
    left = [f"layer_{i}" for i in range(model.model_args["num_layers"])]
    left = [place for place in left if place not in gone]
    gone += left[-1:]  # an exit behind what is now the last layer
    rows = [place not in gone for place in model.model_args["exits"]]
    with torch.inference_mode():
        expected = masked(model, removed).every_logits(images)[[*rows, True]]
        torch.testing.assert_close(smaller.every_logits(images), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(smaller(images), smaller.every_logits(images)[-1])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"cnn_separable": True, "cnn_norm": "group", "pooling": "class_token"},
        {"cnn_norm": "none", "pooling": "sequence", "positional_encoding": "sinusoidal"},
        RICH,
        {**RICH, "cnn_separable": True, "cnn_norm": "group", "in_channels": 8},
    ],
    ids=["plain", "separable", "no-norm", "rich", "rich-separable"],
)
def test_cut_equals_masked(fusion: str, target: str, args: dict[str, Any]) -> None:
    if fusion == "parallel" and target in ("heads", "head_dim", "embed", "depth"):
        assert not dimensions(tiny(fusion=fusion), [target])
    else:
        exits = exit_places(fusion, 2)
        assert_cut_equals_masked({**args, "fusion": fusion, "exits": exits}, [target])


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_cut_equals_masked_on_random_architectures(data: st.DataObject) -> None:
    draw = data.draw
    blocks, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    args = {
        "fusion": draw(st.sampled_from(FUSIONS)),
        "in_channels": draw(st.sampled_from([1, 3])),
        "image_size": draw(st.sampled_from([8, 12])),
        "cnn_channels": draw(st.lists(st.integers(2, 9), min_size=blocks, max_size=blocks)),
        "cnn_squeeze_excite": draw(st.lists(st.integers(0, 3), min_size=blocks, max_size=blocks)),
        "cnn_pools": draw(st.lists(st.sampled_from([1, 2]), min_size=blocks, max_size=blocks)),
        "cnn_kernels": draw(st.sampled_from([1, 3])),
        "cnn_norm": draw(st.sampled_from(["batch", "group", "none"])),
        "cnn_activation": draw(st.sampled_from(["relu", "gelu", "silu", "hardswish"])),
        "cnn_separable": draw(st.booleans()),
        "embed_dim": draw(st.integers(4, 13)),
        "num_layers": layers,
        "num_heads": draw(st.lists(st.integers(1, 3), min_size=layers, max_size=layers)),
        "head_dim": draw(st.lists(st.integers(2, 5), min_size=layers, max_size=layers)),
        "ffn_dim": draw(st.lists(st.integers(2, 9), min_size=layers, max_size=layers)),
        "pooling": draw(st.sampled_from(["mean", "class_token", "sequence"])),
        "mlp_dims": draw(st.lists(st.integers(2, 9), min_size=1, max_size=3)),
    }
    if draw(st.booleans()):  # a residual block, and sometimes one more
        more = draw(st.integers(1, 2))
        for key in ("cnn_channels", "cnn_squeeze_excite"):
            args[key] += [args[key][-1]] * more
        args["cnn_pools"] += [1] * more
        args["cnn_residual"] = [False] * blocks + [True] * more
    args["exits"] = [p for p in exit_places(args["fusion"], layers) if draw(st.booleans())]
    targets = draw(st.lists(st.sampled_from(TARGETS), min_size=1, unique=True))
    assume(dimensions(HybridCNNTransformer(**{**TINY, **args}), targets))
    assert_cut_equals_masked(args, targets, draw(st.floats(0, 0.95)))


def test_residual_blocks_are_one_dimension() -> None:
    """By hand: what residuals add up has the same channels; images keep theirs."""
    dims = {d.name: d for d in dimensions(tiny(**RICH), ["conv"])}
    assert {name: (d.position, d.tied) for name, d in dims.items()} == {
        "cnn.blocks.0": (0, (1, 2)),
        "cnn.blocks.3": (3, (4,)),
    }
    makers = [m.tensor for m in dims["cnn.blocks.0"].members if m.role == "out"]
    assert makers == [f"cnn.blocks.{i}.conv.weight" for i in range(3)]
    from_images = tiny(in_channels=8, **RICH)
    assert from_images.model_args["cnn_residual"] == [True, True, True, False, True]
    assert [d.name for d in dimensions(from_images, ["conv"])] == ["cnn.blocks.3"]
    smaller = cut_of(from_images, choice(from_images, ["conv"], 0.5))
    assert smaller.model_args["cnn_channels"] == [8, 8, 8, 8, 8]
    assert smaller.model_args["cnn_residual"] == [True, True, True, False, True]


# --- independent references ----------------------------------------------------------------------


@pytest.mark.parametrize("rich", [{}, RICH], ids=["plain", "rich"])
def test_groups_equal_torch_prunings_for_the_serial_fusion(rich: dict[str, Any]) -> None:
    tp = pytest.importorskip("torch_pruning")
    model = tiny(pooling="class_token", **rich)
    loose = [(p, 2) for n, p in model.named_parameters() if n.endswith(("embedding", "_token"))]
    graph = tp.DependencyGraph().build_dependency(
        model, torch.randn(1, 1, 8, 8), unwrapped_parameters=loose, verbose=False
    )
    roots = {
        "cnn.blocks.0": "cnn.blocks.0.conv",
        "cnn.blocks.1": "cnn.blocks.1.conv",
        "cnn.blocks.3": "cnn.blocks.3.conv",
        "transformer.embed": "embed",
        "transformer.layers.1.ffn": "transformer.layers.1.fc1",
        "transformer.layers.1.head_dim": "transformer.layers.1.attention.qkv",
    }
    names = {module: name for name, module in model.named_modules()}
    for dimension in dimensions(model, TARGETS):
        if dimension.name not in roots:
            continue
        root = model.get_submodule(roots[dimension.name])
        conv = isinstance(root, nn.Conv2d)
        prune_out = tp.prune_conv_out_channels if conv else tp.prune_linear_out_channels
        theirs = set()
        for dependency, indices in graph.get_pruning_group(root, prune_out, idxs=[1]):
            module = dependency.target.module
            if module in names and not isinstance(module, nn.ReLU | nn.Sigmoid):
                consumer = "in_channels" in dependency.handler.__name__
                theirs |= {(names[module], consumer, i) for i in indices}
        ours = set()
        for member in dimension.members:
            owner = member.tensor.rpartition(".")[0]
            if type(model.get_submodule(owner)).__module__.startswith("torch.nn"):
                ours |= {(owner, member.role == "in", i) for i in member.index[1].tolist()}
        assert ours == theirs, dimension.name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_planned_macs_of_a_cut_rich_network_are_those_that_run(fusion: str) -> None:
    model = tiny(fusion=fusion, **RICH)
    smaller = cut_of(model, choice(model, ["conv", "ffn"], 0.4))
    assert smaller.model_args["cnn_channels"] == [5, 5, 5, 10, 10]
    assert costs.planned_macs(smaller.model_args) == [costs.count_macs(smaller)[0]]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_counted_macs_equal_the_hand_formula_after_a_cut(fusion: str) -> None:
    model = tiny(fusion=fusion)
    smaller = cut_of(model, choice(model, ["conv", "ffn", "embed"], 0.4))
    args = {**smaller.model_args, "image_size": 8}
    if fusion != "parallel":  # the formula has heads as wide as the stream
        inner = args["num_heads"][0] * args["head_dim"][0]
        tokens, dim, layers = 16, args["embed_dim"], args["num_layers"]
        assert len(set(args["ffn_dim"])) == 1
        args["ffn_dim"] = args["ffn_dim"][0]
        difference = layers * (
            tokens * dim * 3 * (inner - dim)
            + 2 * tokens * tokens * (inner - dim)
            + tokens * dim * (inner - dim)
        )
    else:
        difference = 0
    assert costs.count_macs(smaller)[0] == macs_by_hand(args) + difference
