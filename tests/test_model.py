"""The networks: shapes, errors that name the block, and paths that must agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model import HybridCNNTransformer, LightweightCNN
from stages.state import build
from tests.support.exits import with_exits
from tests.support.tiny import FUSIONS, RICH, TINY, tiny


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["mean", "class_token", "sequence"])
def test_parts_make_the_whole_network(fusion: str, pooling: str) -> None:
    state = with_exits(fusion, pooling=pooling)
    model, images = build(state), torch.randn(5, 1, 8, 8)
    plain_args = {**state.model_args, "exits": []}
    plain = HybridCNNTransformer(**plain_args).eval()
    plain.load_state_dict({n: w for n, w in state.weights.items() if not n.startswith("exits.")})
    with torch.inference_mode():
        every = model.every_logits(images)
        assert len(every) == len(state.model_args["exits"]) + 1
        torch.testing.assert_close(every[-1], plain(images))
        torch.testing.assert_close(model(images), plain(images))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"image_size": (12, 20), "in_channels": 3, "num_classes": 7},
        {"cnn_separable": True, "cnn_norm": "group", "cnn_activation": "silu"},
        {"cnn_norm": "none", "pooling": "class_token", "positional_encoding": "sinusoidal"},
        {"pooling": "sequence", "dropout": 0.1, "stochastic_depth": 0.2, "cnn_strides": [2, 1]},
        {"num_layers": 0, "cnn_kernels": [5, 1]},
        {**RICH, "cnn_norm": "group", "cnn_separable": True},
        {**RICH, "in_channels": 8, "cnn_activation": "hardswish"},
    ],
)
def test_every_option_builds_runs_and_trains(fusion: str, args: dict) -> None:
    model = HybridCNNTransformer(**{**TINY, **args, "fusion": fusion})
    height, width = model.model_args["image_size"]
    images = torch.randn(3, model.model_args["in_channels"], height, width)
    logits = model.train()(images)
    assert logits.shape == (3, model.model_args["num_classes"])
    logits.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == []


@pytest.mark.parametrize("fusion", FUSIONS)
def test_resolved_arguments_rebuild_the_same_network(fusion: str) -> None:
    model = tiny(fusion=fusion, num_heads=[2, 4], ffn_dim=[24, 8])
    again = HybridCNNTransformer(**model.model_args).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(images), again(images))
    assert model.model_args == again.model_args
    assert model.model_args["head_dim"] == [8, 4]


def test_cnn_alone() -> None:
    cnn = LightweightCNN(3, [4, 6], kernels=[3, 3], strides=[1, 2], pools=[2, 1])
    assert cnn(torch.randn(2, 3, 16, 16)).shape == (2, 6, 4, 4)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"cnn_pools": [4, 4]}, r"cnn\.blocks\.1: a feature map of 2×2 is too small"),
        ({"cnn_kernels": [3, 4]}, r"cnn\.blocks\.1: kernel 4 should be odd"),
        ({"cnn_kernels": [3]}, "cnn_kernels has 1 entries, cnn_channels has 2"),
        ({"num_heads": 3}, "embed_dim 16 is not a multiple of num_heads 3"),
        ({"fusion": "parallel_attention", "patch_size": 3}, "patch_size 3 does not divide"),
        ({"cnn_residual": [True, False]}, r"cnn\.blocks\.0 takes 1 channels and gives 8 with str"),
        ({"cnn_residual": [False]}, "cnn_residual has 1 entries, cnn_channels has 2"),
        ({"cnn_residual": True}, "cnn_residual: no block has stride 1 and gives as many channels"),
        ({"cnn_squeeze_excite": -1}, "greater than or equal to 0"),
        ({"emb_dim": 3}, "emb_dim"),
        ({"dropout": 1.5}, "less than 1"),
    ],
)
def test_impossible_networks_are_refused(args: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HybridCNNTransformer(**{**TINY, **args})


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 8, 9), (1, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cnn\.blocks\.0 takes images \[B, 1, 8, 8\]"):
        tiny()(torch.zeros(shape))


def test_fusion_groups_name_real_modules_in_order() -> None:
    for fusion in FUSIONS:
        model = tiny(fusion=fusion, ffn_activation="relu")
        for group in model._fuse_modules_for_quantization():
            kinds = [type(model.get_submodule(name)) for name in group]
            assert kinds in (
                [nn.Conv2d, nn.BatchNorm2d, nn.ReLU],
                [nn.Linear, nn.ReLU],
            )


def test_default_network_stays_under_half_a_million_parameters() -> None:
    import config

    args = {**config.DEFAULT_MODEL_PARAMS, "num_classes": 100}
    assert sum(p.numel() for p in HybridCNNTransformer(**args).parameters()) <= 500_000
