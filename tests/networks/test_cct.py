"""The Compact Convolutional Transformer against what its authors' code computes and publishes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.costs import count_macs
from model import blueprint, build_network, resolved_args
from networks.attention import ScaledDotProduct, attention_written_out
from networks.attention import written_out as by_matmuls
from networks.cct import CCT
from networks.foreign import NetworkError

GOLDEN = Path(__file__).parent.parent / "golden" / "cct_logits.pth"
LARGER = {"num_heads": 4, "mlp_ratio": 2, "embed_dim": 256}
# Millions of parameters and of multiply-accumulates in examples/README.md of the authors'
# repository, and in its README for 224 pixels. Theirs leave out those between queries, keys and
# values, which no layer has.
PUBLISHED: list[tuple[dict[str, Any], float, float]] = [
    ({}, 0.284, 33),  # CCT-2/3x2
    ({"num_layers": 4}, 0.482, 46),  # CCT-4/3x2
    ({**LARGER, "num_layers": 6}, 3.327, 241),  # CCT-6/3x2
    ({**LARGER, "num_layers": 7}, 3.853, 275),  # CCT-7/3x2
    ({**LARGER, "num_layers": 7, "n_conv_layers": 1}, 3.760, 947),  # CCT-7/3x1
    (  # CCT-14/7x2
        {
            "image_size": 224, "num_classes": 1000, "kernel_size": 7, "num_layers": 14,
            "num_heads": 6, "mlp_ratio": 3, "embed_dim": 384,
        },
        22.36,
        5110,
    ),
]  # fmt: skip


def test_logits_are_those_of_the_authors_code() -> None:
    golden = torch.load(GOLDEN, weights_only=True)
    model = CCT(
        image_size=(12, 12),
        in_channels=1,
        num_classes=4,
        embed_dim=8,
        num_layers=3,
        mlp_ratio=1.5,
    ).eval()
    model.load_state_dict(golden["weights"])
    with torch.no_grad():
        torch.testing.assert_close(model(golden["images"]), golden["logits"], rtol=0, atol=1e-6)
        with attention_written_out():
            found = model(golden["images"])
    torch.testing.assert_close(found, golden["logits"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("args", "parameters", "macs"), PUBLISHED, ids=str)
def test_published_variants_cost_what_their_table_says(
    args: dict[str, Any], parameters: float, macs: float
) -> None:
    model = blueprint(resolved_args({"architecture": "cct", **args}))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(parameters, rel=2e-3)
    whole, layers = count_macs(model)
    assert sum(layers.values()) / 1e6 == pytest.approx(macs, rel=1e-2)
    tokens = model.classifier.positional_emb.shape[1]  # type: ignore[union-attr,index]
    dim, depth = args.get("embed_dim", 128), args.get("num_layers", 2)
    assert whole - sum(layers.values()) == depth * 2 * tokens**2 * dim


def test_sine_positions_are_the_published_formula() -> None:
    model = CCT(image_size=(8, 12), embed_dim=6, num_heads=1, positional_embedding="sine")
    table = model.state_dict()["classifier.positional_emb"][0]
    assert table.shape == (6, 6)
    for token, row in enumerate(table.tolist()):
        for i, value in enumerate(row):
            angle = token / 10_000 ** (2 * (i // 2) / 6)
            assert value == pytest.approx((math.cos if i % 2 else math.sin)(angle), abs=1e-6)
    assert "classifier.positional_emb" not in dict(model.named_parameters())


@pytest.mark.parametrize("positional", ["learnable", "sine", "none"])
def test_exits_are_the_network_cut_at_their_places(positional: str) -> None:
    args = resolved_args(
        {
            "architecture": "cct", "image_size": 8, "embed_dim": 8, "num_layers": 4,
            "positional_embedding": positional, "exits": ["layer_0", "layer_2"],
        }
    )  # fmt: skip
    model = build_network(args).eval()
    images = torch.randn(3, 3, 8, 8)
    carried, found = [images], []
    for part in model.parts():
        logits, *carried = part(*carried)
        found.append(logits)
    model.with_exits = True
    torch.testing.assert_close(model(images), torch.stack(found))
    model.with_exits = False
    torch.testing.assert_close(model(images), found[-1])
    plain = build_network({**args, "exits": []}).eval()
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("exits.")}
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(images), found[-1])


def test_it_trains_with_every_dropout() -> None:
    torch.manual_seed(0)
    model = CCT(image_size=(8, 8), dropout=0.1, attention_dropout=0.5, stochastic_depth=0.5)
    images = torch.randn(4, 3, 8, 8)
    first, second = model(images), model(images)
    assert not torch.equal(first, second)
    first.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("written_out", [False, True])
def test_attention_dropout_leaves_the_mean(written_out: bool) -> None:
    """Both paths drop weights of the attention in training, and scale up what stays."""
    torch.manual_seed(0)
    core = ScaledDotProduct(0.25)
    query, key = torch.randn(2, 1, 1, 6, 4)
    value = torch.randn(1, 1, 6, 4)
    exact = by_matmuls(query, key, value)
    core._written_out = lambda query: written_out  # type: ignore[method-assign,assignment]
    drawn = torch.stack([core(query, key, value) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), exact, rtol=0, atol=0.06)
    assert drawn.std(0).min() > 0.05
    assert torch.equal(core.eval()(query, key, value), ScaledDotProduct().eval()(query, key, value))


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"n_conv_layers": 0}, "n_conv_layers"),
        ({"positional_embedding": "rotary"}, "positional_embedding"),
        ({"exits": ["layer_1"]}, "exits"),
    ],
)
def test_arguments_that_build_none_are_refused_by_name(args: dict[str, Any], key: str) -> None:
    with pytest.raises(NetworkError) as caught:
        build_network(resolved_args({"architecture": "cct", **args}))
    assert caught.value.key == key
