"""ENGINES: how a finished network is run; a row each, a file each.

An engine is a module with FIXED_BATCH (whether it makes a network ready for one batch size alone),
COMPILES (whether that takes a compiler, and many seconds, which are spent where it can win),
`unavailable()` (what this machine lacks for it, with the remedy), `unfit(program)` (why it cannot
run such a program) and `ready(program, batch, threads)`, which raises EngineError. `batch` None is
any size.
"""

from types import ModuleType

from engines import eager, inductor, onnxruntime, openvino

ENGINES: dict[str, ModuleType] = {
    "eager": eager,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
