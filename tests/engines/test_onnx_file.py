"""Models that we write give the graph's logits in ONNX Runtime, every int8 layer in int8."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from engines import onnx_file
from engines.onnx_file import onnx_model
from engines.onnx_operations import WRITERS
from engines.onnxruntime import opened
from engines.program import Program
from methods.exported import export
from tests.support.engine_networks import BACKENDS, NETWORKS, network
from tests.support.home import HOME
from tests.support.int8 import off

BATCHES = (1, 2, 3, 65)


@pytest.fixture
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.onnx.export writes nothing here."""
    monkeypatch.delattr(onnx_file, "_by_torch")


def run(model: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    session, _ = opened(model.SerializeToString(), 1)
    names = [value.name for value in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(found) for found in session.run(None, feeds)]


def check(model: onnx.ModelProto, program: Program, tolerance: float) -> None:
    """`model` gives, for any batch size, what the graph of `program` gives."""
    for batch in BATCHES:
        inputs = program.examples(batch)
        with torch.inference_mode():
            expected = program.graph(*inputs)
        every = expected if program.is_part else [expected]
        for found, true in zip(run(model, inputs), every, strict=True):
            assert found.shape == true.shape
            assert off(found, true) < tolerance


@pytest.mark.usefixtures("_ours")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_models_give_the_graphs_logits(name: str, backend: str | None) -> None:
    for program in network(name, backend):
        model = onnx_model(program.graph, program.examples(2))
        onnx.checker.check_model(model, full_check=True)
        check(model, program, 1e-4 if backend is None else 0.02)
        assert {node.domain for node in model.graph.node} == {""}
        assert not {"Shape", "Slice"} & {n.op_type for n in model.graph.node if "class" not in name}
        _, layers = opened(model.SerializeToString(), 1)
        assert layers == set(program.int8_layers)
        batches = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
        assert batches == {"batch"}


@pytest.mark.usefixtures("_ours")
def test_weights_are_stored_once_as_int8_under_their_layers_names() -> None:
    (program,) = network("serial", "inductor")
    model = onnx_model(program.graph, program.examples(2), ["scores"])
    assert [value.name for value in model.graph.output] == ["scores"]
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for layer in program.int8_layers:
        assert stored[f"{layer}.weight"].dtype == np.int8
    large = [name for name, value in stored.items() if value.ndim > 1 and value.dtype == np.float32]
    assert len(large) == 1  # positions
    assert str(HOME).encode() not in model.SerializeToString()


@contextmanager
def unknown(operation: object) -> Iterator[None]:
    write = WRITERS.pop(operation)
    try:
        yield
    finally:
        WRITERS[operation] = write


@pytest.mark.parametrize("backend", [None, "inductor"])
@pytest.mark.parametrize("for_onnxruntime", [False, True])
def test_what_is_unknown_is_written_by_torch(backend: str | None, for_onnxruntime: bool) -> None:
    (program,) = network("serial", backend)
    with unknown(torch.ops.aten.gelu.default):
        model = onnx_model(program.graph, program.examples(2), for_onnxruntime=for_onnxruntime)
    assert model.producer_name == "pytorch"
    check(model, program, 1e-4 if backend is None else 0.02)
    assert opened(model.SerializeToString(), 1)[1] == set(program.int8_layers)
    assert str(HOME).encode() not in model.SerializeToString()


class Twice(nn.Module):
    """A layer that is used twice, and operations that this project's networks do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.layer(torch.tanh(self.layer(images.mean(dim=(1, 2)))))
        return rows.cumsum(dim=1)


def test_other_networks() -> None:
    graph = export(Twice(), (torch.randn(2, 1, 8, 8),))
    program = Program(graph, ((1, 8, 8),), {})
    check(onnx_model(graph, program.examples(2)), program, 1e-4)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.layer(images.mean(dim=(1, 2))).relu())


class Rows(nn.Module):
    """Every row of every image by itself, and one result twice."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rows = images.reshape(-1, 8)
        halves = rows.view(-1, 2, 4).unbind(1)
        return halves[1] - halves[0], images, images


@pytest.mark.parametrize("module", [Shared(), Rows()])
def test_names_are_given_once(module: nn.Module) -> None:
    graph = export(module, (torch.randn(2, 1, 8, 8),))
    program = Program(graph, ((1, 8, 8),), {}, is_part=isinstance(module, Rows))
    check(onnx_model(graph, program.examples(2)), program, 1e-4)


def test_every_operation_has_a_function() -> None:
    assert operator.getitem in WRITERS and all(map(callable, WRITERS.values()))
