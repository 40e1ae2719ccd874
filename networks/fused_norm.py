"""Batch norm, ReLU and max pooling of CPU training as one kernel, compiled with the C++ compiler.

One after the other, torch's kernels walk some seventeen times over a feature map; that took half of
a training step. Fused they take five: two forward (statistics, then the pooled output) and a half,
two backward. Values are torch's, up to the order of sums.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from machine import compiler

LARGEST_POOL = 15  # side of a window whose maximum's place, at most 225, fits into one byte

SOURCE = Path(__file__).with_suffix(".cpp")
NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels; None without a compiler that makes them, and training takes torch's own."""
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return compiler.library(SOURCE, *(["-mprefer-vector-width=512"] if wide else []))


class NormReluPool(torch.autograd.Function):
    """max pooling(ReLU(batch norm(x))) of `[N, C, H, W]`, with the batch's mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        shape = batch, channels, height // pool, width // pool
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        chosen = torch.empty_like(out) if pool > 1 else out.new_empty(0)
        place = torch.empty_like(out, dtype=torch.uint8)
        mean, var = torch.empty(channels), torch.empty(channels)
        sizes = batch, height, width, channels, pool
        _call("forward", x, out, chosen, place, mean, var, weight, bias, eps, *sizes)
        ctx.save_for_backward(x, chosen, place, mean, var, weight)
        ctx.eps, ctx.sizes = eps, sizes
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
        x, chosen, place, mean, var, weight = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        _call(
            "backward", grad, x, chosen, place, mean, var, weight, ctx.eps, dx, dweight, dbias,
            *ctx.sizes,
        )  # fmt: skip
        return dx, dweight, dbias, None, None


def _call(name: str, *arguments: Tensor | float | int) -> None:
    """Tensors go as pointers, floats as float, integers as int64."""
    kernels = library()
    assert kernels is not None
    dtype = next(value.dtype for value in arguments if isinstance(value, Tensor))

    def native(value: Tensor | float | int) -> Any:
        if isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr())
        return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)

    getattr(kernels, f"{name}_{NAMES[dtype]}")(*map(native, arguments))


def applies(norm: nn.Module, activation: nn.Module, pool: nn.Module) -> bool:
    """Whether the kernel does what these three do in CPU training, and can be made here."""
    plain_pool = isinstance(pool, nn.Identity) or (
        isinstance(pool, nn.MaxPool2d)
        and isinstance(pool.kernel_size, int)
        and pool.stride == pool.kernel_size <= LARGEST_POOL
        and (pool.padding, pool.dilation, pool.ceil_mode) == (0, 1, False)
    )
    return (
        type(norm) is nn.BatchNorm2d  # and not one whose statistics are frozen
        and norm.affine
        and norm.momentum is not None
        and norm.running_mean is not None
        and type(activation) is nn.ReLU
        and plain_pool
        and library() is not None
    )


def norm_relu_pool(maps: Tensor, norm: nn.BatchNorm2d, pool: nn.Module | None) -> Tensor:
    """What `pool(relu(norm(maps)))` gives in training, running statistics moved as well."""
    size = pool.kernel_size if isinstance(pool, nn.MaxPool2d) else 1
    out, mean, var = NormReluPool.apply(maps, norm.weight, norm.bias, norm.eps, size)
    count = maps.numel() // maps.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr,arg-type]
        norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr,arg-type]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return out
