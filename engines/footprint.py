"""How much memory making and running a network takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from engines import inductor, openvino, peak_memory
from engines.program import Program
from model import Network

SECONDS = 30.0  # longest time that the process may take; importing torch takes 4 s, others 1 s


class Footprint(NamedTuple):
    """Peak resident memory in megabytes (10⁶ bytes), or why it is not known."""

    peak_mb: float | None  # of the whole process, Python and the runtime included
    runtime_mb: float | None  # what these two take of it before there is a network
    unknown: str | None = None  # the reason, one line


def footprint(
    programs: Sequence[Program], engine: str, batch: int, threads: int, seconds: float = SECONDS
) -> Footprint:
    """What a machine must have to make a network ready on `engine`, a key of ENGINES, and run it.

    `programs` are the network, or its parts between early exits. A fresh process imports the
    runtime alone, reads the network from a file and runs batches of `batch` images: what this
    process holds, and what it took to write the file, is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        files = [
            FILES[engine](program, batch, threads, Path(folder) / f"{number}.xml")
            for number, program in enumerate(programs)
        ]
        job = {
            "engine": engine,
            "files": list(map(str, files)),
            "inputs": [[(batch, *tail) for tail in program.inputs] for program in programs],
            "threads": threads,
            "settings": openvino.settings(programs[0], threads) if engine == "openvino" else {},
        }
        command = [sys.executable, peak_memory.__file__, json.dumps(job)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return Footprint(None, None, f"the process that measures took over {seconds:g} s")
    if done.returncode:
        *_, last = ["it said nothing", *filter(None, map(str.strip, done.stderr.splitlines()))]
        reason = f"the process that measures ended with {done.returncode}: {last}"
        return Footprint(None, None, reason)
    found = json.loads(done.stdout.splitlines()[-1])
    return Footprint(found["peak"] / 1e6, found["runtime"] / 1e6)


def _pickled(program: Program, batch: int, threads: int, path: Path) -> Path:
    native: object = program.native
    if isinstance(native, Network):  # whose class, or that of a part, nobody may import by a name
        native = {
            "model_args": native.model_args,
            "weights": native.state_dict(),
            "piece": getattr(native, "piece", None),
        }
    torch.save(native, path)
    return path


def _onnx(program: Program, batch: int, threads: int, path: Path) -> Path:
    from engines.onnx_file import onnx_model

    model = onnx_model(program.graph, program.examples(2), for_onnxruntime=True)
    path.write_bytes(model.SerializeToString())
    return path


def _ir(program: Program, batch: int, threads: int, path: Path) -> Path:
    import openvino

    from engines.openvino_graph import openvino_model

    openvino.save_model(openvino_model(program, batch), path, compress_to_fp16=False)
    return path


def _compiled(program: Program, batch: int, threads: int, path: Path) -> Path:
    return inductor.package(program, batch, threads)  # in the cache folder since it was measured


# What the script's function of that name reads; OpenVINO takes no other ending than .xml.
FILES: dict[str, Callable[[Program, int, int, Path], Path]] = {
    "eager": _pickled,
    "inductor": _compiled,
    "onnxruntime": _onnx,
    "openvino": _ir,
}
