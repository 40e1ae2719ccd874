"""OpenVINO gives the graph's values, in int8 where the graph has it and nowhere else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from engines import openvino
from engines.program import EngineError, Program
from engines.programs import programs
from machine.processor import bf16_is_fast
from networks.args import exit_places
from tests.support.home import HOME
from tests.support.int8 import calibrated_on, off
from tests.support.tiny import FUSIONS, tiny

pytest.importorskip("openvino")

# Everything that a network may be made of, beside what TINY has.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "group norm, class token": {
        "cnn_norm": "group", "cnn_activation": "silu", "ffn_activation": "relu",
        "pooling": "class_token",
    },
    "separable, sequence pooling": {
        "cnn_separable": True, "cnn_norm": "none", "cnn_activation": "gelu",
        "pooling": "sequence", "positional_encoding": "sinusoidal", "dropout": 0.1,
    },
    "hardswish, an uneven grid": {
        "cnn_activation": "hardswish", "ffn_activation": "hardswish", "mlp_grid": 3,
    },
}  # fmt: skip


def outputs(program: Program, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.inference_mode():
        found = program.graph(*inputs)
    return list(found) if program.is_part else [found]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("int8", [False, True])
def test_cast_networks_are_written_as_the_graph_that_is_to_be_rounded(
    fusion: str, int8: bool
) -> None:
    """Computed in float32, which is as exact: what rounds in bfloat16 is told by a hint."""
    model = tiny(fusion=fusion)
    quant = (
        calibrated_on(model, torch.randn(64, 1, 8, 8), float_layers=["cnn.blocks.1.*"])
        if int8
        else None
    )
    (program,) = programs(model, quant, "bfloat16")
    if not bf16_is_fast("cpu"):
        assert openvino.unfit(program) == "computes in bfloat16 only where the processor does"
    inputs = program.examples(3)
    ready = openvino.ready(replace(program, precision="float32"), 3, 1)
    (found,), (expected,) = ready.run(inputs), outputs(program, inputs)
    assert off(found, expected) < 0.02
    assert ready.int8_layers == program.int8_layers


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_float_networks_are_the_graph(fusion: str, kind: str) -> None:
    model = tiny(fusion=fusion, **KINDS[kind])
    (program,) = programs(model)
    for batch in (1, 3):
        inputs = program.examples(batch)
        ready = openvino.ready(program, batch, 1)
        (found,), (expected,) = ready.run(inputs), outputs(program, inputs)
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
        assert ready.precision == "float32" and ready.int8_layers == ()


@pytest.mark.parametrize("backend", ["inductor", "x86"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("exits", [False, True])
def test_int8_networks_are_the_graph(backend: str, fusion: str, exits: bool) -> None:
    model = tiny(fusion=fusion, exits=exit_places(fusion, 2) if exits else [])
    images = torch.randn(128, 1, 8, 8)
    inputs: tuple[torch.Tensor, ...] = (images,)
    for program in programs(model, calibrated_on(model, images, backend=backend)):
        expected = outputs(program, inputs)
        for batch in (1, 65) if exits else (1, 2, 3, 65):
            ready = openvino.ready(program, batch, 1)
            found = ready.run(tuple(value[:batch].contiguous() for value in inputs))
            for one, other in zip(found, expected, strict=True):
                assert off(one, other[:batch]) < 0.03
            assert ready.int8_layers == program.int8_layers
        inputs = tuple(expected[1:])


@pytest.mark.parametrize("kind", list(KINDS)[:3])
def test_every_int8_layer_of_other_networks_is_int8(kind: str) -> None:
    model, images = tiny(**KINDS[kind]), torch.randn(128, 1, 8, 8)
    (program,) = programs(model, calibrated_on(model, images))
    ready = openvino.ready(program, 128, 1)
    assert ready.int8_layers == program.int8_layers != ()
    assert off(ready.run([images])[0], outputs(program, (images,))[0]) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_for_any_batch_size(kind: str) -> None:
    """What is exported is compiled once and takes each size that comes."""
    from engines.openvino_graph import openvino_model

    (program,) = programs(tiny(fusion="serial", **KINDS[kind]))
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.core().compile_model(openvino_model(program, None), "CPU", settings)
    for batch in (1, 3):
        inputs = program.examples(batch)
        found = torch.from_numpy(compiled([inputs[0].numpy()])[0])
        assert torch.allclose(found, outputs(program, inputs)[0], atol=1e-4, rtol=1e-4)


def test_float_layers_stay_float() -> None:
    model, images = tiny(), torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images, float_layers=["*fc1", "cnn.blocks.0.conv", "head"])
    (program,) = programs(model, quant)
    found = openvino.ready(program, 64, 1).int8_layers
    assert found == program.int8_layers and found
    assert not any("fc1" in name or name in ("cnn.blocks.0.conv", "head") for name in found)


@pytest.mark.parametrize("vnni", [False, True])
def test_linear_layers_are_int8_in_either_form(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 1×1 convolutions, and as matrix products, which processors with VNNI get."""
    monkeypatch.setattr("engines.openvino_graph.has_vnni", lambda: vnni)
    model, images = tiny(), torch.randn(64, 1, 8, 8)
    (program,) = programs(model, calibrated_on(model, images))
    ready = openvino.ready(program, 64, 1)
    assert ready.int8_layers == program.int8_layers
    assert off(ready.run([images])[0], outputs(program, (images,))[0]) < 0.03


def test_what_it_gave_stays_when_it_runs_again() -> None:
    (program,) = programs(tiny())
    ready = openvino.ready(program, 1, 1)
    (first,) = ready.run([torch.zeros(1, 1, 8, 8)])
    kept = first.clone()
    ready.run([torch.ones(1, 1, 8, 8)])
    assert torch.equal(first, kept)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="has one processor")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_obeyed(threads: int) -> None:
    """By the system's own count of who worked."""
    model = tiny(image_size=64, cnn_channels=[32, 32], num_layers=1)
    (program,) = programs(model)
    ready = openvino.ready(program, 16, threads)
    inputs = program.examples(16)
    ready.run(inputs)
    before, ends = _ticks(), time.monotonic() + 20
    while True:
        ready.run(inputs)
        spent = sorted((t - before.get(task, 0) for task, t in _ticks().items()), reverse=True)
        if (spent[0] >= 40 and (threads == 1 or spent[1] >= 8)) or time.monotonic() > ends:
            break
    assert ready.threads == threads
    assert sum(ticks >= 8 for ticks in spent) == threads


def _ticks() -> dict[str, int]:
    """Hundredths of a second of processor time, by thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[task.name] = int(fields[11]) + int(fields[12])
    return found


def test_its_absence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openvino.unavailable() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert openvino.unavailable() == "needs openvino; pip install openvino"


def test_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = replace(programs(tiny())[0], precision="bfloat16")
    monkeypatch.setattr(openvino, "bf16_is_fast", lambda device: False)
    assert "bfloat16" in str(openvino.unfit(program))
    monkeypatch.setattr(openvino, "bf16_is_fast", lambda device: True)
    assert openvino.unfit(program) is None


@pytest.mark.parametrize("int8", [False, True])
def test_the_form_of_a_bfloat16_network(int8: bool) -> None:
    """Here computed in float32, which is what the graph's rounding must be near to."""
    model, images = tiny(), torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images) if int8 else None
    (program,) = programs(model, quant, "bfloat16")
    ready = openvino.ready(replace(program, precision="float32"), 64, 1)
    assert off(ready.run([images])[0], outputs(program, (images,))[0]) < 0.03
    assert ready.int8_layers == program.int8_layers


def test_an_unknown_operation_is_named() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.sin.default, (graph.placeholder("images"),)))
    program = replace(programs(tiny())[0], graph=fx.GraphModule({}, graph))
    with pytest.raises(EngineError, match=r"openvino: .*aten.sin.default") as error:
        openvino.ready(program, 1, 1)
    assert "\n" not in str(error.value)


LET_GO = """
import gc, os, signal, threading
from engines import openvino
from engines.programs import programs
from tests.support.tiny import tiny

(program,) = programs(tiny())
held = [openvino.ready(program, 1, 1)]
elsewhere = threading.Thread(target=lambda: (held.clear(), gc.collect()))
elsewhere.start()
elsewhere.join()
signal.signal(signal.SIGINT, lambda number, frame: print("saved"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_network_that_another_thread_lets_go_of_takes_no_signal_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", LET_GO], cwd=HOME, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "saved\n")
