"""Networks as programs: one, or one for each part between early exits."""

from __future__ import annotations

from torch import fx, nn

from engines.program import Program, int8_layers
from methods.exported import export, pieces
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer


def programs(model: HybridCNNTransformer, quant: Quant | None = None) -> list[Program]:
    """`model` in float32, or by the ranges of `quant` in int8. Raises ValueError without ranges."""
    parts = pieces(model)
    examples = [inputs for _, inputs in parts]
    forms: list[tuple[fx.GraphModule, nn.Module | None]]
    if quant is None:
        forms = [(export(part, inputs), part) for part, inputs in parts]
    else:
        forms = backends.int8_forms(model, quant, examples)
    return [
        Program(
            graph,
            tuple(tuple(value.shape[1:]) for value in inputs),
            model.model_args,
            int8_layers(graph),
            native=native,
            is_part=len(parts) > 1,
        )
        for (graph, native), inputs in zip(forms, examples, strict=True)
    ]
