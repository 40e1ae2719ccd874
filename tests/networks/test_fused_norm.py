"""The fused kernel against torch's own layers, and how it is built, kept and made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from machine import cache
from networks import fused_norm
from tests.support.compiler import needs_compiler


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 5, 7, 9), (6, 32, 8, 8), (3, 1, 6, 6)])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_fused_norm_equals_torchs(dtype: torch.dtype, shape: tuple[int, ...], pool: int) -> None:
    """Values, gradients and running statistics; a rest that no window covers counts in them.

    bf16 against float32 torch on the same bf16 values, where no two values tie by rounding.
    """
    maps = (3 * torch.randn(shape) + 5).to(dtype).contiguous(memory_format=torch.channels_last)
    torchs, ours = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    nn.init.normal_(torchs.weight)
    nn.init.normal_(torchs.bias)
    ours.load_state_dict(torchs.state_dict())
    pooling = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
    one, other = maps.float().clone().requires_grad_(), maps.clone().requires_grad_()
    expected = pooling(F.relu(torchs(one)))
    found = fused_norm.norm_relu_pool(other, ours, pooling)
    gradient = torch.randn_like(expected)
    expected.backward(gradient.to(dtype).float())
    found.backward(gradient.to(dtype))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, **close)
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(other.grad.float(), one.grad, **close)
    for mine, theirs in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fused_norm_hides_no_bad_value(bad: float) -> None:
    maps = torch.randn(2, 3, 4, 4)
    maps[1, 2, 3, 3] = bad
    found = fused_norm.norm_relu_pool(maps, nn.BatchNorm2d(3), nn.MaxPool2d(2))
    assert found[:, 2].isnan().all() and found[:, :2].isfinite().all()


@needs_compiler
def test_kernels_are_kept_and_made_again_when_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make = fused_norm.library.__wrapped__
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "one"))
    assert make() is not None
    (kept,) = (tmp_path / "one").glob("fused_norm_*.so")
    written = kept.stat().st_mtime_ns
    assert make() is not None and kept.stat().st_mtime_ns == written
    damaged = tmp_path / "other" / kept.name
    damaged.parent.mkdir(mode=0o700)
    damaged.write_bytes(b"damaged")
    monkeypatch.setenv(cache.VARIABLE, str(damaged.parent))
    assert make() is not None and damaged.stat().st_size > 1000
