"""A script for a process of its own: peak resident memory of making networks and running them.

`python peak_memory.py JOB`, a job being JSON (see `footprint.py`); prints JSON. Of this project it
imports what the runtime itself needs, so that a process without torch stays one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CALLS = 3  # of each network, as some runtimes take more memory at the second call
Run = Callable[[Sequence[Any]], object]


def main() -> None:
    """Of a network with early exits, the parts are made and run one after another."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    sys.path[0] = str(Path(__file__).parents[1])  # here, files are called as the runtimes are
    make = RUNTIMES[job["engine"]](job["threads"], job["settings"])
    runtime = peak_bytes()
    runs = [make(path) for path in job["files"]]
    for run, shapes in zip(runs, job["inputs"], strict=True):
        inputs = [np.ones(shape, np.float32) for shape in shapes]  # zeros would take no memory
        for _ in range(CALLS):
            run(inputs)
    print(json.dumps({"runtime": runtime, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """The most memory that this process has held. Raises OSError where nothing tells it.

    Linux's ru_maxrss would count the process that this one was started by (it is handed on where
    a program takes the place of another), which VmHWM does not.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0]) * 1024
    elif sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raise OSError("this system does not tell a process its peak memory")


def _onnxruntime(threads: int, settings: dict[str, str]) -> Callable[[str], Run]:
    import onnxruntime

    def make(path: str) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))

    return make


def _openvino(threads: int, settings: dict[str, str]) -> Callable[[str], Run]:
    import openvino

    core = openvino.Core()

    def make(path: str) -> Run:
        return core.compile_model(path, "CPU", settings).create_infer_request().infer

    return make


def _eager(threads: int, settings: dict[str, str]) -> Callable[[str], Run]:
    import torch

    from engines.eager import placed

    torch.set_num_threads(threads)

    def make(path: str) -> Run:
        network = torch.load(path, weights_only=False)  # what `footprint` has just written
        if isinstance(network, dict):
            network = _built(network)

        @torch.inference_mode()
        def run(inputs: Sequence[Any]) -> object:
            return network(*(placed(torch.from_numpy(each)) for each in inputs))

        return run

    return make


def _built(described: dict[str, Any]) -> Any:
    """A network of this project, or the part of it between two exits."""
    import torch

    from model import build_network

    network = build_network(described["model_args"]).eval()
    network.load_state_dict(described["weights"])
    network.to(memory_format=torch.channels_last)
    if described["piece"] is None:
        return network
    return next(part for part in network.parts() if part.piece == described["piece"])


def _inductor(threads: int, settings: dict[str, str]) -> Callable[[str], Run]:
    import torch

    from engines.eager import placed
    from engines.inductor import load

    torch.set_num_threads(threads)

    def make(path: str) -> Run:
        run = load(Path(path))
        return lambda inputs: run([placed(torch.from_numpy(each)) for each in inputs])

    return make


RUNTIMES: dict[str, Callable[[int, dict[str, str]], Callable[[str], Run]]] = {  # → file → network
    "eager": _eager,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}

if __name__ == "__main__":
    main()
