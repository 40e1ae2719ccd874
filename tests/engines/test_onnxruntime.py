"""ONNX Runtime gives the graph's logits, with every int8 layer in int8."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch

from engines import onnx_file, onnxruntime
from engines.onnx_file import onnx_model
from engines.program import Program
from engines.programs import programs
from tests.support.int8 import calibrated_on, off
from tests.support.tiny import tiny

NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {},
    "class token": {"pooling": "class_token", "positional_encoding": "sinusoidal"},
    "sequence pooling": {"pooling": "sequence", "ffn_activation": "relu"},
    "depthwise": {"cnn_separable": True, "cnn_activation": "hardswish", "cnn_norm": "group"},
    "no norm": {"cnn_norm": "none", "cnn_activation": "silu", "ffn_activation": "silu"},
    "gelu": {"cnn_activation": "gelu", "ffn_activation": "hardswish", "num_heads": [1, 4]},
    "parallel": {"fusion": "parallel"},
    "parallel, uneven grid": {"fusion": "parallel", "mlp_grid": 3},
    "parallel attention": {"fusion": "parallel_attention", "pooling": "class_token"},
    "exits": {"fusion": "parallel_attention", "exits": ["cnn", "layer_0"]},
    "exit, serial": {"exits": ["cnn", "layer_0"], "dropout": 0.1, "stochastic_depth": 0.1},
}


def made(name: str, backend: str | None) -> list[Program]:
    torch.manual_seed(0)
    model, images = tiny(**NETWORKS[name]), torch.randn(64, 1, 8, 8)
    return programs(model, backend and calibrated_on(model, images, backend=backend))


@pytest.fixture
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.onnx.export writes nothing here."""
    monkeypatch.delattr(onnx_file, "_by_torch")


@pytest.mark.usefixtures("_ours")
@pytest.mark.parametrize("backend", [None, "inductor", "x86"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_graphs_and_int8_layers_are_int8(name: str, backend: str | None) -> None:
    for program in made(name, backend):
        onnx.checker.check_model(onnx_model(program.graph, program.examples(2)), full_check=True)
        ready = onnxruntime.ready(program, None, 1)
        assert ready.int8_layers == program.int8_layers
        for batch in (1, 2, 3, 65):
            inputs = program.examples(batch)
            with torch.inference_mode():
                expected = program.graph(*inputs)
            for found, true in zip(
                ready.run(inputs), expected if program.is_part else [expected], strict=True
            ):
                assert found.shape == true.shape
                assert off(found, true) < (1e-4 if backend is None else 0.02)
