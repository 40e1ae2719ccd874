"""Multi-head attention with two equal paths: torch's fused kernel, and plain matmuls."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from machine.cache import cache_folder
from machine.files import sha256, write_atomically
from machine.processor import processor

_written_out_everywhere = False


@contextmanager
def attention_written_out() -> Iterator[None]:
    """Inside, attention runs as plain matmuls, which every FLOP counter sees."""
    global _written_out_everywhere
    before, _written_out_everywhere = _written_out_everywhere, True
    try:
        yield
    finally:
        _written_out_everywhere = before


def written_out(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q·kᵀ/√d)·v of `[B, heads, N, d]` as two matmuls and a softmax."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # [B, heads, N, N]
    weights = scores.softmax(dim=-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


@functools.cache
def trains_faster_written_out(shape: torch.Size, dtype: torch.dtype, threads: int) -> bool:
    """Whether a CPU training step takes attention of `[B, heads, N, d]` faster written out.

    Measured on noise once a machine and kept in a file, as the two differ in the last bits and a
    run that goes on must be the run that began. Where nothing can be kept it is measured once a
    process; while code is traced nothing can be measured, and it is written out.
    """
    about = f"{torch.__version__} {processor()} {tuple(shape)} {dtype} {threads}"
    kept = cache_folder() / f"attention_{sha256(about.encode())[:24]}"
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                write_atomically(kept, b"written out" if _written_out_wins(shape, dtype) else b"")
            return bool(kept.read_bytes())
    return _written_out_wins(shape, dtype)


def _written_out_wins(shape: torch.Size, dtype: torch.dtype) -> bool:
    """A step's forward and backward by both paths, four times in turn."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]

    def seconds(path: Callable[..., Tensor]) -> float:
        inputs = [value.detach().requires_grad_() for value in tokens[:3]]
        started = time.perf_counter()
        torch.autograd.grad(path(*inputs), inputs, tokens[3])
        return time.perf_counter() - started

    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        found = [(seconds(written_out), seconds(F.scaled_dot_product_attention)) for _ in range(4)]
    ours, theirs = (min(times) for times in zip(*found, strict=True))
    return ours < theirs


class ScaledDotProduct(nn.Module):
    """softmax(q·kᵀ/√d)·v on `[B, heads, N, d]`, by the faster of two equal paths.

    PyTorch's fused CPU kernel wins at inference; its backward is slow for short sequences, so CPU
    training takes the path that a short measurement finds the faster. A module of its own, which FX
    keeps whole: the choice is made when it runs, not when it is traced. `dropout` is of the
    attention's weights, in training.
    """

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        trains = self.training and query.device.type == "cpu"
        dropout = self.dropout if self.training else 0.0
        if _written_out_everywhere or (trains and self._written_out(query)):
            return written_out(query, key, value, dropout)
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

    @staticmethod
    def _written_out(query: Tensor) -> bool:
        if torch.compiler.is_compiling():
            return True
        return trains_faster_written_out(query.shape, query.dtype, torch.get_num_threads())


class Attention(nn.Module):
    """Multi-head self-attention with separate `qkv` and `proj` Linear layers, which quantize.

    `[B, N, embed_dim]` in and out; heads may be narrower than embed_dim / heads (pruned networks).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        dropout: float = 0.0,  # of what it gives
        *,
        attention_dropout: float = 0.0,  # of its weights
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * num_heads * head_dim, bias=qkv_bias)
        self.core = ScaledDotProduct(attention_dropout)
        self.proj = nn.Linear(num_heads * head_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count = tokens.shape[0], tokens.shape[1]
        qkv = self.qkv(tokens).view(batch, count, 3, self.num_heads, -1)  # [B, N, 3, heads, d]
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, d]
        mixed = self.core(query, key, value).transpose(1, 2).flatten(2)  # [B, N, heads*d]
        return self.dropout(self.proj(mixed))
