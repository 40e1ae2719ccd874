"""PyTorch's compiler: machine code for a network and one batch size (AOTInductor), made by g++.

It is kept by key in the user's cache folder, and nowhere else: a package is a program, which runs
when it is opened.
"""

from __future__ import annotations

import copy
import functools
import platform
import re
import shlex
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, fx

from engines.program import LAYERS, EngineError, Program, Ready, layer_name
from machine import compiler
from machine.cache import cache_folder
from machine.files import sha256, tensor_bytes
from machine.noise import silence
from machine.processor import bf16_is_fast, has_vnni
from methods.quantization import graph_rewrites
from methods.quantization.graph_rewrites import (
    convolutions_as_products,
    products_give_bf16,
    subtract_what_must_stay,
)

FIXED_BATCH = True
COMPILES = True
# Without freezing, weights are dequantized at every call and int8 layers run in float, unsaid.
SETTINGS: dict[str, Any] = {"freezing": True}

# Inductor's own products have less to do before they begin; oneDNN's are faster on large batches.
# Those for int8 are written for AVX512-VNNI: elsewhere they are plain loops (on AVX2
# 35 ms for an image, oneDNN 2.3).
SMALL_BATCH = 8
SMALL_SETTINGS: dict[str, Any] = {"max_autotune": True, "max_autotune_gemm_backends": "CPP"}
ALIGNED = Path(__file__).with_name("aligned")  # a header that AOTInductor's runtime includes

# Calls in a package's source: of oneDNN's int8 kernels, and of Inductor's own with levels of values
# and weight. Of these some only dequantize both; those that multiply have a '_micro_gemm'.
ONEDNN_CALL = re.compile(r"aoti_torch_cpu__q(?:conv|linear)_pointwise.*")
OWN_CALL = re.compile(r"(cpp_\w+)\(\(const uint8_t\*\)[^;]*\(const int8_t\*\)[^;]*;")
INLINED = 8  # values of a tensor, at most, that has no name in the source: it stands there itself
Runner = Callable[[list[Tensor]], list[Tensor]]


def unavailable() -> str | None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "is for x86-64 Linux; choose another engine"
    if (why := compiler.missing()) is not None:
        return f"{why}; install g++, or choose another engine"
    return None


def unfit(program: Program) -> str | None:
    if program.precision != "float32" and not bf16_is_fast("cpu"):
        return "would only emulate bfloat16 on this processor"
    return None


def ready(program: Program, batch: int | None, threads: int) -> Ready:
    """Compiled where it is not in the cache folder: 10 to 20 s on two cores."""
    assert batch is not None
    path = package(program, batch, threads)
    try:
        run = load(path)
    except RuntimeError:  # damaged: what was compiled can be compiled again
        path.unlink()
        path = package(program, batch, threads)
        run = load(path)

    def placed(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        found = [_placed(value) for value in inputs]
        before = torch.get_num_threads()
        if before == threads:
            return run(found)
        torch.set_num_threads(threads)  # oneDNN takes as many as torch
        try:
            return run(found)
        finally:
            torch.set_num_threads(before)

    return Ready(placed, program.precision, threads, _int8_layers(program, path))


def compile_package(
    graph: fx.GraphModule,
    inputs: Sequence[Tensor],
    path: Path,
    threads: int,
    about: dict[str, str] | None = None,
) -> None:
    """Compile `graph` for inputs of this very shape and layout into the package `path` (.pt2).

    `about` can be read from it with `get_metadata()`. Small int8 convolutions become products where
    the processor has instructions for these. Raises EngineError.
    """
    _know_int8()
    size = len(inputs[0])
    configs = {
        **_settings(size),
        "cpp.threads": threads,
        "aot_inductor.metadata": dict(about or {}),
        # Its runtime is run once a call: what -O1 spends on it (5 of 12 s) makes nothing faster.
        "aot_inductor.compile_wrapper_opt_level": f"Og -I{shlex.quote(str(ALIGNED))}",
    }
    compiler.keep_inductors_code()
    try:
        with torch.no_grad(), silence():
            graph = copy.deepcopy(graph)
            subtract_what_must_stay(graph)
            products_give_bf16(graph)
            exported = torch.export.export(graph, tuple(inputs))
            if _own_products_are_fast():
                shaped = exported.module()
                assert isinstance(shaped, fx.GraphModule)
                convolutions_as_products(shaped)
                exported = torch.export.export(shaped, tuple(inputs))
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=configs
            )
    except RuntimeError as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"Inductor cannot compile this network: {line}") from error


def placed_examples(program: Program, batch: int) -> list[Tensor]:
    """A batch of noise in the layout that packages are compiled for."""
    return [_placed(value) for value in program.examples(batch)]


def package(program: Program, batch: int, threads: int) -> Path:
    """The package for a batch size, compiled unless it is in the cache folder."""
    folder = cache_folder() / "packages"
    folder.mkdir(exist_ok=True)
    path = folder / f"{key(program, batch, threads)}.pt2"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            partial = path.with_suffix(".part.pt2")
            compile_package(program.graph, placed_examples(program, batch), partial, threads)
            partial.replace(path)
    return path


def key(program: Program, batch: int, threads: int) -> str:
    """Digest of all that the compiled code depends on, threads and instruction set included."""
    machine = (
        torch.__version__,
        threads,
        torch.backends.cpu.get_cpu_capability(),
        torch.cpu._is_amx_tile_supported(),
        has_vnni(),
        _own_code(),
    )
    text = f"{machine} {batch} {sorted(_settings(batch).items())} {program.inputs}"
    graph = program.graph
    return sha256(text.encode() + graph.code.encode() + tensor_bytes(dict(graph.state_dict())))


def _int8_layers(program: Program, path: Path) -> tuple[str, ...]:
    """The layers that a package computes in int8, by the calls in its source, which it carries."""
    with zipfile.ZipFile(path) as package:
        sources = [name for name in package.namelist() if name.endswith(".cpp")]
        text = "".join(package.read(name).decode() for name in sources)
    own_calls = [call[0] for call in OWN_CALL.finditer(text) if f"{call[1]}_micro_gemm" in text]
    tensors = {_name(name): value for name, value in program.graph.state_dict().items()}
    waiting = {
        layer_name(node): _name(node.args[1].args[1].target)  # by the scale of its weight
        for node in program.graph.graph.nodes
        if node.target in LAYERS and layer_name(node) in program.int8_layers
    }
    found, nameless, scales = [], 0, set(waiting.values())
    for call in [*ONEDNN_CALL.findall(text), *own_calls]:
        scale = next((word for word in re.findall(r"\w+", call) if word in scales), None)
        if scale is None:
            nameless += 1
            continue
        same = [name for name, own in waiting.items() if torch.equal(tensors[own], tensors[scale])]
        for name in same[:1]:  # equal scales may share one name
            found.append(name)
            del waiting[name]
    found += [name for name, own in waiting.items() if tensors[own].numel() <= INLINED][:nameless]
    return tuple(name for name in program.int8_layers if name in found)


def _name(target: Any) -> str:
    """What C++ calls a tensor of a graph."""
    return re.sub(r"\W", "_", str(target))


def _know_int8() -> None:
    """Let Inductor know the int8 patterns: torchao registers them when this is imported."""
    with silence():
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


@functools.cache
def _own_code() -> str:
    """Digest of what decides the form in which a graph is compiled: a change compiles anew."""
    files = Path(__file__), Path(graph_rewrites.__file__), *ALIGNED.iterdir()
    return sha256(b"".join(file.read_bytes() for file in files))


def _settings(size: int) -> dict[str, Any]:
    small = size <= SMALL_BATCH and _own_products_are_fast()
    return {**SETTINGS, **(SMALL_SETTINGS if small else {})}


def _own_products_are_fast() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and has_vnni()


def load(path: Path) -> Runner:
    """The package as a function, past the argument checks of its Python wrapper."""
    return torch._inductor.aoti_load_package(str(path)).loader.run


def _placed(values: Tensor) -> Tensor:
    """As the code was compiled for: four dimensions in channels_last, others in order."""
    if values.ndim == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous()
