"""A network's graph, made once for all networks of one kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import exported
from methods.exported import export, pieces
from model import build_network, resolved_args
from tests.support.home import HOME
from tests.support.tiny import FUSIONS, tiny


@pytest.mark.parametrize("exits", [[], ["cnn"]], ids=["whole", "parts"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_kept_graph_has_each_networks_own_weights(
    fusion: str, exits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second network's graph is the first one's; values are those of one made for it alone."""
    traced = []
    make = exported._exported

    def counted(*about: Any) -> Any:
        traced.append(about)
        return make(*about)

    monkeypatch.setattr(exported, "_exported", counted)
    monkeypatch.setattr(exported, "_EXPORTED", {})
    for seed in (0, 1):
        torch.manual_seed(seed)
        for part, inputs in pieces(tiny(fusion=fusion, exits=exits)):
            batch = [torch.randn(5, *value.shape[1:]) for value in inputs]
            with torch.no_grad():
                found, plain = (unpacked(graph(*batch)) for graph in (export(part, inputs), part))
                alone = unpacked(make(part, inputs)(*batch))
            for one, other, its in zip(found, alone, plain, strict=True):
                assert torch.equal(one, other) and torch.allclose(one, its, atol=1e-5)
    assert len(traced) == len(exits) + 1


def unpacked(values: Any) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


def test_another_kind_of_network_is_another_graph() -> None:
    for args in ({}, {"ffn_activation": "relu"}, {"pooling": "class_token"}):
        model = tiny(**args)
        ((part, inputs),) = pieces(model)
        images = torch.randn(3, 1, 8, 8)
        with torch.no_grad():
            assert torch.allclose(export(part, inputs)(images), model.eval()(images), atol=1e-5)


@pytest.mark.parametrize("name", ["Overwriting", "SkipAndJoin"])
def test_what_is_overwritten_is_read_as_it_then_is(name: str) -> None:
    """No operation overwrites any more, none is read too early, and inputs stay what they were."""
    args = {"architecture": f"{HOME}/tests/support/nets.py:{name}", "image_size": 8}
    model = build_network(resolved_args(args)).eval()
    plain, images = copy.deepcopy(model), torch.randn(3, 3, 8, 8)
    before = images.clone()
    graph = export(model, exported.example_inputs(model))
    with torch.no_grad():
        assert torch.allclose(graph(images), plain(images.clone()), atol=1e-5)
    assert torch.equal(images, before)
    schemas = [getattr(node.target, "_schema", None) for node in graph.graph.nodes]
    assert not any(schema.is_mutable for schema in schemas if schema is not None)
    targets = [node.target for node in graph.graph.nodes]
    assert torch.ops.aten.batch_norm.default in targets
