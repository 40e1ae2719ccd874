"""OpenVINO on the CPU: fastest where little else is to be done, a graph optimised as a whole."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.program import EngineError, Program, Ready
from machine.processor import bf16_is_fast

# What is made for one size: 1.8 times as fast in int8 at batch 1 as what takes any, 1.2 at 64.
FIXED_BATCH = True
COMPILES = False


def unavailable() -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return "needs openvino; pip install openvino"
    return None


def unfit(program: Program) -> str | None:
    """It computes in bfloat16 where the processor does; elsewhere it would silently not."""
    if program.precision == "bfloat16" and not bf16_is_fast("cpu"):
        return "computes in bfloat16 only where the processor does"
    return None


@functools.cache
def core() -> Any:
    """OpenVINO, once and for as long as the process lives.

    Its CPU plugin moves the signal stack of the thread that compiles into memory of its own, which
    goes with the last network. Where another thread lets go of that one, as garbage collection
    does, the process would end at its next signal, Ctrl-C above all (2026.4, on Linux).
    """
    import openvino

    return openvino.Core()


def ready(program: Program, batch: int | None, threads: int) -> Ready:
    """For one batch size. Raises EngineError for what OpenVINO refuses."""
    assert batch is not None
    from engines.openvino_graph import openvino_model

    try:
        model = openvino_model(program, batch)
        compiled = core().compile_model(model, "CPU", settings(program, threads))
        request = compiled.create_infer_request()
    except EngineError:
        raise
    except RuntimeError as error:
        raise EngineError(f"openvino: {str(error).splitlines()[0]}") from None

    # The request's own memory: 3 µs a call, where handing tensors over takes 28. It is numpy that
    # copies, as torch's threads would spin beside OpenVINO's (see `one_thread`).
    given = [values.data for values in request.input_tensors]
    gives = [values.data for values in request.output_tensors]

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for place, values in zip(given, inputs, strict=True):
            np.copyto(place, values.numpy())
        request.infer(share_outputs=True)
        return [torch.from_numpy(values.copy()) for values in gives]

    taken = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return Ready(run, _precision(compiled), taken, _int8_layers(compiled, program))


def settings(program: Program, threads: int) -> dict[str, str]:
    """What OpenVINO compiles a program by."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",  # other engines' threads and other processes want cores too
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[program.precision],
    }


def _precision(compiled: Any) -> str:
    bits = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {"f32": "float32", "bf16": "bfloat16"}[bits]


def _int8_layers(compiled: Any, program: Program) -> tuple[str, ...]:
    """The layers whose kernel is one for int8, in the program's order."""
    found: set[str] = set()
    for node in compiled.get_runtime_model().get_ops():
        about = _told(node)
        names = about.get("originalLayersNames", "").split(",")
        if about.get("layerType") in ("Convolution", "FullyConnected"):
            if about["primitiveType"].lower().endswith("_i8"):
                found.update(name.split("/")[0] for name in names)
        elif about.get("layerType") == "Subgraph":
            # With AMX several products may be one kernel. A layer is in it by its own name (what
            # only follows a layer has another), and int8 by what it multiplies with.
            inside = set(names).intersection(program.int8_layers)
            given = [_told(value.get_node()) for value in node.input_values()]
            kinds = [(one["layerType"], one["runtimePrecision"]) for one in given]
            weights = kinds.count(("Const", "i8"))
            found.update(inside if weights >= len(inside) else ())
    return tuple(name for name in program.int8_layers if name in found)


def _told(node: Any) -> dict[str, str]:
    """What OpenVINO tells of a node of a compiled network."""
    return {key: value.astype(str) for key, value in node.get_rt_info().items()}
