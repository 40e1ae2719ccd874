"""ONNX Runtime gives the graph's logits, and tells which layers it computes in int8."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace

import onnx
import pytest
import torch

from engines import onnx_file, onnxruntime
from engines.onnx_file import onnx_model
from engines.onnxruntime import opened
from engines.program import EngineError
from tests.support.engine_networks import BACKENDS, NETWORKS, network
from tests.support.int8 import off


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_graphs_and_int8_layers_are_int8(
    name: str, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnx_file, "_by_torch")  # nothing is left to torch.onnx.export
    for program in network(name, backend):
        model = onnx_model(program.graph, program.examples(2), for_onnxruntime=True)
        onnx.checker.check_model(model)
        everything = onnxruntime.ready(program, None, 1)
        for batch in (1, 2, 3, 65):
            inputs = program.examples(batch)
            with torch.inference_mode():
                expected = program.graph(*inputs)
            every = expected if program.is_part else [expected]
            for ready in (everything, onnxruntime.ready(program, batch, 1)):
                assert ready.int8_layers == program.int8_layers
                for found, true in zip(ready.run(inputs), every, strict=True):
                    assert found.shape == true.shape and found.dtype == torch.float32
                    assert off(found, true) < (1e-4 if backend is None else 0.02)


def test_layers_that_run_in_float_are_told() -> None:
    """A batch size that is a number makes float products of an int8 file's (seen in 1.32)."""
    (program,) = network("serial", "inductor")
    model = onnx_model(program.graph, program.examples(2))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    _, layers = opened(model.SerializeToString(), 1)
    assert layers < set(program.int8_layers)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_threads_are_as_many_as_asked_for() -> None:
    (program,) = network("serial")
    for threads in (1, 3):
        before = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        ready = onnxruntime.ready(program, None, threads)
        ready.run(program.examples(2))
        assert len(os.listdir("/proc/self/task")) == before + threads - 1  # noqa: PTH208
        assert ready.threads == threads
        del ready


def test_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = network("serial")
    assert onnxruntime.unfit(program) is None and onnxruntime.unavailable() is None
    assert "bfloat16" in str(onnxruntime.unfit(replace(program, precision="bfloat16")))
    broken = onnx_model(program.graph, program.examples(2))
    broken.graph.node[0].op_type = "Nonsense"
    monkeypatch.setattr(onnx_file, "onnx_model", lambda *args, **options: broken)
    with pytest.raises(EngineError, match=r"ONNX Runtime refuses the network: .*Nonsense"):
        onnxruntime.ready(program, None, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert str(onnxruntime.unavailable()).endswith("pip install onnx onnxscript onnxruntime")
