"""An int8 graph as machine code: one AOTInductor package a batch size, kept in a folder by key."""

from __future__ import annotations

import functools
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, fx, nn

from machine.files import sha256, tensor_bytes
from machine.noise import silence
from machine.processor import bf16_is_fast, has_vnni
from methods.quantization import graph_rewrites
from methods.quantization.graph_rewrites import convolutions_as_products, products_give_bf16
from model import check_images

BATCH_SIZES = (1, 64)  # batch sizes that are compiled; others are padded or cut to these
PART_BATCH_SIZES = (1, 16)  # the same for a part between exits, where batches get smaller
SETTINGS: dict[str, Any] = {"freezing": True}

# Inductor's own products have less to do before they begin; oneDNN's are faster on large batches.
# Those for int8 are written for AVX512-VNNI: elsewhere they are plain loops (on AVX2
# 35 ms for an image, oneDNN 2.3).
SMALL_BATCH = 8
SMALL_SETTINGS: dict[str, Any] = {"max_autotune": True, "max_autotune_gemm_backends": "CPP"}
ALIGNED = Path(__file__).with_name("aligned_constants.h")
Runner = Callable[[list[Tensor]], list[Tensor]]


class CompiledNetwork(nn.Module):
    """Images `[B, C, H, W]` → logits `[B, num_classes]` by compiled int8 code, on the CPU.

    With `inputs`, shapes without the batch, it is a part of a network with early exits: it takes
    tensors of these shapes and gives a tuple of tensors.

    A batch size of `batch_sizes` is compiled when it first comes (seconds; then found in `folder`
    by key), other batches are padded with zeros or cut in pieces. The compiled code is compared
    with the graph that it was made from. Raises ValueError for images of another shape,
    RuntimeError where the compiled code disagrees with the graph.

    The folder holds native code: like the program itself, it is to be trusted and not shared.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        model_args: dict[str, Any],
        folder: Path | None = None,
        batch_sizes: tuple[int, ...] = BATCH_SIZES,
        inputs: Sequence[tuple[int, ...]] | None = None,
    ):
        super().__init__()
        self.graph, self.model_args = graph, model_args
        self.folder = folder if folder is not None else Path(_temporary_folder().name)
        self.batch_sizes = batch_sizes
        self.is_part = inputs is not None
        self.inputs = inputs or [(model_args["in_channels"], *model_args["image_size"])]
        self.runners: dict[torch.Size, Runner] = {}  # by the first input's shape, batch included
        self.register_state_dict_post_hook(_without_zero_points)

    def forward(self, *inputs: Tensor) -> Any:
        runner = self.runners.get(inputs[0].shape)
        if runner is not None:
            outputs = runner([_placed(value) for value in inputs])
        else:
            if not self.is_part:
                check_images(self, inputs)
            pieces = zip(*(value.split(max(self.batch_sizes)) for value in inputs), strict=True)
            found = [self._any_size(piece) for piece in pieces]
            outputs = [torch.cat(values) for values in zip(*found, strict=True)]
        return tuple(outputs) if self.is_part else outputs[0]

    def _any_size(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        count = len(inputs[0])
        size = min(s for s in self.batch_sizes if s >= count)
        padded = [
            _placed(F.pad(value, (0, 0) * (value.ndim - 1) + (0, size - count))) for value in inputs
        ]
        return [value[:count] for value in self.runner(size)(padded)]

    def runner(self, size: int) -> Runner:
        """The compiled code for batches of `size`: float32 tensors, images in channels_last."""
        shape = torch.Size((size, *self.inputs[0]))
        if shape not in self.runners:
            package = self.package(size)
            try:
                run = _load(package)
            except RuntimeError:  # damaged: what is compiled can be compiled again
                package.unlink()
                run = _load(self.package(size))
            self._verify(run, size)
            self.runners[shape] = run
        return self.runners[shape]

    def package(self, size: int) -> Path:
        """The AOTInductor package for a batch size, compiled unless it is in the folder."""
        path = self.folder / f"{self.key(size)}.pt2"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                partial = path.with_suffix(".part.pt2")
                compile_package(self.graph, self.examples(size), partial)
                partial.replace(path)
        return path

    def key(self, size: int) -> str:
        """Digest of all that the compiled code depends on, threads and instruction set included."""
        machine = (
            torch.__version__,
            torch.get_num_threads(),
            torch.backends.cpu.get_cpu_capability(),
            torch.cpu._is_amx_tile_supported(),
            bf16_is_fast("cpu"),
            has_vnni(),
            _own_code(),
        )
        text = f"{machine} {size} {sorted(_settings(size).items())} {self.model_args}"
        return sha256(
            text.encode() + self.graph.code.encode() + tensor_bytes(dict(self.graph.state_dict()))
        )

    def examples(self, size: int) -> list[Tensor]:
        """Normal noise in the shape of a batch."""
        generator = torch.Generator().manual_seed(0)
        return [_placed(torch.randn(size, *tail, generator=generator)) for tail in self.inputs]

    @torch.inference_mode()
    def _verify(self, run: Runner, size: int) -> None:
        """Compiled code must agree with its graph, and with itself when it runs again.

        A few values may round to the other side, so single logits may differ by a level or two.
        """
        inputs = self.examples(size)
        found = self.graph(*inputs)
        expected = list(found) if self.is_part else [found]
        first, again = run(inputs), run(inputs)
        pairs = list(zip(first, expected, strict=True))
        off = max(float((a - b).norm() / b.norm().clamp_min(1e-6)) for a, b in pairs)
        same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first, again, strict=True))
        if not off < 0.05 or not same:
            remedy = (
                "set reduce_range True or choose quantization_backend 'x86', and report this with "
                "the CPU and torch version"
            )
            if same and not has_vnni():
                remedy = (
                    "this CPU has no VNNI, so int8 products saturate unless weights were quantized "
                    "with reduce_range: quantize the float network here, or so"
                )
            raise RuntimeError(
                f"the compiled int8 network differs from its graph by {off:.1%} at batch {size}"
                f"{'' if same else ', and from call to call'}; {remedy}"
            )


def _placed(values: Tensor) -> Tensor:
    """As the code was compiled for: four dimensions in channels_last, others in order."""
    if values.ndim == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous()


def compile_package(
    graph: nn.Module, inputs: Sequence[Tensor], path: Path, about: dict[str, str] | None = None
) -> None:
    """Compile `graph` for inputs of this very shape and layout into the package `path` (.pt2).

    `about` can be read from it with `get_metadata()`. Of an int8 graph, small convolutions become
    products where the processor has instructions for these.
    """
    configs = {
        **_settings(len(inputs[0])),
        "aot_inductor.metadata": about or {},
        "aot_inductor.compile_wrapper_opt_level": f"O1 -include {shlex.quote(str(ALIGNED))}",
    }
    with torch.no_grad(), silence():
        shaped = torch.export.export(graph, tuple(inputs)).module()
        assert isinstance(shaped, fx.GraphModule)
        if _own_products_are_fast():
            convolutions_as_products(shaped)
        products_give_bf16(shaped)
        exported = torch.export.export(shaped, tuple(inputs))
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(path), inductor_configs=configs
        )


@functools.cache
def _own_code() -> str:
    """Digest of what decides the form in which a graph is compiled: a change compiles anew."""
    files = Path(__file__), Path(graph_rewrites.__file__), ALIGNED
    return sha256(b"".join(file.read_bytes() for file in files))


def _settings(size: int) -> dict[str, Any]:
    small = size <= SMALL_BATCH and _own_products_are_fast()
    return {**SETTINGS, **(SMALL_SETTINGS if small else {})}


def _own_products_are_fast() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and has_vnni()


def _load(path: Path) -> Runner:
    """The package as a function, past the argument checks of its Python wrapper."""
    return torch._inductor.aoti_load_package(str(path)).loader.run


def _without_zero_points(module: nn.Module, state: Any, prefix: str, local_metadata: Any) -> None:
    """Symmetric weights have no zero points; torchao's graph holds zeros for them."""
    for name in [n for n in state if "_zero_point_" in n and not state[n].any()]:
        del state[name]


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """For networks without a folder of their own; removed when the program ends."""
    return tempfile.TemporaryDirectory(prefix="int8-")
