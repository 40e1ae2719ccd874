"""Networks as programs: one, or one for each part between early exits."""

from __future__ import annotations

from torch import fx, nn

from engines.program import Program, int8_layers
from machine.processor import bf16_is_fast
from methods.casting import BFLOAT16, FLOAT32, in_bfloat16
from methods.exported import export, pieces
from methods.quantization import backends
from methods.quantization.record import Quant
from model import Network


def programs(model: Network, quant: Quant | None = None, precision: str = FLOAT32) -> list[Program]:
    """`model` in `precision`, or by the ranges of `quant` in int8 and the rest in `precision`.

    In bfloat16 the graph is what PyTorch runs by itself. Raises ValueError without ranges.
    """
    parts = pieces(model)
    examples = [inputs for _, inputs in parts]
    forms: list[tuple[fx.GraphModule, nn.Module | None]]
    if quant is None:
        forms = [(export(part, inputs), part) for part, inputs in parts]
    else:
        forms = backends.int8_forms(model, quant, examples)
    if precision == BFLOAT16:
        # Of an int8 network it is a simulation, which only an emulation may be.
        by_itself = quant is None or not bf16_is_fast("cpu")
        cast = [in_bfloat16(graph) for graph, _ in forms]
        forms = [(graph, graph if by_itself else None) for graph in cast]
    return [
        Program(
            graph,
            tuple(tuple(value.shape[1:]) for value in inputs),
            model.model_args,
            int8_layers(graph),
            precision=precision,
            native=native,
            is_part=len(parts) > 1,
        )
        for (graph, native), inputs in zip(forms, examples, strict=True)
    ]
